"""The state that checkpoints make for AdamW is as AdamW makes it itself, on CUDA too (tensors without data)."""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from learner.distributed.state_shards import make_moments


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_state_made_before_the_first_step_is_as_fused_adamw_makes_it(device: str):
    made = []
    with FakeTensorMode():
        for prepares in (True, False):
            parameter = torch.nn.Parameter(torch.zeros(3, device=device))
            optimizer = torch.optim.AdamW([parameter], fused=True)
            if prepares:
                make_moments(SimpleNamespace(optimizer=optimizer))
            parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            state = optimizer.state[parameter]
            made.append({key: (value.device, value.dtype, value.shape) for key, value in state.items()})
    assert made[0] == made[1]

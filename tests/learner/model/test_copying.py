"""Copies to a GPU go from pinned memory (tensors without data, as there is no GPU)."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from learner.model.copying import to_device


def test_what_is_copied_to_a_gpu_is_pinned_once(monkeypatch: pytest.MonkeyPatch):
    pinned: list[torch.Tensor] = []

    def pin_memory(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    with FakeTensorMode():
        there = to_device(torch.zeros(3), torch.device("cuda", 0))
        assert there.device == torch.device("cuda", 0)
        assert to_device(there, torch.device("cuda", 0)) is there
    here = torch.zeros(3)
    assert to_device(here, torch.device("cpu")) is here
    assert len(pinned) == 1

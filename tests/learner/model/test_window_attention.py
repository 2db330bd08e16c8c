"""The vision tower's attention, all windows at once, equals transformers' own, one window after the other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

from learner.model.window_attention import use_window_attention


def vision_tower(model: Path, device: str, dtype: torch.dtype) -> Any:
    """Of the tiny model, with windows of 2 x 2 tokens in every second layer, and random weights of its own."""
    config = Qwen2_5_VLConfig.from_pretrained(model)
    config.vision_config.depth = 4
    config.vision_config.window_size = 56
    config.vision_config.fullatt_block_indexes = [1, 3]
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(config, dtype=dtype).model.visual.to(device)


CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICES = [
    ("cpu", torch.float32, 1e-5),
    ("cpu", torch.bfloat16, 0.1),
    pytest.param("cuda", torch.float32, 1e-4, marks=CUDA),
    pytest.param("cuda", torch.bfloat16, 0.1, marks=CUDA),
]


@pytest.mark.parametrize(("device", "dtype", "tolerance"), DEVICES)
def test_outputs_and_gradients_are_those_of_one_window_after_the_other(
    tiny_model: Path, device: str, dtype: torch.dtype, tolerance: float
):
    grids = torch.tensor([[1, 6, 10], [1, 4, 4], [1, 10, 6]], device=device)  # windows that an edge cuts off, too
    torch.manual_seed(1)
    patches = torch.randn(int(grids.prod(dim=1).sum()), 3 * 2 * 14 * 14, device=device, dtype=dtype)
    found = {}
    for is_ours in (True, False):
        tower = vision_tower(tiny_model, device, dtype)
        if is_ours:
            use_window_attention(tower)
            assert all("flash" in block.attn.config._attn_implementation for block in tower.blocks)
        out = tower(patches, grid_thw=grids, return_dict=True).pooler_output
        out.float().square().mean().backward()
        found[is_ours] = [out.detach(), *(parameter.grad for parameter in tower.parameters())]
    for ours, theirs in zip(found[True], found[False], strict=True):
        scale = theirs.float().abs().max()
        assert (ours.float() - theirs.float()).abs().max() <= tolerance * scale

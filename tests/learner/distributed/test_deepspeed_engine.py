"""What is said of an engine before it learns."""

import pytest
import torch
from structlog.testing import capture_logs

from learner.distributed.deepspeed_engine import warn_of_float32
from vision_sr1.config import load_config


@pytest.mark.parametrize(
    ("dtype", "device", "warns"), [("float32", "cuda", 1), ("bfloat16", "cuda", 0), ("float32", "cpu", 0)]
)
def test_float32_on_cuda_is_warned_of_once(single_rank: torch.device, dtype: str, device: str, warns: int):
    config = load_config(None, [f"model.dtype={dtype}"], environment={}).config
    with capture_logs() as logs:
        warn_of_float32(config, torch.device(device))
    assert [entry["event"] for entry in logs] == ["float32_on_cuda"] * warns

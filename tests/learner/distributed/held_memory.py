"""`torchrun -m tests.learner.distributed.held_memory FILE STAGE`: memory that an engine holds in bfloat16.

FILE gets the bytes of rank 0's tensors before an optimizer step, when gradients are complete, without DeepSpeed's
bucket for gradients on their way, if it keeps one.
"""

import gc
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from learner.distributed.deepspeed_engine import build_engine
from learner.distributed.ranks import init_process_group
from vision_sr1.config import load_config

WIDTH, LAYERS = 512, 40
PARAMETERS = LAYERS * WIDTH**2
STEPS, MICRO_BATCHES = 2, 2


class Matrices(torch.nn.Sequential):
    """Of equal size."""

    def __init__(self) -> None:
        super().__init__(*(torch.nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.bfloat16) for _ in range(LAYERS)))


def main() -> None:
    file, stage = sys.argv[1:]
    init_process_group()
    held = held_bytes(stage)
    if dist.get_rank() == 0:
        Path(file).write_text(str(held))
    dist.destroy_process_group()


def held_bytes(stage: str) -> int:
    """In the last of some steps: the first one makes the optimizer's state."""
    options = ["model.dtype=bfloat16", f"learner.zero_stage={stage}"]
    config = load_config(None, options, environment={}).config
    engine = build_engine(config, Matrices(), learning_rate=1e-3, weight_decay=0.0)
    bucket = engine._config.zero_config.reduce_bucket_size * torch.float32.itemsize
    assert bucket > 2 * torch.float32.itemsize * PARAMETERS, "it is told from gradients by its size"
    held = 0
    for _ in range(STEPS):
        for _ in range(MICRO_BATCHES):
            engine.backward(engine(torch.ones(1, WIDTH, dtype=torch.bfloat16)).sum(), scale_wrt_gas=False)
        held = sum(size for size in storage_bytes().values() if size != bucket)
        engine.step()
    return held


def storage_bytes() -> dict[int, int]:
    """Of all tensors, by address."""
    gc.collect()
    tensors = (found for found in gc.get_objects() if issubclass(type(found), Tensor))
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


if __name__ == "__main__":
    main()

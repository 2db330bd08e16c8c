"""`torchrun -m tests.learner.distributed.accumulate FOLDER STAGES`: the gradient of many micro-batches in bfloat16.

For each ZeRO stage, FOLDER/STAGE gets every rank's state after a step of MICRO_BATCHES (`first`), that after another
step (`second`), and that after the same step of an engine which has read the first state (`resumed`).
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from learner.distributed.deepspeed_engine import build_engine
from learner.distributed.ranks import init_process_group
from learner.distributed.state_shards import restore, snapshot, write_shards
from vision_sr1.config import Config, load_config

SIZES = {"wide": 1001, "narrow": 37}  # elements of the parameters
MICRO_BATCHES = 300
WEIGHT_DECAY = 0.1


class Scaled(torch.nn.Module):
    """Its gradient is its input."""

    def __init__(self) -> None:
        super().__init__()
        for name, size in SIZES.items():
            self.register_parameter(name, torch.nn.Parameter(torch.ones(size, dtype=torch.bfloat16)))

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return torch.stack([(self.get_parameter(name) * value).sum() for name, value in inputs.items()]).sum()


def inputs(rank: int, step: int) -> list[dict[str, Tensor]]:
    """A rank's micro-batches of a step, of values about 1 that bfloat16 has."""
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return [
        {name: (0.5 + torch.rand(size, generator=generator)).bfloat16() for name, size in SIZES.items()}
        for _ in range(MICRO_BATCHES)
    ]


def main() -> None:
    folder, stages = sys.argv[1:]
    init_process_group()
    for stage in stages.split(","):
        options = ["model.dtype=bfloat16", f"learner.zero_stage={stage}", "learner.max_grad_norm=1e9"]
        config = load_config(None, options, environment={}).config
        engine, resumed = make_engine(config), make_engine(config)
        learn(engine, 0)
        write_shards(snapshot(engine), Path(folder) / stage / "first")
        dist.barrier()
        restore(resumed, Path(folder) / stage / "first")
        for name, one in {"second": engine, "resumed": resumed}.items():
            learn(one, 1)
            write_shards(snapshot(one), Path(folder) / stage / name)
    dist.destroy_process_group()


def make_engine(config: Config) -> Any:
    return build_engine(config, Scaled(), learning_rate=1e-2, weight_decay=WEIGHT_DECAY)


def learn(engine: Any, step: int) -> None:
    for micro_batch in inputs(dist.get_rank(), step):
        engine.backward(engine(micro_batch) * dist.get_world_size(), scale_wrt_gas=False)
    engine.step()


if __name__ == "__main__":
    main()

"""Gradients of a bfloat16 model are summed in float32, over micro-batches and over ranks."""

from pathlib import Path

import pytest
import torch

from learner.distributed.state_shards import MOMENTS, WEIGHT, _Saved
from tests.learner.distributed.accumulate import SIZES, inputs
from tests.learner.ranks import run_ranks

STAGES, RANKS = (1, 2, 3), 2


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks' states by ZeRO stage."""
    folder = tmp_path_factory.mktemp("accumulated")
    run_ranks("tests.learner.distributed.accumulate", RANKS, folder, ",".join(map(str, STAGES)))
    return folder


@pytest.mark.system
@pytest.mark.parametrize("stage", STAGES)
def test_the_gradient_of_many_micro_batches_is_their_float32_sum(learned: Path, stage: int):
    saved = _Saved(learned / str(stage) / "first")
    for name, size in SIZES.items():
        parts = torch.stack([micro_batch[name] for rank in range(RANKS) for micro_batch in inputs(rank, step=0)])
        exact = parts.double().sum(dim=0)
        rounded = torch.zeros_like(parts[0])
        for part in parts:
            rounded += part
        gradient = saved.read(MOMENTS[0], name, 0, size) / 0.1  # of AdamW's first step
        assert float((rounded / exact - 1).abs().min()) > 0.05, "a sum in bfloat16 would show"
        torch.testing.assert_close(gradient.double(), exact, rtol=1e-5, atol=0.0)


@pytest.mark.system
@pytest.mark.parametrize("stage", STAGES)
def test_a_state_that_is_restored_takes_the_same_next_step(learned: Path, stage: int):
    first, second, resumed = (_Saved(learned / str(stage) / name) for name in ("first", "second", "resumed"))
    for name, size in SIZES.items():
        for kind in (WEIGHT, *MOMENTS):
            values = second.read(kind, name, 0, size)
            assert torch.equal(resumed.read(kind, name, 0, size), values), (kind, name)
            assert not torch.equal(first.read(kind, name, 0, size), values), (kind, name)
    assert resumed.whole("optimizer/steps") == 2

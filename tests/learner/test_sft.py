"""Supervised fine-tuning on one rank: conversations that cannot be used, wherever they are."""

import itertools
import json
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from learner.sft import SftTrainer
from learner.stop_conditions import DivergedError
from tests.conftest import TINY
from vision_sr1.config import load_config
from vision_sr1.data import DataError

GOOD = [{"role": "user", "content": "what color"}, {"role": "assistant", "content": "red"}]
BAD = GOOD[:1]


def trainer(folder: Path, model: Path, rows: Sequence[object], *options: str) -> SftTrainer:
    pq.write_table(pa.table({"messages": rows}), folder / "rows.parquet")
    settings = [f"run.dir={folder}", f"model.path={model}", f"data.sft={folder / 'rows.parquet'}", *TINY]
    return SftTrainer(load_config(None, [*settings, *options], environment={}).config)


def weights(one: SftTrainer) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in one._engine.module.parameters()]


@pytest.fixture
def own_signal_handlers() -> Iterator[None]:
    """A stage that runs in this process takes the handlers over."""
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_step_that_has_nothing_to_learn_from_is_passed_over(
    tmp_path: Path, tiny_model: Path, single_rank: torch.device, stage: int
):
    options = [f"learner.zero_stage={stage}", "learner.sft.sequences_per_step=1", "learner.sft.epochs=1"]
    one = trainer(tmp_path, tiny_model, [GOOD, GOOD, BAD, GOOD], *options)
    changed = []
    with one._scalars:
        for batch in one._batches():
            before = weights(one)
            one._learn(batch)
            changed.append(any(not torch.equal(a, b) for a, b in zip(before, weights(one), strict=True)))
    assert sorted(changed) == [False, True, True, True]


def test_a_stage_resumed_with_other_batches_draws_each_conversation_once_an_epoch(
    tmp_path: Path, tiny_model: Path, single_rank: torch.device
):
    rows = [[GOOD[0], {"role": "assistant", "content": "red " * count}] for count in range(1, 10)]
    drawn: list[int] = []
    options = ["learner.sft.epochs=1"]
    for size, steps in (("3", 1), ("1", 2), ("2", 2)):
        one = trainer(tmp_path, tiny_model, rows, *options, f"learner.sft.sequences_per_step={size}")
        with one._scalars:
            for batch in itertools.islice(one._batches(), steps):
                one._learn(batch)
                drawn += [len(sequence) for sequence in batch]
        one._checkpoint()
        one._checkpoints.finalize(wait=True)
        options = ["learner.sft.epochs=1", "learner.resume=true"]
    assert len(set(drawn)) == len(drawn) == len(rows)
    assert (one._step, one._steps) == (5, 5)


@pytest.mark.usefixtures("own_signal_handlers")
def test_steps_in_a_row_that_are_not_finite_end_the_stage_with_a_checkpoint(
    tmp_path: Path, tiny_model: Path, single_rank: torch.device
):
    options = ["learner.sft.steps=6", "learner.sft.sequences_per_step=1", "learner.sft.freeze_vision=false"]
    options += ["learner.sft.learning_rate=1e35", "learner.stop_when.skipped_steps=2"]  # of the first step
    one = trainer(tmp_path, tiny_model, [GOOD] * 6, *options)
    with pytest.raises(DivergedError, match="ended the stage after step 3: 2 optimizer steps in a row had a loss"):
        one.run()
    lines = [json.loads(line) for line in (one._config.run.path / "scalars.jsonl").read_text().splitlines()]
    assert [line["optimizer/skipped_steps"] for line in lines] == [0.0, 1.0, 1.0]
    assert ["sft/loss" in line for line in lines] == [True, False, False]
    assert all(bool(value.isfinite().all()) for value in weights(one))
    saved = json.loads((one._config.run.path / "checkpoints" / "000003" / "trainer.json").read_text())
    assert (saved["healthy"], saved["in_a_row"]["skipped_steps"]) == (False, 2)


@pytest.mark.parametrize(("steps", "count"), [("null", 3), ("2", 2), ("100", 3)])
@pytest.mark.usefixtures("own_signal_handlers")
def test_data_of_which_nothing_can_be_used_ends_the_stage(
    tmp_path: Path, tiny_model: Path, single_rank: torch.device, steps: str, count: int
):
    options = [f"learner.sft.steps={steps}", "learner.sft.epochs=1", "learner.sft.sequences_per_step=1"]
    with pytest.raises(DataError, match=rf"data\.sft: none of the {count} .* can be used; the last: .*no assistant"):
        trainer(tmp_path, tiny_model, [BAD] * 3, *options).run()
    assert not (tmp_path / "run" / "sft").exists()

"""Supervised fine-tuning, through the command line as a user would."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from tests.system.conftest import fine_tuning
from vision_sr1.cli.main import app

STAGE = [
    "learner.sft.steps=12",
    "learner.sft.evaluate_every=6",
    "learner.sft.sequences_per_step=8",
    "learner.processes=2",
]


def test_a_stopped_run_resumes_where_it_was_and_evaluates_on_held_out_conversations(
    tmp_path: Path, tiny_model: Path, shapes: dict[str, Path], leftovers: list[psutil.Process]
):
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    options = [*STAGE, f"data.sft_evaluation={shapes['base']}"]
    whole = fine_tuning(tmp_path / "whole", tiny_model, shapes["cold_start"], *options)
    status, output = whole.finish()
    assert status == 0, output + whole.logs()
    held_out = [line for line in whole.scalars() if "sft_evaluation/loss" in line]
    assert [line["step"] for line in held_out] == [6, 12]
    assert held_out[1]["sft_evaluation/loss"] < held_out[0]["sft_evaluation/loss"]

    parts = fine_tuning(tmp_path / "parts", tiny_model, shapes["cold_start"], *options)
    process = parts.start()
    leftovers.append(psutil.Process(process.pid))
    parts.wait_for_step(3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    (checkpoint,) = (f for f in (parts.folder / "runs" / "run" / "checkpoints").iterdir() if f.name.isdigit())
    assert 3 <= int(checkpoint.name) < 12
    status, output = parts.finish()
    assert status == 2
    assert "--resume continues it from its last checkpoint" in output
    other = CliRunner().invoke(
        app, ["sft", str(parts.folder / "run.yaml"), *parts.arguments[1:], "--resume", "run.seed=1"]
    )
    assert other.exit_code == 2
    assert "run.seed: 1 instead of 0" in " ".join(other.output.split())
    status, output = parts.finish("--resume")
    assert status == 0, output + parts.logs()
    losses = [[line["sft/loss"] for line in run.scalars() if "sft/loss" in line] for run in (whole, parts)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    weights = [load_file(run.folder / "model" / "model.safetensors") for run in (whole, parts)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-4)


def test_conversations_that_cannot_be_used_are_left_out_and_counted_on_every_rank(tmp_path: Path, tiny_model: Path):
    """A step with one usable conversation for two ranks, one with none, and one with both."""
    good: Any = [{"role": "user", "content": "what color"}, {"role": "assistant", "content": "red"}]
    rows: list[tuple[Any, list[Any]]] = [(good, [])] * 6
    order = np.random.default_rng((0, 0)).permutation(len(rows))
    for place, row in ((0, (good[:1], [])), (2, (good[1:], [])), (3, (good, [{"bytes": b"", "path": None}]))):
        rows[order[place]] = row
    pq.write_table(pa.table({"messages": [m for m, _ in rows], "images": [i for _, i in rows]}), tmp_path / "m.parquet")
    pq.write_table(pa.table({"messages": [good[:1]]}), tmp_path / "held_out.parquet")
    options = ["learner.sft.steps=3", "learner.sft.sequences_per_step=2", "learner.processes=2"]
    held_out = f"data.sft_evaluation={tmp_path / 'held_out.parquet'}"
    run = fine_tuning(tmp_path, tiny_model, tmp_path / "m.parquet", *options, held_out)
    status, output = run.finish()
    assert status == 0, output + run.logs()
    lines = run.scalars()
    assert [line["sft/refused"] for line in lines] == [1.0, 2.0, 0.0]
    assert ["sft/loss" in line for line in lines] == [True, False, True]
    log = (run.folder / "runs" / "run" / "logs" / "learner.log").read_text()
    for reason in (
        "no assistant turn to learn from",
        "begins with an assistant turn",
        "image 0: an image of 0 bytes",
        "sft_evaluation_empty",
    ):
        assert reason in log

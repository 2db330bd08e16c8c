"""Runs of the whole system, through the command line as a user would."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.conftest import TINY

SMALL = [
    *TINY,
    "data.prompt_template=plain_answer",
    "sampling.top_p=1.0",
    "sampling.max_tokens=64",
    "sampling.group_size=4",
    "reward.requery.template=plain_requery",
    "reward.requery.max_tokens=24",
    "learner.zero_stage=2",
    "learner.prompts_per_batch=4",
    "learner.prompts_per_step=2",
    "learner.learning_rate=1e-4",
    "learner.checkpoint_every=1",
    "learner.evaluate_every=0",
    "learner.groups_timeout_s=120",
]


THREE_BATCHES = ["learner.batches=3", "learner.processes=2", "learner.zero_stage=3", "metrics.log_level=debug"]


@dataclass(frozen=True)
class Run:
    """A run of the command line in a folder of its own."""

    folder: Path
    arguments: list[str]

    def start(self, *more: str) -> subprocess.Popen[str]:
        """Starts `vision-sr1` with the run's arguments."""
        config = self.folder / "run.yaml"
        config.write_text("{}\n")
        command, *overrides = self.arguments
        return subprocess.Popen(
            [sys.executable, "-m", "vision_sr1", command, config, *overrides, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
        )

    def finish(self, *more: str, timeout_s: float = 240) -> tuple[int, str]:
        """Runs it to its end: exit status and output."""
        process = self.start(*more)
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=30)
            pytest.fail(f"not finished in {timeout_s} s:\n{output}\n{self.logs()}")
        return process.returncode, output

    def scalars(self) -> list[dict[str, float]]:
        """What the learner has logged."""
        path = self.folder / "runs" / "run" / "scalars.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def logs(self) -> str:
        """The ends of all logs, for a failing test's report."""
        return "\n".join(
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-30:])
            for log in sorted(self.folder.glob("runs/*/logs/*.log"))
        )

    def wait_for_step(self, step: int, timeout_s: float = 180) -> None:
        """Returns when the learner has finished this batch."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if any(line["step"] >= step and line["step"] > 0 for line in self.scalars()):
                return
            time.sleep(0.2)
        pytest.fail(f"batch {step} did not come:\n{self.logs()}")


def training(folder: Path, model: Path, data: dict[str, Path], *more: str) -> Run:
    """An RL run of small batches."""
    arguments = [
        "train",
        f"run.dir={folder / 'runs'}",
        f"model.path={model}",
        f"data.train={data['train']}",
        f"data.evaluation={{normal: {data['normal']}}}",
        "metrics.learner_port=0",
        *SMALL,
        *more,
    ]
    return Run(folder, arguments)


def fine_tuning(folder: Path, model: Path, conversations: Path, *more: str) -> Run:
    """A supervised run whose result goes to `folder / "model"`."""
    arguments = [
        "sft",
        f"run.dir={folder / 'runs'}",
        f"model.path={model}",
        f"data.sft={conversations}",
        "learner.zero_stage=1",
        "learner.sft.sequences_per_step=32",
        "learner.sft.learning_rate=3e-3",
        "learner.sft.freeze_vision=false",
        f"learner.sft.output={folder / 'model'}",
        *TINY,
        *more,
    ]
    return Run(folder, arguments)


@pytest.fixture(scope="session")
def cold_start_model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, shapes: dict[str, Path]) -> Path:
    """The tiny model after a short cold start, so that its responses have descriptions."""
    run = fine_tuning(tmp_path_factory.mktemp("cold_start"), tiny_model, shapes["cold_start"], "learner.sft.steps=60")
    status, output = run.finish()
    assert status == 0, output + run.logs()
    return run.folder / "model"


@pytest.fixture
def leftovers() -> Iterator[list[psutil.Process]]:
    """Put processes in; whichever still runs afterwards is killed."""
    processes: list[psutil.Process] = []
    yield processes
    for process in processes:
        if process.is_running():
            process.kill()


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints a line that is seen whether or not the test passes."""

    def write(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n  {text}")

    return write


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, cold_start_model: Path, shapes: dict[str, Path]) -> Run:
    """Three batches with two learner ranks and one actor, undisturbed."""
    run = training(tmp_path_factory.mktemp("trained"), cold_start_model, shapes, *THREE_BATCHES)
    status, output = run.finish()
    assert status == 0, output + run.logs()
    return run

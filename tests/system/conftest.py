"""Runs of the whole system, through the command line as a user would."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from typer.testing import CliRunner

from reward_service.store import TraceFilter, TraceReader, open_store
from tests.conftest import TINY, Once
from tests.forking import SWITCH
from vision_sr1.cli.main import app
from vision_sr1.config import TracesConfig
from vision_sr1.runtime.ports import free_port
from vision_sr1.v1 import pipeline_pb2 as pb

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


PROMPTS, STEPS = 8, 8  # of a batch of `trained`
THREE_BATCHES = [
    "learner.batches=3",
    f"learner.prompts_per_batch={PROMPTS}",
    f"learner.prompts_per_step={PROMPTS // STEPS}",
    "learner.processes=2",
    "learner.zero_stage=3",
    "metrics.log_level=debug",
]


@dataclass(frozen=True)
class Run:
    """A run of the command line in a folder of its own.

    Attributes:
        forks: whether its processes start by fork, see `tests.forking`; otherwise as a user's do.
    """

    folder: Path
    arguments: list[str]
    forks: bool = True

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
            env={**os.environ, "COLUMNS": "200", **({} if self.forks else {SWITCH: "0"})},
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


def traces(run: Run) -> list[pb.ScoredRollout]:
    """What its reward service has recorded, in order."""
    url = f"sqlite:///{run.folder}/runs/run/traces.sqlite"
    reader = TraceReader(open_store(TracesConfig(), url, read_only=True))
    found, _ = reader.traces(TraceFilter(run="run"), None, limit=100_000)
    reader.close()
    return [trace.scored for trace in reversed(found)]


def prompts_by_version(run: Run) -> dict[int, set[str]]:
    """Training prompts by the policy version they were issued at."""
    prompts: dict[int, set[str]] = {}
    for scored in traces(run):
        if scored.rollout.prompt.purpose == pb.PURPOSE_TRAIN:
            prompts.setdefault(scored.rollout.prompt.policy_version, set()).add(scored.rollout.prompt.id)
    return prompts


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
def cold_start_model(once: Once, tiny_model: Path, shapes: dict[str, Path]) -> Path:
    """The tiny model after a short cold start, so that its responses have descriptions."""

    def make(folder: Path) -> None:
        run = fine_tuning(folder, tiny_model, shapes["cold_start"], "learner.sft.steps=60")
        status, output = run.finish()
        assert status == 0, output + run.logs()

    return once("cold-start", make) / "model"


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
def trained(once: Once, cold_start_model: Path, shapes: dict[str, Path]) -> Run:
    """Three batches with two learner ranks and one actor, undisturbed, in processes that start as a user's do."""

    def run(folder: Path) -> Run:
        made = training(folder, cold_start_model, shapes, *THREE_BATCHES)
        return Run(made.folder, made.arguments, forks=False)

    def make(folder: Path) -> None:
        status, output = run(folder).finish()
        assert status == 0, output + run(folder).logs()

    return run(once("trained", make))


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, trained: Run) -> Path:
    """The last version of `trained`, as others use it."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    command = ["export", trained.folder / "runs" / "run", "--output", folder, "--license", "apache-2.0"]
    done = CliRunner().invoke(app, [str(argument) for argument in command])
    assert done.exit_code == 0, done.output
    assert "version 3" in done.output
    return folder


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory, exported: Path) -> Iterator[str]:
    """vLLM's own server of `exported`, with nothing of ours, which calls it `reader`; its address."""
    port, log = free_port(), tmp_path_factory.mktemp("vllm") / "log"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(exported)]
    command += ["--served-model-name", "reader", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--max-model-len", "256", "--enforce-eager", "--max-num-seqs", "8"]
    settings = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_PLUGINS": "",
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **settings}, stdout=output, stderr=output, start_new_session=True
        )
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 240
    try:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health").is_success:
                    break
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)

"""The demo from its data to its report, at sizes that teach nothing, from a wheel outside the checkout."""

import json
import re
from pathlib import Path

import pytest

from reward_service.store import TraceReader, open_store
from tests.conftest import Once
from tests.wheels import build_wheel, install_beside_others, run, wheel_in
from vision_sr1.config import TracesConfig

SMALLEST = [
    "learner.processes=1",
    "learner.sft.steps=2",
    "learner.batches=1",
    "learner.prompts_per_batch=4",
    "learner.prompts_per_step=4",
    "sampling.group_size=4",
    "metrics.learner_port=0",
]
FEWER_ROWS = ["--base", 64, "--cold-start", 64, "--train", 64, "--held-out", 8]


def events(log: Path, name: str) -> list[str]:
    """Lines of a log with an event: one JSON object each."""
    return [line for line in log.read_text(errors="replace").splitlines() if f'"event": "{name}"' in line]


@pytest.mark.full(sibling="tests/system/test_weights.py::test_weights_of_another_run_are_not_answered_with")
@pytest.mark.timeout(900)
def test_both_objectives_are_trained_by_the_same_services(once: Once, tmp_path: Path):
    command = install_beside_others(wheel_in(once("wheel", build_wheel)), tmp_path / "venv").with_name("vision-sr1")
    run(command, "demo", "--prepare", *SMALLEST, folder=tmp_path)
    run(command, "data", "shapes", "runs/demo/data", *FEWER_ROWS, folder=tmp_path)
    assert "reward traces: http://" in run(command, "demo", "--resume", *SMALLEST, folder=tmp_path)

    root = tmp_path / "runs" / "demo"
    columns = ["guessing", "base", "cold start", "answer-only RL", "Vision-SR1"]
    assert list(json.loads((root / "summary.json").read_text())) == columns
    assert (root / "learning_curves.png").is_file()
    actor = root / "services" / "logs" / "actor-0.log"
    assert len(events(actor, "actor_started")) == 1
    updates = "".join(events(actor, "weights_updated"))
    held = [int(found[1]) for found in re.finditer(r'"policy_version": (\d+)', updates)]
    assert held == [0, 0, 1, 0, 1], "the base, and each objective from the cold start"
    for name in ("base_evaluation", "answer_only", "rl"):
        assert events(root / name / "logs" / "learner.log", "weights_verified"), name
    reader = TraceReader(open_store(TracesConfig(), f"sqlite:///{root}/services/traces.sqlite", read_only=True))
    assert reader.runs() == ["answer_only", "base_evaluation", "rl"]
    reader.close()

    assert "reward traces: http://" not in run(command, "demo", "--resume", *SMALLEST, folder=tmp_path), "all is done"
    assert len(events(actor, "actor_started")) == 1

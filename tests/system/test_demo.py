"""The demo from its data to its report, at sizes that teach nothing."""

import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from reward_service.store import TraceReader, open_store
from vision_sr1.cli.demo import demo
from vision_sr1.config import TracesConfig

EXAMPLES = Path(__file__).parents[2] / "examples" / "shapes"
SMALLEST = [
    "learner.processes=1",
    "learner.sft.steps=2",
    "learner.batches=1",
    "learner.prompts_per_batch=4",
    "learner.prompts_per_step=4",
    "sampling.group_size=4",
    "metrics.learner_port=0",
]


def events(log: Path, name: str) -> list[str]:
    """Lines of a log with an event: one JSON object each."""
    return [line for line in log.read_text(errors="replace").splitlines() if f'"event": "{name}"' in line]


@pytest.mark.full(sibling="tests/system/test_weights.py::test_weights_of_another_run_are_not_answered_with")
@pytest.mark.timeout(600)
def test_both_objectives_are_trained_by_the_same_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, "TRAIN_ROWS", 64)
    monkeypatch.setattr(demo, "HELD_OUT_ROWS", 8)
    root = tmp_path / "demo"
    with (tmp_path / "screen").open("w") as screen:
        console = Console(file=screen, width=80)
        demo.run_demo(EXAMPLES, root, SMALLEST, console, resume=False, fresh=False)
        shown = (tmp_path / "screen").read_text
        assert list(json.loads((root / "summary.json").read_text())) == [
            "guessing",
            "base",
            "cold start",
            "answer-only RL",
            "Vision-SR1",
        ]
        assert (root / "learning_curves.png").is_file()

        actor = root / "services" / "logs" / "actor-0.log"
        assert len(events(actor, "actor_started")) == 1
        held = [
            int(found[1])
            for found in re.finditer(r'"policy_version": (\d+)', "".join(events(actor, "weights_updated")))
        ]
        assert held == [0, 0, 1, 0, 1], "the base, and each objective from the cold start"
        for run in ("base_evaluation", "answer_only", "rl"):
            assert events(root / run / "logs" / "learner.log", "weights_verified"), run

        reader = TraceReader(open_store(TracesConfig(), f"sqlite:///{root}/services/traces.sqlite", read_only=True))
        assert reader.runs() == ["answer_only", "base_evaluation", "rl"]
        reader.close()

        written = shown()
        demo.run_demo(EXAMPLES, root, SMALLEST, console, resume=True, fresh=False)
        assert "reward traces" not in shown()[len(written) :], "nothing is left to train"
    assert len(events(actor, "actor_started")) == 1

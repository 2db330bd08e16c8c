"""Scalars of a batch against plain counting, and the reference of all scalars."""

from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

import pytest

from learner.metrics import reference
from learner.metrics.batch_scalars import batch_scalars, pass_at
from learner.metrics.reference import undeclared
from vision_sr1.config import load_config
from vision_sr1.v1 import pipeline_pb2 as pb

ROOT = Path(__file__).parents[3]
SETTINGS = load_config(None, [], environment={}).config.learner


def rollout(source: str, tokens: int, reason: str = "stop", **rewards: float) -> pb.ScoredRollout:
    scored = pb.ScoredRollout(rewards={"format": 1.0, "visual": 0.0, **rewards})
    scored.rollout.prompt.data_source = source
    scored.rollout.sample.response_token_ids.extend(range(tokens))
    scored.rollout.sample.finish_reason = reason
    return scored


GROUPS = [
    pb.ScoredGroup(
        id="0/0",
        rollouts=[
            rollout("charts/a", 1, accuracy=0.0),
            rollout("charts/a", 20, accuracy=1.0, visual=1.0, judge=0.0),
            rollout("charts/a", 30, "length", accuracy=0.0, visual=1.0, judge=1.0),
            rollout("charts/a", 40, accuracy=0.0, judge=0.0),
        ],
    ),
    pb.ScoredGroup(id="0/1", rollouts=[rollout("maps?", 50, accuracy=1.0), rollout("maps?", 60)]),
]


@pytest.mark.parametrize(("answers", "right"), [(4, 0), (4, 1), (4, 4), (7, 3)])
def test_pass_at_k_is_the_share_of_draws_that_have_a_right_answer(answers: int, right: int):
    marks = [index < right for index in range(answers)]
    for k in range(1, answers + 1):
        draws = [any(draw) for draw in combinations(marks, k)]
        assert pass_at(k, answers, right) == pytest.approx(sum(draws) / len(draws))


def test_a_batch_is_measured_as_counted_by_hand():
    found = batch_scalars(GROUPS, SETTINGS)
    assert undeclared(found) == []
    expected = {
        "pass_at/1": (1 / 4 + 1) / 2,  # the last rollout has no accuracy
        "pass_at/2": 1 / 2,  # of the first group alone: 1 - C(3, 2) / C(4, 2)
        "pass_at/4": 1.0,
        "responses/truncated": 1 / 6,
        "responses/empty": 1 / 6,
        "response_tokens/p50": 35.0,
        "response_tokens/max": 60.0,
        "disagreement/accuracy_visual": 2 / 5,
        "disagreement/visual_judge": 1 / 3,
        "reward/shortcut": 1 / 5,
        "reward_by_source/accuracy/charts_a": 1 / 4,
        "reward_by_source/accuracy/maps_": 1.0,
        "reward_by_source/visual/charts_a": 1 / 2,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert "pass_at/8" not in found
    assert "reward_by_source/judge/charts_a" not in found, "no component uses it"


def test_a_scalar_that_no_one_declared_is_found():
    names = ["kl/answer", "reward_by_source/accuracy/charts_a", "eval_accuracy/normal", "response_tokens/p42", "k/x"]
    assert undeclared(names) == ["k/x", "response_tokens/p42"]


def test_the_page_is_what_the_declaration_says():
    assert (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8") == reference.page(), "run make metrics"


def test_trl_has_the_scalars_that_we_name():
    spec = find_spec("trl")  # whose import takes seconds
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "trainer" / "grpo_trainer.py").read_text(encoding="utf-8")
    ours = {scalar.trl.removeprefix("1 - ") for section in reference.SECTIONS.values() for scalar in section}
    logged_by_its_base = {"", "loss", "grad_norm", "learning_rate", "eval_loss", "eval_rewards/{name}/mean"}
    names = {name.replace("{name}", "{reward_func_name}") for name in ours - logged_by_its_base}
    assert len(names) > 8
    assert [name for name in sorted(names) if f'"{name}"' not in source] == []


def test_shortcuts_are_counted_by_the_own_question_whatever_else_a_description_was_asked():
    several = [
        rollout("s", 1, accuracy=1.0, visual=2 / 3, visual_own=0.0),
        rollout("s", 1, accuracy=1.0, visual=1 / 3, visual_own=1.0),
    ]
    found = batch_scalars([pb.ScoredGroup(id="0/0", rollouts=several)], SETTINGS)
    assert (found["reward/shortcut"], found["disagreement/accuracy_visual"]) == (0.5, 0.5)
    assert (found["reward/visual"], found["reward/visual_own"]) == pytest.approx((0.5, 0.5))

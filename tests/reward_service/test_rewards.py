import pytest

from reward_service.graders import mathruler
from reward_service.rewards import answer_reward, overlong, response_rewards, states_answer
from vision_sr1.config import RewardConfig
from vision_sr1.parsing import parse_response
from vision_sr1.v1 import pipeline_pb2 as pb


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("red", "red", True),
        (" red ", "red", True),
        ("blue", "red", False),
        ("0.5", "\\frac{1}{2}", True),
        ("", "red", False),
    ],
)
def test_mathruler_compares_words_and_expressions(answer: str, reference: str, right: bool):
    assert mathruler(answer, reference) is right


def rewards(response: bytes, config: RewardConfig | None = None) -> dict[str, float]:
    rollout = pb.Rollout(prompt=pb.Prompt(answer="red", sampling=pb.SamplingParams(max_tokens=10)))
    return response_rewards(parse_response(response), rollout, mathruler, config or RewardConfig())


def test_format_and_accuracy_are_independent():
    right = rewards(rb"the answer is \boxed{red}")
    assert (right["format"], right["accuracy"]) == (0.0, 1.0)
    wrong = rewards(rb"<description>a</description><think>b</think>\boxed{blue}")
    assert (wrong["format"], wrong["accuracy"]) == (1.0, 0.0)


def test_the_format_asked_for_is_the_configured_one():
    thinks_only = RewardConfig(response_format="think_answer")
    described = rb"<description>a</description><think>b</think>\boxed{red}"
    assert rewards(described, thinks_only)["format"] == 0.0
    assert rewards(rb"<think>b</think>\boxed{red}", thinks_only)["format"] == 1.0


def test_no_answer_is_not_right_even_where_the_reference_looks_like_none():
    assert answer_reward(None, "None", mathruler) == 0.0


@pytest.mark.parametrize(
    ("description", "answer"),
    [
        ("A square and a circle. The answer is red.", "red"),
        ("A square and a circle; answer: Red", "red"),
        ("the solution is 42", "42"),
        ("A graph with three lines. The correct answer is (B), see below.", "B"),
        (r"a square, so \boxed{red}", "red"),
        ("top left square blue ; red", "red"),
        ("Two cats.\nNo", "no"),
    ],
)
def test_an_answer_stated_in_a_description_is_a_leak(description: str, answer: str):
    assert states_answer(description, answer)


@pytest.mark.parametrize(
    ("description", "answer"),
    [
        ("The square at the top left is red.", "red"),
        ("top left square red ; bottom right circle blue", "red"),
        ("The answer sheet shows four boxes, the second is ticked: B", "ticked"),
        ("the answer is written in blue ink", "red"),
        ("The result is 420 units.", "42"),
        ("There are two cats and no dog.", "no"),
        ("a red square", None),
        ("", "red"),
    ],
)
def test_an_observation_is_no_leak(description: str, answer: str | None):
    assert not states_answer(description, answer)


@pytest.mark.parametrize(
    ("length", "buffer", "finish", "expected"),
    [
        (60, 40, "stop", 0.0),
        (80, 40, "stop", -0.5),
        (100, 40, "length", -1.0),
        (100, 40, "stop", -1.0),
        (99, 0, "stop", 0.0),
        (12, 40, "length", -1.0),
    ],
)
def test_overlong_responses_are_punished_softly(length: int, buffer: int, finish: str, expected: float):
    sample = pb.Sample(response_token_ids=range(length), finish_reason=finish)
    rollout = pb.Rollout(sample=sample, prompt=pb.Prompt(sampling=pb.SamplingParams(max_tokens=100)))
    assert overlong(rollout, buffer) == expected

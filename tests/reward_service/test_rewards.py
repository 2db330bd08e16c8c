"""The rewards that follow from the response alone."""

from typing import Any

import pytest

from reward_service.rewards import RESPONSE_REWARDS
from reward_service.rewards.format import has_requery_format
from vision_sr1.config import RewardConfig
from vision_sr1.prompting.response import parse_response
from vision_sr1.rewards import Reward, ScoredResponse
from vision_sr1.rewards.names import RANGES


def answered(response: bytes, **changes: Any) -> ScoredResponse:
    parsed = parse_response(response)
    values: dict[str, Any] = {
        "id": "0/0/0",
        "question": "what color is the square",
        "reference": "red",
        "data_source": "shapes",
        "response": response.decode(),
        "description": parsed.description,
        "answer": parsed.answer,
        "format": parsed.format,
        "token_ids": tuple(range(10)),
        "max_tokens": 100,
        "is_truncated": False,
        "requeries": (),
        "rewards": {},
    }
    return ScoredResponse(**values | changes)


def reward(name: str, response: bytes, config: RewardConfig | None = None, **changes: Any) -> Reward:
    given = RESPONSE_REWARDS[name](answered(response, **changes), config or RewardConfig())
    low, high = RANGES[name]
    assert low <= given.value <= high
    assert given.explanation
    return given


DESCRIBED = rb"<description>a</description><think>b</think>\boxed{red}"
THINKING = rb"<think>b</think>\boxed{red}"


@pytest.mark.parametrize(
    ("asked", "response", "value", "why"),
    [
        ("description_think_answer", DESCRIBED, 1.0, "and nothing else"),
        ("description_think_answer", THINKING, 0.0, r"is <think>, \boxed{}, not <description>"),
        ("description_think_answer", b"red", 0.0, r"no description and no \boxed{}"),
        ("description_think_answer", rb"the answer is \boxed{red}", 0.0, "; no description"),
        ("think_answer", DESCRIBED, 0.0, "is <description>"),
        ("think_answer", THINKING, 1.0, "and nothing else"),
    ],
)
def test_the_format_asked_for_is_the_configured_one(asked: str, response: bytes, value: float, why: str):
    given = reward("format", response, RewardConfig(response_format=asked))
    assert given.value == value
    assert why in given.explanation


TWICE = rb"<description>a</description> so <description>c</description><think>b</think>\boxed{red}"


@pytest.mark.parametrize(
    ("response", "has_images", "loose", "strict", "why"),
    [
        (DESCRIBED, True, 1.0, 1.0, "each once, and nothing else"),
        (b" < description >a< / description >\n<think>b</think> \\boxed{red}\n", True, 1.0, 1.0, "each once"),
        (TWICE, True, 1.0, 0.0, "<description> 2 times, </description> 2 times"),
        (rb"<description>a<think>b</description><think>c</think>\boxed{red}", True, 1.0, 0.0, "it has <think> 2 times"),
        (rb"<description>a</description><think>b</think>c</think>\boxed{red}", True, 1.0, 0.0, "</think> 2 times"),
        (rb"<description>\boxed{a}</description><think>b</think>\boxed{red}", True, 1.0, 0.0, r"\boxed{} 2 times"),
        (rb"<description>a</description><think>b</think>\boxed{\boxed{red}}", True, 0.0, 0.0, "is not <description>"),
        (rb"so <description>a</description><think>b</think>\boxed{red}", True, 0.0, 0.0, "is not <description>"),
        (THINKING, False, 1.0, 1.0, "each once"),
        (rb"<think>b<description></think>\boxed{red}", False, 1.0, 0.0, "it has <description>"),
    ],
)
def test_the_authors_rule_accepts_tags_that_the_strict_one_does_not(
    response: bytes, has_images: bool, loose: float, strict: float, why: str
):
    for value, config in ((loose, RewardConfig()), (strict, RewardConfig(strict_format=True))):
        given = reward("format", response, config, has_images=has_images)
        assert given.value == value
        assert why in given.explanation
        assert ("each once, and nothing else" in given.explanation) == (value == strict and loose > 0)


@pytest.mark.parametrize("strict", [False, True])
def test_the_format_of_a_re_query_follows_the_same_rule(strict: bool):
    config = RewardConfig(strict_format=strict)
    twice = rb"<think>a</think><think>b</think>\boxed{red}"
    for response, value in ((THINKING, True), (twice, not strict), (DESCRIBED, False), (b"red", False)):
        assert has_requery_format(response.decode(), parse_response(response), config) == value


def test_a_question_without_images_asks_for_no_description():
    assert reward("format", THINKING, has_images=False).value == 1.0
    assert reward("format", DESCRIBED, has_images=False).value == 0.0
    assert reward("format", b"red", has_images=False).explanation.endswith(r"; no \boxed{}")


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
        ("A square. 3. It is red", "3"),
        ("1. A square\n2. red", "red"),
    ],
)
def test_an_answer_stated_in_a_description_is_a_leak(description: str, answer: str):
    boxed = rf"<description>{description}</description><think></think>\boxed{{{answer}}}"
    given = reward("answer_leak", boxed.encode())
    assert given.value == 1.0
    assert given.explanation.partition("'")[2].rstrip("'").split()[-1].replace("\\\\", "\\") in description.lower()


@pytest.mark.parametrize(
    ("description", "answer"),
    [
        ("The square at the top left is red.", "red"),
        ("top left square red ; bottom right circle blue", "red"),
        ("The answer sheet shows four boxes, the second is ticked: B", "ticked"),
        ("the answer is written in blue ink", "red"),
        ("The result is 420 units.", "42"),
        ("There are two cats and no dog.", "no"),
        ("1. A red cat.\n2. A blue dog.\n3. A bird.", "3"),
        ("There are 1) a cat 2) a dog", "2"),
        ("The bars are: 12, 15; 20.", "20"),
        ("a red square", None),
        ("", "red"),
    ],
)
def test_an_observation_is_no_leak(description: str, answer: str | None):
    leaking = answered(b"", description=description, answer=answer)
    assert RESPONSE_REWARDS["answer_leak"](leaking, RewardConfig()).value == 0.0


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
    config = RewardConfig(overlong_buffer_tokens=buffer)
    given = reward("overlong", b"", config, token_ids=tuple(range(length)), is_truncated=finish == "length")
    assert given.value == expected


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ((), 0.0),
        (tuple(range(7)), 0.0),
        (tuple(range(100)), 0.0),
        ((*range(8), *range(8)), -1 / 9),
        ((1,) * 108, -100 / 101),
    ],
)
def test_saying_the_same_again_is_punished(tokens: tuple[int, ...], expected: float):
    assert reward("repetition", b"", token_ids=tokens).value == pytest.approx(expected)

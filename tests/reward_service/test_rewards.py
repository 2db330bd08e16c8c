import pytest

from reward_service.graders import mathruler
from reward_service.rewards import answer_reward, response_rewards
from vision_sr1.parsing import parse_response


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


def test_format_and_accuracy_are_independent():
    right = response_rewards(parse_response(rb"the answer is \boxed{red}"), "red", mathruler)
    assert (right.format, right.accuracy) == (0.0, 1.0)
    wrong = response_rewards(
        parse_response(rb"<description>a</description><think>b</think>\boxed{blue}"), "red", mathruler
    )
    assert (wrong.format, wrong.accuracy) == (1.0, 0.0)


def test_no_answer_is_not_right_even_where_the_reference_looks_like_none():
    assert answer_reward(None, "None", mathruler) == 0.0

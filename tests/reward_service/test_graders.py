"""Which answers each grader takes for right, and which references no answer can match."""

from typing import get_args

import pytest

from reward_service.graders import grade
from reward_service.graders.references import can_read, unmatched
from tests.reward_service.graded_answers import COLORS, KINDS, Kind
from vision_sr1.config import GraderName


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.grader}: {kind.name}")
def test_answers_are_graded_as_a_careful_reader_would(kind: Kind):
    expected = dict.fromkeys(kind.right, True) | dict.fromkeys(kind.wrong, False)
    assert len(expected) == len(kind.right) + len(kind.wrong), "a pair is there twice"
    given = {(answer, wanted): grade(kind.grader, answer, wanted, kind.question, 0.01) for answer, wanted in expected}
    assert {pair: right for pair, right in given.items() if right is not expected[pair]} == {}


def test_every_grader_says_both_of_many_pairs():
    assert {kind.grader for kind in KINDS} == set(get_args(GraderName)) - {"judge"}, "which is tested with grading"
    assert all(
        any(kind.right for kind in KINDS if kind.grader == name)
        and any(kind.wrong for kind in KINDS if kind.grader == name)
        for name in {kind.grader for kind in KINDS}
    )
    assert sum(len(kind.right) + len(kind.wrong) for kind in KINDS) >= 300


@pytest.mark.parametrize(
    ("name", "reference", "why"),
    [
        ("numeric", "<answer> 3 </answer>", "it contains <answer>; keep the answer alone"),
        ("mathruler", r"so \boxed{3}", r"it contains \boxed; keep the answer alone"),
        ("math_verify", r"\boxed{\frac12}", r"it contains \boxed; keep the answer alone"),
        ("exact", "3</answer>", "it contains </answer>; keep the answer alone"),
        ("choice", "<ANSWER>B</ANSWER>", "it contains <ANSWER>; keep the answer alone"),
        ("any_of", r'["\\boxed{3}"]', r"it contains \boxed; keep the answer alone"),
        ("numeric", "7 and 5 are 12.\n#### 12", "it contains ####; keep the answer alone"),
        ("normalized", "<think>It is red.</think> red", "it contains <think>; keep the answer alone"),
        ("exact", " ", "it is empty"),
        ("judge", "", "it is empty"),
        ("any_of", "[]", "it lists no answer"),
        ("exact", r"\text{red", r"its braces do not balance, and those of \boxed{} do"),
        ("numeric", "}red{", r"its braces do not balance, and those of \boxed{} do"),
        ("numeric", "3", None),
        ("numeric", "three", None),
        ("mathruler", r"\frac{1}{2}", None),
        ("math_verify", "x < 3", None),
        ("exact", "a < b > c", None),
        ("choice", "B", None),
        ("any_of", '["3", "three"]', None),
        ("judge", r"so \boxed{3}", None),
    ],
)
def test_a_reference_that_no_answer_can_match_is_known(name: GraderName, reference: str, why: str | None):
    assert unmatched(name, reference, COLORS) == why


@pytest.mark.parametrize(
    ("name", "reference", "is_read"),
    [
        ("numeric", "25 cm^2", True),
        ("numeric", "two", False),
        ("numeric", "1, 2", False),
        ("choice", "B", True),
        ("choice", "A,C", True),
        ("choice", "blue", True),
        ("choice", "E", False),
        ("choice", "A or B", False),
        ("math_verify", r"\frac{1}{2}", True),
        ("math_verify", "1.5e3", True),
        ("math_verify", "red square", False),
        ("any_of", '["a", "b"]', True),
        ("any_of", '["a", ""]', False),
        ("normalized", "red", True),
    ],
)
def test_a_reference_that_a_grader_compares_only_as_text_is_known(name: GraderName, reference: str, is_read: bool):
    assert can_read(name, reference, COLORS) is is_read

"""Which answers each grader takes for right."""

from typing import get_args

import pytest

from reward_service.graders import grade
from vision_sr1.config import GraderName

LISTED = "<image>What color is the square?\nA. red\nB. blue\nC. dark green\nD. none of these"
INLINE = "Which one? (A) 12 cm (B) 15 cm (C) 20 cm"

CASES: list[tuple[GraderName, str, str, str, bool]] = [
    ("mathruler", "red", "red", "", True),
    ("mathruler", " red ", "red", "", True),
    ("mathruler", "blue", "red", "", False),
    ("mathruler", "0.5", r"\frac{1}{2}", "", True),
    ("mathruler", "", "red", "", False),
    ("math_verify", "0.5", r"\frac{1}{2}", "", True),
    ("math_verify", r"x^2 + 2x + 1", r"(x+1)^2", "", True),
    ("math_verify", r"\{2, 1\}", r"\{1, 2\}", "", True),
    ("math_verify", r"[0, 1)", r"[0, 1]", "", False),
    ("math_verify", r"\sqrt{8}", r"2\sqrt{2}", "", True),
    ("math_verify", "3", "4", "", False),
    ("math_verify", "The Red", "red", "", True),
    ("math_verify", "blue", "red", "", False),
    ("exact", " red", "red", "", True),
    ("exact", "Red", "red", "", False),
    ("normalized", r"\text{The  Red.}", "red", "", True),
    ("normalized", "$12$", "12", "", True),
    ("normalized", "a", "A", "", True),
    ("normalized", "dark red", "red", "", False),
    ("normalized", "", "red", "", False),
    ("choice", "B", "B", LISTED, True),
    ("choice", "(b)", "B", LISTED, True),
    ("choice", "B.", "B", LISTED, True),
    ("choice", "B. blue", "B", LISTED, True),
    ("choice", "Answer: B", "B", LISTED, True),
    ("choice", "the correct answer is (B)", "B", LISTED, True),
    ("choice", r"\text{B}", "B", LISTED, True),
    ("choice", "blue", "B", LISTED, True),
    ("choice", "Blue.", "B", LISTED, True),
    ("choice", "B", "blue", LISTED, True),
    ("choice", "dark green", "C", LISTED, True),
    ("choice", "green", "C", LISTED, False),
    ("choice", "A", "B", LISTED, False),
    ("choice", "red", "B", LISTED, False),
    ("choice", "A and B", "B", LISTED, False),
    ("choice", "A and B", "A", LISTED, False),
    ("choice", "E", "B", LISTED, False),
    ("choice", "", "B", LISTED, False),
    ("choice", "15 cm", "B", INLINE, True),
    ("choice", "(B) 15 cm", "B", INLINE, True),
    ("choice", "20 cm", "B", INLINE, False),
    ("choice", "b", "B", "a question without options", True),
    ("numeric", "12", "12.0", "", True),
    ("numeric", "12.05", "12", "", True),
    ("numeric", "12.5", "12", "", False),
    ("numeric", "1,000", "1000", "", True),
    ("numeric", "-3", "3", "", False),
    ("numeric", "\u22123", "-3", "", True),
    ("numeric", "3/4", "0.75", "", True),
    ("numeric", r"\frac{3}{4}", "0.75", "", True),
    ("numeric", r"75\%", "0.75", "", True),
    ("numeric", "75%", "75%", "", True),
    ("numeric", "1.5e3", "1500", "", True),
    ("numeric", "12 cm", "12", "", True),
    ("numeric", r"12\text{ cm}", "12", "", True),
    ("numeric", r"\$12", "12", "", True),
    ("numeric", "12 or 13", "12", "", False),
    ("numeric", "about twelve", "12", "", False),
    ("numeric", "1/0", "12", "", False),
    ("numeric", "0.005", "0", "", True),
    ("numeric", "yes", "Yes", "", True),
    ("any_of", "6.34", '["6.333", "19/3"]', "", True),
    ("any_of", "The Nile.", '["nile", "river nile"]', "", True),
    ("any_of", "amazon", '["nile", "river nile"]', "", False),
    ("any_of", "7", "7", "", True),
]


@pytest.mark.parametrize(("name", "answer", "reference", "question", "right"), CASES)
def test_an_answer_is_right(name: GraderName, answer: str, reference: str, question: str, right: bool):
    assert grade(name, answer, reference, question, 0.01) is right


def test_every_grader_is_tested():
    assert {name for name, *_ in CASES} == set(get_args(GraderName)) - {"judge"}, "which is tested with grading"

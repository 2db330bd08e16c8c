"""Rules that say whether an answer is right. They run where they can be killed (`grading.py`): some do algebra."""

from collections.abc import Callable, Iterable
from functools import partial

from reward_service.graders.any_of import any_of
from reward_service.graders.choice import choice
from reward_service.graders.expressions import math_verify, mathruler
from reward_service.graders.numbers import numeric
from reward_service.graders.texts import exact, normalized
from vision_sr1.config import GraderName

__all__ = ["exact", "grade", "mathruler", "warm_up"]

Grader = Callable[[str, str, str], bool]  # answer, reference, question


def grade(name: GraderName, answer: str, reference: str, question: str, numeric_tolerance: float) -> bool:
    """Whether the rule of this name takes the answer for right; `judge` is none (grading.py)."""
    graders: dict[GraderName, Grader] = {
        "mathruler": mathruler,
        "math_verify": math_verify,
        "exact": exact,
        "normalized": normalized,
        "choice": choice,
        "numeric": partial(numeric, tolerance=numeric_tolerance),
        "any_of": partial(any_of, tolerance=numeric_tolerance),
    }
    return exact(answer, reference) or graders[name](answer, reference, question)


def warm_up(names: Iterable[GraderName]) -> None:
    """Loads what the graders of these names need: a second or more that is not to count as grading."""
    for name in names:
        if name != "judge":
            grade(name, r"\frac{1}{2}", "0.5", "", 0.0)

"""Comparing an answer with the reference."""

from typing import Protocol

from mathruler.grader import grade_answer


class Grader(Protocol):
    """A rule that says whether an answer is right."""

    def __call__(self, answer: str, reference: str) -> bool:
        """Whether `answer` is right, given the data set's `reference`."""


def mathruler(answer: str, reference: str) -> bool:
    """The authors' rule: equal after normalization, or equal as mathematical expressions."""
    return bool(grade_answer(answer, reference))


GRADERS: dict[str, Grader] = {"mathruler": mathruler}

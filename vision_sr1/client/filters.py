"""What traces and groups are filtered by, as the API's query parameters."""

from typing import TypedDict

from vision_sr1.client.models import Pattern, Purpose


class TraceFilters(TypedDict, total=False):
    """Which traces; those that fit all of these.

    Attributes:
        run: default: the run that the service serves.
        pattern: answer and description: `shortcut` is a right answer whose description does not suffice.
        missing: whether some reward is missing.
        truncated: whether the response ended at its token limit.
        q: parts of words, all of which occur in question, answer or responses.
    """

    run: str | None
    purpose: Purpose | None
    data_source: str | None
    min_version: int | None
    max_version: int | None
    pattern: Pattern | None
    missing: bool | None
    truncated: bool | None
    min_format: float | None
    max_format: float | None
    min_accuracy: float | None
    max_accuracy: float | None
    min_visual: float | None
    max_visual: float | None
    q: str | None


class GroupFilters(TraceFilters, total=False):
    """Which groups: those with a trace that fits, and of these.

    Attributes:
        step: batch that learned from the group.
        min_right: least number of right answers.
        max_right: greatest number of right answers.
        has_signal: whether its answers differ in a reward of the run's objective.
    """

    step: int | None
    min_right: int | None
    max_right: int | None
    has_signal: bool | None

"""What traces and groups are searched for by, as SQL conditions."""

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, literal_column, tuple_

from reward_service.store.tables import OUTCOMES, Trace
from vision_sr1.client.models import GroupOrder, Pattern


class CursorError(ValueError):
    """A pagination cursor is not one that this service gave out."""


class EarlierStoreError(RuntimeError):
    """A store of an earlier version, which is read as it is, cannot be searched by this."""


@dataclass(frozen=True)
class TraceFilter:
    """Which traces to list; None means any.

    Attributes:
        missing: whether a reward of the trace is missing.
        truncated: whether the response ended at its token limit.
        words: all of them occur in question, answer, response or re-query, as words or parts of words.
        min_rewards: of `format`, `accuracy` and `visual`, by name.
    """

    run: str
    purpose: str | None = None
    data_source: str | None = None
    min_version: int | None = None
    max_version: int | None = None
    outcome: Pattern | None = None
    missing: bool | None = None
    truncated: bool | None = None
    words: str | None = None
    group_ids: Sequence[str] | None = None
    min_rewards: dict[str, float] = field(default_factory=dict)
    max_rewards: dict[str, float] = field(default_factory=dict)

    @property
    def version(self) -> int | None:
        """The one policy version that is wanted; None where several or all are."""
        return self.min_version if self.min_version == self.max_version else None

    @property
    def parts(self) -> list[str]:
        """The words, one by one."""
        return (self.words or "").split()

    def conditions(self) -> list[ColumnElement[bool]]:
        """As SQL conditions on the columns of Trace."""
        conditions: list[ColumnElement[bool]] = [Trace.run == self.run]
        if self.purpose is not None:
            conditions.append(Trace.purpose == self.purpose)
        if self.data_source is not None:
            conditions.append(Trace.data_source == self.data_source)
        if self.group_ids is not None:
            conditions.append(Trace.group_id.in_(self.group_ids))
        return conditions + self.answer_conditions()

    def answer_conditions(self) -> list[ColumnElement[bool]]:
        """Those in which the answers to one prompt may differ."""
        return self._answer_conditions(lambda name: getattr(Trace, name))

    def unindexed_answer_conditions(self) -> list[ColumnElement[bool]]:
        """The same, for the few traces of a group: no index of them is used, however the database plans."""
        return self._answer_conditions(lambda name: literal_column(f"+traces.{name}"))

    def _answer_conditions(self, column: Callable[[str], Any]) -> list[ColumnElement[bool]]:
        conditions: list[ColumnElement[bool]] = []
        if self.version is not None:
            conditions.append(column("policy_version") == self.version)
        else:
            if self.min_version is not None:
                conditions.append(column("policy_version") >= self.min_version)
            if self.max_version is not None:
                conditions.append(column("policy_version") <= self.max_version)
        if self.outcome is not None:
            conditions.append(column("outcome") == OUTCOMES.index(self.outcome))
        for wanted, name in ((self.missing, "missing"), (self.truncated, "truncated")):
            if wanted is not None:  # as indexes are told: a parameter in place of the 0 would keep them out of use
                zero: ColumnElement[int] = literal_column("0")
                conditions.append(column(name) > zero if wanted else column(name) == zero)
        conditions += [column(name) >= value for name, value in self.min_rewards.items()]
        conditions += [column(name) <= value for name, value in self.max_rewards.items()]
        return conditions


@dataclass(frozen=True)
class GroupFilter(TraceFilter):
    """Which groups to list: those of which some trace fits, and that fit as a whole.

    Attributes:
        min_right: of the group's answers.
        has_signal: whether something can be learned from it: answers of a training group differ in a reward of
            `objective`.
        objective: rewards that the run's objective uses.
    """

    min_right: int | None = None
    max_right: int | None = None
    has_signal: bool | None = None
    objective: Sequence[str] = ()
    order: GroupOrder = "newest"


class Place:
    """Where a row stands in a list: the values of integer columns that an index sorts by, the greatest first.

    Args:
        descending: false: the least first.
    """

    def __init__(self, *columns: Any, descending: bool = True) -> None:
        self.columns = columns
        self.order = [column.desc() if descending else column.asc() for column in columns]
        self._descending = descending

    def behind(self, place: tuple[int, ...]) -> Any:
        """The condition of being further down the list than a place."""
        here, there = tuple_(*self.columns), tuple_(*place)
        return here < there if self._descending else here > there

    def not_behind(self, place: tuple[int, ...]) -> Any:
        """The condition of being at a place or before it."""
        here, there = tuple_(*self.columns), tuple_(*place)
        return here >= there if self._descending else here <= there

    def encode(self, place: tuple[int, ...]) -> str:
        """A cursor to what comes after a place."""
        return base64.urlsafe_b64encode(json.dumps({self._key: place}).encode()).decode()

    def decode(self, cursor: str) -> tuple[int, ...]:
        """The place that a cursor was made of.

        Raises:
            CursorError: it was made of none, or for another order.
        """
        try:
            place = tuple(int(value) for value in json.loads(base64.urlsafe_b64decode(cursor))[self._key])
            if len(place) != len(self.columns) or not all(-1 <= value < 2**63 for value in place):
                raise ValueError(place)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise CursorError(
                f"cursor {cursor[:40]!r} is not one of this service's for these filters; start again without it"
            ) from error
        return place

    @property
    def _key(self) -> str:
        columns = ",".join(column.key for column in self.columns[:-1])
        return ("before" if self._descending else "behind") + (f" {columns}" if columns else "")

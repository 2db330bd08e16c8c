"""Reading traces: pages of them and of groups, by what they are searched for, and counts of rewards."""

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import ColumnElement, Engine, Select, column, func, inspect, literal_column, select, table, tuple_
from sqlalchemy.orm import Session

from reward_service.store.counting import bin_range
from reward_service.store.database import close_store
from reward_service.store.tables import NO_REWARDS, OUTCOMES, SEARCHED, RewardCount, StoredImage, Trace, TraceBody
from vision_sr1.client.models import Pattern
from vision_sr1.pipeline.scored_groups import sample_version
from vision_sr1.v1 import pipeline_pb2 as pb

SCANNED_AT_ONCE = 1000  # traces looked through for groups

_PARTS = table("trace_parts", column("rowid"), column("text"))  # SQLite's index of trigrams
_ROWID: ColumnElement[int] = literal_column("+trace_parts.rowid")  # + has SQLite ask the index once, not once a trace
_TRIGRAM = 3  # characters; shorter parts are looked for in the texts themselves
_ESCAPE = "\\"


class CursorError(ValueError):
    """A pagination cursor is not one that this service gave out."""


@dataclass(frozen=True)
class TraceFilter:
    """Which traces to list; None means any.

    Attributes:
        words: all of them occur in question, answer, response or re-query, as words or parts of words.
        min_rewards: of `format`, `accuracy` and `visual`, by name.
    """

    run: str
    purpose: str | None = None
    data_source: str | None = None
    min_version: int | None = None
    max_version: int | None = None
    outcome: Pattern | None = None
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
        if self.version is not None:
            conditions.append(Trace.policy_version == self.version)
        else:
            if self.min_version is not None:
                conditions.append(Trace.policy_version >= self.min_version)
            if self.max_version is not None:
                conditions.append(Trace.policy_version <= self.max_version)
        if self.outcome is not None:
            conditions.append(Trace.outcome == OUTCOMES.index(self.outcome))
        if self.group_ids is not None:
            conditions.append(Trace.group_id.in_(self.group_ids))
        conditions += [getattr(Trace, name) >= value for name, value in self.min_rewards.items()]
        conditions += [getattr(Trace, name) <= value for name, value in self.max_rewards.items()]
        return conditions


@dataclass(frozen=True)
class FoundTrace:
    """One trace: its place in the store, when it was recorded (seconds since the epoch), and all of it."""

    sequence: int
    recorded_at: float
    scored: pb.ScoredRollout


@dataclass(frozen=True)
class RewardBin:
    """How many rewards of a name had a value in [low, high]; all its bins are those of `range`."""

    purpose: str
    data_source: str
    policy_version: int
    name: str
    is_missing: bool
    low: float
    high: float
    range: tuple[float, float]
    count: int
    total: float


@dataclass(frozen=True)
class PromptMean:
    """One prompt's rewards in one run, those of SEARCHED: means over its answers, None where all are missing."""

    prompt_key: str
    group_id: str
    data_source: str
    answers: int
    rewards: dict[str, float | None]


class TraceReader:
    """Reads from a store that is open; every call is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._has_index = False

    def traces(self, wanted: TraceFilter, cursor: str | None, limit: int) -> tuple[list[FoundTrace], str | None]:
        """Traces, newest first, and the cursor of the next page (None on the last). Of several policy versions, those
        of the newest version come first.

        Raises:
            CursorError: the cursor is damaged.
        """
        place = self._place(wanted)
        query = self._whole(wanted).order_by(*place.newest_first).limit(limit + 1)
        if cursor is not None:
            query = query.where(place < place.decode(cursor))
        found = self._found(query)
        return found[:limit], place.encode(place.of(found[limit - 1])) if len(found) > limit else None

    def after(self, wanted: TraceFilter, sequence: int, limit: int) -> list[FoundTrace]:
        """The traces recorded after one, oldest first."""
        query = self._whole(wanted).where(Trace.sequence > sequence)
        return self._found(query.order_by(Trace.sequence).limit(limit))

    def last_sequence(self, run: str) -> int:
        """The place of the newest trace; 0 where there is none."""
        with Session(self._engine) as session:
            query = select(Trace.sequence).where(Trace.run == run).order_by(Trace.sequence.desc()).limit(1)
            return session.scalar(query) or 0

    def trace(self, run: str, rollout_id: str) -> FoundTrace | None:
        """One trace by its rollout's id."""
        found = self._found(self._whole(TraceFilter(run=run)).where(Trace.id == rollout_id))
        return found[0] if found else None

    def group_ids(self, wanted: TraceFilter, cursor: str | None, limit: int) -> tuple[list[str], str | None]:
        """Groups that have a trace which fits, those with the newest first, and the cursor of the next page.

        Raises:
            CursorError: the cursor is damaged.
        """
        place = self._place(wanted)
        before = place.decode(cursor) if cursor is not None else None
        groups: dict[str, tuple[int, ...]] = {}  # by the place of its newest trace that fits
        with Session(self._engine) as session:
            at = before
            while len(groups) <= limit:
                query = self._selected(wanted, Trace.group_id, *place.columns).order_by(*place.newest_first)
                if at is not None:
                    query = query.where(place < at)
                rows = session.execute(query.limit(SCANNED_AT_ONCE)).all()
                fresh: dict[str, tuple[int, ...]] = {}
                for group_id, *found in rows:
                    fresh.setdefault(group_id, tuple(found))
                shown = self._shown_before(session, wanted, list(fresh), before)
                for group_id, newest in fresh.items():
                    if group_id not in shown:
                        groups.setdefault(group_id, newest)
                if len(rows) < SCANNED_AT_ONCE:
                    break
                at = tuple(rows[-1][1:])
        ids = list(groups)[:limit]
        return ids, place.encode(groups[ids[-1]]) if len(groups) > limit else None

    def groups(self, run: str, group_ids: Sequence[str]) -> dict[str, list[FoundTrace]]:
        """All traces of groups, by sample index."""
        groups: dict[str, list[FoundTrace]] = {group_id: [] for group_id in group_ids}
        for found in self._found(self._whole(TraceFilter(run=run, group_ids=group_ids))):
            groups[found.scored.rollout.prompt.id].append(found)
        return {
            group_id: sorted(found, key=lambda trace: trace.scored.rollout.sample_index)
            for group_id, found in groups.items()
            if found
        }

    def image(self, sha256: str) -> StoredImage | None:
        """One image."""
        with Session(self._engine) as session:
            return session.get(StoredImage, sha256)

    def runs(self) -> list[str]:
        """Runs that the store has traces or counts of."""
        with Session(self._engine) as session:
            return list(session.scalars(select(RewardCount.run).distinct().order_by(RewardCount.run)))

    def reward_names(self, run: str) -> list[str]:
        """Names of the rewards that the run's rollouts were given, or lack."""
        counted = select(RewardCount.name).where(RewardCount.run == run, RewardCount.name.not_in(NO_REWARDS))
        with Session(self._engine) as session:
            return list(session.scalars(counted.distinct().order_by(RewardCount.name)))

    def newest_run(self) -> str | None:
        """The run of the newest trace."""
        with Session(self._engine) as session:
            return session.scalar(select(Trace.run).order_by(Trace.sequence.desc()).limit(1))

    def newest_version(self, run: str, purpose: str) -> int | None:
        """The newest policy version of a run's traces."""
        query = select(func.max(Trace.policy_version)).where(Trace.run == run, Trace.purpose == purpose)
        with Session(self._engine) as session:
            return session.scalar(query)

    def span(self, run: str) -> tuple[float, float] | None:
        """When the run's oldest and newest trace were recorded, seconds since the epoch."""
        with Session(self._engine) as session:
            ends = [
                session.scalar(select(Trace.recorded_at).where(Trace.run == run).order_by(order).limit(1))
                for order in (Trace.sequence.asc(), Trace.sequence.desc())
            ]
        return None if ends[0] is None or ends[1] is None else (ends[0], ends[1])

    def counts(
        self, run: str, purpose: str | None = None, data_source: str | None = None, names: Sequence[str] | None = None
    ) -> list[RewardBin]:
        """Counts of rewards, of all rollouts, those whose traces were not kept included."""
        query = select(RewardCount).where(RewardCount.run == run)
        if purpose is not None:
            query = query.where(RewardCount.purpose == purpose)
        if data_source is not None:
            query = query.where(RewardCount.data_source == data_source)
        if names is not None:
            query = query.where(RewardCount.name.in_(names))
        with Session(self._engine) as session:
            return [
                RewardBin(
                    purpose=row.purpose,
                    data_source=row.data_source,
                    policy_version=row.policy_version,
                    name=row.name,
                    is_missing=row.bin < 0,
                    low=row.low,
                    high=row.high,
                    range=bin_range(row),
                    count=row.count,
                    total=row.total,
                )
                for row in session.scalars(
                    query.order_by(RewardCount.policy_version, RewardCount.name, RewardCount.bin)
                )
            ]

    def prompt_means(self, wanted: TraceFilter) -> dict[str, PromptMean]:
        """Means of each prompt's rewards, by its key; of those asked several times, over all answers."""
        means = [func.avg(getattr(Trace, name)).label(name) for name in SEARCHED]
        query = select(
            Trace.prompt_key,
            func.max(Trace.group_id).label("group_id"),
            func.max(Trace.data_source).label("data_source"),
            func.count().label("answers"),
            *means,
        )
        with Session(self._engine) as session:
            rows = session.execute(query.where(*wanted.conditions()).group_by(Trace.prompt_key)).all()
        return {
            row.prompt_key: PromptMean(
                row.prompt_key,
                row.group_id,
                row.data_source,
                row.answers,
                {name: row._mapping[name] for name in SEARCHED},
            )
            for row in rows
        }

    def check(self) -> None:
        """Raises SQLAlchemyError where the store does not answer."""
        with Session(self._engine) as session:
            session.execute(select(1))

    def close(self) -> None:
        """Closes the store."""
        close_store(self._engine)

    def _whole(self, wanted: TraceFilter) -> Any:
        """What `_found` reads."""
        query = self._selected(wanted, Trace.sequence, Trace.recorded_at, TraceBody.message)
        return query.join(TraceBody, TraceBody.sequence == Trace.sequence)

    def _selected(self, wanted: TraceFilter, *columns: Any) -> Any:
        query = select(*columns).where(*wanted.conditions())
        indexed = self._indexed_parts(wanted)
        if indexed:  # without ESCAPE, which the index does not take
            query = query.select_from(Trace).join(_PARTS, Trace.sequence == _ROWID)
            query = query.where(*(_PARTS.c.text.like(f"%{part}%") for part in indexed))
        scanned = [part for part in wanted.parts if part not in indexed or set(part) & set("%_")]
        if not scanned:
            return query
        if TraceBody.message not in columns:
            query = query.join(TraceBody, TraceBody.sequence == Trace.sequence)
        return query.where(*(self._contains(part) for part in scanned))

    def _contains(self, part: str) -> ColumnElement[bool]:
        literal = "".join(_ESCAPE + character if character in f"%_{_ESCAPE}" else character for character in part)
        like = TraceBody.text.like if self._engine.dialect.name == "sqlite" else TraceBody.text.ilike
        return like(f"%{literal}%", escape=_ESCAPE)

    def _indexed_parts(self, wanted: TraceFilter) -> list[str]:
        """Words that SQLite's index finds; of few groups, or one version, the texts are read.

        PostgreSQL uses its own index for the same condition as a scan.
        """
        long = [part for part in wanted.parts if any(len(run) >= _TRIGRAM for run in re.split("[%_]", part))]
        are_few = wanted.group_ids is not None or wanted.version is not None
        if not long or are_few or self._engine.dialect.name != "sqlite":
            return []
        if not self._has_index:  # a store of version 0001, which is read as it is, has none
            self._has_index = inspect(self._engine).has_table(_PARTS.name)
        return long if self._has_index else []

    def _place(self, wanted: TraceFilter) -> "_Place":
        """What pages are cut by: what an index has in this order already."""
        if self._indexed_parts(wanted):
            return _Place(_PARTS.c.rowid)
        several = (wanted.min_version, wanted.max_version) != (None, None) and wanted.version is None
        return _Place(Trace.policy_version, Trace.sequence) if several else _Place(Trace.sequence)

    def _found(self, query: Select[int, float, bytes]) -> list[FoundTrace]:
        with Session(self._engine) as session:
            return [
                FoundTrace(sequence, recorded_at, pb.ScoredRollout.FromString(message))
                for sequence, recorded_at, message in session.execute(query)
            ]

    def _shown_before(
        self, session: Session, wanted: TraceFilter, group_ids: list[str], before: tuple[int, ...] | None
    ) -> set[str]:
        """Which of these groups have a newer trace that fits, and were on an earlier page."""
        if before is None or not group_ids:
            return set()
        place = _Place(Trace.sequence) if self._indexed_parts(wanted) else self._place(wanted)
        query = self._selected(replace(wanted, group_ids=group_ids), Trace.group_id).where(place >= before)
        return set(session.scalars(query.distinct()))


class _Place:
    """Where a trace stands among those that fit: the values of columns that an index sorts by, the newest greatest."""

    def __init__(self, *columns: Any) -> None:
        self.columns = columns
        self.newest_first = [column.desc() for column in columns]

    def __lt__(self, other: tuple[int, ...]) -> Any:
        return tuple_(*self.columns) < tuple_(*other)

    def __ge__(self, other: tuple[int, ...]) -> Any:
        return tuple_(*self.columns) >= tuple_(*other)

    def of(self, trace: FoundTrace) -> tuple[int, ...]:
        """The place of one."""
        return (sample_version(trace.scored.rollout.sample), trace.sequence)[-len(self.columns) :]

    @staticmethod
    def encode(place: tuple[int, ...]) -> str:
        """A cursor to what comes after it."""
        return base64.urlsafe_b64encode(json.dumps({"before": place}).encode()).decode()

    def decode(self, cursor: str) -> tuple[int, ...]:
        """The place that a cursor was made of.

        Raises:
            CursorError: it was made of none, or for another order.
        """
        try:
            place = tuple(int(value) for value in json.loads(base64.urlsafe_b64decode(cursor))["before"])
            if len(place) != len(self.columns) or not all(-1 <= value < 2**63 for value in place):
                raise ValueError(place)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise CursorError(
                f"cursor {cursor[:40]!r} is not one of this service's for these filters; start again without it"
            ) from error
        return place

"""Reading traces: pages of them and of groups, by what they are searched for, and counts of rewards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, Select, func, select
from sqlalchemy.orm import Session

from reward_service.store.counting import bin_range
from reward_service.store.database import close_store
from reward_service.store.filters import GroupFilter, TraceFilter
from reward_service.store.group_pages import count_groups, group_page
from reward_service.store.tables import NO_REWARDS, SEARCHED, RewardCount, StoredImage, Trace, TraceBody
from reward_service.store.trace_queries import TraceQueries
from vision_sr1.pipeline.prompt_properties import purpose_name
from vision_sr1.pipeline.scored_groups import sample_version
from vision_sr1.v1 import pipeline_pb2 as pb

ANSWERS_OF_A_VERSION = 64  # to one prompt, read at most


@dataclass(frozen=True)
class FoundTrace:
    """One trace: its place in the store, when it was recorded (seconds since the epoch), and all of it."""

    sequence: int
    recorded_at: float
    scored: pb.ScoredRollout


@dataclass(frozen=True)
class AnswersOfVersion:
    """What a policy version answered to a prompt: how many answers, and the first of them."""

    policy_version: int
    count: int
    traces: list[FoundTrace]


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
        self._queries = TraceQueries(engine)

    def traces(self, wanted: TraceFilter, cursor: str | None, limit: int) -> tuple[list[FoundTrace], str | None]:
        """Traces, newest first, and the cursor of the next page (None on the last). Of several policy versions, those
        of the newest version come first.

        Raises:
            CursorError: the cursor is damaged.
        """
        place = self._queries.place(wanted)
        query = self._whole(wanted).order_by(*place.order).limit(limit + 1)
        if cursor is not None:
            query = query.where(place.behind(place.decode(cursor)))
        found = self._found(query)
        if len(found) <= limit:
            return found, None
        last = found[limit - 1]
        ends = (sample_version(last.scored.rollout.sample), last.sequence)
        return found[:limit], place.encode(ends[-len(place.columns) :])

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

    def group_ids(self, wanted: GroupFilter, cursor: str | None, limit: int) -> tuple[list[str], str | None]:
        """Groups that have a trace which fits, in the order asked for, and the cursor of the next page.

        Raises:
            CursorError: the cursor is damaged.
        """
        with Session(self._engine) as session:
            return group_page(session, self._queries, wanted, cursor, limit)

    def count_groups(self, wanted: GroupFilter, at_most: int) -> int:
        """How many groups fit, or `at_most`."""
        with Session(self._engine) as session:
            return count_groups(session, self._queries, wanted, at_most)

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

    def prompt_versions(
        self, run: str, prompt_key: str, purpose: str | None, after: int | None, limit: int
    ) -> list[AnswersOfVersion]:
        """A prompt at policy versions after one, the oldest first; answers of evaluation before those of training."""
        here = [Trace.run == run, Trace.prompt_key == prompt_key]
        if purpose is not None:
            here.append(Trace.purpose == purpose)
        if after is not None:
            here.append(Trace.policy_version > after)
        versions = select(Trace.policy_version, func.count()).where(*here).group_by(Trace.policy_version)
        with Session(self._engine) as session:
            rows = session.execute(versions.order_by(Trace.policy_version).limit(limit))
            counts: dict[int, int] = dict(rows.all())
        if not counts:
            return []
        place = func.row_number().over(partition_by=Trace.policy_version, order_by=(Trace.purpose, Trace.sequence))
        ranked = (
            select(Trace.sequence, place.label("place")).where(*here, Trace.policy_version <= max(counts)).subquery()
        )
        query = self._whole(TraceFilter(run=run)).join(ranked, ranked.c.sequence == Trace.sequence)
        found: dict[int, list[FoundTrace]] = {version: [] for version in counts}
        for trace in self._found(query.where(ranked.c.place <= ANSWERS_OF_A_VERSION)):
            found[sample_version(trace.scored.rollout.sample)].append(trace)
        return [
            AnswersOfVersion(version, counts[version], sorted(traces, key=_answer_order))
            for version, traces in found.items()
        ]

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
        query = self._queries.selected(wanted, Trace.sequence, Trace.recorded_at, TraceBody.message)
        return query.join(TraceBody, TraceBody.sequence == Trace.sequence)

    def _found(self, query: Select[int, float, bytes]) -> list[FoundTrace]:
        with Session(self._engine) as session:
            return [
                FoundTrace(sequence, recorded_at, pb.ScoredRollout.FromString(message))
                for sequence, recorded_at, message in session.execute(query)
            ]


def _answer_order(found: FoundTrace) -> tuple[str, str, int]:
    rollout = found.scored.rollout
    return purpose_name(rollout.prompt), rollout.prompt.id, rollout.sample_index

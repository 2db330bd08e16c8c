"""The trace store: what every reward saw, kept in SQL. Writing happens off the scoring path and never blocks it."""

import asyncio
import base64
import json
from dataclasses import dataclass, field
from typing import Any

import structlog
from sqlalchemy import ColumnElement, LargeBinary, String, Text, create_engine, event, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from reward_service import metrics
from vision_sr1.groups import sample_version
from vision_sr1.streams import BlobMissingError, Blobs
from vision_sr1.v1 import pipeline_pb2 as pb

log = structlog.get_logger()

WRITE_BATCH = 256
REWARD_NAMES = ("format", "accuracy", "visual")  # those with a column to filter by


class Base(DeclarativeBase):
    """Tables of the store."""


class Trace(Base):
    """One scored rollout. `message` is the whole ScoredRollout, the columns are what can be searched for."""

    __tablename__ = "traces"

    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    run: Mapped[str] = mapped_column(String(128), index=True)
    id: Mapped[str] = mapped_column(String(256))
    group_id: Mapped[str] = mapped_column(String(256), index=True)
    purpose: Mapped[str] = mapped_column(String(16))
    data_source: Mapped[str] = mapped_column(String(256), index=True)
    policy_version: Mapped[int] = mapped_column(index=True)
    format: Mapped[float | None]
    accuracy: Mapped[float | None]
    visual: Mapped[float | None]
    text: Mapped[str] = mapped_column(Text)
    message: Mapped[bytes] = mapped_column(LargeBinary)


class StoredImage(Base):
    """An image that a trace refers to."""

    __tablename__ = "images"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    media_type: Mapped[str] = mapped_column(String(64))
    data: Mapped[bytes] = mapped_column(LargeBinary)


@dataclass(frozen=True)
class TraceFilter:
    """Which traces to list; None means any."""

    run: str | None = None
    purpose: str | None = None
    data_source: str | None = None
    min_version: int | None = None
    max_version: int | None = None
    text: str | None = None
    min_rewards: dict[str, float] = field(default_factory=dict)
    max_rewards: dict[str, float] = field(default_factory=dict)

    def conditions(self) -> list[ColumnElement[bool]]:
        """As SQL conditions."""
        conditions: list[ColumnElement[bool]] = []
        if self.run is not None:
            conditions.append(Trace.run == self.run)
        if self.purpose is not None:
            conditions.append(Trace.purpose == self.purpose)
        if self.data_source is not None:
            conditions.append(Trace.data_source == self.data_source)
        if self.min_version is not None:
            conditions.append(Trace.policy_version >= self.min_version)
        if self.max_version is not None:
            conditions.append(Trace.policy_version <= self.max_version)
        if self.text is not None:
            conditions.append(Trace.text.icontains(self.text, autoescape=True))
        conditions += [getattr(Trace, name) >= value for name, value in self.min_rewards.items()]
        conditions += [getattr(Trace, name) <= value for name, value in self.max_rewards.items()]
        return conditions


class CursorError(ValueError):
    """A pagination cursor is not one that this service gave out."""


class TraceStore:
    """Reads and writes traces. `record` never waits; a full buffer drops the trace and counts it."""

    def __init__(self, url: str, blobs: Blobs | None, buffer: int) -> None:
        self._engine = create_engine(url)
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _use_wal)
        Base.metadata.create_all(self._engine)
        self._blobs = blobs
        self._buffer: asyncio.Queue[pb.ScoredRollout] = asyncio.Queue(buffer)
        self._known_images: set[str] = set()

    def record(self, scored: pb.ScoredRollout) -> None:
        """Queues a trace for writing."""
        try:
            self._buffer.put_nowait(scored)
        except asyncio.QueueFull:
            metrics.TRACES.labels("dropped").inc()
            log.warning("trace dropped: the store is slower than scoring", rollout=scored.rollout.id)

    async def write_forever(self) -> None:
        """Writes queued traces in batches until cancelled; then writes what is left."""
        try:
            while True:
                await self._write_batch([await self._buffer.get()])
        finally:
            while not self._buffer.empty():
                await self._write_batch([])

    async def _write_batch(self, batch: list[pb.ScoredRollout]) -> None:
        while len(batch) < WRITE_BATCH and not self._buffer.empty():
            batch.append(self._buffer.get_nowait())
        images = await self._new_images(batch)
        try:
            await asyncio.to_thread(self._insert, batch, images)
        except SQLAlchemyError as error:
            metrics.TRACES.labels("dropped").inc(len(batch))
            log.error("traces dropped: the store failed", traces=len(batch), error=str(error))
            return
        self._known_images.update(image["sha256"] for image in images)
        metrics.TRACES.labels("written").inc(len(batch))

    async def _new_images(self, batch: list[pb.ScoredRollout]) -> list[dict[str, Any]]:
        refs = {ref.sha256: ref for scored in batch for ref in scored.rollout.prompt.images}
        images = []
        for sha256, ref in refs.items():
            if sha256 in self._known_images or self._blobs is None:
                continue
            try:
                data = await self._blobs.get(ref)
            except BlobMissingError as error:
                log.warning("trace without its image", error=str(error))
                continue
            images.append({"sha256": sha256, "media_type": ref.media_type, "data": data})
        return images

    def _insert(self, batch: list[pb.ScoredRollout], images: list[dict[str, Any]]) -> None:
        insert = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        with Session(self._engine) as session, session.begin():
            if images:
                session.execute(insert(StoredImage).on_conflict_do_nothing(), images)
            session.add_all([_trace(scored) for scored in batch])

    def traces(self, wanted: TraceFilter, cursor: str | None, limit: int) -> tuple[list[Trace], str | None]:
        """Traces, newest first, and the cursor of the next page (None on the last).

        Raises:
            CursorError: the cursor is damaged.
        """
        query = select(Trace).where(*wanted.conditions()).order_by(Trace.sequence.desc()).limit(limit + 1)
        if cursor is not None:
            query = query.where(Trace.sequence < _decode_cursor(cursor))
        with Session(self._engine) as session:
            found = list(session.scalars(query))
        more = len(found) > limit
        found = found[:limit]
        return found, _encode_cursor(found[-1].sequence) if more else None

    def trace(self, rollout_id: str, run: str | None) -> Trace | None:
        """One trace; the newest where several runs have the id and none is named."""
        return self._newest(Trace.id == rollout_id, run)

    def group(self, group_id: str, run: str | None) -> list[Trace]:
        """All traces of a group, by sample index; of the newest run where none is named."""
        newest = self._newest(Trace.group_id == group_id, run)
        if newest is None:
            return []
        query = select(Trace).where(Trace.group_id == group_id, Trace.run == newest.run)
        with Session(self._engine) as session:
            by_id = {trace.id: trace for trace in session.scalars(query.order_by(Trace.sequence))}
        return sorted(by_id.values(), key=lambda t: int(t.id.rpartition("/")[2]))

    def image(self, sha256: str) -> StoredImage | None:
        """One image."""
        with Session(self._engine) as session:
            return session.get(StoredImage, sha256)

    def check(self) -> None:
        """Raises SQLAlchemyError where the store does not answer."""
        with Session(self._engine) as session:
            session.execute(select(1))

    def close(self) -> None:
        """Closes all connections."""
        self._engine.dispose()

    def _newest(self, condition: ColumnElement[bool], run: str | None) -> Trace | None:
        query = select(Trace).where(condition).order_by(Trace.sequence.desc()).limit(1)
        if run is not None:
            query = query.where(Trace.run == run)
        with Session(self._engine) as session:
            return session.scalars(query).first()


def _trace(scored: pb.ScoredRollout) -> Trace:
    rollout = scored.rollout
    prompt = rollout.prompt
    return Trace(
        run=prompt.run,
        id=rollout.id,
        group_id=prompt.id,
        purpose="evaluation" if prompt.purpose == pb.PURPOSE_EVALUATION else "train",
        data_source=prompt.data_source,
        policy_version=sample_version(rollout.sample),
        text="\n".join((prompt.question, prompt.answer, scored.response, *(r.response for r in scored.requeries))),
        message=scored.SerializeToString(),
        **{name: scored.rewards.get(name) for name in REWARD_NAMES},
    )


def _use_wal(connection: Any, _: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _encode_cursor(sequence: int) -> str:
    return base64.urlsafe_b64encode(json.dumps({"before": sequence}).encode()).decode()


def _decode_cursor(cursor: str) -> int:
    try:
        return int(json.loads(base64.urlsafe_b64decode(cursor))["before"])
    except (ValueError, KeyError, TypeError) as error:
        raise CursorError(f"cursor {cursor[:40]!r} is not one of this service's; start again without it") from error

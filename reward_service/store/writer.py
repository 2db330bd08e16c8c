"""Writing traces: from a bounded buffer, in batches, off the scoring path; and removing old ones."""

import asyncio
import contextlib
import hashlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import structlog
from sqlalchemy import Connection, Engine, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from reward_service import metrics
from reward_service.store.database import prepare_store, writing
from reward_service.store.tables import OUTCOMES, RewardCount, StoredImage, Trace, TraceBody
from vision_sr1.config import TracesConfig
from vision_sr1.groups import sample_version
from vision_sr1.streams import BlobMissingError, Blobs
from vision_sr1.v1 import pipeline_pb2 as pb

log = structlog.get_logger()

AT_ONCE = 256  # traces in a transaction
BINS = 20
MISSING_BIN = -1
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # between tries while the store is down
PRUNE_EVERY_S = 60.0
TRANSACTION_TIMEOUT_S = 60.0
TEXT_LENGTH = 100_000  # characters of a trace that it can be found by

T = TypeVar("T")
Ranges = dict[str, tuple[float, float]]
_Key = tuple[str, str]  # run and rollout


class _Bin(NamedTuple):
    """The key of a RewardCount."""

    run: str
    purpose: str
    data_source: str
    policy_version: int
    name: str
    bin: int


class TraceWriter:
    """Takes traces and writes them in its own time. `record` never waits; a full buffer drops the trace, and counts it.

    Args:
        blobs: where images are; None: traces are kept without theirs.
        ranges: least and greatest value of each reward, and of `response_tokens`.
    """

    def __init__(self, engine: Engine, blobs: Blobs | None, config: TracesConfig, ranges: Ranges) -> None:
        self._engine = writing(engine)
        self._blobs = blobs
        self._config = config
        self._ranges = {**ranges, "outcome": (0.0, float(len(OUTCOMES)))}
        self._buffer: asyncio.Queue[pb.ScoredRollout] = asyncio.Queue(config.buffer)
        self._in_hand = 0  # traces that are being written
        self._known_images: set[str] = set()
        self._pruned_at = time.monotonic()
        self._is_down = False
        self._is_prepared = False

    def record(self, scored: pb.ScoredRollout) -> None:
        """Puts a trace into the buffer."""
        try:
            self._buffer.put_nowait(scored)
        except asyncio.QueueFull:
            metrics.TRACES.labels("dropped").inc()
            log.warning("trace dropped: the store is slower than scoring", rollout=scored.rollout.id)

    async def run(self, stop: asyncio.Event, drain_s: float) -> None:
        """Writes until `stop` is set, and then what is left for so long; what remains is dropped, and counted."""
        running = asyncio.create_task(self._write_forever())
        await stop.wait()
        left = asyncio.create_task(self._buffer.join())
        await asyncio.wait([left], timeout=drain_s)
        for task in (running, left):
            task.cancel()
        if dropped := self._in_hand + self._buffer.qsize():
            metrics.TRACES.labels("dropped").inc(dropped)
            log.error("traces dropped: the service ends before the store has taken them", traces=dropped)

    async def _write_forever(self) -> None:
        while True:
            batch = [await self._buffer.get()]
            while len(batch) < AT_ONCE and not self._buffer.empty():
                batch.append(self._buffer.get_nowait())
            self._in_hand = len(batch)
            await self._write(batch)
            self._in_hand = 0
            for _ in batch:
                self._buffer.task_done()
            if time.monotonic() - self._pruned_at > PRUNE_EVERY_S:
                await self._prune()

    async def _write(self, batch: list[pb.ScoredRollout]) -> None:
        """Until the store has taken the batch; meanwhile the buffer fills."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                images = await self._new_images(batch)
                async with asyncio.timeout(TRANSACTION_TIMEOUT_S):
                    kept = await _in_thread(self._insert, batch, images)
            except (SQLAlchemyError, TimeoutError) as error:
                self._note(down=True, error=repr(error))
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            except Exception as error:  # a trace that cannot be written must not be in the way of the others
                metrics.TRACES.labels("dropped").inc(len(batch))
                log.exception("traces dropped: they cannot be written", traces=len(batch), error=repr(error))
                return
            else:
                self._note(down=False)
                self._known_images.update(image["sha256"] for image in images)
                metrics.TRACES.labels("written").inc(kept)
                metrics.TRACES.labels("left_out").inc(len(batch) - kept)
                return

    def _note(self, *, down: bool, error: str = "") -> None:
        if down and not self._is_down:
            log.error("trace store is down", error=error, waiting=self._buffer.qsize(), room=self._config.buffer)
        elif self._is_down and not down:
            log.info("trace store is up again")
        self._is_down = down
        metrics.STORE_UP.set(not down)

    async def _new_images(self, batch: list[pb.ScoredRollout]) -> list[dict[str, Any]]:
        refs = {ref.sha256: ref for scored in batch if self._is_kept(scored) for ref in scored.rollout.prompt.images}
        images = []
        for sha256, ref in refs.items():
            if sha256 in self._known_images or self._blobs is None:
                continue
            try:
                data = await self._blobs.get(ref)
            except BlobMissingError as error:
                log.warning("trace without its image", error=str(error))
                continue
            images.append({"sha256": sha256, "media_type": ref.media_type, "data": data, "used_at": time.time()})
        return images

    def _is_kept(self, scored: pb.ScoredRollout) -> bool:
        """By its group, so that a group is kept whole or not at all, whichever replica asks."""
        if self._config.sample >= 1:
            return True
        digest = hashlib.sha256(scored.rollout.prompt.id.encode()).digest()
        return int.from_bytes(digest[:8]) < self._config.sample * 2**64

    def _insert(self, batch: list[pb.ScoredRollout], images: list[dict[str, Any]]) -> int:
        """Writes a batch; returns how many of its traces are new and kept."""
        if not self._is_prepared:
            prepare_store(self._engine)
            self._is_prepared = True
        by_key = {_key(scored): scored for scored in batch}
        kept = {key: scored for key, scored in by_key.items() if self._is_kept(scored)}
        with self._engine.begin() as connection:
            new = self._insert_traces(connection, kept)
            again = {key: scored for key, scored in kept.items() if key not in new}
            other = self._remove_others(connection, again)
            new |= self._insert_traces(connection, other)
            if new:
                bodies = [{"sequence": sequence, **_body(kept[key])} for key, sequence in new.items()]
                connection.execute(insert(TraceBody), bodies)
            if images:
                connection.execute(self._dialect.insert(StoredImage).on_conflict_do_nothing(), images)
            used = {ref.sha256 for key in new for ref in kept[key].rollout.prompt.images}
            if used:
                connection.execute(
                    update(StoredImage).where(StoredImage.sha256.in_(sorted(used))).values(used_at=time.time())
                )
            self._count(connection, (scored for key, scored in by_key.items() if key in new or key not in again))
        return len(new)

    def _insert_traces(self, connection: Connection, traces: dict[_Key, pb.ScoredRollout]) -> dict[_Key, int]:
        """Sequence numbers of those that were not there."""
        if not traces:
            return {}
        statement = self._dialect.insert(Trace).on_conflict_do_nothing().returning(Trace.run, Trace.id, Trace.sequence)
        rows = connection.execute(statement, [_row(scored) for scored in traces.values()])
        return {(run, rollout): sequence for run, rollout, sequence in rows}

    def _remove_others(
        self, connection: Connection, traces: dict[_Key, pb.ScoredRollout]
    ) -> dict[_Key, pb.ScoredRollout]:
        """Of those whose ids are there already, the ones that were sampled anew; removes what they replace.

        A rollout that was delivered twice is the same to the last token. One whose prompt was lost and issued again is
        another.
        """
        others = {}
        for (run, rollout), scored in traces.items():
            query = select(Trace.sequence, TraceBody.message).join(TraceBody, TraceBody.sequence == Trace.sequence)
            sequence, message = connection.execute(query.where(Trace.run == run, Trace.id == rollout)).one()
            held = pb.ScoredRollout.FromString(message).rollout.sample
            if held.response_token_ids != scored.rollout.sample.response_token_ids:
                connection.execute(delete(Trace).where(Trace.sequence == sequence))
                others[run, rollout] = scored
        return others

    def _count(self, connection: Connection, batch: Iterable[pb.ScoredRollout]) -> None:
        values: dict[_Bin, list[float]] = defaultdict(list)
        for scored in batch:
            row = _row(scored)
            for name, value in _values(scored).items():
                key = (row["run"], row["purpose"], row["data_source"], row["policy_version"], name)
                values[_Bin(*key, self._place(name, value))].append(value or 0.0)
        rows = [
            {**key._asdict(), **self._edges(key), "count": len(found), "total": sum(found)}
            for key, found in sorted(values.items())  # in one order, so that replicas do not block each other
        ]
        if rows:
            statement = self._dialect.insert(RewardCount)
            added = {name: getattr(RewardCount, name) + statement.excluded[name] for name in ("count", "total")}
            connection.execute(statement.on_conflict_do_update(index_elements=list(_Bin._fields), set_=added), rows)

    def _place(self, name: str, value: float | None) -> int:
        if value is None:
            return MISSING_BIN
        low, high = self._ranges.get(name, (0.0, 1.0))
        return max(0, min(_bins(name) - 1, int(_bins(name) * (value - low) / (high - low))))

    def _edges(self, key: _Bin) -> dict[str, float]:
        low, high = self._ranges.get(key.name, (0.0, 1.0))
        width = (high - low) / _bins(key.name)
        return {"low": low + key.bin * width, "high": low + (key.bin + 1) * width}

    async def _prune(self) -> None:
        self._pruned_at = time.monotonic()
        try:
            async with asyncio.timeout(TRANSACTION_TIMEOUT_S):
                removed = await _in_thread(self._remove_old)
        except (SQLAlchemyError, TimeoutError) as error:
            log.warning("old traces could not be removed", error=repr(error))
            return
        if removed:
            metrics.TRACES.labels("removed").inc(removed)
            log.info("old traces removed", traces=removed)

    def _remove_old(self) -> int:
        """By age and by count, with the images that no trace left refers to."""
        removed = 0
        config = self._config
        with self._engine.begin() as connection:
            conditions = []
            if config.keep_days is not None:
                conditions.append(Trace.recorded_at < time.time() - 86_400 * config.keep_days)
            if config.keep_count is not None:
                newest = select(Trace.sequence).order_by(Trace.sequence.desc()).offset(config.keep_count).limit(1)
                conditions.append(Trace.sequence <= newest.scalar_subquery())
            for condition in conditions:
                removed += connection.execute(delete(Trace).where(condition)).rowcount
            if removed:
                oldest = select(func.min(Trace.recorded_at)).scalar_subquery()
                connection.execute(delete(StoredImage).where(StoredImage.used_at < func.coalesce(oldest, time.time())))
        if removed:
            self._known_images.clear()
        return removed

    @property
    def _dialect(self) -> Any:
        return postgresql if self._engine.dialect.name == "postgresql" else sqlite


def _bins(name: str) -> int:
    return len(OUTCOMES) if name == "outcome" else BINS


def _key(scored: pb.ScoredRollout) -> _Key:
    return scored.rollout.prompt.run, scored.rollout.id


def _row(scored: pb.ScoredRollout) -> dict[str, Any]:
    rollout = scored.rollout
    prompt = rollout.prompt
    given = {name: dict(scored.rewards).get(name) for name in ("format", "accuracy", "visual")}
    return {
        "run": prompt.run,
        "id": rollout.id,
        "group_id": prompt.id,
        "prompt_key": _prompt_key(prompt),
        "purpose": "evaluation" if prompt.purpose == pb.PURPOSE_EVALUATION else "train",
        "data_source": prompt.data_source,
        "policy_version": sample_version(rollout.sample),
        "recorded_at": time.time(),
        **given,
        "outcome": _outcome(given["accuracy"], given["visual"]),
    }


def _prompt_key(prompt: pb.Prompt) -> str:
    parts = (prompt.question, prompt.answer, *(image.sha256 for image in prompt.images))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _body(scored: pb.ScoredRollout) -> dict[str, Any]:
    prompt = scored.rollout.prompt
    texts = (prompt.question, prompt.answer, scored.response, *(requery.response for requery in scored.requeries))
    text = "\n".join(texts).replace("\0", " ")[:TEXT_LENGTH]  # PostgreSQL's text has no NUL
    return {"text": text, "message": scored.SerializeToString()}


def _outcome(accuracy: float | None, visual: float | None) -> int | None:
    """As the paper counts language shortcuts: right, and no re-query's answer was."""
    if accuracy is None or visual is None:
        return None
    return 2 * (accuracy > 0) + (visual > 0)


def _values(scored: pb.ScoredRollout) -> dict[str, float | None]:
    """What is counted of a rollout."""
    given: dict[str, float | None] = dict.fromkeys(scored.missing)
    given |= dict(scored.rewards)
    given["response_tokens"] = float(len(scored.rollout.sample.response_token_ids))
    given["outcome"] = _outcome(given.get("accuracy"), given.get("visual"))
    return given


async def _in_thread(work: Callable[..., T], *arguments: object) -> T:
    """In a thread that the end of the process does not wait for, should a server never answer."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(setter: Callable[[Any], None], outcome: Any) -> None:
        if not done.done():
            setter(outcome)

    def run() -> None:
        try:
            setter, outcome = done.set_result, work(*arguments)
        except Exception as error:
            setter, outcome = done.set_exception, error  # type: ignore[assignment]
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, setter, outcome)

    threading.Thread(target=run, name="trace-store", daemon=True).start()
    return await done

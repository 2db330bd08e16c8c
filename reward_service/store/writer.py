"""Writing traces: from a bounded buffer, in batches, off the scoring path; and removing old ones."""

import asyncio
import time
from typing import Any

import structlog
from redis.exceptions import RedisError
from sqlalchemy import Connection, Engine, delete, insert, select, update
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from reward_service import metrics
from reward_service.store.counting import Ranges, RewardCounter
from reward_service.store.database import prepare_store, upsert, writing
from reward_service.store.groups import add_to_groups, count_again, group_row
from reward_service.store.retention import is_kept, remove_old
from reward_service.store.rows import trace_body, trace_row
from reward_service.store.tables import StoredImage, Trace, TraceBody
from reward_service.store.threads import in_daemon_thread
from vision_sr1.config import TracesConfig
from vision_sr1.streams import BlobMissingError, Blobs
from vision_sr1.v1 import pipeline_pb2 as pb

log = structlog.get_logger()

AT_ONCE = 256  # traces in a transaction
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # between tries while the store is down
PRUNE_EVERY_S = 60.0
TRANSACTION_TIMEOUT_S = 60.0

_Key = tuple[str, str]  # run and rollout


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
        self._counter = RewardCounter(ranges)
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
            log.warning(
                "trace_dropped", message="The trace buffer is full; dropping the trace", rollout=scored.rollout.id
            )

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
            log.error(
                "traces_dropped_at_exit",
                message="The service ends before the store accepted these traces",
                traces=dropped,
            )

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
                    kept = await in_daemon_thread(self._insert, batch, images)
            except Exception as error:
                if not _is_outage(error):
                    return await self._write_singly(batch, error)
                self._note(down=True, error=repr(error))
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                self._note(down=False)
                self._known_images.update(image["sha256"] for image in images)
                metrics.TRACES.labels("written").inc(kept)
                metrics.TRACES.labels("left_out").inc(len(batch) - kept)
                return None

    async def _write_singly(self, batch: list[pb.ScoredRollout], error: Exception) -> None:
        """A trace that cannot be written is not to be in the way of the others."""
        if len(batch) > 1:
            for scored in batch:
                await self._write([scored])
        else:
            metrics.TRACES.labels("dropped").inc()
            log.error(
                "trace_unwritable",
                message="The trace cannot be written and is dropped",
                rollout=batch[0].rollout.id,
                error=repr(error),
            )

    def _note(self, *, down: bool, error: str = "") -> None:
        if down and not self._is_down:
            log.error(
                "trace_store_down",
                message="The trace store is down; traces are buffered",
                error=error,
                waiting=self._buffer.qsize(),
                room=self._config.buffer,
            )
        elif self._is_down and not down:
            log.info("trace_store_up", message="The trace store answers again")
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
            except (BlobMissingError, RedisError) as error:
                log.warning(
                    "trace_image_missing", message="The image of a trace is no longer in Redis", error=str(error)
                )
                continue
            images.append({"sha256": sha256, "media_type": ref.media_type, "data": data, "used_at": time.time()})
        return images

    def _is_kept(self, scored: pb.ScoredRollout) -> bool:
        return is_kept(scored.rollout.prompt.id, self._config)

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
                bodies = [{"sequence": sequence, **trace_body(kept[key])} for key, sequence in new.items()]
                connection.execute(insert(TraceBody), bodies)
                add_to_groups(
                    connection,
                    [group_row(sequence, kept[key]) for key, sequence in new.items() if key not in other],
                )
                count_again(connection, [(run, kept[run, rollout].rollout.prompt.id) for run, rollout in other])
            if images:
                connection.execute(upsert(connection, StoredImage).on_conflict_do_nothing(), images)
            used = {ref.sha256 for key in new for ref in kept[key].rollout.prompt.images}
            if used:
                connection.execute(
                    update(StoredImage).where(StoredImage.sha256.in_(sorted(used))).values(used_at=time.time())
                )
            self._counter.add(connection, (scored for key, scored in by_key.items() if key in new or key not in again))
        return len(new)

    def _insert_traces(self, connection: Connection, traces: dict[_Key, pb.ScoredRollout]) -> dict[_Key, int]:
        """Sequence numbers of those that were not there."""
        if not traces:
            return {}
        statement = upsert(connection, Trace).on_conflict_do_nothing().returning(Trace.run, Trace.id, Trace.sequence)
        rows = connection.execute(statement, [trace_row(scored) for scored in traces.values()])
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

    async def _prune(self) -> None:
        self._pruned_at = time.monotonic()
        try:
            async with asyncio.timeout(TRANSACTION_TIMEOUT_S):
                removed = await in_daemon_thread(remove_old, self._engine, self._config)
        except (SQLAlchemyError, TimeoutError) as error:
            log.warning(
                "trace_expiry_failed",
                message="Traces beyond the retention limit could not be removed",
                error=repr(error),
            )
            return
        if removed:
            self._known_images.clear()
            metrics.TRACES.labels("removed").inc(removed)
            log.info("traces_expired", message="Removed traces beyond the retention limit", traces=removed)


def _is_outage(error: Exception) -> bool:
    """Whether the store may take the same traces later."""
    is_of_data = isinstance(error, (DataError, IntegrityError))
    return isinstance(error, (SQLAlchemyError, TimeoutError)) and not is_of_data


def _key(scored: pb.ScoredRollout) -> _Key:
    return scored.rollout.prompt.run, scored.rollout.id

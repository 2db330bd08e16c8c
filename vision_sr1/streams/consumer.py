"""A service's loop over a stream: many entries at once, leases kept, failures retried, then dead-lettered."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from prometheus_client import Counter, Gauge
from redis.exceptions import RedisError

from vision_sr1.config import StreamsConfig
from vision_sr1.runtime.cancellation import end_tasks
from vision_sr1.streams.stream import Entry, Stream

log = structlog.get_logger()

HANDLED = Counter("vision_sr1_stream_entries", "Entries handled, by outcome.", ["stream", "outcome"])
IN_FLIGHT = Gauge("vision_sr1_stream_in_flight", "Entries being worked on by this process.", ["stream"])
OUTCOMES = ("handled", "refused", "spent", "failed")
READ_BLOCK_S = 0.5
END_TIMEOUT_S = 2.0
SHARES = 8  # of its free capacity a consumer takes one at a time,
POLITENESS_S = 0.05  # and waits in between, the longer the busier it is: others get theirs


class Consumer:
    """Hands each entry of a stream to `handle`, which hands it over itself when it is done.

    Args:
        stream: opened with a consumer group.
        handle: an exception of a `permanent` type sets the entry aside with its message; any other leaves it pending,
            to be delivered again when its lease ends, `max_deliveries` times at most.
        without: writes in place of a dead-lettered entry what tells others not to wait for its results.
        capacity: entries handled at once.
        drain_s: at the end, time to finish entries before they are handed back.
        ready: entries are taken only while this is set.
    """

    def __init__(
        self,
        stream: Stream,
        config: StreamsConfig,
        handle: Callable[[Entry], Awaitable[None]],
        *,
        permanent: tuple[type[Exception], ...],
        without: Callable[[Entry], Awaitable[object]],
        capacity: int,
        drain_s: float,
        ready: asyncio.Event | None = None,
    ) -> None:
        self._stream = stream
        self._config = config
        self._handle = handle
        self._permanent = permanent
        self._without = without
        self._capacity = capacity
        self._drain_s = drain_s
        self._ready = ready
        self._handled = {outcome: HANDLED.labels(stream.name, outcome) for outcome in OUTCOMES}
        self._busy = IN_FLIGHT.labels(stream.name)
        self._held: dict[bytes, Entry] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def in_flight(self) -> int:
        """Entries being handled now."""
        return len(self._tasks)

    async def run(self, stop: asyncio.Event) -> None:
        """Consumes until `stop` is set, then finishes what it can and hands the rest back.

        Raises:
            RedisError: the stream could not be read for `streams.retry_for_s`, or cannot be read at all.
        """
        lease = asyncio.create_task(self._renew_lease())
        try:
            while not stop.is_set():
                if self._ready is not None and not self._ready.is_set():
                    await _until_set(self._ready, timeout=READ_BLOCK_S)
                elif len(self._tasks) >= self._capacity:
                    await asyncio.wait(self._tasks, timeout=READ_BLOCK_S, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.sleep(POLITENESS_S * len(self._tasks) / self._capacity)
                    await self._read()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=self._drain_s)
        finally:
            await end_tasks([lease, *self._tasks], END_TIMEOUT_S)
            await self._give_back()

    async def _give_back(self) -> None:
        if not self._held:
            return
        try:
            async with asyncio.timeout(self._drain_s + 1.0):
                await self._stream.give_back(list(self._held.values()))
        except (RedisError, TimeoutError) as error:
            log.warning(
                "entries_not_returned",
                message="Unfinished entries could not be returned; other consumers get them after the lease",
                stream=self._stream.name,
                error=repr(error),
            )
        else:
            log.info(
                "entries_returned",
                message="Returned unfinished entries to the stream",
                stream=self._stream.name,
                entries=len(self._held),
            )

    async def _read(self) -> None:
        free = self._capacity - len(self._tasks)
        entries = await self._stream.read(max(1, free // SHARES), READ_BLOCK_S)
        for entry in entries:
            if entry.entry_id in self._held:  # its lease ran out while this process was busy with it
                continue
            self._held[entry.entry_id] = entry
            task = asyncio.create_task(self._work(entry))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._busy.set(len(self._tasks))

    async def _work(self, entry: Entry) -> None:
        try:
            outcome = await self._outcome(entry)
        except Exception as error:
            log.error(
                "entry_failed",
                message="Handling an entry failed; it will be delivered again",
                stream=self._stream.name,
                item=entry.item,
                exc_info=error,
            )
            await self._note_failure(entry, error)
            outcome = "failed"
        self._held.pop(entry.entry_id, None)  # unless cancelled: then it is handed back
        self._handled[outcome].inc()
        self._busy.set(len(self._tasks))

    async def _outcome(self, entry: Entry) -> str:
        if self._stream.is_spent(entry):
            await self._dead_letter(entry, f"delivered {entry.deliveries} times and never finished")
            return "spent"
        try:
            await self._handle(entry)
        except self._permanent as error:
            await self._dead_letter(entry, str(error))
            return "refused"
        return "handled"

    async def _dead_letter(self, entry: Entry, error: str) -> None:
        await self._stream.dead_letter(entry, error)
        await self._without(entry)

    async def _note_failure(self, entry: Entry, error: Exception) -> None:
        try:
            await self._stream.note_failure(entry, repr(error))
        except RedisError as lost:
            log.warning(
                "failure_not_recorded",
                message="The reason of a failure could not be written to Redis",
                stream=self._stream.name,
                item=entry.item,
                error=str(lost),
            )

    async def _renew_lease(self) -> None:
        while True:
            await asyncio.sleep(self._config.lease_s / 3)
            try:
                await self._stream.renew(list(self._held.values()))
            except RedisError as error:
                log.warning(
                    "lease_not_renewed",
                    message="Leases of entries in progress could not be renewed",
                    stream=self._stream.name,
                    error=str(error),
                )


async def _until_set(event: asyncio.Event, timeout: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), timeout)
    except TimeoutError:
        return

"""One stream as one consumer group sees it: read, keep the lease, commit, dead-letter what keeps failing."""

import time
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import structlog
from prometheus_client import Counter
from redis.exceptions import ResponseError

from vision_sr1.config import StreamsConfig
from vision_sr1.streams.keys import DEAD_STREAM, Keys
from vision_sr1.streams.retrying import RetryingRedis

log = structlog.get_logger()

DEAD = Counter("vision_sr1_dead_letters", "Entries moved to the dead letters.", ["stream"])
REPEATED = Counter("vision_sr1_repeated_outputs", "Outputs refused because their id was already written.", ["stream"])

OWN_AT_ONCE = 64  # entries per reply when a consumer reads what it held
GIVEN_BACK_MS = 86_400_000  # an entry as idle as this is nobody's


@dataclass(frozen=True)
class Entry:
    """One item read from a stream: its place there, the item's own id, and its message."""

    entry_id: bytes
    item: str
    message: bytes
    deliveries: int


@dataclass(frozen=True)
class Output:
    """An item to write to the stream named; refused there if its id was written before."""

    stream: str
    item: str
    message: bytes


class Stream:
    """A stream and one consumer of a consumer group on it.

    A consumer that `claims` takes over entries of others that went silent; one that is alone in its group must not, or
    it would be given what it holds itself.
    """

    def __init__(
        self,
        redis: RetryingRedis,
        keys: Keys,
        name: str,
        config: StreamsConfig,
        *,
        group: str = "",
        consumer: str = "",
        claims: bool = True,
    ) -> None:
        self.name = name
        self._redis: Any = redis  # replies are typed as the union of all protocols and decodings
        self._retry_policy = redis.retry_policy
        self._keys = keys
        self._key = keys.stream(name)
        self._config = config
        self._group = group
        self._consumer = consumer
        self._commit = redis.register_script(_script("commit"))
        self._assemble = redis.register_script(_script("assemble"))
        self._dead_letter = redis.register_script(_script("dead_letter"))
        self._claims = claims
        DEAD.labels(name)  # counted from 0: alerts see an increase
        self._claim_from = "0-0"
        self._claimed_at = 0.0

    async def open(self) -> None:
        """Makes stream and consumer group if they are not there."""
        try:
            await self._redis.xgroup_create(self._key, self._group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def append(self, outputs: list[Output]) -> int:
        """Writes items without an input; returns how many were new."""
        return await self._run_commit("", outputs)

    async def read(self, count: int, block_s: float) -> list[Entry]:
        """Up to `count` entries: first those whose consumers went silent for a lease, then new ones.

        Entries delivered more than `max_deliveries` times come too, so that the caller can set them aside.
        """
        return await self._within_group(self._read(count, block_s))

    async def read_own(self) -> list[Entry]:
        """Entries delivered to this consumer and not acknowledged, oldest first: what it held when it died."""
        return await self._within_group(self._read_own())

    async def renew(self, entries: list[Entry]) -> None:
        """Extends the lease of entries that are being worked on."""
        if entries:
            ids: list[Any] = [entry.entry_id for entry in entries]
            await self._redis.xclaim(self._key, self._group, self._consumer, 0, ids, justid=True)

    async def commit(self, entry: Entry, outputs: list[Output]) -> int:
        """Writes the outputs, acknowledges and deletes the entry, atomically; returns how many outputs were new."""
        return await self._run_commit(entry.entry_id, outputs)

    async def assemble(self, entry: Entry, output: Output, member: int, group_size: int) -> bool:
        """Adds the output's message to the group `output.item` as its `member`; true where that completed it."""
        emitted = await self._assemble(
            keys=[
                self._key,
                self._keys.partial(output.item),
                self._keys.stream(output.stream),
                self._keys.written(output.stream, output.item),
            ],
            args=[
                self._group,
                entry.entry_id,
                self._config.id_ttl_s,
                output.item,
                str(member),
                output.message,
                group_size,
            ],
        )
        return bool(emitted)

    async def give_back(self, entries: list[Entry]) -> None:
        """Hands entries back for others to read at once, as a consumer that stops does."""
        for entry in entries:
            await self._redis.xclaim(
                self._key, self._group, self._consumer, 0, [entry.entry_id], idle=GIVEN_BACK_MS, justid=True
            )

    async def acknowledge(self, entries: list[Entry]) -> None:
        """Acknowledges and deletes entries that need no output."""
        for first in range(0, len(entries), OWN_AT_ONCE):
            ids: list[Any] = [entry.entry_id for entry in entries[first : first + OWN_AT_ONCE]]
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.xack(self._key, self._group, *ids)
                pipe.xdel(self._key, *ids)
                await pipe.execute()

    async def note_failure(self, entry: Entry, error: str) -> None:
        """Remembers why an entry could not be handled this time, for its dead letter."""
        await self._redis.set(self._keys.failure(self.name, entry.item), error, ex=self._config.id_ttl_s)

    async def dead_letter(self, entry: Entry, error: str) -> None:
        """Copies an entry to the dead letters with its error; once, however often it is called."""
        noted = await self._redis.get(self._keys.failure(self.name, entry.item))
        if noted is not None:
            error = f"{error}; the last error: {bytes(noted).decode()}"
        item = f"{self.name}/{entry.item}"
        fields: list[Any] = ["id", item, "message", entry.message, "error", error]
        fields += ["deliveries", str(entry.deliveries), "consumer", self._consumer]
        new = await self._dead_letter(
            keys=[self._keys.stream(DEAD_STREAM), self._keys.written(DEAD_STREAM, item)],
            args=[self._config.id_ttl_s, *fields],
        )
        if new:
            DEAD.labels(self.name).inc()
            log.error(
                "entry_dead_lettered",
                message="Moved an entry to the dead letters",
                stream=self.name,
                item=entry.item,
                deliveries=entry.deliveries,
                error=error,
            )

    def is_spent(self, entry: Entry) -> bool:
        """Whether the entry was delivered so often that it belongs to the dead letters."""
        return entry.deliveries > self._config.max_deliveries

    async def depth(self) -> int:
        """Entries in the stream, those being worked on included."""
        return int(await self._redis.xlen(self._key))

    async def _within_group(self, reading: Awaitable[list[Entry]]) -> list[Entry]:
        """What is read; nothing, and the group made again, where the server has lost it."""
        try:
            return await reading
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            log.error(
                "consumer_group_recreated",
                message="The consumer group was missing and was created again",
                stream=self.name,
                group=self._group,
            )
            await self.open()
            return []

    async def _read_own(self) -> list[Entry]:
        own: list[Entry] = []
        last: bytes | str = "0"
        while True:
            reply = await self._redis.xreadgroup(self._group, self._consumer, {self._key: last}, count=OWN_AT_ONCE)
            found = self._fields(reply)
            own += [_entry(entry_id, fields, 1) for entry_id, fields in found if fields]
            if not found:
                return own
            last = found[-1][0]

    async def _read(self, count: int, block_s: float) -> list[Entry]:
        entries: list[Entry] = []
        if self._claims and time.monotonic() - self._claimed_at > self._config.lease_s / 3:
            self._claimed_at = time.monotonic()
            entries = await self._claim(count)
        if len(entries) < count:
            block_s = min(block_s, self._config.timeout_s / 2)
            block_ms = None if entries or block_s <= 0 else max(1, int(1000 * block_s))
            reply = await self._redis.xreadgroup(
                self._group, self._consumer, {self._key: ">"}, count=count - len(entries), block=block_ms
            )
            entries += [_entry(entry_id, fields, 1) for entry_id, fields in self._fields(reply)]
        return entries

    def _fields(self, reply: Any) -> list[Any]:
        """Entries' ids and fields in a reply of XREADGROUP, of either protocol."""
        found: list[Any] = (
            reply[self._key.encode()][0] if isinstance(reply, dict) and reply else reply[0][1] if reply else []
        )
        return found

    async def _claim(self, count: int) -> list[Entry]:
        # While the server was out of reach the living could not renew their leases either: they are given time to.
        steady = self._retry_policy.steady_s > self._config.lease_s
        reply = await self._redis.xautoclaim(
            self._key,
            self._group,
            self._consumer,
            min_idle_time=int(1000 * self._config.lease_s) if steady else GIVEN_BACK_MS,
            start_id=self._claim_from,
            count=count,
        )
        self._claim_from = reply[0].decode()
        claimed = [(entry_id, fields) for entry_id, fields in reply[1] if fields]
        entries = []
        for entry_id, fields in claimed:
            pending = await self._redis.xpending_range(self._key, self._group, entry_id, entry_id, 1)
            entries.append(_entry(entry_id, fields, pending[0]["times_delivered"] if pending else 1))
        if entries:
            log.warning(
                "entries_claimed",
                message="Took over entries of a consumer that stopped renewing its lease",
                stream=self.name,
                entries=len(entries),
            )
        return entries

    async def _run_commit(self, entry_id: bytes | str, outputs: list[Output]) -> int:
        keys, args = [self._key], [self._group, entry_id, self._config.id_ttl_s]
        for output in outputs:
            keys += [self._keys.stream(output.stream), self._keys.written(output.stream, output.item)]
            args += [output.item, output.message]
        written = int(await self._commit(keys=keys, args=args))
        if written < len(outputs):
            REPEATED.labels(self.name).inc(len(outputs) - written)
        return written


def _entry(entry_id: bytes, fields: dict[bytes, bytes], deliveries: int) -> Entry:
    return Entry(entry_id, fields[b"id"].decode(), fields[b"message"], deliveries)


@cache
def _script(name: str) -> str:
    return files("vision_sr1.streams").joinpath(f"lua/{name}.lua").read_text(encoding="utf-8")

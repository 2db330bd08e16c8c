"""What is on the streams of a run now: for people, and for the learner's metrics."""

import time
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from vision_sr1.streams.keys import DEAD_STREAM, STREAMS, Keys


@dataclass(frozen=True)
class ConsumerStatus:
    """One consumer: how many entries it holds, and for how long it has asked for nothing."""

    name: str
    pending: int
    idle_s: float


@dataclass(frozen=True)
class StreamStatus:
    """One stream.

    Attributes:
        depth: entries, those being worked on included.
        age_s: since the oldest of them was written; 0 for an empty stream.
        pending: entries delivered and not committed.
        dead: entries of it among the dead letters.
    """

    name: str
    depth: int
    age_s: float
    pending: int
    dead: int
    consumers: list[ConsumerStatus]


async def stream_statuses(redis: Redis, keys: Keys) -> list[StreamStatus]:
    """The state of every stream of a run."""
    client: Any = redis  # replies are typed as the union of all decodings
    dead = await _dead_by_stream(client, keys)
    return [await _status(client, keys.stream(name), name, dead.get(name, 0)) for name in STREAMS]


async def depth_and_age(redis: Redis, key: str) -> tuple[int, float]:
    """Entries in a stream, and seconds since the oldest was written."""
    client: Any = redis
    oldest = await client.xrange(key, count=1)
    age = max(0.0, time.time() - int(bytes(oldest[0][0]).split(b"-")[0]) / 1000) if oldest else 0.0
    return int(await client.xlen(key)), age


async def _status(client: Any, key: str, name: str, dead: int) -> StreamStatus:
    depth, age_s = await depth_and_age(client, key)
    groups = await client.xinfo_groups(key) if await client.exists(key) else []
    consumers = [
        ConsumerStatus(bytes(found["name"]).decode(), int(found["pending"]), int(found["idle"]) / 1000)
        for group in groups
        for found in await client.xinfo_consumers(key, group["name"])
    ]
    return StreamStatus(name, depth, age_s, sum(c.pending for c in consumers), dead, consumers)


async def _dead_by_stream(client: Any, keys: Keys) -> dict[str, int]:
    counts: dict[str, int] = {}
    for _, fields in await client.xrange(keys.stream(DEAD_STREAM)):
        stream = bytes(fields[b"id"]).decode().partition("/")[0]
        counts[stream] = counts.get(stream, 0) + 1
    return counts

"""The fleet: actors announce themselves in Redis and renew the announcement with a heartbeat."""

from typing import Any

from redis.asyncio import Redis

from vision_sr1.streams import Keys
from vision_sr1.v1.pipeline_pb2 import ActorInfo
from vision_sr1.wire import decode

MISSED_HEARTBEATS = 5


class Fleet:
    """The registry of a run's actors."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis: Any = redis  # replies are typed as the union of all decodings
        self._keys = keys

    async def announce(self, actor: ActorInfo, heartbeat_s: float) -> None:
        """Registers an actor, or renews it; it is forgotten when MISSED_HEARTBEATS are missed."""
        expire_ms = int(1000 * heartbeat_s * MISSED_HEARTBEATS)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.sadd(self._keys.actors, actor.id)
            pipe.set(self._keys.actor(actor.id), actor.SerializeToString(), px=expire_ms)
            await pipe.execute()

    async def leave(self, actor_id: str) -> None:
        """Removes an actor that stops."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.srem(self._keys.actors, actor_id)
            pipe.delete(self._keys.actor(actor_id))
            await pipe.execute()

    async def alive(self) -> list[ActorInfo]:
        """Actors whose heartbeat is recent, by id."""
        members = await self._redis.smembers(self._keys.actors)
        ids = sorted(bytes(m).decode() for m in members)
        if not ids:
            return []
        found = await self._redis.mget([self._keys.actor(i) for i in ids])
        gone = [i for i, data in zip(ids, found, strict=True) if data is None]
        if gone:
            await self._redis.srem(self._keys.actors, *gone)
        return [decode(ActorInfo, data) for data in found if data is not None]

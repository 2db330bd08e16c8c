"""The fleet: actors announce themselves in Redis and renew the announcement with a heartbeat."""

import hashlib
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import Counter, Gauge
from redis.asyncio import Redis

from vision_sr1.pipeline.wire import decode
from vision_sr1.streams import Keys
from vision_sr1.v1.pipeline_pb2 import ActorInfo, PublishedWeights

log = structlog.get_logger()

ACTORS = Gauge("vision_sr1_fleet_actors", "Actors with a recent heartbeat, as seen by this process.")
CHANGES = Counter("vision_sr1_fleet_changes", "Actors that joined, left, or were excluded.", ["change"])

MISSED_HEARTBEATS = 5
_NEVER = 2**64


class Fleet:
    """The registry of a run's actors, and of the weights that they should hold."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis: Any = redis  # replies are typed as the union of all decodings
        self._keys = keys

    async def announce(self, actor: ActorInfo, heartbeat_s: float) -> None:
        """Registers an actor, or renews it; it is forgotten when MISSED_HEARTBEATS are missed."""
        actor.beat += 1
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

    async def publish(self, weights: PublishedWeights | None) -> None:
        """Says which weights are the current ones; None: nobody knows."""
        if weights is None:
            await self._redis.delete(self._keys.published)
        else:
            await self._redis.set(self._keys.published, weights.SerializeToString())

    async def published(self) -> PublishedWeights | None:
        """The current weights; None where nobody knows."""
        data = await self._redis.get(self._keys.published)
        return None if data is None else decode(PublishedWeights, data)


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of a folder's weight files, by name."""
    digests = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


class FleetView:
    """One observer's view of the fleet: who can be counted on, and who came and went."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._seen: dict[str, ActorInfo] = {}
        self._excluded: dict[str, int] = {}  # the heartbeat with which they were excluded

    async def look(self) -> list[ActorInfo]:
        """Actors alive and not excluded, by id."""
        alive = {actor.id: actor for actor in await self._fleet.alive()}
        for actor_id in alive.keys() - self._seen.keys():
            actor = alive[actor_id]
            log.info(
                "actor_joined",
                message="An actor joined the fleet",
                actor=actor_id,
                address=actor.address,
                policy_version=actor.policy_version,
            )
            CHANGES.labels("joined").inc()
        for actor_id in self._seen.keys() - alive.keys():
            log.warning(
                "actor_left",
                message="An actor left the fleet or missed its heartbeats",
                actor=actor_id,
                address=self._seen[actor_id].address,
            )
            CHANGES.labels("gone").inc()
        self._excluded = {i: beat for i, beat in self._excluded.items() if i in alive and alive[i].beat <= beat}
        self._seen = alive
        ACTORS.set(len(alive))
        return [actor for actor_id, actor in alive.items() if actor_id not in self._excluded]

    async def exclude(self, actor_ids: list[str], *, for_good: bool = False) -> None:
        """Does not count on these until their hearts beat again; or, for good, until they come back under a new id."""
        for actor in await self._fleet.alive():
            if actor.id in actor_ids:
                self._excluded[actor.id] = _NEVER if for_good else max(actor.beat, self._excluded.get(actor.id, 0))
                CHANGES.labels("excluded").inc()

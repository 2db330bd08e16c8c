"""Who is in the fleet, and which weights it should hold, against a real Redis."""

import asyncio
import hashlib
from pathlib import Path

from redis.asyncio import Redis

from vision_sr1.pipeline.fleet import Fleet, FleetView, file_digests
from vision_sr1.streams import Keys
from vision_sr1.v1.pipeline_pb2 import ActorInfo, PublishedWeights

KEYS = Keys("test")


async def test_actors_without_heartbeat_leave_the_fleet(redis: Redis):
    fleet = Fleet(redis, KEYS)
    await fleet.announce(ActorInfo(schema_version=1, id="a"), heartbeat_s=10)
    await fleet.announce(ActorInfo(schema_version=1, id="b"), heartbeat_s=0.02)
    assert [actor.id for actor in await fleet.alive()] == ["a", "b"]
    await asyncio.sleep(0.2)
    assert [actor.id for actor in await fleet.alive()] == ["a"]
    await fleet.leave("a")
    assert await fleet.alive() == []


async def test_an_excluded_actor_is_counted_on_again_at_its_next_heartbeat_or_never(redis: Redis):
    fleet = Fleet(redis, KEYS)
    view = FleetView(fleet)
    actors = {name: ActorInfo(schema_version=1, id=name) for name in ("stalled", "broken", "well")}
    for actor in actors.values():
        await fleet.announce(actor, heartbeat_s=60)

    async def counted_on() -> list[str]:
        return [actor.id for actor in await view.look()]

    assert await counted_on() == ["broken", "stalled", "well"]
    await view.exclude(["stalled"])
    await view.exclude(["broken"], for_good=True)
    await view.exclude(["gone meanwhile"])
    assert await counted_on() == ["well"]
    for actor in actors.values():
        await fleet.announce(actor, heartbeat_s=60)
    assert await counted_on() == ["stalled", "well"]
    await fleet.leave("broken")
    assert await counted_on() == ["stalled", "well"]
    await fleet.announce(ActorInfo(schema_version=1, id="broken, started again"), heartbeat_s=60)
    assert await counted_on() == ["broken, started again", "stalled", "well"]


async def test_published_weights_are_known_until_nobody_knows(redis: Redis, tmp_path: Path):
    fleet = Fleet(redis, KEYS)
    assert await fleet.published() is None
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    weights = PublishedWeights(schema_version=1, policy_version=3, folder="x", sha256=file_digests(tmp_path))
    await fleet.publish(weights)
    assert await fleet.published() == weights
    assert weights.sha256 == {"model.safetensors": hashlib.sha256(b"weights").hexdigest()}
    await fleet.publish(None)
    assert await fleet.published() is None

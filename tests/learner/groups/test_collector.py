"""The learner's side of the streams after faults: groups that are early, stray, doubled or lost, on a real Redis."""

import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence, Set
from operator import methodcaller
from pathlib import Path
from typing import Any

import pytest
import torch

from learner.groups.collector import GroupsComplete, GroupsTimeoutError, PendingGroups, PromptsLost, StopRequested
from learner.groups.leadership import SupersededError
from learner.run_connection import RunConnection
from vision_sr1.config import Config
from vision_sr1.data import QuestionRow
from vision_sr1.pipeline.scored_groups import group_stream
from vision_sr1.streams import Keys, Output, Stream, connect
from vision_sr1.streams.embedded import EmbeddedRedis
from vision_sr1.v1 import pipeline_pb2 as pb

KEYS = Keys("run")
Make = Callable[..., RunConnection]


def row(prompt_id: str) -> QuestionRow:
    return QuestionRow(
        question="what?", answer="red", images=[f"image of {prompt_id}".encode()], data_source="x", scene=None
    )


@pytest.fixture
def make(redis_config: Config, single_rank: torch.device) -> Iterator[Make]:
    made = []

    def learner(*, resume: bool = False, stopping: Sequence[bool] = (), **settings: float) -> RunConnection:
        config = redis_config.model_copy(deep=True)
        config.learner.groups_timeout_s = settings.get("groups_timeout_s", 30.0)
        config.streams.timeout_s = 1.0
        made.append(RunConnection(config, lambda: bool(stopping)))
        made[-1].open(resume=resume)
        return made[-1]

    yield learner
    for one in made:
        one.close()


def redis(config: Config, work: Callable[[Any], Any]) -> Any:
    async def run() -> Any:
        client = await connect(config.streams)
        result = await work(client)
        await client.aclose()
        return result

    return asyncio.run(run())


def answered(config: Config, *prompt_ids: str) -> None:
    """Plays actors and reward service: prompts leave their stream and their groups come."""

    async def answer(client: Any) -> None:
        prompts = Stream(client, KEYS, "prompts", config.streams, group="actors", consumer="a")
        await prompts.open()
        for entry in await prompts.read(100, 0.1):
            await prompts.commit(entry, [])
        for prompt_id in prompt_ids:
            group = pb.ScoredGroup(schema_version=1, id=prompt_id, rollouts=[pb.ScoredRollout()])
            await prompts.append([Output(group_stream(prompt_id), prompt_id, group.SerializeToString())])

    redis(config, answer)


def depth(config: Config, name: str) -> int:
    return redis(config, lambda client: client.xlen(KEYS.stream(name)))


def blobs(config: Config) -> dict[bool, int]:
    """How many images stay, and how many expire."""

    async def count(client: Any) -> dict[bool, int]:
        ttls = [await client.ttl(key) async for key in client.scan_iter(match=KEYS.stream("blob") + "*")]
        return {True: sum(ttl == -1 for ttl in ttls), False: sum(ttl >= 0 for ttl in ttls)}

    return redis(config, count)


def collect(streams: RunConnection, ids: list[str], *, count: int | None = None, to_come: Set[str] = frozenset()):
    """What the loop does with the events of a wait; nothing where it was asked to stop."""
    pending = PendingGroups(pb.PURPOSE_TRAIN, 0, set(ids), lambda prompt_id: prompt_id in to_come)
    for event in streams.collector.events(pending, count or len(ids)):
        match event:
            case GroupsComplete():
                return [group.id for group in event.groups]
            case PromptsLost():
                feed(streams, *event.prompt_ids)
            case StopRequested():
                return None
    pytest.fail("a wait ends with all groups or with a stop")


def feed(streams: RunConnection, *ids: str) -> None:
    streams.issue([(prompt_id, row(prompt_id)) for prompt_id in ids], pb.PURPOSE_TRAIN, 0)


def test_groups_stay_and_images_too_until_a_checkpoint_holds_them(make: Make, redis_config: Config):
    streams = make()
    feed(streams, "0/1", "0/2")
    answered(redis_config, "0/2", "0/1")
    assert sorted(collect(streams, ["0/1", "0/2"])) == ["0/1", "0/2"]
    assert depth(redis_config, "scored") == 2
    assert blobs(redis_config) == {True: 2, False: 0}
    streams.training_groups.acknowledge(["0/1"])
    assert depth(redis_config, "scored") == 1
    assert blobs(redis_config) == {True: 1, False: 1}


def test_an_image_of_several_prompts_stays_for_the_last(make: Make, redis_config: Config):
    streams = make()
    shared = row("shared")
    streams.issue([("0/1", shared), ("0/2", shared)], pb.PURPOSE_TRAIN, 0)
    answered(redis_config, "0/1", "0/2")
    collect(streams, ["0/1", "0/2"])
    streams.training_groups.acknowledge(["0/1"])
    assert blobs(redis_config) == {True: 1, False: 0}
    streams.training_groups.acknowledge(["0/2"])
    assert blobs(redis_config) == {True: 0, False: 1}


def test_a_group_of_a_prompt_to_come_is_kept_for_its_batch(make: Make, redis_config: Config):
    """As a learner finds them that is resumed from a checkpoint older than they are."""
    first = make()
    feed(first, "0/1", "0/2", "0/9")
    answered(redis_config, "0/9", "0/2", "0/1")
    assert len(collect(first, ["0/1", "0/2", "0/9"])) == 3
    second = make(resume=True)
    assert second.leadership.attempt == 1
    feed(second, "0/1", "0/2")  # refused: the streams hold them
    assert depth(redis_config, "prompts") == 0
    assert sorted(collect(second, ["0/1", "0/2"], to_come={"0/9"})) == ["0/1", "0/2"]
    second.training_groups.acknowledge(["0/1", "0/2"])
    assert depth(redis_config, "scored") == 1
    assert collect(second, ["0/9"]) == ["0/9"]
    second.training_groups.acknowledge(["0/9"])
    assert depth(redis_config, "scored") == 0


def test_a_group_that_nobody_waits_for_is_let_go_of(make: Make, redis_config: Config):
    streams = make()
    feed(streams, "0/1")
    answered(redis_config, "0/7", "0/1")
    assert collect(streams, ["0/1"]) == ["0/1"]
    assert depth(redis_config, "scored") == 1


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["everything", "prompts", "a rollout"])
def test_prompts_that_the_streams_have_lost_are_issued_again(make: Make, redis_config: Config, loss: str):
    streams = make()
    feed(streams, "0/1", "0/2")

    async def lose(client: Any) -> None:
        if loss == "everything":
            await client.flushall()
        else:
            await client.xtrim(KEYS.stream("prompts"), maxlen=0)
        if loss == "a rollout":  # of eight, seven are scored
            await client.hset(KEYS.partial("0/1"), mapping={str(index): b"" for index in range(7)})
            await client.set(KEYS.written("rollouts", "0/1/7"), "1")

    redis(redis_config, lose)
    with pytest.raises(GroupsTimeoutError):
        _hasty(streams, 4.0)
    assert depth(redis_config, "prompts") == 2
    assert redis(redis_config, lambda client: client.exists(KEYS.written("rollouts", "0/1/7"))) == 0
    assert blobs(redis_config) == {True: 2, False: 0}
    answered(redis_config, "0/1", "0/2")
    assert sorted(collect(streams, ["0/1", "0/2"])) == ["0/1", "0/2"]


def _hasty(streams: RunConnection, timeout_s: float) -> None:
    streams.collector._config.learner.groups_timeout_s = timeout_s
    collect(streams, ["0/1", "0/2"])


@pytest.mark.slow
def test_prompts_that_are_being_worked_on_are_not_issued_again(make: Make, redis_config: Config):
    streams = make()
    feed(streams, "0/1", "0/2")

    async def work(client: Any) -> None:
        prompts = Stream(client, KEYS, "prompts", redis_config.streams, group="actors", consumer="a")
        await prompts.open()
        first, _ = await prompts.read(2, 1.0)
        await prompts.commit(first, [Output("rollouts", f"0/1/{index}", b"") for index in range(8)])

    redis(redis_config, work)
    with pytest.raises(GroupsTimeoutError, match="timed out after 3 s waiting for scored groups: received 0 of 2"):
        _hasty(streams, 3.0)
    assert depth(redis_config, "prompts") == 1
    assert depth(redis_config, "rollouts") == 8


def test_the_older_of_two_learners_gives_way(make: Make, redis_config: Config):
    older = make()
    feed(older, "0/1")
    newer = make(resume=True)
    feed(newer, "0/2")
    with pytest.raises(SupersededError, match="another learner has taken over the run 'run'"):
        collect(older, ["0/1"])
    assert blobs(redis_config) == {True: 2, False: 0}


def test_a_learner_that_is_to_stop_does_so_though_redis_does_not_answer(make: Make, embedded_redis: EmbeddedRedis):
    stopping: list[bool] = []
    streams = make(stopping=stopping)
    feed(streams, "0/1")
    embedded_redis.process.send_signal(signal.SIGSTOP)
    stopping.append(True)
    assert collect(streams, ["0/1"]) is None
    embedded_redis.process.send_signal(signal.SIGCONT)


def test_memory_is_scarce_before_the_server_is_full(make: Make, redis_config: Config):
    streams = make()
    assert not streams.session.memory_is_scarce(), "a server without a limit is never full"
    used = redis(redis_config, lambda client: client.info("memory"))["used_memory"]
    for limit, scarce in ((int(1.1 * used), True), (4 * used, False)):
        redis(redis_config, methodcaller("config_set", "maxmemory", limit))
        assert streams.session.memory_is_scarce() == scarce


def test_a_fresh_run_takes_nothing_from_an_earlier_one_of_its_name(make: Make, redis_config: Config):
    earlier = make()
    feed(earlier, "0/1", "0/2")
    answered(redis_config, "0/1")
    fresh = make()
    assert fresh.leadership.attempt == 0
    assert [depth(redis_config, name) for name in ("prompts", "scored")] == [0, 0]
    feed(fresh, "0/1")
    assert depth(redis_config, "prompts") == 1
    answered(redis_config, "0/1")
    assert collect(fresh, ["0/1"]) == ["0/1"]
    assert blobs(redis_config) == {True: 1, False: 1}


def test_what_a_checkpoint_holds_that_a_killed_learner_had_not_let_go_of_does_not_stay(
    make: Make, redis_config: Config
):
    killed = make()
    feed(killed, "0/1", "0/2")
    answered(redis_config, "0/1", "0/2")
    collect(killed, ["0/1", "0/2"])
    resumed = make(resume=True)
    feed(resumed, "0/3")
    answered(redis_config, "0/3")
    assert collect(resumed, ["0/3"]) == ["0/3"]
    assert depth(redis_config, "scored") == 1
    assert blobs(redis_config) == {True: 1, False: 2}


def test_what_a_server_forgot_that_comes_back_without_its_last_writes_is_let_go_of_again(
    make: Make, redis_config: Config, embedded_redis: EmbeddedRedis, tmp_path: Path
):
    streams = make()
    feed(streams, "0/1", "0/2")
    answered(redis_config, "0/1", "0/2")
    collect(streams, ["0/1", "0/2"])
    (file,) = (tmp_path / "redis").rglob("*.aof")
    on_disk = file.read_bytes()
    streams.training_groups.acknowledge(["0/1", "0/2"])
    embedded_redis.process.kill()
    embedded_redis.process.wait()
    file.write_bytes(on_disk)
    embedded_redis.start()
    assert (depth(redis_config, "scored"), blobs(redis_config)) == (2, {True: 2, False: 0})
    feed(streams, "0/3")
    answered(redis_config, "0/3")
    assert collect(streams, ["0/3"]) == ["0/3"]
    assert depth(redis_config, "scored") == 1
    assert blobs(redis_config) == {True: 1, False: 2}


def test_a_complete_run_leaves_nothing(make: Make, redis_config: Config):
    streams = make()
    feed(streams, "0/1", "0/2")
    answered(redis_config, "0/1", "0/2")
    collect(streams, ["0/1", "0/2"])
    streams.finish()
    assert depth(redis_config, "scored") == 0
    assert blobs(redis_config) == {True: 0, False: 2}

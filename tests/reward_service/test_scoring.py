"""The scoring worker on a real Redis: what cannot be scored is set aside, and its group goes on or not at all."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from reward_service.graders import mathruler
from reward_service.requery import Requerier
from reward_service.scoring import Scorer, ScoringWorker
from vision_sr1.config import Config
from vision_sr1.fleet import Fleet
from vision_sr1.streams import Keys, Output, PatientRedis, Stream, connect
from vision_sr1.v1 import pipeline_pb2 as pb

KEYS = Keys("run")
GROUP_SIZE = 3


def rollout(tokenizer, index: int, **changes: object) -> pb.Rollout:
    ids = tokenizer("<think> the square red </think> \\boxed{red}").input_ids
    prompt = pb.Prompt(schema_version=1, id="0/7", run="run", question="what?", answer="red", group_size=GROUP_SIZE)
    prompt.sampling.max_tokens = 64
    sample = pb.Sample(
        response_token_ids=ids,
        logprobs=[-0.5] * len(ids),
        versions=[pb.VersionSpan(policy_version=0, end=len(ids))],
        finish_reason="stop",
    )
    made = pb.Rollout(schema_version=1, id=f"0/7/{index}", sample_index=index, prompt=prompt, sample=sample)
    made.MergeFrom(pb.Rollout(**changes))
    return made


@pytest.fixture
async def redis(redis_config: Config) -> AsyncIterator[PatientRedis]:
    client = await connect(redis_config.streams)
    yield client
    await client.aclose()


@contextlib.asynccontextmanager
async def scoring(redis: PatientRedis, config: Config, model: Path, grader=mathruler) -> AsyncIterator[Stream]:
    config.sampling.group_size = GROUP_SIZE
    stream = Stream(redis, KEYS, "rollouts", config.streams, group="reward", consumer="one")
    await stream.open()
    requerier = Requerier(config.reward, Fleet(redis, KEYS))
    scorer = Scorer(config.reward, AutoTokenizer.from_pretrained(model), grader, requerier, None)
    worker = ScoringWorker(config, stream, scorer, lambda scored: None)
    stop = asyncio.Event()
    running = asyncio.create_task(worker.consumer.run(stop))
    yield stream
    stop.set()
    await running
    await requerier.close()


async def emitted(redis: PatientRedis) -> pb.ScoredGroup:
    for _ in range(200):
        if found := await redis.xrange(KEYS.stream("scored")):
            ((_, fields),) = found
            return pb.ScoredGroup.FromString(fields[b"message"])
        await asyncio.sleep(0.05)
    return pytest.fail("no group came")


async def dead(redis: PatientRedis) -> dict[str, str]:
    entries = await redis.xrange(KEYS.stream("dead"))
    return {fields[b"id"].decode(): fields[b"error"].decode() for _, fields in entries}


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (lambda r: r.sample.logprobs.__setitem__(2, float("nan")), "the log-probability of token 2 is nan"),
        (lambda r: r.sample.logprobs.__setitem__(0, float("-inf")), "the log-probability of token 0 is -inf"),
        (lambda r: r.sample.logprobs.pop(), "log-probabilities for"),
        (lambda r: r.sample.ClearField("versions"), "names no policy version"),
        (lambda r: setattr(r, "schema_version", 99), "schema version 99, this service knows 1"),
    ],
)
async def test_a_rollout_that_must_not_be_learned_from_is_left_out_of_its_group(
    bad, error: str, redis: PatientRedis, redis_config: Config, tiny_model: Path
):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rollouts = [rollout(tokenizer, index) for index in range(GROUP_SIZE)]
    bad(rollouts[1])
    async with scoring(redis, redis_config, tiny_model) as stream:
        await stream.append([Output("rollouts", f"0/7/{i}", r.SerializeToString()) for i, r in enumerate(rollouts)])
        group = await emitted(redis)
    assert [r.rollout.sample_index for r in group.rollouts] == [0, 2]
    assert group.id == "0/7"
    assert all(r.rewards["accuracy"] == 1.0 for r in group.rollouts)
    found = await dead(redis)
    assert found.keys() == {"rollouts/0/7/1"}
    assert error in found["rollouts/0/7/1"]
    assert await stream.depth() == 0


async def test_such_a_group_can_be_dropped_instead(redis: PatientRedis, redis_config: Config, tiny_model: Path):
    redis_config.streams.spent_groups = "drop"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    async with scoring(redis, redis_config, tiny_model) as stream:
        await stream.append([Output("rollouts", "0/7/0", b"\xff\xff no message")])
        group = await emitted(redis)
        more = [Output("rollouts", f"0/7/{i}", rollout(tokenizer, i).SerializeToString()) for i in (1, 2)]
        await stream.append(more)
        for _ in range(100):
            if await stream.depth() == 0:
                break
            await asyncio.sleep(0.05)
    assert (group.id, len(group.rollouts)) == ("0/7", 0)
    assert await redis.xlen(KEYS.stream("scored")) == 1
    assert await redis.keys(KEYS.stream("partial") + "*") == []


async def test_a_grader_that_always_fails_ends_in_the_dead_letters_with_its_error(
    redis: PatientRedis, redis_config: Config, tiny_model: Path
):
    def fails(answer: str, reference: str) -> bool:
        raise ZeroDivisionError(f"{answer} against {reference}")

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    async with scoring(redis, redis_config, tiny_model, fails) as stream:
        data = [rollout(tokenizer, index).SerializeToString() for index in range(GROUP_SIZE)]
        await stream.append([Output("rollouts", f"0/7/{index}", message) for index, message in enumerate(data)])
        group = await emitted(redis)
    assert len(group.rollouts) == 0
    errors = await dead(redis)
    assert len(errors) == GROUP_SIZE
    assert (
        "delivered 4 times and never finished; the last error: ZeroDivisionError('red against red')"
        in errors.popitem()[1]
    )


async def test_a_reward_that_is_not_finite_is_not_learned_from(
    redis: PatientRedis, redis_config: Config, tiny_model: Path
):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    async with scoring(redis, redis_config, tiny_model, lambda answer, reference: float("nan")) as stream:
        await stream.append([Output("rollouts", "0/7/0", rollout(tokenizer, 0).SerializeToString())])
        for _ in range(100):
            if found := await dead(redis):
                break
            await asyncio.sleep(0.05)
    assert found == {"rollouts/0/7/0": "rollout 0/7/0: the reward 'accuracy' is nan"}

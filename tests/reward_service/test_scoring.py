"""The scoring worker on a real Redis: what cannot be scored is dead-lettered, and its group goes on or not at all."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from reward_service.scoring import open_scorer
from reward_service.worker import ScoringWorker
from tests.stream_entries import stream_entries
from vision_sr1.config import Config, RequeryConfig, RewardFunctionConfig, load_config
from vision_sr1.pipeline.dead_letters import DeadLetters
from vision_sr1.pipeline.fleet import Fleet
from vision_sr1.streams import Blobs, Keys, Output, RetryingRedis, Stream, connect
from vision_sr1.v1 import pipeline_pb2 as pb

pytestmark = pytest.mark.slow

KEYS = Keys("run")
GROUP_SIZE = 3


def rollout(tokenizer, index: int, answer: str = "red", **changes: Any) -> pb.Rollout:
    ids = tokenizer(f"<think> the square red </think> \\boxed{{{answer}}}").input_ids
    prompt = pb.Prompt(
        schema_version=1, id="0/7", run="run", question="<image>what?", answer="red", group_size=GROUP_SIZE
    )
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
async def redis(redis_config: Config) -> AsyncIterator[RetryingRedis]:
    client = await connect(redis_config.streams)
    yield client
    await client.aclose()


@contextlib.asynccontextmanager
async def scoring(
    redis: RetryingRedis, config: Config, model: Path
) -> AsyncIterator[tuple[Stream, list[pb.ScoredRollout]]]:
    """A worker at work: its stream, and what it records as traces."""
    config.sampling.group_size = GROUP_SIZE
    config.model.path = str(model)
    rollouts, assembled = (
        Stream(redis, KEYS, name, config.streams, group="reward", consumer="one") for name in ("rollouts", "assembled")
    )
    traces: list[pb.ScoredRollout] = []
    async with open_scorer(config, Fleet(redis, KEYS), Blobs(redis, KEYS, 60)) as scorer:
        worker = ScoringWorker(config, rollouts, assembled, scorer, traces.append)
        stop = asyncio.Event()
        running = asyncio.create_task(worker.run(stop))
        yield rollouts, traces
        stop.set()
        await running


async def emitted(redis: RetryingRedis) -> pb.ScoredGroup:
    for _ in range(200):
        if found := await stream_entries(redis, KEYS.stream("scored")):
            (fields,) = found
            return pb.ScoredGroup.FromString(fields[b"message"])
        await asyncio.sleep(0.05)
    return pytest.fail("no group came")


async def dead(redis: RetryingRedis) -> dict[str, str]:
    entries = await stream_entries(redis, KEYS.stream("dead"))
    return {fields[b"id"].decode(): fields[b"error"].decode() for fields in entries}


async def test_the_parts_that_the_actor_parsed_are_taken_and_others_are_parsed_here(
    redis: RetryingRedis, redis_config: Config, tiny_model: Path
):
    """Rollouts of earlier releases bring none."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    parsed = pb.ResponseParts(format="think_answer", answer="blue", answer_span=pb.TokenSpan(start=1, end=2))
    rollouts = [rollout(tokenizer, 0), rollout(tokenizer, 1, parts=parsed), rollout(tokenizer, 2, answer="blue")]
    async with scoring(redis, redis_config, tiny_model) as (stream, _):
        await stream.append([Output("rollouts", f"0/7/{i}", r.SerializeToString()) for i, r in enumerate(rollouts)])
        group = await emitted(redis)
    by_index = {scored.rollout.sample_index: scored for scored in group.rollouts}
    assert [by_index[index].rewards["accuracy"] for index in range(GROUP_SIZE)] == [1.0, 0.0, 0.0]
    assert [by_index[index].rollout.parts.answer for index in range(GROUP_SIZE)] == ["red", "blue", "blue"]
    assert (by_index[1].answer.start, by_index[1].answer.end) == (1, 2)
    assert by_index[0].answer.end == len(rollouts[0].sample.response_token_ids)
    assert by_index[0].HasField("think")
    assert not by_index[1].HasField("think")


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (lambda r: r.sample.logprobs.__setitem__(2, float("nan")), "the log-probability of token 2 is nan"),
        (lambda r: r.sample.logprobs.__setitem__(0, float("-inf")), "the log-probability of token 0 is -inf"),
        (lambda r: r.sample.logprobs.pop(), "log-probabilities for"),
        (lambda r: r.sample.ClearField("versions"), "names no policy version"),
        (lambda r: setattr(r, "schema_version", 99), "schema version 99, this service knows 2"),
    ],
)
async def test_a_rollout_that_must_not_be_learned_from_is_left_out_of_its_group(
    bad, error: str, redis: RetryingRedis, redis_config: Config, tiny_model: Path
):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rollouts = [rollout(tokenizer, index) for index in range(GROUP_SIZE)]
    bad(rollouts[1])
    async with scoring(redis, redis_config, tiny_model) as (stream, _):
        await stream.append([Output("rollouts", f"0/7/{i}", r.SerializeToString()) for i, r in enumerate(rollouts)])
        group = await emitted(redis)
    assert [r.rollout.sample_index for r in group.rollouts] == [0, 2]
    assert group.id == "0/7"
    assert all(r.rewards["accuracy"] == 1.0 for r in group.rollouts)
    found = await dead(redis)
    assert found.keys() == {"rollouts/0/7/1"}
    assert error in found["rollouts/0/7/1"]
    assert await stream.depth() == 0


async def test_such_a_group_can_be_dropped_instead(redis: RetryingRedis, redis_config: Config, tiny_model: Path):
    redis_config.streams.incomplete_groups = "drop"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    async with scoring(redis, redis_config, tiny_model) as (stream, _):
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


@pytest.mark.slow
async def test_an_answer_that_cannot_be_graded_leaves_its_reward_missing_and_its_group_whole(
    redis: RetryingRedis, redis_config: Config, tiny_model: Path
):
    redis_config.reward.grader = "math_verify"
    redis_config.reward.grading_timeout_s = 1.0
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rollouts = [rollout(tokenizer, index) for index in range(GROUP_SIZE)]
    endless = rollout(tokenizer, 1, answer="5")
    endless.prompt.answer = "9^{9^{9^{9}}}"
    rollouts[1] = endless
    async with scoring(redis, redis_config, tiny_model) as (stream, _):
        await stream.append([Output("rollouts", r.id, r.SerializeToString()) for r in rollouts])
        group = await emitted(redis)
    assert [list(scored.missing) for scored in group.rollouts] == [[], ["accuracy"], []]
    assert "accuracy" not in dict(group.rollouts[1].rewards)
    assert group.rollouts[1].explanations["accuracy"].endswith("took longer than 1 s")
    assert [dict(scored.rewards).get("accuracy") for scored in group.rollouts] == [1.0, None, 1.0]
    assert await dead(redis) == {}


async def test_the_trace_says_where_a_second_grader_differs(
    redis: RetryingRedis, redis_config: Config, tiny_model: Path
):
    redis_config.reward.second_grader = "exact"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rollouts = [rollout(tokenizer, index) for index in range(GROUP_SIZE)]
    rollouts[1].prompt.answer = r"\text{red}"
    async with scoring(redis, redis_config, tiny_model) as (stream, _):
        await stream.append([Output("rollouts", r.id, r.SerializeToString()) for r in rollouts])
        group = await emitted(redis)
    assert [scored.rewards["accuracy"] for scored in group.rollouts] == [1.0, 1.0, 1.0]
    assert [scored.rewards["grader_disagreement"] for scored in group.rollouts] == [0.0, 1.0, 0.0]
    said = group.rollouts[1].explanations["grader_disagreement"]
    assert said == r"mathruler: 'red' is '\\text{red}'; exact: 'red' is not '\\text{red}'"


async def test_functions_of_the_users_see_what_was_given_before_and_groups_wait_for_those_per_group(
    redis: RetryingRedis, redis_config: Config, tiny_model: Path
):
    here = "tests.reward_service.user_rewards"
    redis_config.reward.functions = {
        "sees": RewardFunctionConfig(function=f"{here}:sees"),
        "agreement": RewardFunctionConfig(function=f"{here}:agreement", per="group"),
        "raises": RewardFunctionConfig(function=f"{here}:raises", per="group"),
    }
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    async with scoring(redis, redis_config, tiny_model) as (stream, traces):
        rollouts = [rollout(tokenizer, index) for index in range(GROUP_SIZE)]
        await stream.append([Output("rollouts", r.id, r.SerializeToString()) for r in rollouts])
        group = await emitted(redis)
        await until(lambda: len(traces) == GROUP_SIZE)
    for scored in group.rollouts:
        assert scored.rewards["sees"] == 1.0
        assert "'visual'" in scored.explanations["sees"]
        assert scored.rewards["agreement"] == 1.0
        assert list(scored.missing) == ["raises"]
    assert [trace.SerializeToString(deterministic=True) for trace in traces] == [
        scored.SerializeToString(deterministic=True) for scored in group.rollouts
    ]
    assert await redis.xlen(KEYS.stream("assembled")) == 0


async def test_an_assembled_group_that_cannot_be_read_is_given_up(
    redis: RetryingRedis, redis_config: Config, tiny_model: Path
):
    function = RewardFunctionConfig(function="tests.reward_service.user_rewards:agreement", per="group")
    redis_config.reward.functions = {"agreement": function}
    async with scoring(redis, redis_config, tiny_model) as (stream, _):
        await stream.append([Output("assembled", "0/7", b"\xff\xff no message")])
        group = await emitted(redis)
        assert (group.id, len(group.rollouts)) == ("0/7", 0)
        (letter,) = await DeadLetters(redis, KEYS).all()
        assert letter.name == "assembled/0/7"


async def until(condition) -> None:
    for _ in range(200):
        if condition():
            return
        await asyncio.sleep(0.05)
    pytest.fail("it did not come")


async def test_text_alone_is_worth_its_answer_and_its_description_nothing(
    redis: RetryingRedis, redis_config: Config, tiny_model: Path
):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    async with scoring(redis, redis_config, tiny_model) as (stream, _):
        for index in range(GROUP_SIZE):
            made = rollout(tokenizer, index)
            made.prompt.question = "what?"
            await stream.append([Output("rollouts", made.id, made.SerializeToString())])
        group = await emitted(redis)
    for scored in group.rollouts:
        assert scored.rewards["accuracy"] == scored.rewards["format"] == 1.0
        assert not {"visual", "requery_format"} & scored.rewards.keys()
        assert not scored.missing


async def test_where_nothing_learns_from_re_queries_only_evaluation_asks_for_them(
    redis: RetryingRedis, redis_config: Config, tiny_model: Path
):
    redis_config.learner.components = load_config(None, ["learner.preset=see_think"]).config.learner.components
    redis_config.reward.requery = RequeryConfig(when="needed", attempts=1, timeout_s=0.2)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    described = pb.ResponseParts(format="description_think_answer", description="square red", answer="red")
    made = [rollout(tokenizer, index, parts=described) for index in range(GROUP_SIZE)]
    made[0].prompt.purpose = pb.PURPOSE_EVALUATION
    async with scoring(redis, redis_config, tiny_model) as (stream, _):
        await stream.append([Output("rollouts", r.id, r.SerializeToString()) for r in made])
        group = await emitted(redis)
    asked = {scored.rollout.sample_index: set(scored.missing) for scored in group.rollouts}
    assert asked == {0: {"visual", "requery_format"}, 1: set(), 2: set()}, "no actor is there to answer"
    assert all({"visual", "requery_format"}.isdisjoint(scored.rewards) for scored in group.rollouts)


def described(tokenizer, *answers: tuple[int, str]) -> pb.ScoredRollout:
    """A rollout whose description was asked three questions, with the answers that were recorded."""
    asked = rollout(tokenizer, 0, parts=pb.ResponseParts(description="two red squares", answer="red"))
    asked.prompt.further_questions.add(question="how many?", answer="2", data_source="counts")
    asked.prompt.further_questions.add(question="Which? A. circle B. square", answer="B", data_source="options")
    recorded = pb.ScoredRollout(rollout=asked)
    for question, answer in answers:
        ids = tokenizer(f"<think> so </think> \\boxed{{{answer}}}").input_ids if answer else tokenizer("so").input_ids
        recorded.requeries.add(sample=pb.Sample(response_token_ids=ids), question=question)
    return recorded


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([(0, "blue"), (1, "2"), (2, "square")], {"visual": 2 / 3, "visual_own": 0.0, "requery_format": 1.0}),
        (
            [(0, "red"), (0, ""), (1, "3"), (1, "2"), (2, "A"), (2, "B")],
            {"visual": 0.5, "visual_own": 0.5, "requery_format": 5 / 6},
        ),
        ([(0, "red"), (2, "B")], {"visual_own": 1.0}),
    ],
)
async def test_a_description_is_worth_the_mean_over_its_questions_each_by_its_own_reference_and_grader(
    answers: list[tuple[int, str]],
    expected: dict[str, float],
    redis: RetryingRedis,
    redis_config: Config,
    tiny_model: Path,
):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    redis_config.model.path = str(tiny_model)
    redis_config.reward.graders = {"counts": "numeric", "options": "choice"}
    recorded = described(tokenizer, *answers)
    async with open_scorer(redis_config, Fleet(redis, KEYS), Blobs(redis, KEYS, 60)) as scorer:
        again = await scorer.score(recorded.rollout, answered=recorded)
    given = {name: again.rewards[name] for name in ("visual", "visual_own", "requery_format") if name in again.rewards}
    assert given == pytest.approx(expected)
    right = {(0, "red"), (1, "2"), (2, "square"), (2, "B")}
    assert [requery.rewards["visual"] for requery in again.requeries] == [float(a in right) for a in answers]
    assert [requery.question for requery in again.requeries] == [question for question, _ in answers]
    if "visual" not in expected:
        assert set(again.missing) == {"visual", "requery_format"}
        assert again.explanations["visual"] == "question 2 of 3: no answer to it was recorded"


async def test_where_no_actor_answers_all_that_a_re_query_gives_is_missing(
    redis: RetryingRedis, redis_config: Config, tiny_model: Path
):
    redis_config.model.path = str(tiny_model)
    redis_config.reward.requery = RequeryConfig(questions=3, attempts=1, timeout_s=0.2)
    asked = described(AutoTokenizer.from_pretrained(tiny_model)).rollout
    async with open_scorer(redis_config, Fleet(redis, KEYS), Blobs(redis, KEYS, 60)) as scorer:
        scored = await scorer.score(asked)
        asked.parts.description = ""
        silent = await scorer.score(asked)
    assert set(scored.missing) == {"visual", "visual_own", "requery_format"}
    assert scored.explanations["visual"].startswith("question 1 of 3: no actor answered the re-query; ")
    assert [silent.rewards[name] for name in ("visual", "visual_own", "requery_format")] == [0.0] * 3

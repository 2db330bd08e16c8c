"""Grading in processes that can be killed."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest

from reward_service.grading import Grading
from reward_service.judge import Judge
from reward_service.process_pool import CallFailedError, ProcessPool
from tests.reward_service.serving import serving
from vision_sr1.config import RewardConfig
from vision_sr1.rewards import MissingReward, Reward
from vision_sr1.v1 import pipeline_pb2 as pb

ENDLESS = "9^{9^{9^{9}}}"  # a power of so many digits is worked out in C, where no signal interrupts it


@pytest.fixture
async def grading(request: pytest.FixtureRequest) -> AsyncIterator[Grading]:
    """With the default limit of time, or the one that the test has as its parameter."""
    limit = {"grading_timeout_s": request.param} if hasattr(request, "param") else {}
    config = RewardConfig(graders={"math": "math_verify", "choices": "choice"}, numeric_tolerance=0.1, **limit)
    grading = Grading(config)
    yield grading
    await grading.close()


def prompt(answer: str, source: str = "", question: str = "") -> pb.Prompt:
    return pb.Prompt(answer=answer, data_source=source, question=question)


async def test_each_data_source_has_its_grader(grading: Grading):
    algebra = prompt("(x+1)^2", "math")
    assert await grading.grade("x^2+2x+1", algebra) == Reward(1.0, "math_verify: 'x^2+2x+1' is '(x+1)^2'")
    assert await grading.grade("red", prompt("blue")) == Reward(0.0, "mathruler: 'red' is not 'blue'")
    options = prompt("B", "choices", "what is it? A. red B. blue")
    assert await grading.grade("blue", options) == Reward(1.0, "choice: 'blue' is 'B'")
    assert await grading.grade(None, algebra) == Reward(0.0, r"no \boxed{} answer")


async def test_a_second_grader_is_asked_and_changes_nothing():
    config = RewardConfig(grader="exact", second_grader="normalized", numeric_tolerance=0.1)
    assert config.ranges["grader_disagreement"] == (0.0, 1.0)
    assert "grader_disagreement" not in RewardConfig().ranges
    grading = Grading(config)
    for answer, reference, accuracy, disagreement in (
        ("Red.", "red", 0.0, 1.0),
        ("red", "red", 1.0, 0.0),
        ("blue", "red", 0.0, 0.0),
        (None, "red", 0.0, 0.0),
    ):
        first = await grading.grade(answer, prompt(reference))
        second = await grading.disagreement(first, answer, prompt(reference))
        assert isinstance(first, Reward)
        assert isinstance(second, Reward)
        assert (first.value, second.value) == (accuracy, disagreement), answer
    assert await grading.disagreement(MissingReward("late"), "red", prompt("red")) == MissingReward("late")
    said = await grading.disagreement(await grading.grade("Red.", prompt("red")), "Red.", prompt("red"))
    assert said == Reward(1.0, "exact: 'Red.' is not 'red'; normalized: 'Red.' is 'red'")
    await grading.close()


LONG = [text * (20_000 // len(text)) for text in ("A, ", "1,", "{", r"\text{", "_a ", "½", "\n", "5 million ", "10^")]
LONG += [
    "(" * 1_990,
    "{A," * 663,
    "10^" + " " * 20_000 + "x",
    "5 million" + " trillion" * 2_000,
    "(A" + " " * 20_000 + "B",
]


async def test_long_answers_are_graded_and_wrong():
    """A grader that took too long would leave the reward missing, which is better for a policy than a wrong answer."""
    config = RewardConfig(
        graders={"choice": "choice", "numeric": "numeric", "any_of": "any_of", "math_verify": "math_verify"}
    )
    grading = Grading(config)
    for name in config.graders:
        for answer in LONG:
            given = await grading.grade(answer, prompt("5", name, "Which? A. red B. blue"))
            assert isinstance(given, Reward), given
            assert given.value == 0.0
    await grading.close()


@pytest.mark.slow
@pytest.mark.parametrize("grading", [1.0], indirect=True)
async def test_an_answer_without_end_is_killed_while_others_are_graded_and_the_loop_goes_on(grading: Grading):
    await grading.grade("a", prompt("b"))  # the process is up
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    beating = asyncio.create_task(beat())
    started = time.monotonic()
    endless, other = await asyncio.gather(
        grading.grade(ENDLESS, prompt("3", "math")), grading.grade("red", prompt("blue"))
    )
    assert time.monotonic() - started < 30
    assert isinstance(endless, MissingReward)
    assert endless.reason == f"grader math_verify on '{ENDLESS}' and '3': took longer than 1 s"
    assert isinstance(other, Reward)
    assert beats > 30
    beating.cancel()


async def test_a_call_that_takes_its_process_down_is_told_and_the_next_gets_another():
    import os

    pool = ProcessPool(1)
    with pytest.raises(CallFailedError, match="its process ended with status 7"):
        await pool.call(os._exit, 7, timeout_s=20)
    with pytest.raises(CallFailedError, match="ZeroDivisionError"):
        await pool.call(divmod, 1, 0, timeout_s=20)
    assert await pool.call(divmod, 7, 2, timeout_s=20) == (3, 1)
    await pool.close()


async def test_memory_is_bounded():
    pool = ProcessPool(1, memory_bytes=2**29)
    with pytest.raises(CallFailedError, match="MemoryError"):
        await pool.call(bytes, 2**30, timeout_s=20)
    await pool.close()


class Scores:
    """An OpenAI-compatible endpoint that scores answers it knows."""

    def __init__(self, scores: dict[str, str]) -> None:
        self.turns: list[str] = []
        self._scores = scores

    async def __call__(self, _scope, receive, send) -> None:
        body = b""
        while True:
            event = await receive()
            body += event["body"]
            if not event.get("more_body"):
                break
        self.turns.append(json.loads(body)["messages"][0]["content"])
        given = self.turns[-1].partition("Given answer:\n")[2].partition("\n")[0]
        message = {"role": "assistant", "content": self._scores[given]}
        reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "judge"}
        reply["choices"] = [{"index": 0, "finish_reason": "stop", "message": message}]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": json.dumps(reply).encode()})


async def test_a_judge_compares_answers_where_it_is_the_grader():
    app = Scores({"a dog": r"\boxed{1}", "a cat": r"no. \boxed{0}", "a dog and hay": r"\boxed{0.5}", "dogs": "yes"})
    async with serving(app, lifespan="off") as address:
        config = RewardConfig(
            graders={"open": "judge"}, judge={"url": f"{address}/v1", "model": "judge", "answers": False, "attempts": 1}
        )
        assert "judge" not in config.names, "it answers from no descriptions"
        judge = Judge(config.judge)
        grading = Grading(config, judge)
        asked = prompt("puppy <AND> straw", "open", "<image>What is there?")
        assert await grading.grade("a dog", asked) == Reward(1.0, "judge: 'a dog' is 'puppy <AND> straw'")
        assert await grading.grade("a dog", asked) == Reward(1.0, "judge: 'a dog' is 'puppy <AND> straw'")
        assert await grading.grade("a cat", asked) == Reward(0.0, "judge: 'a cat' is not 'puppy <AND> straw'")
        half = await grading.grade("a dog and hay", asked)
        assert half == Reward(0.5, "judge: 'a dog and hay' is 0.5 of 'puppy <AND> straw'")
        nothing = await grading.grade("dogs", asked)
        assert isinstance(nothing, MissingReward)
        assert "judge gave no score from 0 to 1, but 'nothing'" in nothing.reason
        assert len(app.turns) == 4, "nobody is asked twice"
        assert all("What is there?" in turn and "<image>" not in turn for turn in app.turns)
        await grading.close()
        await judge.close()


def test_a_reward_of_the_users_has_a_name_of_its_own():
    with pytest.raises(ValueError, match="grader_disagreement: a built-in reward has this name"):
        RewardConfig(functions={"grader_disagreement": {}})


def test_a_grader_that_is_a_judge_needs_one():
    with pytest.raises(ValueError, match="judge.url: the grader `judge` needs it, and reward.judge.model"):
        RewardConfig(second_grader="judge")
    with pytest.raises(ValueError, match="judge.url: the grader `judge` needs it, and reward.judge.model"):
        RewardConfig(graders={"open": "judge"})

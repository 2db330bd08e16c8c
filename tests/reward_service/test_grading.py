"""Grading in processes that can be killed."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from reward_service.grading import Grading
from reward_service.killable import CallFailedError, Killable
from vision_sr1.config import RewardConfig
from vision_sr1.rewards import Missing, Reward
from vision_sr1.v1 import pipeline_pb2 as pb

ENDLESS = "9^{9^{9^{9}}}"  # a power of so many digits is worked out in C, where no signal interrupts it


@pytest.fixture
async def grading() -> AsyncIterator[Grading]:
    config = RewardConfig(
        graders={"math": "math_verify", "choices": "choice"}, grading_timeout_s=1.0, numeric_tolerance=0.1
    )
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
    assert isinstance(endless, Missing)
    assert endless.reason == f"grader math_verify on '{ENDLESS}' and '3': took longer than 1 s"
    assert isinstance(other, Reward)
    assert beats > 30
    beating.cancel()


async def test_a_call_that_takes_its_process_down_is_told_and_the_next_gets_another():
    import os

    killable = Killable(1)
    with pytest.raises(CallFailedError, match="its process ended with status 7"):
        await killable.call(os._exit, 7, timeout_s=20)
    with pytest.raises(CallFailedError, match="ZeroDivisionError"):
        await killable.call(divmod, 1, 0, timeout_s=20)
    assert await killable.call(divmod, 7, 2, timeout_s=20) == (3, 1)
    await killable.close()


async def test_memory_is_bounded():
    killable = Killable(1, memory_bytes=2**29)
    with pytest.raises(CallFailedError, match="MemoryError"):
        await killable.call(bytes, 2**30, timeout_s=20)
    await killable.close()

"""The external judge and endpoints that are busy or not there; tests/system/test_judge.py has one that is."""

import asyncio
import json
import time

import pytest

from reward_service.judge import Judge, JudgeFailedError
from tests.reward_service.serving import serving
from vision_sr1.config import JudgeConfig
from vision_sr1.runtime.ports import free_port


async def test_a_judge_that_is_not_there_is_given_up():
    judge = Judge(JudgeConfig(url=f"http://127.0.0.1:{free_port()}/v1", model="reader", attempts=2, timeout_s=5))
    with pytest.raises(JudgeFailedError, match="reader at http://127.0.0.1"):
        await judge.answer("what color is the square")
    await judge.close()


class Busy:
    """An endpoint that turns away the first requests, and knows how many it had at once."""

    def __init__(self, refusals: int) -> None:
        self.arrivals: list[float] = []
        self.most = self._now = 0
        self._refusals = refusals

    async def __call__(self, scope, _receive, send) -> None:
        assert scope["type"] == "http"
        self.arrivals.append(time.monotonic())
        self._now += 1
        self.most = max(self.most, self._now)
        await asyncio.sleep(0.05)
        self._now -= 1
        refused = len(self.arrivals) <= self._refusals
        message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "red"}}
        reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "reader", "choices": [message]}
        body = json.dumps({"error": {"message": "too many requests"}} if refused else reply).encode()
        headers = [(b"content-type", b"application/json"), (b"retry-after", b"0")]
        await send({"type": "http.response.start", "status": 429 if refused else 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@pytest.mark.slow
async def test_a_busy_endpoint_is_asked_again():
    async with serving(Busy(refusals=2), lifespan="off") as address:
        judge = Judge(JudgeConfig(url=f"{address}/v1", model="reader", attempts=3))
        assert await judge.answer("what?") == "red"
        await judge.close()
    async with serving(Busy(refusals=2), lifespan="off") as address:
        judge = Judge(JudgeConfig(url=f"{address}/v1", model="reader", attempts=2))
        with pytest.raises(JudgeFailedError, match="too many requests"):
            await judge.answer("what?")
        await judge.close()


async def test_it_is_asked_no_more_at_once_and_no_oftener_than_configured():
    app = Busy(refusals=0)
    async with serving(app, lifespan="off") as address:
        judge = Judge(JudgeConfig(url=f"{address}/v1", model="reader", requests_in_flight=2))
        await asyncio.gather(*(judge.answer("what?") for _ in range(8)))
        assert app.most == 2
        await judge.close()
        app.arrivals.clear()
        judge = Judge(JudgeConfig(url=f"{address}/v1", model="reader", requests_per_minute=600))
        await asyncio.gather(*(judge.answer("what?") for _ in range(6)))
        assert app.arrivals[-1] - app.arrivals[0] > 0.4, "five tenths of a second for five more requests"
        await judge.close()

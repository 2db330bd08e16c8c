"""The external judge against a real OpenAI-compatible server."""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from reward_service import metrics
from reward_service.judge import Judge, JudgeFailedError
from tests.reward_service.serving import serving
from vision_sr1.config import JudgeConfig
from vision_sr1.ports import free_port


@pytest.fixture(scope="module")
def endpoint(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM's own server with a tiny model of random weights."""
    port = free_port()
    log = (tmp_path_factory.mktemp("judge") / "server.log").open("w+b")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", tiny_model),
            *("--served-model-name", "reader", "--port", str(port), "--dtype", "float32"),
            *("--max-model-len", "256", "--enforce-eager"),
        ],
        stdout=log,
        stderr=log,
        env={
            **os.environ,
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
            "VLLM_NO_USAGE_STATS": "1",
        },
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(360):
            assert process.poll() is None, log.seek(0) or log.read().decode()[-3000:]
            try:
                urllib.request.urlopen(f"{url}/health", timeout=2)
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.5)
        yield f"{url}/v1"
    finally:
        process.terminate()
        process.wait(30)


async def test_a_judge_answers_the_requerys_prompt_greedily(endpoint: str):
    judge = Judge(JudgeConfig(url=endpoint, model="reader", max_tokens=8))
    first, second = [await judge.answer("top left square red . what color is the square") for _ in range(2)]
    assert first == second != ""
    await judge.close()


async def test_a_judge_that_does_not_know_the_model_is_given_up_with_its_reason(endpoint: str):
    judge = Judge(JudgeConfig(url=endpoint, model="other", attempts=1))
    with pytest.raises(JudgeFailedError, match="other at .*does not exist"):
        await judge.answer("what color is the square")
    await judge.close()


async def test_a_judge_that_is_not_there_is_given_up():
    judge = Judge(JudgeConfig(url=f"http://127.0.0.1:{free_port()}/v1", model="reader", attempts=2, timeout_s=5))
    with pytest.raises(JudgeFailedError, match="reader at http://127.0.0.1"):
        await judge.answer("what color is the square")
    await judge.close()


async def test_tokens_and_cost_are_counted(endpoint: str):
    before = {kind: metrics.JUDGE_TOKENS.labels(kind)._value.get() for kind in ("prompt", "completion")}
    usd = metrics.JUDGE_USD._value.get()
    prices = {"usd_per_million_prompt_tokens": 2.0, "usd_per_million_completion_tokens": 10.0}
    judge = Judge(JudgeConfig(url=endpoint, model="reader", max_tokens=8, **prices))
    await judge.answer("what color is the square")
    spent = {kind: metrics.JUDGE_TOKENS.labels(kind)._value.get() - value for kind, value in before.items()}
    assert spent["prompt"] > 5
    assert 0 < spent["completion"] <= 8
    cost = (2.0 * spent["prompt"] + 10.0 * spent["completion"]) / 1e6
    assert metrics.JUDGE_USD._value.get() - usd == pytest.approx(cost)
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

"""The external judge against a real OpenAI-compatible server."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from reward_service.judge import Judge, JudgeFailedError
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

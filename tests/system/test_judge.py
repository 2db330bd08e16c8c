"""The external judge against a real OpenAI-compatible server."""

import pytest

from reward_service import metrics
from reward_service.judge import Judge, JudgeFailedError
from vision_sr1.config import JudgeConfig


@pytest.fixture(scope="session")
def endpoint(api_server: str) -> str:
    return f"{api_server}/v1"


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

"""Another model that answers from a description in the policy's place, behind an OpenAI-compatible API."""

import asyncio

import structlog
from aiolimiter import AsyncLimiter
from openai import AsyncOpenAI, OpenAIError
from openai.types.chat import ChatCompletion

from reward_service import metrics
from vision_sr1.config import JudgeConfig

log = structlog.get_logger()


class JudgeFailedError(RuntimeError):
    """The judge did not answer in the attempts allowed."""


class Judge:
    """Asks greedily, one user turn at a time, as many at once as configured.

    Failed tries are repeated by the client, after a pause that doubles or that the server asks for.
    """

    def __init__(self, config: JudgeConfig) -> None:
        self.model = config.model
        self._config = config
        self._in_flight = asyncio.Semaphore(config.requests_in_flight)
        per_minute = config.requests_per_minute
        self._limit = AsyncLimiter(1, 60.0 / per_minute) if per_minute else None  # evenly, not a minute's at once
        self._client = AsyncOpenAI(
            base_url=config.url,
            api_key=config.api_key.get_secret_value() if config.api_key else "none",
            timeout=config.timeout_s,
            max_retries=config.attempts - 1,
        )

    async def answer(self, turn: str) -> str:
        """The judge's response to the re-query's prompt.

        Raises:
            JudgeFailedError: no answer, with the last reason.
        """
        async with self._in_flight:
            if self._limit is not None:
                await self._limit.acquire()
            try:
                with metrics.JUDGE_SECONDS.time():
                    completion = await self._client.chat.completions.create(
                        model=self.model,
                        messages=[{"role": "user", "content": turn}],
                        temperature=0.0,
                        max_tokens=self._config.max_tokens,
                    )
            except OpenAIError as error:
                metrics.JUDGEMENTS.labels("failed").inc()
                raise JudgeFailedError(f"{self.model} at {self._client.base_url}: {error}") from error
        metrics.JUDGEMENTS.labels("answered").inc()
        self._count(completion)
        return completion.choices[0].message.content or ""

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    def _count(self, completion: ChatCompletion) -> None:
        if (usage := completion.usage) is None:
            return
        prices = {
            "prompt": (usage.prompt_tokens, self._config.usd_per_million_prompt_tokens),
            "completion": (usage.completion_tokens, self._config.usd_per_million_completion_tokens),
        }
        for kind, (tokens, price) in prices.items():
            metrics.JUDGE_TOKENS.labels(kind).inc(tokens)
            metrics.JUDGE_USD.inc(tokens * price / 1e6)

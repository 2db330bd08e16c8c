"""Another model that answers from a description in the policy's place, behind an OpenAI-compatible API."""

import structlog
from openai import AsyncOpenAI, OpenAIError

from reward_service import metrics
from vision_sr1.config import JudgeConfig

log = structlog.get_logger()


class JudgeFailedError(RuntimeError):
    """The judge did not answer in the attempts allowed."""


class Judge:
    """Asks greedily, one user turn at a time."""

    def __init__(self, config: JudgeConfig) -> None:
        self.model = config.model
        self._max_tokens = config.max_tokens
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
        try:
            with metrics.JUDGE_SECONDS.time():
                completion = await self._client.chat.completions.create(
                    model=self.model,
                    messages=[{"role": "user", "content": turn}],
                    temperature=0.0,
                    max_tokens=self._max_tokens,
                )
        except OpenAIError as error:
            metrics.JUDGEMENTS.labels("failed").inc()
            raise JudgeFailedError(f"{self.model} at {self._client.base_url}: {error}") from error
        metrics.JUDGEMENTS.labels("answered").inc()
        return completion.choices[0].message.content or ""

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

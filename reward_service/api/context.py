"""What the routes answer from."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property

from redis.asyncio import Redis

from reward_service.api.runs import Runs
from reward_service.scoring import Scorer
from reward_service.store import TraceReader
from vision_sr1.config import Config
from vision_sr1.prompting.response import TokenBytes


@dataclass(frozen=True)
class ApiContext:
    """A run's configuration and the parts of the service that are there.

    Attributes:
        scorer: None where the store is served with nothing else running.
        redis: likewise.
        tokens: None where the policy's tokenizer is not to be had.
        ping: raises RedisError where the streams are out of reach.
        recorded_as: the run's name in the store, where its folder has another by now.
    """

    config: Config
    reader: TraceReader
    scorer: Scorer | None = None
    redis: Redis | None = None
    tokens: TokenBytes | None = None
    ping: Callable[[], Awaitable[object]] | None = None
    recorded_as: str | None = None

    @cached_property
    def runs(self) -> Runs:
        """The runs that can be asked for."""
        return Runs(self.config, self.reader, self.recorded_as or self.config.run.name)

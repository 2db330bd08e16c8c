"""What the routes answer from."""

import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from redis.asyncio import Redis

from reward_service.api.past import PastRun
from reward_service.api.runs import Runs
from reward_service.scoring import Scorer
from reward_service.store import TraceReader
from vision_sr1.config import Config
from vision_sr1.prompting.response import TokenBytes


@dataclass(frozen=True)
class ApiContext:
    """A run's configuration and the parts of the service that are there.

    Attributes:
        scorer: None where nothing can be scored.
        redis: None where the store is served with nothing else running.
        tokens: None where the policy's tokenizer is not to be had.
        past: runs that have a tokenizer, a scorer and a folder of their own, by name.
        ping: raises RedisError where the streams are out of reach.
        ending: is set when the service ends: answers that have no end of their own end then.
    """

    config: Config
    reader: TraceReader
    scorer: Scorer | None = None
    redis: Redis | None = None
    tokens: TokenBytes | None = None
    past: Mapping[str, PastRun] = field(default_factory=dict)
    ping: Callable[[], Awaitable[object]] | None = None
    ending: threading.Event = field(default_factory=threading.Event)

    @cached_property
    def runs(self) -> Runs:
        """The runs that can be asked for."""
        return Runs(self.config, self.reader, {name: run.folder for name, run in self.past.items()})

    def tokens_of(self, run: str) -> TokenBytes | None:
        """Of a run's policy."""
        return self.past[run].tokens if run in self.past else self.tokens

    def scorer_of(self, run: str) -> Scorer | None:
        """With a run's rewards, where it is served with others; with this service's otherwise."""
        return self.past[run].scorer if run in self.past else self.scorer

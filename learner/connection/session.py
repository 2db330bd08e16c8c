"""The learner's connection to Redis, for code that runs step by step: one asyncio loop, one client."""

import asyncio
from collections.abc import Callable
from typing import Any

from vision_sr1.config import Config
from vision_sr1.streams import Keys, connect

SCARCE_MEMORY = 0.8  # of what the server may use


class RedisSession:
    """A client of a run's Redis. Only rank 0 sends commands that change anything.

    Args:
        is_stopping: whether the learner is to stop; commands then do not wait for a server that is away.

    Raises:
        ConfigError, StreamsUnavailableError: see `connect`.
    """

    def __init__(self, config: Config, is_stopping: Callable[[], bool]) -> None:
        self.is_stopping = is_stopping
        self.keys = Keys(config.run.name)
        self._runner = asyncio.Runner()
        self.redis = self.run(connect(config.streams, hurried=is_stopping))
        self._interruptions = 0
        self._server = ""  # the server that answered last, as it names this start of it

    def run(self, work: Any) -> Any:
        """Runs a coroutine to its end."""
        return self._runner.run(work)

    def was_interrupted(self) -> bool:
        """Whether this is the first call, a reply was lost since the last, or the server is another than it was."""
        server = self.run(self.redis.info("server"))["run_id"]
        interruptions = self.redis.patience.interruptions
        interrupted = interruptions > self._interruptions or server != self._server
        self._interruptions, self._server = interruptions, server
        return interrupted

    def memory_is_scarce(self) -> bool:
        """Whether Redis is about to refuse writes: a checkpoint would let go of what has been learned from."""
        memory = self.run(self.redis.info("memory"))
        allowed = int(memory.get("maxmemory", 0))
        return allowed > 0 and int(memory["used_memory"]) > SCARCE_MEMORY * allowed

    def close(self) -> None:
        """Closes the connection."""
        self.run(self.redis.aclose())
        self._runner.close()

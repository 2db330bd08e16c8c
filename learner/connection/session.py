"""The learner's connection to Redis, for code that runs step by step: one asyncio loop, one client."""

import asyncio
from collections.abc import Callable
from typing import Any

from vision_sr1.config import Config
from vision_sr1.streams import Interruptions, Keys, connect

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
        self.keys = Keys(config.streams_name)
        self._runner = asyncio.Runner()
        self.redis = self.run(connect(config.streams, is_stopping=is_stopping))
        self._interruptions = Interruptions(self.redis)

    def run(self, work: Any) -> Any:
        """Runs a coroutine to its end."""
        return self._runner.run(work)

    def was_interrupted(self) -> bool:
        """Whether Redis may hold something else than this process remembers; see `Interruptions`."""
        return bool(self.run(self._interruptions.happened()))

    def memory_is_scarce(self) -> bool:
        """Whether Redis is about to refuse writes: a checkpoint would release what has been learned from."""
        memory = self.run(self.redis.info("memory"))
        allowed = int(memory.get("maxmemory", 0))
        return allowed > 0 and int(memory["used_memory"]) > SCARCE_MEMORY * allowed

    def close(self) -> None:
        """Closes the connection."""
        self.run(self.redis.aclose())
        self._runner.close()

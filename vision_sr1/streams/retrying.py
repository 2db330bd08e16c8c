"""Patience with Redis: a command that finds it gone, full, failing over or frozen is sent again for a bounded time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog
from prometheus_client import Counter, Gauge
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

log = structlog.get_logger()

UP = Gauge("vision_sr1_redis_up", "1 while Redis executes the commands of this process.")
RETRIES = Counter("vision_sr1_redis_retries", "Redis commands that were retried, by reason.", ["reason"])

AT_ONCE = 16  # commands of one process, each on a connection of its own
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
STOPPING_S = 1.0  # how long a process retries that is to stop
SLOW_S = 2.0  # a server that takes longer may have kept others from renewing their leases
# What a server says that will do the same later: it is full, loading, failing over, or cannot write its file. Within a
# script the word is all that tells.
_PASSING = {
    "OOM": OutOfMemoryError,
    "READONLY": ReadOnlyError,
    "LOADING": BusyLoadingError,
    "MASTERDOWN": MasterDownError,
    "MISCONF": None,
    "NOREPLICAS": None,
    "max number of clients": None,
}

T = TypeVar("T")


def passing(error: Exception) -> str | None:
    """Why a command may succeed when it is sent again; None where it would not."""
    if isinstance(error, (AuthenticationError, AuthorizationError)):
        return None
    for word, kind in _PASSING.items():
        if (kind is not None and isinstance(error, kind)) or word in str(error):
            return word.lower().replace(" ", "_")
    if isinstance(error, RedisTimeoutError):
        return "timeout"
    return "connection" if isinstance(error, (RedisConnectionError, OSError)) else None


class RetryPolicy:
    """How long one process waits for Redis, how many commands it sends at once, and since when Redis has been well.

    Commands take turns, first come, first served: the pool of redis-py lets some wait for ever where many want a
    connection.

    Args:
        retry_for_s: a command is sent again for so long.
        is_stopping: while true, for STOPPING_S only.

    Attributes:
        interruptions: commands that were not answered; what they did is unknown.
    """

    def __init__(self, retry_for_s: float, is_stopping: Callable[[], bool]) -> None:
        self._retry_for_s = retry_for_s
        self._is_stopping = is_stopping
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._steady_since = time.monotonic()
        self._is_out = False
        self.interruptions = 0
        UP.set(1)

    @property
    def steady_s(self) -> float:
        """Seconds for which Redis has answered everything, and in time."""
        return 0.0 if self._is_out else time.monotonic() - self._steady_since

    async def keep(self, send: Callable[[], Awaitable[T]]) -> T:
        """What `send` returns, sent again while that can help.

        Raises:
            RedisError: it would not help, or has not for `retry_for_s`.
        """
        started, pause = time.monotonic(), FIRST_PAUSE_S
        while True:
            try:
                async with self._turns:
                    sent = time.monotonic()
                    reply = await send()
            except (RedisError, OSError) as error:
                reason = passing(error)
                if reason is None:
                    raise
                self.interruptions += 1
                self._note_outage(reason, error)
                if time.monotonic() - started > (STOPPING_S if self._is_stopping() else self._retry_for_s):
                    raise
                RETRIES.labels(reason).inc()
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                self._note_answer(time.monotonic() - sent)
                return reply

    def _note_outage(self, reason: str, error: Exception) -> None:
        if not self._is_out:
            self._is_out = True
            UP.set(0)
            log.error(
                "redis_unavailable",
                message="Redis is not available; retrying commands",
                reason=reason,
                error=str(error),
                waiting_s=self._retry_for_s,
            )

    def _note_answer(self, seconds: float) -> None:
        if self._is_out:
            self._is_out = False
            self._steady_since = time.monotonic()
            UP.set(1)
            log.info("redis_available", message="Redis is available again")
        elif seconds > SLOW_S:
            self._steady_since = time.monotonic()


class _RetryingPipeline(Pipeline):
    """Commands that are sent again together."""

    retry_policy: RetryPolicy

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands = list(self.command_stack)

        async def send() -> list[Any]:
            self.command_stack = list(commands)
            return await super(_RetryingPipeline, self).execute(raise_on_error)

        return await self.retry_policy.keep(send)


class RetryingRedis(Redis):
    """A client whose commands are retried by `retry_policy`. A command may have been carried out before it is sent
    again: only such as may be repeated are to be sent.

    Attributes:
        without_retries: a client on the same connections that tries once.
    """

    def __init__(self, pool: ConnectionPool, retry_policy: RetryPolicy) -> None:
        super().__init__(connection_pool=pool)
        self.auto_close_connection_pool = True  # redis-py takes a pool that is given for a shared one
        self.retry_policy = retry_policy
        self.without_retries: Redis = Redis(connection_pool=pool)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """See `Redis.execute_command`."""

        async def send() -> Any:
            try:
                return await super(RetryingRedis, self).execute_command(*args, **options)
            except ResponseError as error:
                if passing(error) == "readonly":  # a replica by now: behind Sentinel, new connections find the master
                    await self.connection_pool.disconnect(inuse_connections=False)
                raise

        return await self.retry_policy.keep(send)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """See `Redis.aclose`; connections to sentinels are closed too."""
        await super().aclose(close_connection_pool)
        if isinstance(self.connection_pool, SentinelConnectionPool):
            for sentinel in self.connection_pool.sentinel_manager.sentinels:
                await sentinel.aclose()

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """See `Redis.pipeline`."""
        pipeline = _RetryingPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        pipeline.retry_policy = self.retry_policy
        return pipeline


class Interruptions:
    """Whether Redis may hold something else than this process remembers."""

    def __init__(self, redis: RetryingRedis) -> None:
        self._redis: Any = redis
        self._seen = 0
        self._server = ""  # the server that answered last, as it names this start of it

    async def happened(self) -> bool:
        """Whether this is the first call, a reply was lost since the last, or the server is another than it was."""
        server = (await self._redis.info("server"))["run_id"]
        interruptions = self._redis.retry_policy.interruptions
        happened = interruptions > self._seen or server != self._server
        self._seen, self._server = interruptions, server
        return bool(happened)


async def check_takes_writes(redis: RetryingRedis, key: str, timeout_s: float) -> None:
    """Returns where the server takes writes now; a readiness probe.

    Raises:
        RedisError: it does not; the message says why.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await redis.without_retries.set(key, "1", ex=60)
    except TimeoutError:
        raise RedisTimeoutError(f"Redis has not answered for {timeout_s:g} s") from None

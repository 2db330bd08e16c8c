"""Connecting to Redis: `redis://`, `rediss://`, or `redis+sentinel://host:port,host:port/service/db`."""

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool, Sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from vision_sr1.config import Config, ConfigError, StreamsConfig
from vision_sr1.errors import OutageError
from vision_sr1.run_folder.names import REDIS
from vision_sr1.streams.embedded import running_server
from vision_sr1.streams.retrying import AT_ONCE, RetryingRedis, RetryPolicy

CONNECTIONS = 2 * AT_ONCE  # the second half is for commands that take no turns: probes


class NoServerError(ConfigError):
    """A run has neither a server of its own that runs, nor a URL of one.

    Attributes:
        folder: where its launcher keeps the data of the one that it starts.
    """

    def __init__(self, message: str, folder: Path) -> None:
        super().__init__(message)
        self.folder = folder


class StreamsUnavailableError(OutageError):
    """Redis does not answer, or refuses this client; the message says which server and what to check."""


async def connect(config: StreamsConfig, is_stopping: Callable[[], bool] = lambda: False) -> RetryingRedis:
    """A client whose commands outlast an outage of `retry_for_s`; shorter ones while `is_stopping` is true.

    Raises:
        ConfigError: no URL, one of an unknown kind, or a password that the server refuses.
        StreamsUnavailableError: the server has not answered for `timeout_s`.
    """
    if config.url is None:
        raise ConfigError("streams.url is not set: give a Redis URL, or start through `vision-sr1 train`")
    client = RetryingRedis(_pool(config, config.url), RetryPolicy(config.retry_for_s, is_stopping))
    try:
        await RetryPolicy(config.timeout_s, is_stopping).keep(client.without_retries.ping)
    except (RedisError, OSError) as error:
        await client.aclose()
        refused = isinstance(error, (AuthenticationError, NoPermissionError)) or "AUTH" in str(error)
        where = urlsplit(config.url)
        raise (ConfigError if refused else StreamsUnavailableError)(
            f"Redis at {where.netloc.rpartition('@')[2] or where.path} ({where.scheme}): {error}; "
            "check streams.url and VISION_SR1_REDIS_PASSWORD"
        ) from error
    return client


@contextlib.asynccontextmanager
async def connect_to_run(config: Config) -> AsyncIterator[RetryingRedis]:
    """A client of the server that a run uses, be it the one that its launcher started.

    Raises:
        ConfigError, StreamsUnavailableError: see `connect`; or there is neither a URL nor a server of the run's own.
    """
    streams = config.streams
    if streams.url is None:
        found = running_server(config.services_path / REDIS)
        if found is None:
            raise NoServerError(
                f"no Redis of the run {config.run.name!r} is running under {config.services_path}: start the run, or "
                "name its server in VISION_SR1_REDIS_URL",
                config.services_path / REDIS,
            )
        streams = found
    redis = await connect(streams)
    try:
        yield redis
    finally:
        await redis.aclose()


def _pool(config: StreamsConfig, url: str) -> ConnectionPool:
    password = config.password.get_secret_value() if config.password else None
    parts = urlsplit(url)
    options: dict[str, Any] = {
        "socket_timeout": config.timeout_s,
        "socket_connect_timeout": config.timeout_s,
        "retry": Retry(NoBackoff(), 0),  # whole commands are tried again, which find a new master behind Sentinel
        "health_check_interval": 15,
    }
    if parts.scheme in ("redis", "rediss", "unix"):
        if password is not None:
            options["password"] = password
        try:
            return ConnectionPool.from_url(url, max_connections=CONNECTIONS, **options)
        except ValueError as error:
            raise ConfigError(
                f"streams.url: {parts.netloc.rpartition('@')[2]!r} is not of the form host:port: {error}"
            ) from error
    if parts.scheme == "redis+sentinel":
        hosts = [host.rpartition(":") for host in parts.netloc.rpartition("@")[2].split(",")]
        service, _, db = parts.path.strip("/").partition("/")
        try:
            addresses = [(host, int(port)) for host, _, port in hosts]
            number = int(db or 0)
        except ValueError:
            raise ConfigError(
                f"streams.url: {parts.netloc + parts.path!r} is not host:port,host:port/SERVICE/NUMBER of sentinels"
            ) from None
        sentinel = Sentinel(addresses, sentinel_kwargs={"password": password}, **options)
        master = sentinel.master_for(service, db=number, password=password, max_connections=CONNECTIONS)
        return master.connection_pool
    raise ConfigError(f"streams.url: unknown scheme {parts.scheme!r}; known: redis, rediss, unix, redis+sentinel")

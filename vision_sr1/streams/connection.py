"""Connecting to Redis: `redis://`, `rediss://`, or `redis+sentinel://host:port,host:port/service/db`."""

from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, Sentinel
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from vision_sr1.config import ConfigError, StreamsConfig

RETRIES = 5
CONNECTIONS = 16
SENTINEL_CONNECTIONS = 4096  # its pool does not wait, it refuses


class StreamsUnavailableError(RuntimeError):
    """Redis does not answer, or refuses this client; the message says which server and what to check."""


async def connect(config: StreamsConfig) -> Redis:
    """A client whose commands are retried on lost connections, a bounded number of times.

    Raises:
        ConfigError: no URL, or one of an unknown kind.
        StreamsUnavailableError: the server does not answer a ping.
    """
    if config.url is None:
        raise ConfigError("streams.url is not set: give a Redis URL, or start through `vision-sr1 train`")
    client = _client(config, config.url)
    try:
        await client.ping()
    except RedisError as error:
        await client.aclose()
        where = urlsplit(config.url).hostname
        raise StreamsUnavailableError(
            f"Redis at {where} ({urlsplit(config.url).scheme}): {error}; "
            "check streams.url and VISION_SR1_REDIS_PASSWORD"
        ) from error
    return client


def _client(config: StreamsConfig, url: str) -> Redis:
    password = config.password.get_secret_value() if config.password else None
    parts = urlsplit(url)
    options: dict[str, Any] = {
        "socket_timeout": config.timeout_s,
        "socket_connect_timeout": config.timeout_s,
        "retry": Retry(ExponentialBackoff(cap=2.0, base=0.05), RETRIES),
        "retry_on_error": [RedisConnectionError, RedisTimeoutError],
        "health_check_interval": 15,
    }
    if parts.scheme in ("redis", "rediss", "unix"):
        if password is not None:
            options["password"] = password
        # Work in flight shares a few connections and waits its turn for one.
        pool = BlockingConnectionPool.from_url(url, max_connections=CONNECTIONS, timeout=config.timeout_s, **options)
        return Redis.from_pool(pool)
    if parts.scheme == "redis+sentinel":
        hosts = [host.rpartition(":") for host in parts.netloc.rpartition("@")[2].split(",")]
        service, _, db = parts.path.strip("/").partition("/")
        sentinel = Sentinel(
            [(host, int(port)) for host, _, port in hosts], sentinel_kwargs={"password": password}, **options
        )
        return sentinel.master_for(service, db=int(db or 0), password=password, max_connections=SENTINEL_CONNECTIONS)
    raise ConfigError(f"streams.url: unknown scheme {parts.scheme!r}; known: redis, rediss, unix, redis+sentinel")

"""One replica of the reward service: scoring and the API in one process."""

import argparse
import asyncio
import contextlib
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog
import uvicorn
from fastapi import FastAPI

from reward_service.api import create_app
from reward_service.scoring import open_scorer
from reward_service.traces import TraceStore
from reward_service.worker import ScoringWorker
from vision_sr1.config import Config
from vision_sr1.fleet import Fleet
from vision_sr1.groups import ASSEMBLED
from vision_sr1.service import run_service
from vision_sr1.streams import Blobs, Keys, Stream, check_takes_writes, connect

log = structlog.get_logger()

PROBE_TIMEOUT_S = 2.0
WRITE_TIMEOUT_S = 2.0  # for traces that wait when the service ends


async def serve(config: Config) -> None:
    """Scores rollouts and serves the API until SIGTERM or SIGINT.

    Raises:
        ConfigError: a reward's function cannot be found.
        RedisError: the streams were out of reach for too long.
    """
    stop = asyncio.Event()
    redis = await connect(config.streams, hurried=stop.is_set)
    keys = Keys(config.run.name)
    config.run.path.mkdir(parents=True, exist_ok=True)
    store = TraceStore(config.trace_url, Blobs(redis, keys, config.streams.image_ttl_s), config.reward.trace_buffer)
    consumer = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
    rollouts, assembled = (
        Stream(redis, keys, name, config.streams, group="reward", consumer=consumer) for name in ("rollouts", ASSEMBLED)
    )
    try:
        async with open_scorer(config, Fleet(redis, keys)) as scorer:
            worker = ScoringWorker(config, rollouts, assembled, scorer, store.record)
            await _run(
                config, worker, store, lambda: check_takes_writes(redis, keys.stream("probe"), PROBE_TIMEOUT_S), stop
            )
    finally:
        store.close()
        await redis.aclose()


async def _run(
    config: Config,
    worker: ScoringWorker,
    store: TraceStore,
    ping: Callable[[], Awaitable[object]],
    stop: asyncio.Event,
) -> None:
    """Scoring and the API, until one of them ends."""
    failures: list[Exception] = []

    async def score() -> None:
        try:
            await worker.run(stop)
        except Exception as error:
            failures.append(error)
        server.should_exit = True

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        writing = asyncio.create_task(store.write_forever())
        scoring = asyncio.create_task(score())
        yield
        stop.set()
        await scoring
        writing.cancel()
        await asyncio.wait([writing], timeout=WRITE_TIMEOUT_S)

    server = uvicorn.Server(
        uvicorn.Config(
            create_app(store, ping, lifespan),
            host=config.reward.host,
            port=config.reward.port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=2,
        )
    )
    log.info("reward service listens", host=config.reward.host, port=config.reward.port, traces=config.trace_url)
    await server.serve()
    if failures:
        raise failures[0]


def main() -> int:
    """Runs one replica; the exit status is 2 for a mistake in the configuration."""
    parser = argparse.ArgumentParser(prog="reward_service", description=__doc__)
    return run_service(parser, lambda config, _: asyncio.run(serve(config)))

"""One replica of the reward service: scoring and the API in one process."""

import asyncio
import contextlib
import socket
import uuid
from collections.abc import AsyncIterator

import structlog
from fastapi import FastAPI
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from reward_service.api import ApiContext, http_server
from reward_service.scoring import open_scorer
from reward_service.store import TraceReader, TraceWriter, close_store, connect_store, prepare_store
from reward_service.worker import ScoringWorker
from vision_sr1.config import Config
from vision_sr1.pipeline.fleet import Fleet
from vision_sr1.pipeline.scored_groups import ASSEMBLED
from vision_sr1.runtime.reward_api import check_closed
from vision_sr1.streams import Blobs, Keys, Stream, check_takes_writes, connect

log = structlog.get_logger()

PROBE_TIMEOUT_S = 2.0
WRITE_TIMEOUT_S = 2.0  # for traces that wait when the service ends


async def serve(config: Config) -> None:
    """Scores rollouts and serves the API until SIGTERM or SIGINT.

    Raises:
        ConfigError: the API would be open to all, a reward's function cannot be found, or the trace store cannot be
            used as it is.
        RedisError: the streams were out of reach for too long.
    """
    check_closed(config)
    stop = asyncio.Event()
    redis = await connect(config.streams, is_stopping=stop.is_set)
    keys = Keys(config.streams_name)
    config.services_path.mkdir(parents=True, exist_ok=True)
    engine = _store(config)
    ranges = {**config.reward.ranges, "response_tokens": (0.0, float(config.sampling.max_tokens))}
    blobs = Blobs(redis, keys, config.streams.image_ttl_s)
    traces = TraceWriter(engine, blobs, config.reward.traces, ranges)
    consumer = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
    rollouts, assembled = (
        Stream(redis, keys, name, config.streams, group="reward", consumer=consumer) for name in ("rollouts", ASSEMBLED)
    )
    try:
        async with open_scorer(config, Fleet(redis, keys), blobs) as scorer:
            worker = ScoringWorker(config, rollouts, assembled, scorer, traces.record)
            api = ApiContext(
                config=config,
                reader=TraceReader(engine),
                scorer=scorer,
                redis=redis.without_retries,
                tokens=scorer.tokens,
                ping=lambda: check_takes_writes(redis, keys.stream("probe"), PROBE_TIMEOUT_S),
            )
            await _run(api, worker, traces, stop)
    finally:
        close_store(engine)
        await redis.aclose()


def _store(config: Config) -> Engine:
    """The trace store, which need not be up: scoring does without it."""
    engine = connect_store(config.reward.traces, config.traces_url)
    try:
        prepare_store(engine)
    except SQLAlchemyError as error:
        log.error(
            "trace_store_down_at_start",
            message="The trace store is down; scoring starts without it",
            store=str(engine.url),
            error=str(error),
        )
    return engine


async def _run(api: ApiContext, worker: ScoringWorker, traces: TraceWriter, stop: asyncio.Event) -> None:
    """Scoring and the API, until one of them ends."""
    failures: list[Exception] = []
    scored = asyncio.Event()

    async def score() -> None:
        try:
            await worker.run(stop)
        except Exception as error:
            failures.append(error)
        scored.set()
        server.should_exit = True

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(traces.run(scored, WRITE_TIMEOUT_S))
            tasks.create_task(score())
            yield
            stop.set()

    server = http_server(api, lifespan)
    await server.serve()
    if failures:
        raise failures[0]

"""`python -m reward_service CONFIG`: one replica of the reward service."""

import argparse
import asyncio
import contextlib
import socket
import sys
import uuid
from collections.abc import AsyncIterator

import structlog
import uvicorn
from fastapi import FastAPI
from redis.exceptions import RedisError
from transformers import AutoTokenizer

from reward_service.api import create_app
from reward_service.graders import GRADERS
from reward_service.judge import Judge
from reward_service.requery import Requerier
from reward_service.scoring import Scorer, ScoringWorker
from reward_service.traces import TraceStore
from vision_sr1.config import Config
from vision_sr1.fleet import Fleet
from vision_sr1.service import run_service
from vision_sr1.streams import Blobs, Keys, Stream, check_takes_writes, connect

log = structlog.get_logger()

PROBE_TIMEOUT_S = 2.0


async def serve(config: Config) -> None:
    """Scores rollouts and serves the API until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    redis = await connect(config.streams, hurried=stop.is_set)
    keys = Keys(config.run.name)
    blobs = Blobs(redis, keys, config.streams.image_ttl_s)
    config.run.path.mkdir(parents=True, exist_ok=True)
    store = TraceStore(config.trace_url, blobs, config.reward.trace_buffer)
    requerier = Requerier(config.reward, Fleet(redis, keys))
    judge = Judge(config.reward.judge) if config.reward.judge.url else None
    tokenizer = AutoTokenizer.from_pretrained(config.model.path)
    scorer = Scorer(config.reward, tokenizer, GRADERS[config.reward.grader], requerier, judge)
    consumer = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
    rollouts = Stream(redis, keys, "rollouts", config.streams, group="reward", consumer=consumer)
    await rollouts.open()
    worker = ScoringWorker(config, rollouts, scorer, store.record)

    outages: list[RedisError] = []

    async def score() -> None:
        try:
            await worker.consumer.run(stop)
        except RedisError as error:
            outages.append(error)
        server.should_exit = True

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        writing = asyncio.create_task(store.write_forever())
        scoring = asyncio.create_task(score())
        yield
        stop.set()
        await scoring
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)

    app = create_app(store, lambda: check_takes_writes(redis, keys.stream("probe"), PROBE_TIMEOUT_S), lifespan)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=config.reward.host,
            port=config.reward.port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=2,
        )
    )
    log.info("reward service listens", host=config.reward.host, port=config.reward.port, traces=config.trace_url)
    await server.serve()
    await requerier.close()
    if judge is not None:
        await judge.close()
    store.close()
    await redis.aclose()
    if outages:
        raise outages[0]


def main() -> int:
    """Runs one replica; the exit status is 2 for a mistake in the configuration."""
    parser = argparse.ArgumentParser(prog="reward_service", description=__doc__)
    return run_service(parser, lambda config, _: asyncio.run(serve(config)))


if __name__ == "__main__":
    sys.exit(main())

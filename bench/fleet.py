"""Actor servers for a measurement."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vision_sr1.config import Config, load_config, save_config
from vision_sr1.pipeline.fleet import Fleet
from vision_sr1.streams import Keys, connect
from vision_sr1.streams.embedded import EmbeddedRedis
from vision_sr1.v1.pipeline_pb2 import ActorInfo

START_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Actors:
    """Running actor servers, and the configuration that they and their clients share."""

    config: Config
    infos: list[ActorInfo]


@contextmanager
def running_actors(folder: Path, count: int, overrides: list[str]) -> Iterator[Actors]:
    """Starts a Redis and actors in a folder; stops them at the end."""
    with EmbeddedRedis(folder / "redis") as server:
        options = [f"run.dir={folder}", "metrics.actor_port=0", *overrides]
        config = load_config(None, options, environment=server.environment).config
        save_config(config, folder / "config.yaml")
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "actors", folder / "config.yaml", "--id", f"actor-{number}"],
                env={**os.environ, **server.environment},
                stderr=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            for number in range(count)
        ]
        try:
            yield Actors(config, asyncio.run(_announced(config, processes)))
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(30)


async def _announced(config: Config, processes: list[subprocess.Popen[bytes]]) -> list[ActorInfo]:
    redis = await connect(config.streams)
    fleet = Fleet(redis, Keys(config.run.name))
    deadline = time.monotonic() + START_TIMEOUT_S
    while len(infos := await fleet.alive()) < len(processes):
        if any(process.poll() is not None for process in processes) or time.monotonic() > deadline:
            raise SystemExit("an actor did not start")
        await asyncio.sleep(0.5)
    await redis.aclose()
    return infos

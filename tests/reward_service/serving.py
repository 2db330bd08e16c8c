"""An application on a port of its own, or the address of a command that serves one."""

import asyncio
import contextlib
import re
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import httpx
import uvicorn
from starlette.types import ASGIApp

from vision_sr1.runtime.ports import free_port


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, **options: Any) -> AsyncIterator[str]:
    """In this event loop."""
    server = _server(app, **options)
    running = asyncio.create_task(server.serve())
    for _ in range(500):
        if server.started:
            break
        await asyncio.sleep(0.01)
    yield _url(server)
    server.should_exit = True
    await running


@contextlib.contextmanager
def serving_in_thread(app: ASGIApp, **options: Any) -> Iterator[str]:
    """Beside a test that waits in its own thread."""
    server = _server(app, **options)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield _url(server)
    server.should_exit = True
    thread.join()


@contextlib.contextmanager
def serving_by_command(command: Sequence[str], **options: Any) -> Iterator[str]:
    """The address that a command prints; it serves there until Ctrl-C, which ends it without a complaint.

    Args:
        options: of the process.
    """
    served = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    assert served.stdout is not None
    said = ""
    try:
        while not (found := re.search(r"(http://[\w.:]+)/", said)) and (line := served.stdout.readline()):
            said += line
        assert found, f"{command}\n{said}"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{found[1]}/readyz").status_code == 200:
                    break
            time.sleep(0.2)
        yield found[1]
    finally:
        served.send_signal(signal.SIGINT)
        said += served.communicate(timeout=30)[0]
    assert served.returncode == 0, said
    assert "Traceback" not in said, said


def _server(app: ASGIApp, **options: Any) -> uvicorn.Server:
    settings: dict[str, Any] = {"log_config": None, "timeout_graceful_shutdown": 1, "port": free_port(), **options}
    return uvicorn.Server(uvicorn.Config(app, **settings))


def _url(server: uvicorn.Server) -> str:
    return f"http://127.0.0.1:{server.config.port}"

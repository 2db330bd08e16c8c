"""An application on a port of its own."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

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


def _server(app: ASGIApp, **options: Any) -> uvicorn.Server:
    settings: dict[str, Any] = {"log_config": None, "timeout_graceful_shutdown": 1, "port": free_port(), **options}
    return uvicorn.Server(uvicorn.Config(app, **settings))


def _url(server: uvicorn.Server) -> str:
    return f"http://127.0.0.1:{server.config.port}"

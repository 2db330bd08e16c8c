"""The application: routes, and what stands before them."""

import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import structlog
import uvicorn
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.types import Lifespan

from reward_service.api.caching import ETags
from reward_service.api.context import ApiContext
from reward_service.api.health import health_routes
from reward_service.api.live import live_routes
from reward_service.api.problems import Problem, answer_with_problems
from reward_service.api.prompts import prompt_routes
from reward_service.api.scoring import scoring_routes
from reward_service.api.security import Guard
from reward_service.api.statistics import statistics_routes
from reward_service.api.traces import trace_routes
from vision_sr1 import __version__

log = structlog.get_logger()

END_TIMEOUT_S = 2  # for requests that are being answered when the service ends
PAGE = Path(__file__).parent.parent / "page"


def create_app(api: ApiContext, lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    """The application over what the context has."""
    app = FastAPI(
        title="Vision-SR1 reward traces",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # those pages load scripts from elsewhere
        redoc_url=None,
        description="What every reward of a run saw, and why it is what it is.",
    )
    app.include_router(scoring_routes(api))
    app.include_router(live_routes(api))
    app.include_router(prompt_routes(api))
    app.include_router(trace_routes(api))
    app.include_router(statistics_routes(api))
    app.include_router(health_routes(api))
    app.mount("/static", StaticFiles(directory=PAGE), name="static")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    answer_with_problems(app)
    _document_problems(app)
    settings = api.config.reward.api
    app.add_middleware(ETags)
    app.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=5)
    app.add_middleware(Guard, config=settings, is_page=_is_page)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "If-None-Match", "Last-Event-ID"],
            expose_headers=["ETag"],
        )
    return app


def http_server(
    api: ApiContext, lifespan: Lifespan[FastAPI] | None = None, announcement: str | None = None
) -> uvicorn.Server:
    """A server of the application, which ends on SIGTERM and SIGINT.

    Args:
        announcement: is printed once it answers.
    """
    reward = api.config.reward
    log.info(
        "reward_service_started",
        message="The reward service listens for requests",
        host=reward.host,
        port=reward.port,
        traces=api.config.traces_url,
    )
    return _Server(
        uvicorn.Config(
            create_app(api, lifespan),
            host=reward.host,
            port=reward.port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=END_TIMEOUT_S,
        ),
        api.ending,
        announcement,
    )


class _Server(uvicorn.Server):
    """Returns once a signal has ended it. uvicorn's own raises the signal again, which ends the process before what was
    opened around the server is closed.
    """

    def __init__(self, config: uvicorn.Config, ending: threading.Event, announcement: str | None) -> None:
        super().__init__(config)
        self._ending = ending
        self._announcement = announcement

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Says where it is once it listens."""
        await super().startup(sockets)
        if self.started and self._announcement is not None:
            sys.stdout.write(f"{self._announcement}\n")
            sys.stdout.flush()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Lets live views end before it waits for what is being answered."""
        self._ending.set()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Lets SIGINT and SIGTERM end the server, while it serves in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _is_page(path: str) -> bool:
    return path in ("/", "/openapi.json") or path.startswith("/static/")


def _document_problems(app: FastAPI) -> None:
    """Puts the schema of problems into the OpenAPI document, in place of FastAPI's own of invalid requests."""
    generate = app.openapi

    def with_problems() -> dict[str, object]:
        document = generate()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = Problem.model_json_schema()
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        return document

    app.openapi = with_problems  # type: ignore[method-assign]  # FastAPI's documented way to extend it

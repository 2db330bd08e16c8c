"""What a service without an API says of itself over HTTP: `/metrics` for Prometheus, `/healthz` and `/readyz`."""

import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer


class Probes:
    """Answers in threads of its own.

    Attributes:
        not_ready: why the service does not do its work at present; empty while it does.
    """

    def __init__(self) -> None:
        self.not_ready = "starting"
        self._metrics: Any = make_wsgi_app()

    def serve(self, host: str, port: int) -> int:
        """Listens from now on, until the process ends; returns the port.

        Raises:
            OSError: the port is taken.
        """
        kind = _IPv6Server if ":" in host else ThreadingWSGIServer
        server = make_server(host, port, self._answer, kind, _Quiet)
        threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()
        return server.server_port

    def _answer(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environment["PATH_INFO"]
        if path == "/metrics":
            answer: Iterable[bytes] = self._metrics(environment, start)
            return answer
        if path not in ("/healthz", "/readyz"):
            status, said = "404 Not Found", "known: /metrics, /healthz, /readyz"
        elif path == "/readyz" and self.not_ready:
            status, said = "503 Service Unavailable", self.not_ready
        else:
            status, said = "200 OK", "ok"
        start(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{said}\n".encode()]


class _IPv6Server(ThreadingWSGIServer):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    """Logs no requests."""

    def log_message(self, *_: Any) -> None:
        """Nothing."""

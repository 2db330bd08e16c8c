"""Who may ask, how often, and how much; and headers that keep browsers from harm."""

import hmac
from collections.abc import Callable

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reward_service.api.problems import problem
from vision_sr1.config import ApiConfig

OPEN = ("/healthz", "/readyz", "/metrics")  # for probes and Prometheus: they show nothing of the data
IMAGES = "/v1/images/"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; style-src 'self'; script-src 'self'; "
    "object-src 'none'; base-uri 'none'; frame-ancestors 'none'",
}


class Guard:
    """Refuses requests without the token, too many of them, bodies that are too large, and what no store can look up.

    Args:
        is_page: whether a path is part of the page, which asks for the token itself.
    """

    def __init__(self, app: ASGIApp, config: ApiConfig, is_page: Callable[[str], bool]) -> None:
        self._app = app
        self._config = config
        self._is_page = is_page
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._rate = RateLimitItemPerMinute(config.requests_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), str(scope["path"])

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    out.setdefault(name, value)
            await send(message)

        if path in OPEN or scope["method"] == "OPTIONS":
            await self._app(scope, receive, send_safely)
            return
        client = scope["client"][0] if scope.get("client") else "unknown"
        if not await self._limiter.hit(self._rate, client, self._counted_as(path)):
            refusal = problem(
                429,
                f"more than {self._rate.amount} requests a minute (reward.api.requests_per_minute)",
                {"Retry-After": "5"},
            )
        elif not self._is_page(path) and not self._has_token(headers):
            refusal = problem(
                401,
                "give the token of reward.api.token as `Authorization: Bearer TOKEN`",
                {"WWW-Authenticate": "Bearer"},
            )
        elif not headers.get("content-length", "0").isdecimal() or (
            int(headers.get("content-length", "0")) > self._config.max_request_bytes
        ):
            refusal = problem(413, f"bodies have {self._config.max_request_bytes} bytes at most")
        elif "\0" in path or b"%00" in scope["query_string"]:
            refusal = problem(422, "the address has a NUL character (%00), which no name or text here has")
        else:
            await self._app(scope, self._bounded(receive), send_safely)
            return
        await refusal(scope, receive, send_safely)

    def _counted_as(self, path: str) -> str:
        """Each kind has the full rate, so that a page of many images does not use up the API's."""
        if self._is_page(path):
            return "page"
        return "images" if path.startswith(IMAGES) else "api"

    def _has_token(self, headers: Headers) -> bool:
        if self._config.token is None:
            return True
        wanted = f"Bearer {self._config.token.get_secret_value()}"
        return hmac.compare_digest(headers.get("authorization", "").encode(), wanted.encode())

    def _bounded(self, receive: Receive) -> Receive:
        """Cuts a body off that is longer than its header said, or said nothing."""
        room = self._config.max_request_bytes

        async def receive_bounded() -> Message:
            nonlocal room
            message = await receive()
            room -= len(message.get("body", b""))
            return message if room >= 0 else {"type": "http.disconnect"}

        return receive_bounded

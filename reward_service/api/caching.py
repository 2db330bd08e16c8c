"""ETags: a reader that asks again for what it has gets 304 and no body."""

import hashlib

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

EVENTS = "text/event-stream"


class ETags:
    """Gives every successful GET response a weak ETag of its body, and compares it with If-None-Match."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        parts: list[bytes] = []

        async def collect(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                is_stream = Headers(raw=message["headers"]).get("content-type", "").startswith(EVENTS)
                if message["status"] == 200 and not is_stream:
                    start = message
                    return
            elif message["type"] == "http.response.body" and start is not None:
                parts.append(message.get("body", b""))
                if not message.get("more_body"):
                    await _answer(scope, start, b"".join(parts), send)
                return
            await send(message)

        await self._app(scope, receive, collect)


async def _answer(scope: Scope, start: Message, body: bytes, send: Send) -> None:
    tag = f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = MutableHeaders(raw=start["headers"])
    headers["ETag"] = tag
    headers.setdefault("Cache-Control", "no-cache")
    known = [one.strip() for one in Headers(scope=scope).get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        del headers["content-length"]
        start, body = {**start, "status": 304, "headers": headers.raw}, b""
    await send({**start, "headers": headers.raw})
    await send({"type": "http.response.body", "body": body})

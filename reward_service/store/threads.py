"""Work in threads that the end of the process does not wait for, should a database server never answer."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def in_daemon_thread(work: Callable[..., T], *arguments: object) -> T:
    """What the work returns or raises."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(setter: Callable[[Any], None], outcome: Any) -> None:
        if not done.done():
            setter(outcome)

    def run() -> None:
        try:
            setter, outcome = done.set_result, work(*arguments)
        except Exception as error:
            setter, outcome = done.set_exception, error  # type: ignore[assignment]
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, setter, outcome)

    threading.Thread(target=run, name="trace-store", daemon=True).start()
    return await done

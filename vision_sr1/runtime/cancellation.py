"""Stopping for certain: a signal that may not be lost, and tasks in libraries that swallow their cancellation."""

import asyncio
import signal
from collections.abc import Iterable
from typing import Any

import structlog

log = structlog.get_logger()

CANCEL_AGAIN_S = 0.2


def stop_event() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set.

    asyncio learns of a signal from a byte in its loop's wake-up pipe, and never where the pipe is full just then. So
    the signal's own handler sets the event too.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)  # wakes the loop where another thread has received the signal
        signal.signal(signum, lambda *_: loop.call_soon_threadsafe(stop.set))
    return stop


async def end_tasks(tasks: Iterable[asyncio.Task[Any]], timeout_s: float) -> None:
    """Cancels tasks until they have ended, or for as long as given; what is left is logged and not waited for."""
    left = set(tasks)
    deadline = asyncio.get_running_loop().time() + timeout_s
    while left and asyncio.get_running_loop().time() < deadline:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
    for task in left:
        log.error("task_not_ending", message="A background task ignores its cancellation", task=repr(task.get_coro()))

"""Ending background tasks for certain: a library that a task is in may swallow the cancellation."""

import asyncio
from collections.abc import Iterable
from typing import Any

import structlog

log = structlog.get_logger()

CANCEL_AGAIN_S = 0.2


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

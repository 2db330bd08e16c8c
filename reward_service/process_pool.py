"""Functions called in processes of their own, so that one that does not end can be killed."""

import asyncio
import multiprocessing
import resource
import signal
from collections.abc import Callable
from typing import Any

import pebble

from vision_sr1.runtime.parent_death import end_with_parent


class CallFailedError(RuntimeError):
    """A call raised, took too long or took its process down; the message says which."""


class ProcessPool:
    """A pool of processes, which start with the first call. Arguments and results are pickled.

    Args:
        processes: calls made at once.
        memory_bytes: address space of each process; None: no limit.
        prepare: called in each process before it takes calls.
    """

    def __init__(
        self, processes: int, memory_bytes: int | None = None, prepare: Callable[[], None] | None = None
    ) -> None:
        spawn = multiprocessing.get_context("spawn")  # threads, as gRPC has, do not survive a fork
        self._pool = pebble.ProcessPool(processes, initializer=_begin, initargs=(memory_bytes, prepare), context=spawn)

    async def call(self, function: Callable[..., Any], *args: object, timeout_s: float) -> Any:
        """The function's result. Its time runs from when a process begins with it.

        Raises:
            CallFailedError: there is none.
        """
        call = self._pool.schedule(function, args=args, timeout=timeout_s)
        try:
            return await asyncio.wrap_future(call)
        except TimeoutError as error:
            raise CallFailedError(f"took longer than {timeout_s:g} s") from error
        except pebble.ProcessExpired as error:
            raise CallFailedError(f"its process ended with status {error.exitcode}") from error
        except Exception as error:
            raise CallFailedError(repr(error)) from error

    async def close(self) -> None:
        """Kills what still runs."""
        self._pool.stop()
        await asyncio.to_thread(self._pool.join)


def _begin(memory_bytes: int | None, prepare: Callable[[], None] | None) -> None:
    end_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the replica's to handle
    if memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    if prepare is not None:
        prepare()

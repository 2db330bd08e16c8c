"""Signals stop a service, and tasks end, whatever they do with a cancellation."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

import pytest

from vision_sr1.runtime.cancellation import end_tasks, stop_event


async def test_a_task_that_swallowed_a_cancellation_is_cancelled_again():
    swallowed = 0

    async def forgetful() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed > 2:
                    raise

    task = asyncio.create_task(forgetful())
    await asyncio.sleep(0)
    await end_tasks([task], timeout_s=30)
    assert task.cancelled()


async def test_one_that_never_ends_is_not_waited_for_for_ever():
    over = asyncio.Event()

    async def deaf() -> None:
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                continue

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    await end_tasks([task], timeout_s=0.5)
    assert not task.done()
    over.set()
    await task


@pytest.fixture
def handlers():
    """Puts those back that were there."""
    signums = (signal.SIGTERM, signal.SIGINT)
    before = {signum: signal.getsignal(signum) for signum in signums}
    yield
    for signum in signums:
        signal.signal(signum, before[signum])


def fill_wake_up_pipe(loop) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            loop._csock.send(b"\0")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python says that the pipe is full
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("before", [lambda _: None, fill_wake_up_pipe], ids=["idle", "wake-up pipe full"])
def test_a_signal_stops_a_service_however_busy_its_loop_is(
    signum: signal.Signals, before: Callable[[asyncio.AbstractEventLoop], None], handlers
):
    async def serve() -> None:
        stop = stop_event()
        before(asyncio.get_running_loop())
        os.kill(os.getpid(), signum)
        await asyncio.wait_for(stop.wait(), 10)

    asyncio.run(serve())

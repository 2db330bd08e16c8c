"""Tasks end, whatever they do with a cancellation."""

import asyncio

from vision_sr1.runtime.cancellation import end_tasks


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

"""The end of what runs beside us."""

from __future__ import annotations

import asyncio

from services.shared.tasks import end_tasks


async def test_a_task_that_works_for_ever_ends():
    task = asyncio.create_task(asyncio.Event().wait())
    await end_tasks([task])
    assert task.cancelled()


async def test_a_task_that_misses_its_cancellation_is_asked_again():
    missed = 0

    async def works() -> None:
        nonlocal missed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if missed:
                    raise
                missed += 1

    task = asyncio.create_task(works())
    await asyncio.sleep(0)
    await asyncio.wait_for(end_tasks([task]), 10.0)
    assert missed == 1
    assert task.cancelled()


async def test_a_task_that_has_failed_keeps_its_error_to_itself():
    async def fails() -> None:
        raise ZeroDivisionError

    task = asyncio.create_task(fails())
    await asyncio.wait([task])
    await end_tasks([task])
    assert isinstance(task.exception(), ZeroDivisionError)


async def test_there_may_be_nothing_to_end():
    await end_tasks([])

"""Tasks that run beside us, and their end."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

_AGAIN_SECONDS = 1.0


async def end_tasks(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancels the tasks and returns when every one of them has ended.

    Asks more than once: `asyncio.wait_for`, which the broker's client uses, forgets a cancellation that arrives
    together with the answer it waits for, and a task that works for ever would then do so.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN_SECONDS)

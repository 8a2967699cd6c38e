"""The loop that publishes: woken by commits, looking by itself, and patient with a bus that is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from services.billing import events
from services.billing.events import AccountEvents
from services.shared.bus import BusError
from services.shared.tasks import end_tasks
from services.shared.testing import eventually


class OutboxStandIn:
    """Counts how often it is to publish, and fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.asked = 0
        self._failures = failures

    async def publish(self) -> int:
        self.asked += 1
        if self.asked <= self._failures:
            raise BusError("away")
        return 0


Start = Callable[[OutboxStandIn], Awaitable[AccountEvents]]


@pytest.fixture
async def running() -> AsyncIterator[Start]:
    """`await running(outbox)`: the loop over this outbox, which has looked once; ended with the test."""
    tasks: list[asyncio.Task[None]] = []

    async def start(outbox: OutboxStandIn) -> AccountEvents:
        publisher = AccountEvents(outbox)  # type: ignore[arg-type]  # the loop asks nothing else of it
        tasks.append(asyncio.create_task(publisher.run()))
        await eventually(lambda: _asked(outbox, 1))
        return publisher

    yield start
    await end_tasks(tasks)


async def test_a_commit_wakes_it(running: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LOOK_SECONDS", 3600.0)
    outbox = OutboxStandIn()
    publisher = await running(outbox)
    publisher.committed()
    await eventually(lambda: _asked(outbox, 2))


async def test_it_looks_without_being_told(running: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LOOK_SECONDS", 0.01)
    outbox = OutboxStandIn()
    await running(outbox)
    await eventually(lambda: _asked(outbox, 3))


async def test_a_bus_that_is_away_is_asked_again_after_a_pause(running: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LOOK_SECONDS", 3600.0)
    outbox = OutboxStandIn(failures=2)
    publisher = await running(outbox)
    for _ in range(100):
        publisher.committed()
        await asyncio.sleep(0)
    assert outbox.asked == 1
    await eventually(lambda: _asked(outbox, 3))


async def _asked(outbox: OutboxStandIn, times: int) -> bool:
    return outbox.asked >= times

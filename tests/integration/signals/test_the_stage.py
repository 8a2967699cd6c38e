"""From market updates on the bus to the feed and on: each signal once, whatever repeats and wherever batches end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import select
from stratum.signals.v1.events_pb2 import SignalDetected
from stratum.signals.v1.signal_pb2 import Signal

from services.shared.bus import MARKETS, SIGNALS, Bus
from services.shared.database import Database
from services.shared.stage import Stage
from services.shared.testing import eventually, stored
from services.signals import render, store, wire
from services.signals.events import SignalEvents
from services.signals.feed_testing import a_busy_evening, send
from services.signals.rules import RuleSettings
from services.signals.testing import tell


@asynccontextmanager
async def running(database: Database, bus: Bus, batch_size: int = 500) -> AsyncIterator[Stage[Any, Any]]:
    """The stage at work."""
    fold = SignalEvents(RuleSettings(), received=lambda: None)
    stage = Stage("signals", database, bus, fold, MARKETS, SIGNALS, store.stage, batch_size=batch_size)
    task = asyncio.create_task(stage.run())
    try:
        yield stage
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def feed_of(database: Database) -> list[Signal]:
    """All signals of the feed, in its order."""
    async with database.begin() as connection:
        rows = await connection.execute(select(store.signal.c.full).order_by(store.signal.c.feed_position))
        return [Signal.FromString(full) for full in rows.scalars()]


async def spans_of(database: Database) -> list[tuple[Any, ...]]:
    """All suppressions, without when they were written."""
    kept = [column for column in store.suppression.c if column.name != "inserted_at"]
    async with database.begin() as connection:
        return [tuple(row) for row in await connection.execute(select(*kept).order_by(store.suppression.c.id))]


@pytest.mark.parametrize("batch_size", [1, 7, 500])
async def test_the_feed_holds_what_the_rules_say_wherever_batches_end(
    database_for: Any, bus: Bus, batch_size: int
) -> None:
    boards = a_busy_evening()
    told = tell(boards)
    assert told.signals
    await send(bus, [board.observation for board in boards])
    database = await database_for("signals")
    async with running(database, bus, batch_size) as stage:
        await eventually(stage.drained, within=30.0)
    feed = await feed_of(database)
    expected = [render.replay_line(wire.signal(signal)) for signal in told.signals]
    assert [render.replay_line(signal) for signal in feed] == expected
    assert len(await spans_of(database)) == len(told.log)


async def test_each_signal_leaves_once_and_as_the_feed_shows_it(database_for: Any, bus: Bus) -> None:
    boards = a_busy_evening()
    await send(bus, [board.observation for board in boards])
    database = await database_for("signals")
    async with running(database, bus) as stage:
        await eventually(stage.drained, within=30.0)
    sent = [SignalDetected.FromString(delivery.payload).signal for delivery in await stored(bus, SIGNALS)]
    assert [render.replay_line(signal) for signal in sent] == [
        render.replay_line(signal) for signal in await feed_of(database)
    ]


async def test_updates_that_come_a_second_time_add_nothing(database_for: Any, bus: Bus) -> None:
    observations = [board.observation for board in a_busy_evening()]
    await send(bus, observations)
    database = await database_for("signals")
    async with running(database, bus) as stage:
        await eventually(stage.drained, within=30.0)
    before, spans = await feed_of(database), await spans_of(database)
    # A stream that was made again: every position begins anew, and everything is read again.
    await bus.delete_stream(MARKETS)
    await bus.ensure_stream(MARKETS)
    await send(bus, observations)
    async with running(database, bus) as stage:
        await eventually(stage.drained, within=30.0)
    assert await feed_of(database) == before
    assert await spans_of(database) == spans


async def test_the_configuration_behind_a_signal_is_kept(database_for: Any, bus: Bus) -> None:
    await send(bus, [board.observation for board in a_busy_evening()])
    database = await database_for("signals")
    async with running(database, bus) as stage:
        await eventually(stage.drained, within=30.0)
    first = (await feed_of(database))[0]
    kept = json.loads((await store.SignalStore(database).get(first.id)).configuration)
    assert kept["steam_min_books"] == RuleSettings().steam_min_books
    assert first.config_hash == RuleSettings().config_hash

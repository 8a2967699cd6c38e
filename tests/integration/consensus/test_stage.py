"""Observations through the real bus and database: rows, markets and answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, text
from stratum.consensus.v1.events_pb2 import MarketsUpdated

from services.consensus import store
from services.consensus.board import BoardRules
from services.consensus.events import ConsensusFold
from services.consensus.model import Observation
from services.consensus.testing import EVENT, H2H, NOW, SPREADS, TOTALS, Feed, event_observed
from services.shared.bus import MARKETS, OBSERVATIONS, Bus, Outgoing
from services.shared.database import Database
from services.shared.stage import Stage
from services.shared.testing import eventually, stored

FIVE = {"betmgm": -6.0, "caesars": -6.0, "draftkings": -6.5, "fanduel": -6.5, "pinnacle": -6.0}
TABLES = (store.games, store.consensus_snapshots, store.quote_history, store.current_market)


@pytest.fixture
async def database(database_for: Any) -> Database:
    return await database_for("consensus")


def a_busy_evening(keyframes: bool = True, event_id: str = EVENT) -> list[Observation]:
    """Two hours of one game: it moves, a book leaves and returns, a market ends, and the game begins."""
    feed = Feed(event_id=event_id, commence_time=NOW + timedelta(minutes=100))
    feed.board(SPREADS, FIVE)
    feed.board(TOTALS, dict.fromkeys(FIVE, 220.5))
    for book in FIVE:
        feed.quote(H2H, book, None, 1.5, 2.7)
    seen = [feed.observe()]
    for minute in range(1, 120):
        if minute % 7 == 0:
            feed.quote(SPREADS, "betmgm", -6.0 - minute % 3 / 2)
        if minute == 20:
            feed.drop(SPREADS, "pinnacle")
        if minute == 25:
            feed.quote(SPREADS, "pinnacle", -7.0)
        if minute == 60:
            for book in FIVE:
                feed.drop(TOTALS, book)
        seen.append(feed.observe(keyframe=keyframes and minute % 10 == 0))
    return seen


async def publish(bus: Bus, observations: Sequence[Observation]) -> None:
    await bus.publish(
        OBSERVATIONS,
        [
            Outgoing(seen.event_id, f"{seen.event_id}:{seen.revision}", event_observed(seen).SerializeToString())
            for seen in observations
        ],
    )


def a_stage(database: Database, bus: Bus, batch_size: int = 500, **options: Any) -> Stage[Any, Any]:
    rules = BoardRules(config_hash="the configuration")
    return Stage(
        "consensus",
        database,
        bus,
        ConsensusFold(rules),
        OBSERVATIONS,
        MARKETS,
        store.stage,
        batch_size=batch_size,
        **options,
    )


@asynccontextmanager
async def running(stage: Stage[Any, Any]) -> AsyncIterator[None]:
    task = asyncio.create_task(stage.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def everything(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    async with database.begin() as connection:
        return {
            table.name: [tuple(row) for row in await connection.execute(select(table).order_by(*table.primary_key))]
            for table in TABLES
        }


async def updates(bus: Bus) -> list[MarketsUpdated]:
    return [MarketsUpdated.FromString(delivery.payload) for delivery in await stored(bus, MARKETS)]


async def test_each_observation_becomes_exactly_one_update(database: Database, bus: Bus):
    evening = a_busy_evening()
    stage = a_stage(database, bus)
    await publish(bus, evening)
    async with running(stage):
        await eventually(stage.drained)
    told = await updates(bus)
    assert [update.event.revision for update in told] == list(range(1, len(evening) + 1))
    assert [update.event.previous_revision for update in told] == list(range(len(evening)))
    assert [update.event.keyframe for update in told] == [seen.keyframe for seen in evening]
    assert {update.config_hash for update in told} == {"the configuration"}
    assert [[key.market for key in update.removed] for update in told if update.removed] == [["totals"]]
    assert {len(update.updated) for update in told if update.event.keyframe} == {2, 3}


async def test_rows_are_written_with_what_they_led_to(database: Database, bus: Bus):
    stage = a_stage(database, bus)
    await publish(bus, a_busy_evening())
    async with running(stage):
        await eventually(stage.drained)
    found = await everything(database)
    async with database.begin() as connection:
        heartbeats = await connection.scalar(
            text("SELECT count(*) FROM consensus.consensus_snapshots WHERE market = 'h2h' AND heartbeat")
        )
        gone = await connection.scalar(text("SELECT count(*) FROM consensus.quote_history WHERE price IS NULL"))
    assert len(found["games"]) == 1
    assert [row[1] for row in found["current_market"]] == ["h2h", "spreads"]
    # Steady for two hours but for the start, which is a row of its own: nine heartbeats before it, one after.
    assert heartbeats == 10
    assert gone == 6


@pytest.mark.parametrize("batch_size", [1, 7])
async def test_where_a_batch_is_cut_changes_nothing(database_for: Any, bus: Bus, batch_size: int):
    results = []
    for size in (500, batch_size):
        database = await database_for("consensus")
        for spec in (OBSERVATIONS, MARKETS):
            await bus.delete_stream(spec)
            await bus.ensure_stream(spec)
        stage = a_stage(database, bus, size)
        await publish(bus, a_busy_evening())
        async with running(stage):
            await eventually(stage.drained, within=60)
        results.append((await everything(database), [update.SerializeToString() for update in await updates(bus)]))
    assert results[0] == results[1]


async def test_rows_do_not_depend_on_keyframes(database_for: Any, bus: Bus):
    results = []
    for keyframes in (True, False):
        database = await database_for("consensus")
        for spec in (OBSERVATIONS, MARKETS):
            await bus.delete_stream(spec)
            await bus.ensure_stream(spec)
        stage = a_stage(database, bus)
        await publish(bus, a_busy_evening(keyframes))
        async with running(stage):
            await eventually(stage.drained)
        results.append(await everything(database))
    assert results[0] == results[1]


async def test_a_missed_message_is_asked_for_and_the_keyframe_heals_it(database: Database, bus: Bus):
    evening = a_busy_evening()
    asked: list[str] = []

    async def ask(event_id: str) -> None:
        asked.append(event_id)

    stage = a_stage(database, bus, on_gap=ask)
    await publish(bus, evening[:3] + evening[4:8])

    async def was_asked() -> bool:
        return bool(asked)

    async with running(stage):
        await eventually(was_asked)
        await publish(bus, evening[8:30])
        await eventually(stage.drained)
    told = await updates(bus)
    # Observations 5 to 10 wait; the tenth minute's keyframe goes on, under our own unbroken count.
    assert [update.event.revision for update in told] == list(range(1, 3 + 20 + 1))
    assert told[3].event.keyframe
    assert set(asked) == {EVENT}


async def test_a_message_that_nobody_can_read_goes_to_the_dead_letters(database: Database, bus: Bus):
    evening = a_busy_evening()
    broken = event_observed(evening[1])
    broken.changes.add(book="betmgm").key.market = "spreads_lay"
    stage = a_stage(database, bus)
    await publish(bus, evening[:1])
    await bus.publish(OBSERVATIONS, [Outgoing(EVENT, f"{EVENT}:broken", broken.SerializeToString())])
    await publish(bus, evening[2:12])
    async with running(stage):
        await eventually(stage.drained)
    async with database.begin() as connection:
        reasons = list(await connection.scalars(text("SELECT reason FROM consensus.dead_letter")))
    assert len(reasons) == 1
    assert "spreads_lay" in reasons[0]
    assert [update.event.keyframe for update in await updates(bus)] == [True, True, False]


async def test_games_are_kept_apart(database: Database, bus: Bus):
    stage = a_stage(database, bus)
    both = zip(a_busy_evening(event_id="a" * 32), a_busy_evening(event_id="b" * 32), strict=True)
    await publish(bus, [seen for pair in both for seen in pair])
    async with running(stage):
        await eventually(stage.drained)
    told = await updates(bus)
    for event_id in ("a" * 32, "b" * 32):
        revisions = [update.event.revision for update in told if update.event.event_id == event_id]
        assert revisions == list(range(1, 121))

"""The walk through the past: the same rows and messages, however it is cut and whoever dies."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from services.ingest import store
from services.ingest.backfill import Backfill, BackfillError
from services.ingest.config import Config
from services.ingest.provider import OddsApi, open_session
from services.ingest.store import Cursor
from services.ingest.testing import SPORT, START, FakeProvider, a_book, an_event, minutes, spreads, totals
from services.shared.bus import OBSERVATIONS, Bus
from services.shared.database import Database
from services.shared.outbox import Outbox
from services.shared.testing import settings, stored

ANSWERS = 60
UNTIL = START + minutes(15 * (ANSWERS - 1))
KEPT = ("games", "game_starts", "odds_snapshots", "disappearances", "polls", "event_state", "backfills", "tallies")


def a_past(seed: int = 7) -> list[tuple[Any, Any]]:
    """Fifteen-minute samples of four games whose books move, vanish and return; the last one is put up later."""
    chance = random.Random(seed)
    past = []
    for number in range(ANSWERS):
        at = START + minutes(15 * number)
        events = []
        for game in range(4):
            books = [
                a_book(
                    key,
                    spreads(-5.5 + chance.choice([0, 0, 0.5, 1]), last_update=at - minutes(chance.random())),
                    *([totals(220 + chance.choice([0, 1]))] if chance.random() < 0.9 else []),
                )
                for key in ("draftkings", "betmgm", "fanduel")
                if chance.random() < 0.9
            ]
            if chance.random() < 0.95 and (game < 3 or number >= 20):
                events.append(
                    an_event(*books, event_id=f"game{game}", commence_time=START + timedelta(hours=20 + game))
                )
        past.append((at, events))
    return past


class DeathError(Exception):
    """What a test kills the walk with."""


@pytest.fixture
async def api(provider: FakeProvider) -> AsyncIterator[OddsApi]:
    """The client, aimed at the test's past."""
    provider.remembers(a_past())
    async with open_session() as session:
        yield OddsApi(session, config_for(provider))


def config_for(provider: FakeProvider, **given: Any) -> Config:
    """Settings that ask the test's provider."""
    return settings(
        Config, odds_api_key=SecretStr("key"), odds_api_base_url=provider.url, ingest_lease_seconds=1.0, **given
    )


async def everything(database: Database, bus: Bus) -> dict[str, list[Any]]:
    """All rows that are kept, and all messages."""
    found: dict[str, list[Any]] = {}
    async with database.begin() as connection:
        for table in KEPT:
            rows = await connection.execute(text(f"SELECT * FROM ingest.{table} ORDER BY 1, 2, 3"))
            found[table] = sorted((told_apart(row._asdict()) for row in rows), key=repr)
    messages = [(delivery.event_id, delivery.payload) for delivery in await stored(bus, OBSERVATIONS)]
    # Order is promised within an event.
    found["messages"] = sorted(messages, key=lambda message: message[0])
    return found


def told_apart(row: dict[str, Any]) -> tuple[Any, ...]:
    """A row's values. How much of a state is in its base depends on who wrote it, and what it says does not."""
    return tuple(store.state_from(value) if name == "state" else value for name, value in row.items())


async def start_over(bus: Bus) -> None:
    """Empties the stream."""
    await bus.delete_stream(OBSERVATIONS)
    await bus.ensure_stream(OBSERVATIONS)


async def test_a_walk_that_dies_anywhere_leaves_what_an_undisturbed_one_does(
    provider: FakeProvider, api: OddsApi, database_for: Callable[[str], Awaitable[Database]], bus: Bus
) -> None:
    undisturbed = await database_for("ingest")
    await walk(provider, api, undisturbed, bus, batch=16)
    expected = await everything(undisturbed, bus)
    assert len(expected["polls"]) == ANSWERS
    assert len(expected["messages"]) >= ANSWERS * 3

    await start_over(bus)
    killed = await database_for("ingest")
    deaths = 0
    while True:

        def dies(_cursor: Cursor) -> None:
            raise DeathError

        try:
            await walk(provider, api, killed, bus, batch=7, progress=dies)
            break
        except DeathError:
            deaths += 1
    assert deaths >= ANSWERS // 7
    assert await everything(killed, bus) == expected


async def test_a_finished_walk_has_nothing_more_to_do(
    provider: FakeProvider, api: OddsApi, database: Database, bus: Bus
) -> None:
    await walk(provider, api, database, bus)
    asked = len(provider.requests)
    await walk(provider, api, database, bus)
    assert len(provider.requests) == asked


async def test_the_interval_is_the_median_of_the_last_gaps(
    provider: FakeProvider, api: OddsApi, database: Database, bus: Bus
) -> None:
    await walk(provider, api, database, bus)
    async with database.begin() as connection:
        cursor = await store.load_cursor(connection, SPORT, START, UNTIL)
    assert (cursor.next_date, cursor.timestamp, cursor.responses) == (None, UNTIL, ANSWERS)
    assert cursor.gaps == (900.0,) * 20


async def test_an_answer_from_before_the_walk_is_not_kept(
    provider: FakeProvider, api: OddsApi, database: Database, bus: Bus
) -> None:
    await walk(provider, api, database, bus, since=START + minutes(20), until=START + minutes(50))
    async with database.begin() as connection:
        times = (await connection.scalars(text("SELECT observed_at FROM ingest.polls ORDER BY 1"))).all()
    assert times == [START + minutes(30), START + minutes(45)]


async def test_somebody_who_polls_keeps_the_walk_waiting_and_then_away(
    provider: FakeProvider, api: OddsApi, database: Database, bus: Bus
) -> None:
    async with database.begin() as connection:
        assert await store.acquire_lease(connection, "the poller", 3600.0)
    with pytest.raises(BackfillError, match="another process polls"):
        await walk(provider, api, database, bus)


async def test_the_providers_past_is_not_bought_by_accident(api: OddsApi, database: Database, bus: Bus) -> None:
    config = settings(Config, odds_api_key=SecretStr("key"))
    outbox = Outbox(database, bus, store.stage, OBSERVATIONS)
    with pytest.raises(BackfillError, match="ODDS_API_HISTORICAL_ENABLED"):
        await Backfill(config, api, database, outbox, "here").run(SPORT, START, UNTIL, print)


async def walk(
    provider: FakeProvider,
    api: OddsApi,
    database: Database,
    bus: Bus,
    batch: int = 16,
    progress: Callable[[Cursor], None] = lambda _cursor: None,
    since: Any = START,
    until: Any = UNTIL,
) -> None:
    """One run of the command."""
    outbox = Outbox(database, bus, store.stage, OBSERVATIONS)
    config = config_for(provider, ingest_backfill_batch=batch)
    await Backfill(config, api, database, outbox, "here").run(SPORT, since, until, progress)

"""The ledger on a real database: whatever retries, dies or runs twice, the budget is never exceeded."""

from __future__ import annotations

import asyncio
import random
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.ingest import store
from services.ingest.costs import Endpoint
from services.ingest.ledger import CreditLedger
from services.ingest.poller import acquire
from services.ingest.provider import Asked, BudgetExhausted, Quota
from services.ingest.recorder import Recorder
from services.ingest.store import LeaseLost, Limits
from services.ingest.testing import SPORT, START
from services.shared.database import Database
from services.shared.outbox import Outbox

ODDS = Asked(Endpoint.ODDS, f"/v4/sports/{SPORT}/odds", credits=3)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """It stands at the start."""
    return Clock()


def a_ledger(database: Database, clock: Clock, day: int | None = 1000, month: int | None = 1000) -> CreditLedger:
    """A ledger of a poller whose lease nobody disputes: what is left is the budget's own lock."""
    return CreditLedger(database, database.begin, 1, Limits(day, month), clock)


async def spent(database: Database, period: str = "month") -> int:
    """What the newest day or month has spent."""
    async with database.begin() as connection:
        statement = text("SELECT spent FROM ingest.credit_budgets WHERE period = :period ORDER BY begins DESC LIMIT 1")
        return int(await connection.scalar(statement, {"period": period}) or 0)


async def reservations(database: Database) -> list[tuple[Any, ...]]:
    """Sport, endpoint, attempt, forecast and cost of each, and whether it is settled."""
    async with database.begin() as connection:
        statement = (
            "SELECT sport_key, endpoint, attempt, forecast, cost, settled_at IS NOT NULL "
            "FROM ingest.credit_reservations ORDER BY id"
        )
        return [tuple(row) for row in await connection.execute(text(statement))]


async def test_a_reservation_is_spent_before_the_call_and_becomes_what_the_call_cost(
    database: Database, clock: Clock
) -> None:
    ledger = a_ledger(database, clock)
    reservation = await ledger.reserve(ODDS, 1)
    assert await spent(database) == 3
    assert await reservations(database) == [(SPORT, "odds", 1, 3, None, False)]
    await ledger.settle(reservation, Quota(last=1))
    await ledger.settle(reservation, Quota(last=0))
    assert (await spent(database), await spent(database, "day")) == (1, 1)
    assert await reservations(database) == [(SPORT, "odds", 1, 3, 1, True)]


async def test_a_call_that_does_not_report_keeps_its_forecast(database: Database, clock: Clock) -> None:
    ledger = a_ledger(database, clock)
    await ledger.settle(await ledger.reserve(ODDS, 1), Quota())
    await ledger.reserve(ODDS, 2)
    assert await spent(database) == 6


async def test_the_budget_outlives_a_restart_and_returns_when_the_day_and_the_month_turn(
    database: Database, clock: Clock
) -> None:
    await a_ledger(database, clock, day=4, month=6).reserve(ODDS, 1)
    with pytest.raises(BudgetExhausted, match="day_budget"):
        await a_ledger(database, clock, day=4, month=6).reserve(ODDS, 1)
    clock.now += timedelta(days=1)
    await a_ledger(database, clock, day=4, month=6).reserve(ODDS, 1)
    clock.now += timedelta(days=1)
    with pytest.raises(BudgetExhausted, match="month_budget"):
        await a_ledger(database, clock, day=4, month=6).reserve(ODDS, 1)
    clock.now = START.replace(month=2, day=1, hour=0)
    await a_ledger(database, clock, day=4, month=6).reserve(ODDS, 1)
    assert await spent(database) == 3


async def test_a_call_of_the_old_month_that_reports_in_the_new_one_is_settled_in_the_old(
    database: Database, clock: Clock
) -> None:
    ledger = a_ledger(database, clock)
    clock.now = START.replace(day=31, hour=23, minute=59)
    late = await ledger.reserve(ODDS, 1)
    clock.now = START.replace(month=2, day=1, hour=0)
    await ledger.reserve(ODDS, 1)
    await ledger.settle(late, Quota(last=1, remaining=0))
    assert await spent(database) == 3
    await ledger.reserve(ODDS, 1)


async def test_what_the_provider_has_left_bounds_too_and_counts_calls_that_it_does_not_know_of(
    database: Database, clock: Clock
) -> None:
    ledger = a_ledger(database, clock, None, None)
    first = await ledger.reserve(ODDS, 1)
    second = await ledger.reserve(ODDS, 1)
    await ledger.settle(first, Quota(last=3, remaining=7))
    await ledger.reserve(ODDS, 1)
    with pytest.raises(BudgetExhausted, match="provider_credits"):
        await ledger.reserve(ODDS, 1)
    await ledger.settle(second, Quota(last=3, remaining=4))
    with pytest.raises(BudgetExhausted):
        await ledger.reserve(ODDS, 1)
    await ledger.settle(None, Quota(remaining=500))
    await ledger.reserve(ODDS, 1)


@pytest.mark.parametrize("seed", range(3))
async def test_two_pollers_that_reserve_at_the_same_time_never_spend_more_than_there_is(
    database: Database, clock: Clock, seed: int
) -> None:
    chance = random.Random(seed)
    budget = 100
    waiting = asyncio.Barrier(2)
    made: list[int] = []
    reported = kept = 0

    async def poller() -> None:
        nonlocal reported, kept
        ledger = a_ledger(database, clock, day=None, month=budget)
        await waiting.wait()
        while True:
            asked = Asked(Endpoint.ODDS, f"/v4/sports/{SPORT}/odds", credits=chance.randint(1, 6))
            try:
                reservation = await ledger.reserve(asked, 1)
            except BudgetExhausted:
                return
            made.append(asked.credits)
            assert await spent(database) <= budget
            if chance.random() < 0.3:
                kept += asked.credits
                continue
            cost = chance.randint(0, asked.credits)
            reported += cost
            await ledger.settle(reservation, Quota(last=cost))

    await asyncio.gather(poller(), poller())
    assert len(made) > 20
    assert await spent(database) == reported + kept <= budget


async def test_two_who_want_the_last_credits_do_not_both_get_them(database: Database, clock: Clock) -> None:
    for _ in range(10):
        async with database.begin() as connection:
            await connection.execute(text("DELETE FROM ingest.credit_budgets"))
        outcomes = await asyncio.gather(
            *(a_ledger(database, clock, month=3).reserve(ODDS, 1) for _ in range(2)), return_exceptions=True
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["BudgetExhausted", "int"]


async def test_a_poller_whose_term_is_over_reserves_nothing(database: Database, outbox: Outbox, clock: Clock) -> None:
    old = await acquire(database, "one", 0.0)
    assert old is not None
    assert await acquire(database, "two", 10.0) is not None
    stale = Recorder(database, outbox, old, 10.0, 1.0)
    with pytest.raises(LeaseLost):
        await CreditLedger(database, stale.transaction, stale.term, Limits(10, 10), clock).reserve(ODDS, 1)
    assert await reservations(database) == []


async def test_each_watcher_has_a_list_of_its_own(database: Database) -> None:
    async def watched(connection: AsyncConnection) -> dict[str, tuple[str, ...]]:
        return await store.load_watched(connection)

    async with database.begin() as connection:
        await store.set_watched(connection, "alerts", ["a", "b", "b"])
        await store.set_watched(connection, "admin", ["b"])
        assert await watched(connection) == {"a": ("alerts",), "b": ("admin", "alerts")}
        await store.set_watched(connection, "alerts", [])
        assert await watched(connection) == {"b": ("admin",)}

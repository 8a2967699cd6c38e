"""Thresholds are said once for each account, period and threshold: whatever dies, arrives late or comes together."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection
from stratum.billing.v1.events_pb2 import AccountEvent

from services.billing.metering_testing import (
    NOON,
    Metering,
    PlainAnnouncer,
    Time,
    WaitingAnnouncer,
    a_line,
    lines,
    open_account,
)
from services.shared.database import Database
from services.shared.testing import eventually

MARCH = datetime(2026, 3, 1, tzinfo=UTC)
APRIL = datetime(2026, 4, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
async def database(database_for: Any) -> Database:
    """Billing's, with an account that has 100 units in a month."""
    made: Database = await database_for("billing")
    await open_account(made, soft_limit=100)
    return made


async def said(metering: Metering) -> list[int]:
    """The thresholds that were said, in their order; and each is noted."""
    events = await metering.said("usage_threshold_reached")
    assert len({event.id for event in events}) == len(events)
    noted = await metering.scalar("SELECT count(*) FROM billing.usage_notice")
    assert noted == len(events)
    await metering.sums()
    return [event.usage_threshold_reached.threshold_percent for event in events]


async def test_each_threshold_is_said_when_it_is_reached(metering: Metering) -> None:
    heard = []
    for number in (79, 80, 99, 100, 119, 120, 300):
        await metering.record(lines(number))
        heard.append(await said(metering))
    assert heard == [[], [80], [80], [80, 100], [80, 100], [80, 100, 120], [80, 100, 120]]


async def test_a_notice_says_what_is_used_of_what_and_when_it_was_reached(metering: Metering) -> None:
    await metering.record(lines(85))
    (event,) = await metering.said("usage_threshold_reached")
    reached = event.usage_threshold_reached
    assert (event.account_id, reached.used_units, reached.included_units) == ("acct-a", 85, 100)
    assert reached.period_start.ToDatetime(UTC) == MARCH
    assert reached.period_end.ToDatetime(UTC) == APRIL
    at = await metering.scalar("SELECT reached_at FROM billing.usage_notice")
    assert at == NOON + timedelta(seconds=79)


async def test_one_batch_may_reach_all_of_them(metering: Metering) -> None:
    await metering.record(lines(500))
    assert await said(metering) == [80, 100, 120]


class DyingError(Exception):
    """The process is gone."""


class DyingAnnouncer(PlainAnnouncer):
    """Dies after it has said a threshold, before the commit."""

    async def say(self, connection: AsyncConnection, event: AccountEvent) -> None:
        await super().say(connection, event)
        if event.WhichOneof("event") == "usage_threshold_reached":
            raise DyingError


async def test_a_process_that_dies_while_it_says_a_threshold_leaves_it_to_the_next(metering: Metering) -> None:
    await metering.record(lines(70))
    dying = Metering(metering.database, announcer=DyingAnnouncer())
    with pytest.raises(DyingError):
        await dying.record(lines(90))
    assert await said(metering) == []
    restarted = Metering(metering.database)
    await restarted.record(lines(90))
    assert await said(restarted) == [80]


async def test_a_restart_after_the_commit_says_nothing_again(metering: Metering) -> None:
    await metering.record(lines(90))
    restarted = Metering(metering.database)
    await restarted.record(lines(90))
    await restarted.record(lines(95))
    assert await said(restarted) == [80]


async def test_two_who_reach_a_threshold_together_say_it_once(database: Database) -> None:
    first, second = Metering(database), Metering(database)
    await first.set_clock(NOON - HOUR)
    await first.record(lines(79))
    batches = [lines(20, NOON + timedelta(seconds=30), f"batch-{number}") for number in range(6)]
    await asyncio.gather(*((first, second)[number % 2].record(batch) for number, batch in enumerate(batches)))
    assert sorted(await said(first)) == [80, 100, 120]
    assert await first.sums() == {("acct-a", MARCH): 199}


async def test_whoever_counts_for_an_account_waits_for_the_one_before_him(database: Database) -> None:
    announcer = WaitingAnnouncer()
    first, second = Metering(database, announcer=announcer), Metering(database)
    await second.set_clock(NOON - HOUR)
    await second.record(lines(79))
    begun = asyncio.create_task(first.record(lines(2, NOON, "first")))
    await announcer.waiting.wait()
    behind = asyncio.create_task(second.record(lines(30, NOON, "second")))
    await eventually(second.somebody_waits)
    announcer.let_go.set()
    await asyncio.gather(begun, behind)
    assert await said(second) == [80, 100]
    assert await second.scalar("SELECT overage_units FROM billing.usage_period") == 11


async def test_a_raised_limit_is_not_reached_twice(metering: Metering) -> None:
    await metering.record(lines(100))
    await metering.set_limit(200)
    await metering.record(lines(200))
    assert await said(metering) == [80, 100]
    await metering.record(lines(240))
    assert await said(metering) == [80, 100, 120]
    overage = "SELECT overage_units FROM billing.usage_period"
    assert await metering.scalar(overage) == 40


async def test_a_lowered_limit_is_said_with_the_next_call(metering: Metering) -> None:
    await metering.record(lines(60))
    await metering.set_limit(50)
    await metering.record(lines(61))
    assert await said(metering) == [80, 100, 120]


async def test_each_period_has_its_own(database: Database) -> None:
    metering = Metering(database, Time(APRIL + timedelta(minutes=5)))
    await metering.set_clock(APRIL - HOUR)
    await metering.record([*lines(90, APRIL - timedelta(minutes=5), "march"), *lines(85, APRIL, "april")])
    events = await metering.said("usage_threshold_reached")
    starts = [event.usage_threshold_reached.period_start.ToDatetime(UTC) for event in events]
    assert starts == [MARCH, APRIL]


async def test_a_late_line_that_reaches_a_threshold_of_a_period_that_is_over_says_so(metering: Metering) -> None:
    await metering.record(lines(79))
    metering.time.now = APRIL + timedelta(days=2)
    await metering.set_clock(APRIL + timedelta(days=1))
    await metering.record([a_line("late", NOON + timedelta(minutes=30))])
    assert await said(metering) == [80]


async def test_a_plan_without_units_has_no_shares_to_reach(metering: Metering) -> None:
    await metering.set_limit(0)
    await metering.record(lines(50))
    assert await said(metering) == []
    assert await metering.scalar("SELECT overage_units FROM billing.usage_period") == 50

"""Hours are closed once, what comes later is billed in an open one, and an hour unlike the past is said once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection
from stratum.billing.v1.events_pb2 import AccountEvent, UsageAnomaly

from services.billing.metering import Sealer, seal_failures_total
from services.billing.metering_testing import (
    NOON,
    Metering,
    PlainAnnouncer,
    WaitingAnnouncer,
    a_line,
    lines,
    open_account,
)
from services.shared.database import Database
from services.shared.tasks import end_tasks
from services.shared.testing import eventually

MARCH = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
#: When the hour from eleven to noon is due.
DUE = NOON + 10 * MINUTE


@pytest.fixture
async def database(database_for: Any) -> Database:
    """Billing's, with two accounts."""
    made: Database = await database_for("billing")
    await open_account(made, soft_limit=10)
    await open_account(made, "acct-b")
    return made


async def sealed(metering: Metering) -> list[tuple[datetime, bool]]:
    """The hours that something is billed in, and whether each is closed."""
    rows = await metering.rows("SELECT DISTINCT hour, sealed_at IS NOT NULL FROM billing.usage_rollup ORDER BY hour")
    return [(hour, closed) for hour, closed in rows]


async def test_an_hour_is_closed_ten_minutes_after_its_end(metering: Metering) -> None:
    await metering.record(lines(3, NOON - 5 * MINUTE))
    metering.time.now = DUE - timedelta(seconds=1)
    assert await metering.sealer.seal_due() == []
    metering.time.now = DUE
    assert [(closed.hour, closed.rollups) for closed in await metering.sealer.seal_due()] == [(NOON - HOUR, 1)]
    assert await sealed(metering) == [(NOON - HOUR, True)]


async def test_the_present_hour_stays_open(metering: Metering) -> None:
    await metering.record([a_line("before", NOON - MINUTE), a_line("now")])
    metering.time.now = DUE
    await metering.sealer.seal_due()
    assert await sealed(metering) == [(NOON - HOUR, True), (NOON, False)]


async def test_hours_without_use_make_no_rows(metering: Metering) -> None:
    metering.time.now = DUE + 5 * HOUR
    assert len(await metering.sealer.seal_due()) == 6
    assert await sealed(metering) == []


async def test_after_an_outage_all_hours_are_closed_one_after_the_other(metering: Metering) -> None:
    await metering.record([a_line("one", NOON - MINUTE), a_line("two")])
    metering.time.now = DUE + 48 * HOUR
    closed = await metering.sealer.seal_due()
    assert [each.hour for each in closed] == [NOON + number * HOUR for number in range(-1, 48)]
    assert await sealed(metering) == [(NOON - HOUR, True), (NOON, True)]
    assert await metering.sealer.seal_due() == []


async def test_a_late_line_is_billed_in_the_oldest_open_hour_and_says_so(metering: Metering) -> None:
    metering.time.now = DUE
    await metering.sealer.seal_due()
    await metering.record([a_line("late", NOON - 5 * MINUTE), a_line("in-time")])
    rows = await metering.rows("SELECT request_id, billed_hour, late FROM billing.usage_ledger ORDER BY request_id")
    assert rows == [("in-time", NOON, False), ("late", NOON, True)]
    assert await metering.rows("SELECT units, late_units FROM billing.usage_rollup") == [(2, 1)]
    assert await metering.sums() == {("acct-a", MARCH): 2}


async def test_a_late_line_changes_nothing_that_is_closed(metering: Metering) -> None:
    await metering.record(lines(3, NOON - 5 * MINUTE))
    metering.time.now = DUE
    await metering.sealer.seal_due()
    before = await metering.rows("SELECT * FROM billing.usage_rollup WHERE sealed_at IS NOT NULL")
    await metering.record(lines(30, NOON - 50 * MINUTE, "late"))
    assert await metering.rows("SELECT * FROM billing.usage_rollup WHERE sealed_at IS NOT NULL") == before
    assert await metering.sums() == {("acct-a", MARCH): 33}


async def test_a_late_line_of_a_period_that_is_over_is_billed_for_that_period(metering: Metering) -> None:
    april = datetime(2026, 4, 1, tzinfo=UTC)
    await metering.set_clock(april + HOUR)
    metering.time.now = april + 2 * HOUR
    await metering.record([a_line("late", april - MINUTE), a_line("new", april + 90 * MINUTE)])
    rows = await metering.rows("SELECT hour, period_start, late_units FROM billing.usage_rollup ORDER BY period_start")
    assert rows == [(april + HOUR, MARCH, 1), (april + HOUR, april, 0)]
    assert await metering.sums() == {("acct-a", MARCH): 1, ("acct-a", april): 1}


async def test_overage_is_in_the_hour_in_which_it_was_counted(metering: Metering) -> None:
    await metering.record(lines(8, NOON - 5 * MINUTE, "a"))
    await metering.record(lines(8, NOON, "b"))
    rows = await metering.rows("SELECT hour, units, overage_units FROM billing.usage_rollup ORDER BY hour")
    assert rows == [(NOON - HOUR, 8, 0), (NOON, 8, 6)]
    assert await metering.sums() == {("acct-a", MARCH): 16}


async def test_two_who_close_hours_close_each_once(database: Database) -> None:
    first, second = Metering(database), Metering(database)
    await first.set_clock(NOON - HOUR)
    await first.record([a_line("one", NOON - MINUTE), a_line("two")])
    first.time.now = second.time.now = DUE + 10 * HOUR
    closed = [
        each.hour for both in await asyncio.gather(first.sealer.seal_due(), second.sealer.seal_due()) for each in both
    ]
    assert sorted(closed) == [NOON + number * HOUR for number in range(-1, 10)]
    assert await sealed(first) == [(NOON - HOUR, True), (NOON, True)]


async def test_nothing_is_added_to_an_hour_that_is_closed_while_lines_come(database: Database) -> None:
    counting, closing = Metering(database), Metering(database)
    await counting.set_clock(NOON - 40 * HOUR)
    counting.time.now = closing.time.now = DUE

    async def count() -> None:
        for number in range(40):
            await counting.record(lines(10, NOON - (40 - number) * HOUR, f"r{number}"))

    closed: dict[datetime, Any] = {}

    async def close() -> None:
        for number in range(40):
            await closing.ledger.seal(NOON - (40 - number) * HOUR, DUE, silences=False)
            for row in await closing.rows("SELECT * FROM billing.usage_rollup WHERE sealed_at IS NOT NULL"):
                assert closed.setdefault(row.hour, row) == row

    await asyncio.gather(count(), close())
    await close()
    assert sum((await counting.sums()).values()) == 400
    wrong = (
        "SELECT count(*) FROM billing.usage_ledger WHERE late = (billed_hour = date_trunc('hour', started_at, 'UTC'))"
    )
    assert await counting.scalar(wrong) == 0


async def test_a_batch_that_is_being_counted_is_in_the_hour_that_is_closed_next(metering: Metering) -> None:
    announcer = WaitingAnnouncer()
    counting = asyncio.create_task(
        Metering(metering.database, metering.time, announcer).record(lines(8, NOON - MINUTE))
    )
    await announcer.waiting.wait()
    metering.time.now = DUE
    closing = asyncio.create_task(metering.sealer.seal_due())
    await eventually(metering.somebody_waits)
    announcer.let_go.set()
    assert (await counting).recorded == 8
    assert [closed.rollups for closed in await closing] == [1]
    assert await metering.rows("SELECT units, late_units FROM billing.usage_rollup") == [(8, 0)]


async def test_a_batch_that_comes_while_an_hour_is_being_closed_is_late(metering: Metering) -> None:
    await a_past(metering)
    announcer = WaitingAnnouncer()
    metering.time.now = DUE
    closing = asyncio.create_task(Metering(metering.database, metering.time, announcer).sealer.seal_due())
    await announcer.waiting.wait()
    counting = asyncio.create_task(metering.record([a_line("late", NOON - MINUTE)]))
    await eventually(metering.somebody_waits)
    announcer.let_go.set()
    assert len(await closing) == 1
    assert (await counting).recorded == 1
    assert await metering.rows("SELECT billed_hour, late FROM billing.usage_ledger") == [(NOON, True)]


class DyingError(Exception):
    """The process is gone."""


class DyingAnnouncer(PlainAnnouncer):
    """Dies after it has said an anomaly, before the commit."""

    async def say(self, connection: AsyncConnection, event: AccountEvent) -> None:
        await super().say(connection, event)
        if event.WhichOneof("event") == "usage_anomaly":
            raise DyingError


async def a_past(metering: Metering, account_id: str = "acct-a", units: int = 1000) -> None:
    """28 days in which each hour until eleven was used alike."""
    await metering.rows(
        "INSERT INTO billing.usage_rollup "
        "(account_id, hour, period_start, units, overage_units, late_units, sealed_at) "
        "SELECT :account_id, hour, :period_start, :units, 0, 0, hour "
        "FROM generate_series(CAST(:since AS timestamptz), :until, interval '1 hour') AS hour RETURNING 1",
        account_id=account_id,
        period_start=MARCH,
        units=units,
        since=NOON - HOUR - timedelta(days=28),
        until=NOON - 2 * HOUR,
    )


async def of_the_hour(metering: Metering, units: int, account_id: str = "acct-a", late: int = 0) -> None:
    """What the hour from eleven on holds."""
    await metering.rows(
        "INSERT INTO billing.usage_rollup (account_id, hour, period_start, units, overage_units, late_units) "
        "VALUES (:account_id, :hour, :period_start, :units, 0, :late) RETURNING 1",
        account_id=account_id,
        hour=NOON - HOUR,
        period_start=MARCH,
        units=units,
        late=late,
    )


async def heard(metering: Metering) -> list[tuple[str, str, int]]:
    """The anomalies that were said: account, kind, units. Each is noted once."""
    events = await metering.said("usage_anomaly")
    noted = await metering.rows("SELECT account_id, kind, units FROM billing.usage_anomaly ORDER BY account_id")
    said = [
        (
            event.account_id,
            UsageAnomaly.Kind.Value.Name(event.usage_anomaly.kind),
            event.usage_anomaly.units,
        )
        for event in events
    ]
    assert sorted(said) == [tuple(row) for row in noted]
    return said


async def test_an_hour_with_far_more_than_usual_is_said_once(metering: Metering) -> None:
    await a_past(metering)
    await of_the_hour(metering, 9000)
    metering.time.now = DUE
    await metering.sealer.seal_due()
    await metering.sealer.seal_due()
    assert await heard(metering) == [("acct-a", "SPIKE", 9000)]
    (event,) = await metering.said("usage_anomaly")
    assert event.usage_anomaly.hour.ToDatetime(UTC) == NOON - HOUR
    assert event.usage_anomaly.usual_units == 1000


async def test_an_account_that_fell_silent_is_said(metering: Metering) -> None:
    await a_past(metering)
    metering.time.now = DUE
    await metering.sealer.seal_due()
    assert await heard(metering) == [("acct-a", "SILENCE", 0)]


async def test_when_all_accounts_fall_silent_nobody_is_accused(metering: Metering) -> None:
    await a_past(metering)
    await a_past(metering, "acct-b")
    metering.time.now = DUE
    await metering.sealer.seal_due()
    assert await heard(metering) == []


async def test_after_an_outage_of_ours_no_silence_is_said(metering: Metering) -> None:
    await a_past(metering)
    metering.time.now = DUE + 3 * HOUR
    await metering.sealer.seal_due()
    assert [each for each in await heard(metering) if each[1] == "SILENCE"] == []


async def test_late_units_are_not_of_the_hour_that_they_are_billed_in(metering: Metering) -> None:
    await a_past(metering)
    await of_the_hour(metering, 9000, late=8000)
    metering.time.now = DUE
    await metering.sealer.seal_due()
    assert await heard(metering) == []


async def test_two_who_close_an_hour_say_its_anomaly_once(database: Database) -> None:
    first, second = Metering(database), Metering(database)
    await first.set_clock(NOON - HOUR)
    await a_past(first)
    await a_past(first, "acct-b")
    await of_the_hour(first, 9000)
    await of_the_hour(first, 8000, "acct-b")
    first.time.now = second.time.now = DUE
    await asyncio.gather(first.sealer.seal_due(), second.sealer.seal_due())
    assert sorted(await heard(first)) == [("acct-a", "SPIKE", 9000), ("acct-b", "SPIKE", 8000)]


async def test_who_dies_while_closing_an_hour_leaves_it_open_for_the_next(metering: Metering) -> None:
    await a_past(metering)
    await of_the_hour(metering, 9000)
    dying = Metering(metering.database, metering.time, DyingAnnouncer())
    metering.time.now = DUE
    with pytest.raises(DyingError):
        await dying.sealer.seal_due()
    assert await metering.ledger.sealed_until() == NOON - HOUR
    assert await heard(metering) == []
    await Metering(metering.database, metering.time).sealer.seal_due()
    assert await heard(metering) == [("acct-a", "SPIKE", 9000)]
    assert await metering.ledger.sealed_until() == NOON


async def test_the_loop_goes_on_after_a_failure(metering: Metering) -> None:
    metering.time.now = DUE
    failures = _failures()
    sealer = Sealer(metering.ledger, metering.time, every_seconds=0.02)
    await metering.rows("DELETE FROM billing.usage_clock RETURNING 1")
    running = asyncio.create_task(sealer.run())
    try:

        async def failed() -> bool:
            return _failures() > failures

        await eventually(failed)
        await metering.rows("INSERT INTO billing.usage_clock VALUES (true, :hour) RETURNING 1", hour=NOON - HOUR)

        async def closed() -> bool:
            return await metering.ledger.sealed_until() == NOON

        await eventually(closed)
    finally:
        await end_tasks([running])


def _failures() -> float:
    return sum(sample.value for metric in seal_failures_total.collect() for sample in metric.samples)

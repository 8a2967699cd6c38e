"""Counting in a real database: whatever comes twice, late, together or wrong, all sums agree with the ledger."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from stratum.billing.v1.metering_service_pb2 import UsageLine

from services.billing.ledger import period_at
from services.billing.metering_testing import (
    LIST,
    NOON,
    STREAM,
    UNPAID,
    Metering,
    Time,
    a_line,
    lines,
    open_account,
)
from services.shared.database import Database
from services.shared.errors import InvalidArgument, NotFound

MARCH = datetime(2026, 3, 1, tzinfo=UTC)
APRIL = datetime(2026, 4, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
async def database(database_for: Any) -> Database:
    """Billing's, with one account whose limit is 1,000, and a second one."""
    made: Database = await database_for("billing")
    await open_account(made)
    await open_account(made, "acct-b")
    return made


async def test_what_was_served_is_in_the_ledger_and_in_every_sum(metering: Metering) -> None:
    answer = await metering.record([*lines(3), a_line("refused", status=429), a_line("unpaid", method=UNPAID)])
    assert (answer.recorded, answer.repeated, answer.conflicting, answer.unrated) == (5, 0, 0, 0)
    assert await metering.sums() == {("acct-a", MARCH): 3}
    assert await metering.scalar("SELECT count(*) FROM billing.usage_ledger") == 5
    assert await metering.scalar("SELECT requests FROM billing.usage_day") == 5


async def test_an_empty_batch_is_nothing(metering: Metering) -> None:
    assert not (await metering.record([])).ListFields()
    assert await metering.sums() == {}


async def test_more_than_a_thousand_lines_are_refused_whole(metering: Metering) -> None:
    with pytest.raises(InvalidArgument):
        await metering.record(lines(1001))
    assert await metering.sums() == {}


async def test_a_line_that_comes_again_changes_nothing(metering: Metering) -> None:
    await metering.record(lines(3))
    answer = await metering.record([*lines(3), *lines(3)])
    assert (answer.recorded, answer.repeated) == (0, 6)
    assert await metering.sums() == {("acct-a", MARCH): 3}


async def test_what_was_counted_has_a_new_revision_of_the_access_table_and_a_repeat_none(metering: Metering) -> None:
    await metering.record(lines(3))
    await metering.record(lines(3))
    assert await metering.scalar("SELECT revision FROM billing.account WHERE id = 'acct-a'") == 1
    assert await metering.scalar("SELECT revision FROM billing.access_table") == 1


async def test_calls_that_count_nothing_have_no_new_revision(metering: Metering) -> None:
    await metering.record([a_line(status=503)])
    assert await metering.scalar("SELECT revision FROM billing.access_table") == 0


@pytest.mark.parametrize("seed", range(4))
async def test_any_cut_and_order_with_repeats_gives_the_same_sums(database: Database, seed: int) -> None:
    chance = Random(seed)
    metering = Metering(database)
    await metering.set_clock(NOON - HOUR)
    await metering.set_limit(40)
    one_of = [
        *lines(60, NOON - timedelta(minutes=50), "a"),
        *lines(30, NOON - timedelta(minutes=20), "b", account_id="acct-b", key_id="acct-b-key"),
        *lines(10, NOON, "c", key_id="acct-a-other"),
        *[a_line("stream", NOON - timedelta(minutes=40), method=STREAM, seconds=60 * n) for n in range(1, 25)],
        *[a_line(f"refused-{n}", NOON - timedelta(seconds=n), status=429) for n in range(10)],
    ]
    sent = one_of + chance.sample(one_of, 60)
    chance.shuffle(sent)
    while sent:
        size = chance.randint(1, 40)
        await metering.record(sent[:size])
        sent = sent[size:]
        await metering.sums()
    # 60 + 10 calls and the stream's 23 minutes and a bit, which are five stretches.
    assert await metering.sums() == {("acct-a", MARCH): 75, ("acct-b", MARCH): 30}
    overage = "SELECT overage_units FROM billing.usage_period WHERE account_id = 'acct-a'"
    assert await metering.scalar(overage) == 35
    assert await metering.scalar("SELECT count(*) FROM billing.usage_ledger") == 60 + 30 + 10 + 5 + 10


async def test_two_readers_that_send_the_same_lines_at_once_count_them_once(database: Database) -> None:
    first, second = Metering(database), Metering(database)
    await first.set_clock(NOON - HOUR)
    all_lines = [*lines(300), *lines(300, name="other", account_id="acct-b", key_id="acct-b-key")]
    overlapping = [all_lines[start : start + 150] for start in range(0, 600, 75)]
    backwards = list(reversed(overlapping))

    async def send(metering: Metering, batches: list[list[UsageLine]]) -> int:
        return sum([(await metering.record(batch)).recorded for batch in batches])

    recorded = await asyncio.gather(
        send(first, overlapping), send(second, backwards), send(first, backwards), send(second, overlapping)
    )
    assert sum(recorded) == 600
    assert await first.sums() == {("acct-a", MARCH): 300, ("acct-b", MARCH): 300}


async def test_one_request_of_two_accounts_at_once_is_counted_for_one_of_them(database: Database) -> None:
    metering = Metering(database)
    await metering.set_clock(NOON - HOUR)
    for number in range(10):
        claims = [
            metering.record(lines(20, name=f"r{number}", account_id=account, key_id=f"{account}-key"))
            for account in ("acct-a", "acct-b")
        ]
        answers = await asyncio.gather(*claims)
        assert sorted((answer.recorded, answer.conflicting) for answer in answers) == [(0, 20), (20, 0)]
    assert sum((await metering.sums()).values()) == 200


@pytest.mark.parametrize(
    "other", [{"status": 503}, {"account_id": "acct-b", "key_id": "acct-b-key"}, {"method": UNPAID}]
)
async def test_a_line_that_contradicts_the_ledger_is_counted_and_the_first_stays(
    metering: Metering, other: dict[str, Any]
) -> None:
    await metering.record([a_line()])
    answer = await metering.record([a_line(**other), a_line("another")])
    assert (answer.recorded, answer.conflicting) == (1, 1)
    assert await metering.sums() == {("acct-a", MARCH): 2}
    kept = await metering.rows("SELECT account_id, method, status FROM billing.usage_ledger")
    assert kept == [("acct-a", LIST, 200)] * 2


async def test_a_stream_grows_with_each_line_that_says_it_lasts(metering: Metering) -> None:
    start = NOON - timedelta(minutes=30)
    counted = []
    for minutes in (1, 4, 5, 6, 6, 3, 17):
        await metering.record([a_line("stream", start, method=STREAM, seconds=60 * minutes)])
        counted.append((await metering.sums())["acct-a", MARCH])
    assert counted == [1, 1, 1, 2, 2, 2, 4]
    rows = await metering.rows("SELECT part, started_at FROM billing.usage_ledger ORDER BY part")
    assert [(part, at) for part, at in rows] == [(n, start + n * timedelta(minutes=5)) for n in range(4)]
    assert await metering.scalar("SELECT requests FROM billing.usage_day") == 1


async def test_a_line_exactly_at_a_periods_edge_is_the_next_periods(database: Database) -> None:
    metering = Metering(database, Time(APRIL + timedelta(minutes=1)))
    await metering.set_clock(APRIL - HOUR)
    await metering.record([a_line("last", APRIL - timedelta(milliseconds=1)), a_line("first", APRIL)])
    assert await metering.sums() == {("acct-a", MARCH): 1, ("acct-a", APRIL): 1}


async def test_a_stream_over_midnight_is_counted_in_both_days_and_periods(database: Database) -> None:
    metering = Metering(database, Time(APRIL + timedelta(minutes=10)))
    await metering.set_clock(APRIL - HOUR)
    await metering.record([a_line("stream", APRIL - timedelta(minutes=5), method=STREAM, seconds=601)])
    assert await metering.sums() == {("acct-a", MARCH): 1, ("acct-a", APRIL): 2}
    days = await metering.rows("SELECT day::text, requests, units FROM billing.usage_day ORDER BY day")
    assert days == [("2026-03-31", 1, 1), ("2026-04-01", 0, 2)]


async def test_a_period_that_begins_at_noon_divides_its_day(database: Database) -> None:
    await open_account(database, "acct-n", anchor=datetime(2026, 1, 10, 12, tzinfo=UTC))
    metering = Metering(database)
    await metering.set_clock(NOON - HOUR)
    await metering.record(lines(4, NOON - timedelta(seconds=2), account_id="acct-n", key_id="acct-n-key"))
    february = datetime(2026, 2, 10, 12, tzinfo=UTC)
    assert await metering.sums() == {("acct-n", february): 2, ("acct-n", NOON): 2}


async def test_an_annual_plan_has_one_period_a_year(database: Database) -> None:
    anchor = datetime(2024, 2, 29, tzinfo=UTC)
    await open_account(database, "acct-y", plan="api_annual", anchor=anchor, soft_limit=120_000)
    metering = Metering(database)
    await metering.set_clock(NOON - HOUR)
    years = [NOON - timedelta(days=20), NOON]
    await metering.record([a_line(f"r{at}", at, account_id="acct-y", key_id="acct-y-key") for at in years])
    assert await metering.sums() == {
        ("acct-y", datetime(2025, 2, 28, tzinfo=UTC)): 1,
        ("acct-y", datetime(2026, 2, 28, tzinfo=UTC)): 1,
    }


async def test_another_plan_begins_a_period_and_cuts_the_one_that_runs(metering: Metering) -> None:
    changed_at = NOON + timedelta(seconds=10)
    await metering.record([a_line("before")])
    await metering.rows(
        "UPDATE billing.account SET api_plan_code = 'api_annual', period_anchor = :at RETURNING 1", at=changed_at
    )
    await metering.rows("UPDATE billing.usage_period SET period_end = :at RETURNING 1", at=changed_at)
    february = datetime(2026, 2, 20, tzinfo=UTC)
    await metering.record([a_line("after", changed_at), a_line("late", NOON), a_line("older", february)])
    assert await metering.sums() == {
        ("acct-a", changed_at.replace(year=2025)): 1,
        ("acct-a", MARCH): 2,
        ("acct-a", changed_at): 1,
    }
    ends = await metering.rows("SELECT period_end FROM billing.usage_period ORDER BY period_start")
    assert [end for (end,) in ends] == [MARCH, changed_at, changed_at.replace(year=2027)]


async def test_a_test_key_counts_nothing(metering: Metering) -> None:
    answer = await metering.record(
        [
            a_line("one", key_id="acct-a-test", test=True),
            a_line("two", key_id="acct-a-test"),
            a_line("three", test=True),
        ]
    )
    assert answer.recorded == 3
    assert await metering.sums() == {("acct-a", MARCH): 0}
    assert await metering.scalar("SELECT count(*) FROM billing.usage_rollup") == 0


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"account_id": "nobody"}, "UNKNOWN_ACCOUNT"),
        ({"account_id": "a\0b"}, "UNKNOWN_ACCOUNT"),
        ({"key_id": "lost\0"}, "UNKNOWN_KEY"),
        ({"key_id": "acct-b-key"}, "KEY_OF_ANOTHER_ACCOUNT"),
        ({"at": NOON - timedelta(days=36)}, "TOO_OLD"),
        ({"at": NOON + timedelta(minutes=10)}, "IN_THE_FUTURE"),
        ({"method": "stratum.signals.v1.SignalsService/Gone"}, "UNKNOWN_METHOD"),
        ({"method": "stratum.billing.v1.MeteringService/RecordUsage"}, "UNKNOWN_METHOD"),
        ({"status": 1_000_000}, "UNREADABLE"),
        ({"path": "/\0"}, "UNREADABLE"),
        ({"request_id": "long" * 1000}, "UNREADABLE"),
    ],
)
async def test_a_line_that_cannot_be_counted_is_kept_with_the_reason(
    metering: Metering, given: dict[str, Any], reason: str
) -> None:
    line = a_line(**given)
    answer = await metering.record([line, a_line("good")])
    assert (answer.recorded, answer.unrated) == (1, 1)
    ((kept_reason, kept_line),) = await metering.rows("SELECT reason, line FROM billing.usage_unrated")
    assert kept_reason == reason
    assert UsageLine.FromString(kept_line) == line
    assert await metering.sums() == {("acct-a", MARCH): 1}


async def test_a_line_without_a_time_is_kept_aside(metering: Metering) -> None:
    line = a_line()
    line.ClearField("started_at")
    far = a_line("far")
    far.started_at.seconds = 10**15
    assert (await metering.record([line, far, line])).unrated == 3
    assert await metering.scalar("SELECT count(*) FROM billing.usage_unrated") == 2


@pytest.mark.parametrize("at_once", [True, False])
async def test_of_a_stream_that_cannot_be_counted_the_line_is_kept_that_says_how_long_it_was(
    metering: Metering, at_once: bool
) -> None:
    of_each_minute = [
        a_line("stream", account_id="acct-c", key_id="acct-c-key", method=STREAM, seconds=seconds)
        for seconds in (60, 120, 3540)
    ]
    for batch in [of_each_minute] if at_once else [[line] for line in of_each_minute]:
        await metering.record(batch)
    ((kept,),) = await metering.rows("SELECT line FROM billing.usage_unrated")
    await open_account(metering.database, "acct-c")
    metering.time.now += HOUR
    await metering.record([UsageLine.FromString(kept)])
    assert await metering.sums() == {("acct-c", MARCH): 12}


async def test_a_line_of_an_account_that_becomes_known_is_counted_when_it_comes_again(metering: Metering) -> None:
    line = a_line(account_id="acct-c", key_id="acct-c-key")
    assert (await metering.record([line])).unrated == 1
    await open_account(metering.database, "acct-c")
    assert (await metering.record([line])).recorded == 1
    assert await metering.sums() == {("acct-c", MARCH): 1}


async def test_a_key_knows_when_it_was_last_used(metering: Metering) -> None:
    used = "SELECT last_used_at FROM billing.api_key WHERE id = 'acct-a-key'"
    await metering.record(lines(3))
    assert await metering.scalar(used) == NOON + timedelta(seconds=2)
    await metering.record([a_line("earlier", NOON - timedelta(minutes=5))])
    assert await metering.scalar(used) == NOON + timedelta(seconds=2)


async def test_a_key_whose_use_was_not_noted_when_we_died_is_noted_by_the_repeat(metering: Metering) -> None:
    await metering.record(lines(3))
    await metering.rows("UPDATE billing.api_key SET last_used_at = NULL RETURNING 1")
    await metering.record(lines(3))
    used = "SELECT last_used_at FROM billing.api_key WHERE id = 'acct-a-key'"
    assert await metering.scalar(used) == NOON + timedelta(seconds=2)


async def test_a_period_is_known_before_anything_is_counted_in_it(metering: Metering) -> None:
    async with metering.database.begin() as connection:
        period = await period_at(connection, "acct-a", NOON)
        with pytest.raises(NotFound):
            await period_at(connection, "nobody", NOON)
    assert (period.start, period.end, period.used_units, period.soft_limit) == (MARCH, APRIL, 0, 1000)

"""What new lines add: to their periods, their days and their hours, and what is a repeat."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.counting import AccountPeriod, Counted, Facts, Periods, Plan, RowKey, count, sift
from services.billing.rating import Line, Part

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ANCHOR = datetime(2026, 1, 31, 18, tzinfo=UTC)


def a_plan(code: str = "api_monthly", soft_limit: int = 10) -> Plan:
    return Plan(ANCHOR, code, soft_limit, 100)


def a_row(at: datetime, request_id: str = "r", part: int = 0, units: int = 1, **given: Any) -> tuple[Line, Part]:
    values = {"account_id": "a", "key_id": "k", "method": "List", "status": 200, **given}
    line = Line(request_id, at, 20, path="/p", test=False, gateway="g", **values)
    return line, Part(part, at, units)


def counted(rows: list[tuple[Line, Part]], limit: int = 10, sealed: datetime = NOON - HOUR) -> Counted:
    return count(rows, Periods({"a": a_plan(soft_limit=limit), "b": a_plan(soft_limit=limit)}, []), sealed)


def test_a_line_at_a_periods_edge_is_the_next_periods_first() -> None:
    edge = datetime(2026, 2, 28, 18, tzinfo=UTC)
    before, at = counted([a_row(edge - timedelta(microseconds=1), "r1"), a_row(edge, "r2")]).entries
    assert (before.period_start, at.period_start) == (ANCHOR, edge)


def test_a_stream_that_runs_over_a_periods_edge_counts_in_both() -> None:
    edge = datetime(2026, 2, 28, 18, tzinfo=UTC)
    rows = [a_row(edge + number * timedelta(minutes=5) - timedelta(minutes=7), part=number) for number in range(3)]
    assert [growth.units for growth in counted(rows).grown()] == [2, 1]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]),
            st.integers(-4 * 86_400, 30 * 86_400),
            st.integers(0, 1),
            st.sampled_from(["k1", "k2"]),
        ),
        max_size=60,
    ),
    st.integers(0, 20),
    st.randoms(use_true_random=False),
)
def test_all_sums_are_sums_of_the_same_rows_in_any_order(
    drawn: list[tuple[str, int, int, str]], limit: int, chance: Random
) -> None:
    rows = [
        a_row(NOON + timedelta(seconds=seconds), f"r{number}", account_id=account, units=units, key_id=key)
        for number, (account, seconds, units, key) in enumerate(drawn)
    ]
    shuffled = list(rows)
    chance.shuffle(shuffled)
    result = counted(shuffled, limit)
    assert result == counted(rows, limit)
    by_period: Counter[Any] = Counter()
    for entry in result.entries:
        by_period[entry.account_id, entry.period_start] += entry.units
    for key, growth in result.periods.items():
        assert growth.units == by_period[key]
        assert growth.overage_units == max(0, growth.units - limit)
        assert growth.units == sum(d.units for k, d in result.days.items() if (k[0], k[3]) == key)
        assert growth.units == sum(h.units for k, h in result.hours.items() if (k[0], k[2]) == key)
        assert growth.overage_units == sum(h.overage_units for k, h in result.hours.items() if (k[0], k[2]) == key)
    assert sum(day.requests for day in result.days.values()) == len(rows)


def test_thresholds_are_reached_by_the_call_that_does_it() -> None:
    rows = [a_row(NOON + timedelta(seconds=number), f"r{number}") for number in range(12)]
    (growth,) = counted(rows, limit=10).grown()
    reached = [
        (80, NOON + timedelta(seconds=7)),
        (100, NOON + timedelta(seconds=9)),
        (120, NOON + timedelta(seconds=11)),
    ]
    assert growth.reached == reached


def test_a_limit_that_was_lowered_below_what_is_used_is_reached_by_the_next_call() -> None:
    kept = AccountPeriod("a", NOON - HOUR, NOON + HOUR, soft_limit=10, overage_rate_cents=100, used_units=9)
    result = count([a_row(NOON)], Periods({"a": a_plan()}, [kept]), NOON - HOUR)
    (growth,) = result.grown()
    assert [percent for percent, _ in growth.reached] == [80, 100]


def test_each_period_has_the_limit_that_it_was_given() -> None:
    over = AccountPeriod("a", NOON - 3 * HOUR, NOON - HOUR, soft_limit=5, overage_rate_cents=100, used_units=5)
    present = AccountPeriod("a", NOON - HOUR, NOON + HOUR, soft_limit=10, overage_rate_cents=100, used_units=5)
    periods = Periods({"a": a_plan(soft_limit=77)}, [over, present])
    entries = count([a_row(NOON, "now"), a_row(NOON - 2 * HOUR, "late")], periods, NOON).entries
    assert {entry.request_id: entry.overage_units for entry in entries} == {"now": 0, "late": 1}


def test_a_period_that_is_kept_comes_before_one_that_is_computed() -> None:
    kept = AccountPeriod("a", NOON - HOUR, NOON + HOUR, soft_limit=10, overage_rate_cents=100)
    periods = Periods({"a": a_plan()}, [kept])
    assert periods.at("a", NOON) is kept


def test_a_year_that_follows_a_month_begins_where_the_month_ended() -> None:
    month = AccountPeriod("a", ANCHOR, datetime(2026, 2, 28, 18, tzinfo=UTC), soft_limit=10, overage_rate_cents=100)
    year = Periods({"a": a_plan("api_annual")}, [month]).at("a", NOON)
    assert (year.start, year.end) == (month.end, ANCHOR.replace(year=2027))


@given(st.lists(st.integers(0, 800 * 86_400), min_size=1, max_size=20), st.sampled_from(["api_monthly", "api_annual"]))
def test_no_moment_is_in_two_periods_whatever_the_plan_was_before(seconds: list[int], code: str) -> None:
    moments = [ANCHOR + timedelta(seconds=second) for second in seconds]
    before = Periods({"a": a_plan("api_monthly")}, [])
    kept = list({id(period): period for period in (before.at("a", moment) for moment in moments[::2])}.values())
    periods = Periods({"a": a_plan(code)}, kept)
    made = sorted({(found.start, found.end) for found in (periods.at("a", moment) for moment in moments)})
    assert all(start < end for start, end in made)
    assert all(first[1] <= second[0] for first, second in pairwise(made))


def test_a_line_that_came_before_is_repeated_and_one_that_contradicts_it_changes_nothing() -> None:
    first, again, other = a_row(NOON), a_row(NOON), a_row(NOON, status=503, units=0)
    sifted = sift([(line, [part]) for line, part in (first, again, other)], {})
    assert (len(sifted.new), sifted.recorded, sifted.repeated, len(sifted.conflicting)) == (1, 1, 1, 1)
    assert sifted.new[0][0].status == 200


@pytest.mark.parametrize("other", [{"status": 503}, {"account_id": "b"}, {"method": "Other"}, {"key_id": "k2"}])
def test_lines_of_one_request_that_disagree_in_any_fact_conflict(other: dict[str, Any]) -> None:
    known: dict[RowKey, Facts] = {}
    line, part = a_row(NOON)
    sift([(line, [part])], known)
    contradicting, part = a_row(NOON, **other)
    assert sift([(contradicting, [part])], known).conflicting == [contradicting]


def test_a_stream_that_goes_on_brings_its_new_stretches_only() -> None:
    line, first = a_row(NOON)
    second = Part(1, NOON + timedelta(seconds=300), 1)
    known: dict[RowKey, Facts] = {}
    sift([(line, [first])], known)
    sifted = sift([(line, [first, second])], known)
    assert sifted.new == [(line, second)]
    assert (sifted.recorded, sifted.repeated) == (1, 0)

"""Where a period's usage leads to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.billing.forecast import Standing, forecast, pace_begins

START = datetime(2026, 3, 1, tzinfo=UTC)
END = datetime(2026, 3, 31, tzinfo=UTC)
DAY = timedelta(days=1)


def test_a_steady_pace_goes_on() -> None:
    coming = forecast(Standing(1000, 0, 10_000, 100), 700, START + 3 * DAY, START + 10 * DAY, END)
    assert (coming.units, coming.overage_units, coming.overage_cost_cents) == (3000, 0, 0)
    assert coming.limit_reached_at is None


def test_a_pace_that_leads_above_the_limit_says_when_and_what_it_costs() -> None:
    coming = forecast(Standing(1000, 0, 2000, 100), 700, START + 3 * DAY, START + 10 * DAY, END)
    assert (coming.units, coming.overage_units, coming.overage_cost_cents) == (3000, 1000, 100)
    assert coming.limit_reached_at == START + 20 * DAY


def test_what_is_above_the_limit_already_stays() -> None:
    coming = forecast(Standing(2100, 100, 2000, 100), 0, START, START + 10 * DAY, END)
    assert (coming.units, coming.overage_units, coming.overage_cost_cents) == (2100, 100, 10)
    assert coming.limit_reached_at is None


def test_the_first_calls_of_a_period_are_taken_for_its_first_hours() -> None:
    coming = forecast(Standing(1, 0, 2000, 100), 1, START, START + timedelta(seconds=1), START + timedelta(hours=10))
    assert coming.units == 11


def test_the_pace_is_of_seven_whole_days_or_of_the_period() -> None:
    assert pace_begins(START, START + 3 * DAY) == START
    assert pace_begins(START, START + 10.7 * DAY) == START + 3 * DAY


@given(st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**6), st.integers(1, 29 * 86_400))
def test_a_forecast_is_at_least_what_is_used_and_its_parts_agree(used: int, recent: int, limit: int, age: int) -> None:
    now = START + timedelta(seconds=age)
    overage = max(0, used - limit)
    coming = forecast(Standing(used, overage, limit, 100), recent, pace_begins(START, now), now, END)
    assert coming.units >= used
    assert coming.overage_units == max(0, coming.units - limit)
    assert (coming.overage_cost_cents - 1) * 10 < coming.overage_units <= coming.overage_cost_cents * 10
    if coming.limit_reached_at is not None:
        assert now < coming.limit_reached_at < END
        assert coming.units >= limit


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_faster_pace_leads_no_less_far(one: int, other: int) -> None:
    slow, fast = sorted((one, other))
    now = START + 10 * DAY
    standing = Standing(10**6, 0, 2 * 10**6, 100)
    forecasts = [forecast(standing, recent, START + 3 * DAY, now, END) for recent in (slow, fast)]
    assert forecasts[0].units <= forecasts[1].units

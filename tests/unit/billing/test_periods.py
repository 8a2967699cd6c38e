"""Billing periods: they tile time, clip the day where a month is short, and never drift."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.periods import months_after, period_of
from services.billing.plans import PLANS

FIRST = datetime(1990, 1, 1, tzinfo=UTC)
MOMENTS = st.timedeltas(timedelta(0), timedelta(days=36_500)).map(lambda passed: FIRST + passed)
CODES = st.sampled_from(sorted(PLANS))


@given(anchor=MOMENTS, code=CODES, moment=MOMENTS)
def test_a_moment_is_in_its_period(anchor: datetime, code: str, moment: datetime) -> None:
    assert period_of(anchor, code, moment).holds(moment)


@given(anchor=MOMENTS, code=CODES, moment=MOMENTS)
def test_periods_tile_time(anchor: datetime, code: str, moment: datetime) -> None:
    period = period_of(anchor, code, moment)
    assert period_of(anchor, code, period.start) == period
    assert period_of(anchor, code, period.end).start == period.end
    assert period_of(anchor, code, period.start - timedelta(microseconds=1)).end == period.start


@given(anchor=MOMENTS, code=CODES, moment=MOMENTS)
def test_a_period_begins_on_the_anchors_day_or_the_months_last(anchor: datetime, code: str, moment: datetime) -> None:
    start = period_of(anchor, code, moment).start
    assert start.day == min(anchor.day, monthrange(start.year, start.month)[1])
    assert start.timetz() == anchor.timetz()


@given(anchor=MOMENTS, code=CODES)
def test_one_begins_at_the_anchor(anchor: datetime, code: str) -> None:
    assert period_of(anchor, code, anchor).start == anchor


@given(anchor=MOMENTS, number=st.integers(-300, 300))
def test_periods_do_not_drift_however_many_went_by(anchor: datetime, number: int) -> None:
    start = months_after(anchor, number)
    assert (start.year * 12 + start.month) - (anchor.year * 12 + anchor.month) == number
    assert period_of(anchor, "api_monthly", start).start == start


def test_a_day_31_is_the_last_of_february_and_the_31st_again_in_march() -> None:
    anchor = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
    starts = [months_after(anchor, month) for month in range(4)]
    assert [(start.month, start.day) for start in starts] == [(1, 31), (2, 28), (3, 31), (4, 30)]


def test_a_leap_days_year_ends_on_the_28th_and_the_fourth_on_the_29th() -> None:
    anchor = datetime(2024, 2, 29, tzinfo=UTC)
    assert period_of(anchor, "api_annual", datetime(2025, 1, 1, tzinfo=UTC)).end == datetime(2025, 2, 28, tzinfo=UTC)
    assert period_of(anchor, "api_annual", datetime(2028, 3, 1, tzinfo=UTC)).start == datetime(2028, 2, 29, tzinfo=UTC)


def test_another_zones_writing_of_the_same_moments_gives_the_same_period() -> None:
    anchor, moment = datetime(2026, 1, 31, 23, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)
    tokyo = timezone(timedelta(hours=9))
    there = period_of(anchor.astimezone(tokyo), "api_monthly", moment.astimezone(tokyo))
    assert there == period_of(anchor, "api_monthly", moment)


def test_a_period_beyond_the_calendar_is_refused() -> None:
    with pytest.raises(ValueError, match="no year 10000"):
        period_of(datetime(9999, 12, 31, tzinfo=UTC), "api_monthly", datetime(9999, 12, 31, tzinfo=UTC))

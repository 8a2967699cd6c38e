"""Hours that are unlike an account's own past."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.anomaly import MINIMUM_UNITS, Anomaly, AnomalyKind, believed, judge

DAY = 24


def evenings(days: int = 28, busy: int = 2000, quiet: int = 0) -> list[int]:
    """Days that are busy from 18 to 23 hours; the hour that comes next is midnight."""
    return ([quiet] * 18 + [busy] * 5 + [quiet]) * days


def steady(units: int = 1000, days: int = 28) -> list[int]:
    return [units] * DAY * days


def kind(past: list[int], units: int) -> AnomalyKind | None:
    found = judge(past, units)
    return found.kind if found else None


def test_an_hour_like_the_others_is_none() -> None:
    assert kind(steady(), 1000) is None


def test_far_more_than_usual_is_a_spike() -> None:
    assert kind(steady(), 4000) is AnomalyKind.SPIKE


def test_nothing_where_there_was_always_something_is_a_silence() -> None:
    assert kind(steady(), 0) is AnomalyKind.SILENCE


def test_what_is_said_holds_what_is_usual() -> None:
    assert judge(steady(1000), 4000) == Anomaly(AnomalyKind.SPIKE, 4000, 1000.0, 100.0)


def test_a_quiet_hour_of_a_daily_rhythm_is_no_silence() -> None:
    assert kind(evenings(), 0) is None


def test_a_busy_hour_of_a_daily_rhythm_is_no_spike() -> None:
    assert kind(evenings()[:-6], 2000) is None


def test_an_evening_that_stays_quiet_is_a_silence() -> None:
    assert kind(evenings()[:-6], 0) is AnomalyKind.SILENCE


def test_work_that_moved_to_another_hour_is_no_spike() -> None:
    assert kind(evenings(), 2000) is None


def test_a_program_with_a_fixed_pace_may_be_a_little_off() -> None:
    assert kind(steady(1000), 1340) is None


def test_a_past_incident_does_not_hide_a_present_one() -> None:
    past = steady()
    past[-10 * DAY : -9 * DAY] = [50_000] * DAY
    assert kind(past, 4000) is AnomalyKind.SPIKE


@given(st.lists(st.integers(0, 1_000_000), max_size=14 * DAY - 1), st.integers(0, 1_000_000))
def test_nothing_is_said_without_enough_past(past: list[int], units: int) -> None:
    assert judge(past, units) is None


def test_hours_before_the_first_use_are_no_past() -> None:
    assert kind([0] * 20 * DAY + steady(days=5), 50_000) is None


@given(
    st.lists(st.integers(0, MINIMUM_UNITS - 1), min_size=28 * DAY, max_size=28 * DAY), st.integers(0, MINIMUM_UNITS - 1)
)
def test_small_accounts_do_not_ring(past: list[int], units: int) -> None:
    assert judge(past, units) is None


def test_a_silence_that_goes_on_is_said_once() -> None:
    past, said = steady(), []
    for _ in range(3 * DAY):
        said.append(kind(past, 0))
        past.append(0)
    assert [each for each in said if each] == [AnomalyKind.SILENCE]


def test_who_left_is_not_silent_again_on_the_next_day() -> None:
    past, said = evenings()[:-6], 0
    for _ in range(2 * DAY):
        found = kind(past, 0)
        said += found is AnomalyKind.SILENCE
        past.append(0)
    assert said == 1


@given(st.integers(1, 50), st.integers(0, 100_000))
def test_older_past_than_28_days_changes_nothing(older_days: int, units: int) -> None:
    assert judge([7777] * DAY * older_days + steady(), units) == judge(steady(), units)


@given(st.lists(st.integers(0, 100_000), min_size=14 * DAY, max_size=30 * DAY), st.integers(0, 200_000))
def test_what_is_said_is_far_from_usual_and_in_its_direction(past: list[int], units: int) -> None:
    found = judge(past, units)
    if found is None:
        return
    assert abs(units - found.usual_units) >= MINIMUM_UNITS
    assert (units > found.usual_units) == (found.kind is AnomalyKind.SPIKE)


@given(st.lists(st.integers(0, 5000), min_size=28 * DAY, max_size=28 * DAY), st.integers(0, 50_000))
def test_more_than_a_spike_is_a_spike(past: list[int], units: int) -> None:
    if kind(past, units) is AnomalyKind.SPIKE:
        assert kind(past, units * 2) is AnomalyKind.SPIKE


SILENCE = Anomaly(AnomalyKind.SILENCE, 0, 1000.0, 100.0)
SPIKE = Anomaly(AnomalyKind.SPIKE, 9000, 1000.0, 100.0)


@pytest.mark.parametrize(
    ("found", "counted", "said"),
    [
        ({"a": SILENCE}, [], {"a"}),
        ({"a": SILENCE, "b": SILENCE}, [], set()),
        ({"a": SILENCE, "b": SILENCE}, ["b"], set()),
        ({"a": SILENCE, "b": SILENCE}, ["c"], {"a", "b"}),
        ({"a": SILENCE, "b": SILENCE, "c": SPIKE}, ["c"], {"a", "b", "c"}),
    ],
)
def test_when_everybody_falls_silent_it_is_us(found: dict[str, Anomaly], counted: list[str], said: set[str]) -> None:
    assert set(believed(found, counted)) == said

"""What a line counts, why some cannot be counted, and under which hour it is billed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.rating import (
    KeyFacts,
    Line,
    MethodKind,
    Part,
    Unrated,
    billed_hour,
    hour_of,
    overage_of,
    rate,
    thresholds,
)

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
METHODS = {
    "List": MethodKind(paid=True, streaming=False),
    "Stream": MethodKind(paid=True, streaming=True),
    "Usage": MethodKind(paid=False, streaming=False),
    "Export": MethodKind(paid=False, streaming=True),
}
KEYS = {"live": KeyFacts("acct", True), "test": KeyFacts("acct", False), "foreign": KeyFacts("other", True)}
moments = st.integers(-(10**13), 10**13).map(lambda number: NOW + timedelta(microseconds=number))


def a_line(**given: Any) -> Line:
    values = {
        "request_id": "r",
        "started_at": NOW,
        "duration_milliseconds": 20,
        "account_id": "acct",
        "key_id": "live",
        "method": "List",
        "path": "/p",
        "status": 200,
        "test": False,
        "gateway": "g",
    }
    return Line(**{**values, **given})


def rated(now: datetime = NOW, **given: Any) -> tuple[Part, ...] | Unrated:
    return rate(a_line(**given), METHODS, KEYS, {"acct", "other"}, now)


def units(**given: Any) -> list[int]:
    parts = rated(**given)
    assert not isinstance(parts, Unrated)
    return [part.units for part in parts]


@pytest.mark.parametrize(
    ("status", "counted"),
    [
        (200, 1),
        (206, 1),
        (299, 1),
        (304, 1),
        (0, 0),
        (199, 0),
        (300, 0),
        (400, 0),
        (404, 0),
        (429, 0),
        (499, 0),
        (503, 0),
    ],
)
def test_a_call_counts_when_it_was_served(status: int, counted: int) -> None:
    assert units(status=status) == [counted]


@pytest.mark.parametrize(
    "given",
    [{"method": "Usage"}, {"method": "Export", "duration_milliseconds": 9000}, {"key_id": "test"}, {"test": True}],
)
def test_what_is_free_is_in_the_ledger_and_counts_nothing(given: dict[str, Any]) -> None:
    assert units(**given) == [0]


@pytest.mark.parametrize(
    ("milliseconds", "stretches"),
    [(0, 1), (1, 1), (299_999, 1), (300_000, 1), (300_001, 2), (600_000, 2), (600_001, 3), (3_600_000, 12)],
)
def test_a_stream_counts_each_stretch_that_it_began(milliseconds: int, stretches: int) -> None:
    assert units(method="Stream", duration_milliseconds=milliseconds, started_at=NOW - timedelta(hours=1)) == (
        [1] * stretches
    )


def test_a_stream_that_was_refused_is_one_row() -> None:
    assert units(method="Stream", duration_milliseconds=700_000, status=503, started_at=NOW - timedelta(hours=1)) == [0]


@given(st.lists(st.integers(0, 7_200_000), min_size=1))
def test_what_a_stream_counts_depends_on_the_longest_line_alone(durations: list[int]) -> None:
    start = NOW - timedelta(hours=3)
    rows: set[Part] = set()
    for duration in durations:
        parts = rated(method="Stream", duration_milliseconds=duration, started_at=start)
        assert not isinstance(parts, Unrated)
        rows.update(parts)
    longest = rated(method="Stream", duration_milliseconds=max(durations), started_at=start)
    assert sorted(rows) == list(longest)
    assert all(row.started_at == start + row.part * timedelta(seconds=300) for row in rows)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"request_id": ""}, Unrated.UNREADABLE),
        ({"request_id": "x" * 129}, Unrated.UNREADABLE),
        ({"request_id": "a\0b"}, Unrated.UNREADABLE),
        ({"path": "/\0"}, Unrated.UNREADABLE),
        ({"gateway": "\0"}, Unrated.UNREADABLE),
        ({"started_at": None}, Unrated.UNREADABLE),
        ({"status": -1}, Unrated.UNREADABLE),
        ({"status": 70_000}, Unrated.UNREADABLE),
        ({"duration_milliseconds": -1}, Unrated.UNREADABLE),
        ({"duration_milliseconds": 86_400_001, "started_at": NOW - timedelta(days=2)}, Unrated.UNREADABLE),
        ({"account_id": "nobody"}, Unrated.UNKNOWN_ACCOUNT),
        ({"account_id": ""}, Unrated.UNKNOWN_ACCOUNT),
        ({"key_id": "lost"}, Unrated.UNKNOWN_KEY),
        ({"key_id": "foreign"}, Unrated.KEY_OF_ANOTHER_ACCOUNT),
        ({"method": "Gone"}, Unrated.UNKNOWN_METHOD),
        ({"started_at": NOW - timedelta(days=35, microseconds=1)}, Unrated.TOO_OLD),
        ({"started_at": NOW + timedelta(minutes=5, milliseconds=1)}, Unrated.IN_THE_FUTURE),
        ({"started_at": NOW, "duration_milliseconds": 300_001}, Unrated.IN_THE_FUTURE),
    ],
)
def test_a_line_that_cannot_be_counted_says_why(given: dict[str, Any], reason: Unrated) -> None:
    assert rated(**given) is reason


@pytest.mark.parametrize("age", [timedelta(days=35), -timedelta(minutes=5, milliseconds=-20)])
def test_the_oldest_and_the_furthest_line_are_counted(age: timedelta) -> None:
    assert units(started_at=NOW - age) == [1]


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(0, 100), st.integers(0, 100))
def test_overage_adds_up_to_what_is_above_the_limit(steps: list[int], used: int, limit: int) -> None:
    counter, overage = used, 0
    for step in steps:
        overage += overage_of(step, counter, limit)
        counter += step
    assert overage == max(0, counter - limit) - max(0, used - limit)


@given(st.integers(1, 10_000_000))
def test_a_threshold_is_reached_by_the_first_unit_that_makes_the_share(limit: int) -> None:
    for percent, first in thresholds(limit):
        assert first * 100 >= limit * percent > (first - 1) * 100


def test_no_share_of_nothing_is_reached() -> None:
    assert thresholds(0) == ()


@given(moments, moments.map(hour_of))
def test_a_call_is_billed_in_an_open_hour_and_in_its_own_if_it_can_be(started_at: datetime, sealed: datetime) -> None:
    hour, late = billed_hour(started_at, sealed)
    assert hour >= sealed
    assert late == (started_at < sealed)
    assert (hour == hour_of(started_at)) if not late else (hour == sealed)

"""What a schedule is forecast to cost: never more than there is, and no tip-off missed while there is anything."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from deploy.budget import (
    FEWEST_GAMES,
    MOST_GAMES,
    Forecast,
    Spending,
    UnreadableScheduleError,
    forecast,
    nba_like_month,
    read_starts,
)
from services.ingest.cadence import Cadence, Phase

#: The last six days of a month, so that the month's budget ends with them.
SINCE = datetime(2026, 12, 26, tzinfo=UTC)
UNTIL = datetime(2027, 1, 1, tzinfo=UTC)
LAST_DAYS = [start for start in nba_like_month(date(2026, 12, 1)) if start > SINCE]


def played(month: int | None, day: int | None = None, failing: float = 0.0, watched: int = 0) -> Forecast:
    """The last six days with so many credits."""
    return forecast(LAST_DAYS, SINCE, UNTIL, Spending(month, day, failing=failing), watched)


@pytest.mark.parametrize(
    ("month", "failing", "watched"), [(3870, 0.0, 0), (3870, 0.05, 2), (900, 0.0, 0)], ids=["20K", "worn", "poor"]
)
def test_a_budget_lasts_to_the_end_of_the_month_and_no_tip_is_missed(month: int, failing: float, watched: int) -> None:
    outcome = played(month, month // 4, failing, watched)
    assert 0.9 * month <= outcome.credits <= month
    assert max(outcome.by_day.values()) <= month // 4
    assert outcome.missed() == 0
    assert max(outcome.gaps_before_tips().values()) <= 120.0
    assert outcome.refused == 0


def test_with_hardly_any_credits_what_there_is_goes_to_the_captures() -> None:
    tips = len({start for start in LAST_DAYS if start < UNTIL})
    outcome = played(month=3 * tips + 30)
    assert outcome.missed() == 0
    assert set(outcome.by_phase) <= {Phase.CAPTURE, Phase.CLOSE}


def test_without_a_budget_every_phase_has_its_usual_interval() -> None:
    outcome = played(None)
    medians = {phase: median for phase, (_, median) in outcome.by_phase.items()}
    assert (medians[Phase.NEAR], medians[Phase.APPROACH], medians[Phase.FAR]) == (60.0, 300.0, 900.0)


def test_a_tip_without_an_answer_shortly_before_is_missed() -> None:
    rarely = Cadence(fixed=3600.0)
    outcome = forecast([SINCE + timedelta(minutes=90)], SINCE, SINCE + timedelta(hours=3), Spending(10, 10, 3, rarely))
    assert outcome.missed() == 1
    assert list(outcome.gaps_before_tips().values()) == [1800.0]


def test_an_answer_without_games_is_free() -> None:
    outcome = forecast([], SINCE, SINCE + timedelta(hours=3), Spending(10, 10, 3, Cadence(fixed=600.0)))
    assert (len(outcome.calls), outcome.credits) == (17, 0)


@pytest.mark.parametrize("seed", range(5))
def test_a_made_up_month_looks_like_one_of_the_nba(seed: int) -> None:
    starts = nba_like_month(date(2026, 12, 1), seed)
    evenings: dict[date, int] = {}
    for start in starts:
        assert start.hour >= 17 or (start.hour, start.minute) <= (3, 30)
        evening = (start - timedelta(hours=10)).date()
        evenings[evening] = evenings.get(evening, 0) + 1
    assert len(evenings) == 31
    assert FEWEST_GAMES <= min(evenings.values()) < max(evenings.values()) <= MOST_GAMES


@pytest.mark.parametrize(
    "text",
    [
        "# tonight\n2026-12-02T00:30:00Z\n\n2026-12-01T19:00:00-05:00\n",
        '[{"commence_time": "2026-12-02T00:30:00Z"}, {"commence_time": "2026-12-02T00:00:00Z"}]',
    ],
)
def test_starts_are_read_from_lines_and_from_an_answer_of_the_provider(text: str) -> None:
    assert read_starts(text) == [datetime(2026, 12, 2, 0, minute, tzinfo=UTC) for minute in (0, 30)]


@pytest.mark.parametrize(
    ("text", "hint"),
    [("", "no start"), ("tomorrow", "no time"), ("2026-12-02T00:30:00", "no zone"), ('[{"id": 1}]', "/events")],
)
def test_a_schedule_that_cannot_be_read_says_why(text: str, hint: str) -> None:
    with pytest.raises(UnreadableScheduleError, match=hint):
        read_starts(text)

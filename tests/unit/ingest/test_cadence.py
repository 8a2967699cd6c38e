"""When a sport is asked next: closer as the tip approaches, never beyond the budget, and never without a capture."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from math import inf

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from services.ingest.cadence import (
    Asks,
    Budget,
    Cadence,
    Calendar,
    Decision,
    Limit,
    Phase,
    Plan,
    Tier,
    decide,
    demand,
    plan,
)
from services.ingest.testing import SPORT, TIP, minutes

AMPLE = Budget()
USUAL = Cadence()


def games(*starts: datetime, watched: Sequence[datetime] = (), cost: int = 3) -> Calendar:
    """A sport with these games."""
    return Calendar(SPORT, tuple(sorted(starts)), tuple(sorted(watched)), cost)


def decided(
    now: datetime,
    calendar: Calendar,
    budget: Budget = AMPLE,
    cadence: Cadence = USUAL,
    asked_at: datetime | None = None,
) -> Decision:
    """The decision after a poll that has just been answered."""
    return decide(
        now, now if asked_at is None else asked_at, calendar, plan(now, [calendar], budget, cadence), budget, cadence
    )


@pytest.mark.parametrize(
    ("until_tip", "seconds", "phase"),
    [
        (20 * 60, 1800, Phase.EARLY),
        (5 * 60, 900, Phase.FAR),
        (2 * 60, 300, Phase.APPROACH),
        (50, 60, Phase.NEAR),
        (8, 60, Phase.CLOSE),
        (-5, 60, Phase.LATE),
    ],
)
def test_a_sport_is_asked_more_often_as_its_tip_approaches(until_tip: float, seconds: float, phase: Phase) -> None:
    decision = decided(TIP - minutes(until_tip), games(TIP))
    assert (decision.interval_seconds, decision.phase) == (seconds, phase)


def test_before_a_long_interval_ends_the_free_list_of_games_is_looked_at() -> None:
    decision = decided(TIP - timedelta(hours=20), games(TIP))
    assert (decision.asks, decision.pause_seconds, decision.interval_seconds) == (Asks.EVENTS, 300.0, 1800.0)


@pytest.mark.parametrize("calendar", [games(), games(TIP + timedelta(days=3)), games(TIP - minutes(16))])
def test_while_nothing_is_near_only_the_free_list_of_games_is_asked(calendar: Calendar) -> None:
    decision = decided(TIP, calendar)
    assert (decision.asks, decision.pause_seconds, decision.phase) == (Asks.EVENTS, 300.0, Phase.IDLE)


def test_the_game_that_begins_soonest_decides() -> None:
    assert decided(TIP, games(TIP + minutes(30), TIP + timedelta(hours=5))).phase is Phase.NEAR


def test_a_long_interval_ends_where_a_shorter_one_would_have_asked() -> None:
    decision = decided(TIP - minutes(184), games(TIP))
    assert (decision.interval_seconds, decision.phase) == (300.0, Phase.APPROACH)


def test_a_watched_game_is_followed_as_fast_as_the_provider_reads_it_and_no_other_is() -> None:
    now = TIP + minutes(60)
    watched = decided(now, games(TIP, watched=[TIP]))
    assert (watched.asks, watched.interval_seconds, watched.phase) == (Asks.ODDS, 40.0, Phase.IN_PLAY)
    assert decided(now, games(TIP)).asks is Asks.EVENTS
    assert decided(TIP + timedelta(hours=4), games(TIP, watched=[TIP])).asks is Asks.EVENTS


@pytest.mark.parametrize(("exchanges", "seconds"), [(False, 60.0), (True, 30.0)])
def test_nobody_is_asked_more_often_than_the_provider_reads(exchanges: bool, seconds: float) -> None:
    hasty = Cadence(early=1.0, exchanges=exchanges)
    assert decided(TIP - timedelta(hours=20), games(TIP), cadence=hasty).interval_seconds == seconds


def test_from_six_hours_before_a_tip_the_provider_reads_faster_and_faster() -> None:
    assert [USUAL.refresh(hours * 3600) for hours in (9, 6, 3, 0, -1)] == [60.0, 60.0, 50.0, 40.0, 40.0]


def test_the_closing_price_is_asked_for_just_before_the_tip_whatever_the_interval() -> None:
    decision = decided(TIP - minutes(2), games(TIP), cadence=Cadence(close=600.0))
    assert (decision.pause_seconds, decision.phase) == (75.0, Phase.CAPTURE)


def test_a_fixed_interval_wins_over_everything_but_an_empty_purse() -> None:
    fixed = Cadence(fixed=7.0)
    assert decided(TIP, games(), cadence=fixed) == Decision(Asks.ODDS, 7.0, 7.0, Phase.FIXED)
    assert decided(TIP, games(), Budget(month=2), fixed).asks is Asks.EVENTS


@pytest.mark.parametrize(
    ("budget", "limit"),
    [
        (Budget(day=2), Limit.DAY),
        (Budget(day=100, month=2), Limit.MONTH),
        (Budget(month=100, provider=0), Limit.PROVIDER),
    ],
)
def test_without_credits_for_a_call_only_what_is_free_is_asked_and_it_says_why(budget: Budget, limit: Limit) -> None:
    decision = decided(TIP - minutes(5), games(TIP), budget)
    assert (decision.asks, decision.limit) == (Asks.EVENTS, limit)
    assert limit in decision.reason


def test_when_credits_run_low_the_cadence_stretches_and_says_so() -> None:
    calendar = games(TIP)
    now = TIP - minutes(59)
    wanted = demand(calendar, now, now + timedelta(days=1), USUAL)
    decision = decided(now, calendar, Budget(day=round(wanted.usual * 0.7)))
    assert decision.asks is Asks.ODDS
    assert 60.0 < decision.interval_seconds < 120.0
    assert decision.limit is Limit.DAY
    assert "stretched" in decision.reason


def test_what_is_left_goes_to_the_last_minutes_before_the_hours_before_and_those_before_tomorrow() -> None:
    now = TIP.replace(hour=0) + timedelta(hours=1)
    calendar = games(now + timedelta(hours=10))
    wanted = demand(calendar, now, now + timedelta(hours=23), USUAL)
    least = wanted.captures + wanted.tiers[Tier.CLOSE]

    def stretches(credits: float) -> tuple[float, ...]:
        return plan(now, [calendar], Budget(day=round(credits / 0.97)), USUAL).stretch

    assert stretches(wanted.usual + wanted.tiers[Tier.EARLY] + 1) == (1.0, 1.0, 1.0)
    assert stretches(wanted.usual + 1)[:2] == (1.0, 1.0)
    first, second, third = stretches(least + wanted.tiers[Tier.USUAL] / 2)
    assert (first, third) == (1.0, inf)
    assert second == pytest.approx(2.0, rel=0.05)
    assert stretches(least - 3)[1:] == (inf, inf)


def test_a_month_keeps_for_days_of_which_nothing_is_known_yet_what_the_known_ones_cost() -> None:
    now = TIP.replace(day=1, hour=12)
    starts = [now.replace(hour=23) + timedelta(days=day) for day in range(3)]
    calendar = games(*starts)
    a_day = demand(calendar, now, now.replace(day=4), USUAL).usual / 3
    enough = plan(now, [calendar], Budget(month=round(a_day * 31 / 0.97) + 40), USUAL)
    assert enough.stretch[Tier.USUAL] == 1.0
    half = plan(now, [calendar], Budget(month=round(a_day * 31 / 0.97 / 2)), USUAL)
    assert half.stretch[Tier.USUAL] > 1.8
    assert half.limits[Tier.USUAL] is Limit.MONTH


def test_sports_share_what_is_left() -> None:
    now = TIP - minutes(59)
    one, two = games(TIP), Calendar("basketball_wnba", (TIP,))
    enough_for_one = Budget(day=round(demand(one, now, now + timedelta(days=1), USUAL).usual / 0.97) + 1)
    assert plan(now, [one], enough_for_one, USUAL).stretch[Tier.USUAL] == 1.0
    assert plan(now, [one, two], enough_for_one, USUAL).stretch[Tier.USUAL] > 1.5


def test_a_call_that_costs_twice_as_much_is_made_half_as_often() -> None:
    now = TIP - minutes(59)
    budget = Budget(day=120)
    cheap, dear = (decided(now, games(TIP, cost=cost), budget).interval_seconds for cost in (3, 6))
    assert dear > 1.8 * cheap


moments = st.integers(0, 14 * 24 * 60).map(lambda number: TIP + minutes(number))
calendars = st.builds(
    lambda starts, watched, cost: games(*set(starts), watched=sorted(set(starts))[:watched], cost=cost),
    st.lists(moments, max_size=12),
    st.integers(0, 2),
    st.integers(1, 6),
)
budgets = st.builds(
    Budget, *(st.none() | st.integers(0, 2000) for _ in range(2)), provider=st.none() | st.integers(-10, 30000)
)


@given(calendars, budgets, moments, st.none() | st.floats(0.0, 7200.0))
@example(games(TIP), Budget(), TIP, 0.0)
def test_a_decision_always_comes_to_an_end_and_never_asks_for_what_there_is_no_credit_for(
    calendar: Calendar, budget: Budget, now: datetime, ago: float | None
) -> None:
    asked_at = None if ago is None else now - timedelta(seconds=ago)
    decision = decide(now, asked_at, calendar, plan(now, [calendar], budget, USUAL), budget, USUAL)
    assert 0.0 <= decision.pause_seconds <= USUAL.far
    assert 0.0 <= decision.interval_seconds < inf
    if decision.asks is Asks.ODDS:
        assert budget.limit_of(calendar.cost) is Limit.NOTHING
        if asked_at is not None:
            # The provider has read the books anew since.
            assert (now - asked_at).total_seconds() + decision.pause_seconds >= 40.0 - 1e-6
    assert decision.reason


@given(calendars, budgets, moments)
def test_before_a_tip_there_is_a_call_while_there_are_credits(
    calendar: Calendar, budget: Budget, now: datetime
) -> None:
    assume(budget.limit_of(calendar.cost) is Limit.NOTHING)
    made = plan(now, [calendar], budget, USUAL)
    for start in calendar.starts:
        if start <= now:
            continue
        at, asked_at = max(now, start - minutes(10)), max(now, start - minutes(10))
        while True:
            decision = decide(at, asked_at, calendar, made, budget, USUAL)
            at += timedelta(seconds=decision.pause_seconds)
            if at >= start:
                break
            asked_at = at if decision.asks is Asks.ODDS else asked_at
        assert (start - asked_at).total_seconds() <= 120.0


@given(calendars, moments, st.integers(1, 2000), st.integers(0, 2000))
def test_with_more_credits_nothing_is_asked_later(calendar: Calendar, now: datetime, left: int, more: int) -> None:
    poorer = plan(now, [calendar], Budget(day=left), USUAL)
    richer = plan(now, [calendar], Budget(day=left + more), USUAL)
    assert all(one >= other for one, other in zip(poorer.stretch, richer.stretch, strict=True))


@given(calendars, moments, st.integers(1, 60 * 24 * 3), st.integers(1, 60 * 24 * 3))
def test_the_demand_of_two_spans_is_that_of_both(calendar: Calendar, since: datetime, one: int, other: int) -> None:
    middle, until = since + minutes(one), since + minutes(one + other)
    whole = demand(calendar, since, until, USUAL)
    parts = demand(calendar, since, middle, USUAL).plus(demand(calendar, middle, until, USUAL))
    assert parts.usual == pytest.approx(whole.usual, rel=0.02, abs=1.0)


def test_no_plan_is_no_stretch() -> None:
    assert plan(TIP, [games(TIP)], AMPLE, USUAL) == Plan()

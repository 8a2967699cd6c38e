"""MOVE, and the words it rests on: panels, windows, anchors, and the two medians that must agree."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.signals.model import DetectedSignal, Direction, MarketKey, SignalType
from services.signals.rules import RuleSettings
from services.signals.testing import (
    H2H,
    SPREADS,
    TOTALS,
    Board,
    Offer,
    a_board,
    minutes,
    steady,
    tell,
)

FIVE = ("betmgm", "caesars", "draftkings", "fanduel", "pinnacle")
#: No key number in the way: the same moves as MOVE alone.
PLAIN = RuleSettings(nba_key_numbers=())


def five_at(line: float, market: MarketKey = SPREADS) -> list[Board]:
    """Five books on one line, watched for long enough that every window has a start."""
    return steady(a_board(market, **dict.fromkeys(FIVE, line)), 16)


def moves(boards: list[Board], settings: RuleSettings = PLAIN) -> list[DetectedSignal]:
    return tell(boards, settings).of(SignalType.MOVE)


def then(
    boards: list[Board], *, wait: timedelta | None = None, market: MarketKey = SPREADS, **changes: object
) -> list[Board]:
    return [*boards, boards[-1].later(wait or minutes(1), market, **changes)]  # type: ignore[arg-type]


def test_two_books_that_always_differed_are_no_move() -> None:
    told = tell(steady(a_board(draftkings=-5.5, betmgm=-6.5), 30))

    assert told.signals == ()
    assert {row.signal_type for row in told.log} <= {SignalType.DISLOCATION}


def test_home_going_from_5_5_to_6_5_is_a_move_of_minus_one_toward_home() -> None:
    (move,) = moves(then(five_at(-5.5), **dict.fromkeys(FIVE, -6.5)))

    assert (move.from_value, move.to_value, move.delta) == (-5.5, -6.5, -1.0)
    assert move.direction is Direction.TOWARD_HOME
    assert (move.clusters_moved, move.clusters_in_panel) == (5, 5)
    assert move.books == FIVE


def test_a_median_that_moved_while_most_books_stood_is_no_move() -> None:
    """−5.5, −5.5, −5.5, −6.5, −6.5 → −6.5, −6.5, −5.5, −6.5, −6.5: delta −1.0, but the median own change is 0."""
    before = steady(a_board(betmgm=-5.5, caesars=-5.5, draftkings=-5.5, fanduel=-6.5, pinnacle=-6.5), 16)
    told = tell(then(before, betmgm=-6.5, caesars=-6.5), PLAIN)

    assert told.of(SignalType.MOVE) == []
    assert told.reasons(SignalType.MOVE) == ["against"]


def test_an_even_panel_takes_the_mean_of_the_middle_two() -> None:
    before = steady(a_board(betmgm=-5.5, caesars=-5.5, draftkings=-6.0, fanduel=-6.0), 16)
    (move,) = moves(then(before, betmgm=-6.5, caesars=-6.5, draftkings=-6.5))

    assert (move.from_value, move.to_value, move.delta) == (-5.75, -6.5, -0.75)


def test_a_book_that_joins_moves_nothing() -> None:
    boards = then(five_at(-5.5), bovada=-8.5, betrivers=-8.5, espnbet=-8.5, fanatics=-8.5, hardrock=-8.5, bet365=-8.5)

    assert moves(boards + steady(boards[-1].later(minutes(1)), 20)) == []


def test_a_book_that_leaves_moves_nothing() -> None:
    before = steady(a_board(betmgm=-5.5, caesars=-5.5, draftkings=-5.5, fanduel=-6.5, pinnacle=-6.5, bovada=-6.5), 16)
    boards = then(before, betmgm=None, caesars=None)

    assert moves(boards + steady(boards[-1].later(minutes(1)), 20)) == []


def test_the_first_observation_of_an_event_is_never_a_move() -> None:
    assert tell([a_board(betmgm=-5.5, caesars=-9.5, draftkings=-1.5, fanduel=-6.5)]).signals == ()


def test_an_event_watched_for_less_than_a_window_has_no_move() -> None:
    boards = steady(a_board(**dict.fromkeys(FIVE, -5.5)), 7)

    assert moves(then(boards, **dict.fromkeys(FIVE, -6.5))) == []


def test_a_book_that_vanishes_and_returns_keeps_its_place() -> None:
    gone = then(five_at(-5.5), betmgm=None)
    back = then(gone, **{**dict.fromkeys(FIVE, -6.5)})
    (move,) = moves(back)

    assert move.clusters_in_panel == 5
    returned = next(book for book in move.books_moved if book.book == "betmgm")
    assert returned.changed_by is not None
    assert returned.changed_after is not None
    assert returned.changed_by - returned.changed_after == minutes(2)


def test_a_market_that_vanishes_and_returns_moves_book_by_book() -> None:
    boards = five_at(-5.5)
    boards = then(boards, **dict.fromkeys(FIVE, None))
    (move,) = moves(then(boards, wait=minutes(2), **dict.fromkeys(FIVE, -6.5)))

    assert move.clusters_moved == 5
    assert move.elapsed_seconds == 180.0


def test_no_change_counts_twice() -> None:
    moved = then(five_at(-5.5), **dict.fromkeys(FIVE, -6.5))

    assert len(moves(moved + steady(moved[-1].later(minutes(1)), 30))) == 1


def test_a_reversal_is_a_new_fact() -> None:
    moved = then(five_at(-5.5), **dict.fromkeys(FIVE, -6.5))
    there, back = moves(then(moved, **dict.fromkeys(FIVE, -5.5)))

    assert (there.delta, back.delta) == (-1.0, 1.0)
    assert there.fact_id != back.fact_id


@pytest.mark.parametrize(("line", "expected"), [(-5.75, 0), (-6.0, 1)])
def test_a_spread_moves_from_half_a_point_on(line: float, expected: int) -> None:
    assert len(moves(then(five_at(-5.5), **dict.fromkeys(FIVE, line)))) == expected


@pytest.mark.parametrize(("line", "expected"), [(220.5, 0), (221.0, 1)])
def test_a_total_moves_from_a_point_on(line: float, expected: int) -> None:
    told = moves(then(five_at(220.0, TOTALS), market=TOTALS, **dict.fromkeys(FIVE, line)))

    assert [move.direction for move in told] == [Direction.OVER] * expected


@pytest.mark.parametrize(("probability", "expected"), [(0.51, 0), (0.5151, 1)])
def test_h2h_moves_in_fair_probability(probability: float, expected: int) -> None:
    told = moves(then(five_at(0.5, H2H), market=H2H, **dict.fromkeys(FIVE, probability)))

    assert [move.direction for move in told] == [Direction.TOWARD_HOME] * expected
    assert all(move.from_value == 0.5 for move in told)


def test_h2h_with_a_draw_speaks_for_home_against_both_others() -> None:
    before = steady(a_board(H2H, **dict.fromkeys(FIVE, Offer(None, 2.4, 3.1, 3.3))), 16)
    (move,) = moves(then(before, market=H2H, **dict.fromkeys(FIVE, Offer(None, 2.6, 2.8, 3.3))))

    assert move.direction is Direction.TOWARD_AWAY
    assert move.from_value == pytest.approx((1 / 2.4) / (1 / 2.4 + 1 / 3.1 + 1 / 3.3), abs=1e-6)


def test_a_slow_total_has_fifteen_minutes() -> None:
    boards = five_at(220.0, TOTALS)
    boards = then(boards, market=TOTALS, betmgm=221.0, caesars=221.0)
    boards += steady(boards[-1].later(minutes(1)), 10)
    (move,) = moves(then(boards, market=TOTALS, draftkings=221.0))

    assert move.window_seconds == 900.0


def test_a_move_that_took_longer_than_its_window_is_sparse() -> None:
    """Two changes that one window just spans, though between their outer bounds lies more than 1.1 of it."""
    boards = steady(a_board(every=minutes(4), **dict.fromkeys(FIVE, -5.5)), 4, minutes(4))
    boards = then(boards, wait=minutes(4), betmgm=-6.5, caesars=-6.5)
    boards = then(boards, wait=minutes(4))
    boards = then(boards, wait=minutes(4), draftkings=-6.5)
    told = tell(boards, PLAIN)

    assert told.of(SignalType.MOVE) == []
    assert told.reasons(SignalType.MOVE) == ["sparse_sampling"]


def test_two_hour_samples_are_too_sparse_for_the_live_profile() -> None:
    every = timedelta(hours=2)
    boards = steady(a_board(every=every, starts_in=timedelta(days=1), **dict.fromkeys(FIVE, -5.5)), 4, every)
    told = tell(then(boards, wait=every, **dict.fromkeys(FIVE, -6.5)), PLAIN)

    assert told.signals == ()
    assert told.reasons(SignalType.MOVE) == ["sparse_sampling"]
    assert told.reasons(SignalType.STEAM) == ["sparse_sampling"]


def test_two_hour_samples_suit_their_own_profile() -> None:
    every = timedelta(hours=2)
    boards = steady(a_board(every=every, starts_in=timedelta(days=1), **dict.fromkeys(FIVE, -5.5)), 4, every)
    settings = RuleSettings(profile="sampled-2h", nba_key_numbers=())
    (move,) = moves(then(boards, wait=every, **dict.fromkeys(FIVE, -6.5)), settings)

    assert move.window_seconds == 14 * 600.0
    assert move.profile == "sampled-2h"


def test_after_an_outage_the_feed_is_stale() -> None:
    boards = five_at(-5.5)
    told = tell(then(boards, wait=minutes(30), **dict.fromkeys(FIVE, -6.5)), PLAIN)

    assert told.of(SignalType.MOVE) == []
    assert told.reasons(SignalType.MOVE) == ["stale_feed"]


def test_three_books_are_too_few() -> None:
    told = tell(then(steady(a_board(betmgm=-5.5, caesars=-5.5, fanduel=-5.5), 16), betmgm=-6.5, caesars=-6.5), PLAIN)

    assert told.of(SignalType.MOVE) == []
    assert told.reasons(SignalType.MOVE) == ["too_few_books"]


def test_books_of_one_feed_vote_once() -> None:
    """Six books, but three of them share a feed: four clusters, of which the feed's and one other moved."""
    before = steady(a_board(betonlineag=-5.5, lowvig=-5.5, betus=-5.5, betmgm=-5.5, caesars=-5.5, fanduel=-5.5), 16)
    told = tell(then(before, betonlineag=-6.5, lowvig=-6.5, betus=-6.5, betmgm=-6.5), PLAIN)

    (move,) = told.of(SignalType.MOVE)
    assert (move.clusters_moved, move.clusters_in_panel) == (2, 4)
    assert move.to_value == -6.0
    assert told.of(SignalType.MULTIBOOK_SYNC) == []


def test_a_palpable_error_is_no_move() -> None:
    boards = then(five_at(-5.5), betmgm=-55.0)
    boards += steady(boards[-1].later(minutes(1)), 5)
    told = tell([*boards, boards[-1].later(minutes(1), betmgm=-5.5)], PLAIN)

    assert told.signals == ()
    assert [(row.book, row.reason, row.count) for row in told.log] == [("betmgm", "implausible", 7)]


def test_nothing_fires_in_play() -> None:
    boards = steady(a_board(starts_in=minutes(16), **dict.fromkeys(FIVE, -5.5)), 16)
    boards = then(boards, **dict.fromkeys(FIVE, -12.5))
    told = tell(boards + steady(boards[-1].later(minutes(1), betmgm=3.5), 20))

    assert told.signals == ()
    assert told.log == ()


def test_a_move_at_the_very_start_is_in_play() -> None:
    boards = steady(a_board(starts_in=minutes(17), **dict.fromkeys(FIVE, -5.5)), 16)

    assert moves(then(boards, **dict.fromkeys(FIVE, -6.5))) == []


def test_a_start_that_moves_into_the_future_opens_fresh_windows() -> None:
    boards = steady(a_board(starts_in=minutes(10), **dict.fromkeys(FIVE, -5.5)), 12)
    in_play = boards[-1].later(minutes(1), **dict.fromkeys(FIVE, -9.5))
    postponed = in_play.later(minutes(1)).starting(in_play.observed_at + minutes(120))
    again = steady(postponed, 12)

    assert moves([*boards, in_play, *again]) == []
    (move,) = moves([*boards, in_play, *again, again[-1].later(minutes(1), **dict.fromkeys(FIVE, -10.5))])
    assert (move.from_value, move.to_value) == (-9.5, -10.5)


def test_without_a_readable_start_an_event_is_pregame() -> None:
    (move,) = moves(then(steady(a_board(starts_in=None, **dict.fromkeys(FIVE, -5.5)), 16), **dict.fromkeys(FIVE, -6.5)))

    assert move.minutes_to_tip is None
    assert move.time_bucket == "UNKNOWN"
    assert move.score_source == "STRENGTH_FALLBACK"
    assert move.composite_score == move.strength


def test_a_sport_without_a_scale_still_moves() -> None:
    before = steady(a_board(sport_key="basketball_none", **dict.fromkeys(FIVE, -5.5)), 16)
    (move,) = moves(then(before, **dict.fromkeys(FIVE, -6.5)))

    assert move.fair_line is None
    assert move.signal_type is SignalType.MOVE


def test_prices_at_both_ends_are_those_of_the_consensus() -> None:
    before = steady(a_board(H2H, **dict.fromkeys(FIVE, 0.5)), 16)
    (move,) = moves(then(before, market=H2H, **dict.fromkeys(FIVE, 0.625)))

    assert move.from_price == pytest.approx(2.0, abs=1e-5)
    assert move.to_price == pytest.approx(1.6, abs=1e-5)


def test_velocity_is_delta_over_the_longest_time_it_can_have_taken() -> None:
    boards = then(five_at(-5.5), betmgm=-6.5, caesars=-6.5)
    (move,) = moves(then(boards, draftkings=-6.5))

    assert move.elapsed_seconds == 120.0
    assert move.velocity == 0.5


def test_without_last_updates_a_change_is_known_between_two_observations() -> None:
    boards = steady(a_board(reads=False, **dict.fromkeys(FIVE, -5.5)), 16)
    (move,) = moves(then(boards, **dict.fromkeys(FIVE, -6.5)))

    assert move.elapsed_seconds == 60.0


def test_a_move_in_the_second_half_accelerates() -> None:
    (late,) = moves(then(five_at(-5.5), **dict.fromkeys(FIVE, -6.5)))

    assert late.acceleration is not None
    assert late.acceleration > 0


def test_a_move_with_its_whole_way_in_the_first_half_slows_down() -> None:
    """Held back by a book too few until another one joins the panel, when the move lies at the window's beginning."""
    boards = steady(a_board(betmgm=-5.5, caesars=-5.5, fanduel=-5.5), 8)
    boards = then(boards, bovada=-6.5)
    boards = then(boards, betmgm=-6.5, caesars=-6.5, fanduel=-6.5)
    boards += steady(boards[-1].later(minutes(1)), 7)
    (move,) = moves(boards)

    assert move.clusters_in_panel == 4
    assert move.acceleration is not None
    assert move.acceleration < 0


def test_acceleration_is_unknown_where_half_a_window_holds_no_observation() -> None:
    every = minutes(10)
    boards = steady(a_board(every=every, **dict.fromkeys(FIVE, -5.5)), 4, every)
    (move,) = moves(then(boards, wait=every, **dict.fromkeys(FIVE, -6.5)))

    assert move.acceleration is None

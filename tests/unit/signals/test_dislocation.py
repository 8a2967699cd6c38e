"""DISLOCATION: episodes of one book against the rest."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest

from services.signals.model import Coverage, DetectedSignal, Direction, SignalType
from services.signals.rules import RuleSettings
from services.signals.testing import H2H, SPREADS, TOTALS, Board, Offer, Told, a_board, minutes, seconds, steady, tell

FIVE = ("betmgm", "caesars", "draftkings", "fanduel", "pinnacle")


def against_five(line: float, **more: float) -> Board:
    """bovada on a line of its own, five books on −5.5."""
    return a_board(bovada=line, **more, **dict.fromkeys(FIVE, -5.5))


def apart(told: Told) -> list[DetectedSignal]:
    return told.of(SignalType.DISLOCATION)


def test_a_book_a_point_off_five_others_stands_apart_at_the_second_observation() -> None:
    boards = steady(against_five(-4.5), 5)
    (signal,) = apart(tell(boards))

    assert signal.observed_at == boards[1].observed_at
    assert (signal.book, signal.books) == ("bovada", ("bovada",))
    assert (signal.from_value, signal.to_value, signal.delta) == (-5.5, -4.5, 1.0)
    assert signal.direction is Direction.TOWARD_HOME, "home −4.5 is better than home −5.5"
    assert signal.clusters_in_panel == 5
    assert signal.velocity is signal.window_seconds is signal.elapsed_seconds is None


def test_the_first_observation_alone_says_nothing() -> None:
    assert apart(tell([against_five(-4.5)])) == []


def test_a_book_that_stood_apart_for_one_observation_only_says_nothing() -> None:
    first = against_five(-4.5)

    assert apart(tell([first, *steady(first.later(minutes(1), bovada=-5.5), 5)])) == []


def test_less_than_a_point_is_not_apart() -> None:
    assert apart(tell(steady(against_five(-4.75), 5))) == []


def test_four_others_are_too_few() -> None:
    told = tell(steady(a_board(bovada=-4.5, **dict.fromkeys(FIVE[:4], -5.5)), 5))

    assert told.signals == ()
    assert told.reasons(SignalType.DISLOCATION) == ["too_few_books"]


def test_others_that_share_a_feed_count_once() -> None:
    board = a_board(bovada=-4.5, betonlineag=-5.5, lowvig=-5.5, betus=-5.5, betmgm=-5.5, caesars=-5.5, fanduel=-5.5)

    assert apart(tell(steady(board, 5))) == []


def test_prices_count_on_the_common_scale() -> None:
    """The same line, but at prices that say another mean by more than a point."""
    board = a_board(bovada=Offer(-5.5, 2.05, 1.80), **dict.fromkeys(FIVE, Offer(-5.5, 1.87, 1.95)))
    (signal,) = apart(tell(steady(board, 2)))

    assert signal.delta >= 1.0
    assert signal.meta["line"] == "-5.5"


@pytest.mark.parametrize(("line", "direction"), [(218.0, Direction.OVER), (222.0, Direction.UNDER)])
def test_a_total_offers_the_side_that_it_makes_easier(line: float, direction: Direction) -> None:
    told = tell(steady(a_board(TOTALS, bovada=line, **dict.fromkeys(FIVE, 220.0)), 2))

    assert [signal.direction for signal in apart(told)] == [direction]


def test_in_h2h_the_better_price_is_on_the_side_that_the_book_thinks_less_of() -> None:
    told = tell(steady(a_board(H2H, bovada=0.46, **dict.fromkeys(FIVE, 0.5)), 2))
    (signal,) = apart(told)

    assert signal.direction is Direction.TOWARD_HOME
    assert signal.delta == pytest.approx(-0.04, abs=1e-5)
    assert signal.from_value == pytest.approx(0.5)


def test_an_episode_is_told_once() -> None:
    assert len(apart(tell(steady(against_five(-4.5), 120)))) == 1


def test_a_higher_multiple_is_told_once_more() -> None:
    boards = steady(against_five(-4.5), 3)
    boards += steady(boards[-1].later(minutes(1), bovada=-3.5), 3)
    boards += steady(boards[-1].later(minutes(1), bovada=-4.5), 3)
    boards += steady(boards[-1].later(minutes(1), bovada=-3.5), 3)
    told = apart(tell(boards))

    assert [(signal.delta, signal.meta["multiple"]) for signal in told] == [(1.0, "1"), (2.0, "2")]


def test_a_leap_over_two_multiples_is_one_signal() -> None:
    boards = steady(against_five(-4.5), 3)
    boards += steady(boards[-1].later(minutes(1), bovada=-2.5), 5)

    assert [signal.delta for signal in apart(tell(boards))] == [1.0, 3.0]


def test_an_episode_goes_on_down_to_three_quarters_of_the_threshold() -> None:
    boards = steady(against_five(-4.5), 3)
    boards += steady(boards[-1].later(minutes(1), bovada=-4.75), 20)
    boards += steady(boards[-1].later(minutes(1), bovada=-4.5), 5)

    assert len(apart(tell(boards))) == 1


def ended_and_back(pause: timedelta) -> Told:
    """An episode is told and ends; after a pause the book stands apart again, and stays."""
    boards = steady(against_five(-4.5), 3)
    end = boards[-1].later(minutes(1), bovada=-5.0)
    back = end.later(pause - minutes(1), bovada=-4.5)
    return tell([*boards, end, *steady(back, 1)], replace(RuleSettings(), alive_floor_seconds=3600.0))


def test_within_900_seconds_of_the_last_episode_the_next_is_cooling() -> None:
    told = ended_and_back(seconds(899))

    assert len(apart(told)) == 1
    assert told.reasons(SignalType.DISLOCATION) == ["cooldown"]


def test_from_900_seconds_on_the_next_episode_is_told() -> None:
    assert len(apart(ended_and_back(seconds(900)))) == 2


def test_what_cooled_stays_due_while_it_stands_apart() -> None:
    boards = steady(against_five(-4.5), 3)
    boards += [boards[-1].later(minutes(1), bovada=-5.0)]
    ended_at = boards[-1].observed_at
    boards += steady(boards[-1].later(minutes(1), bovada=-4.5), 20)
    first, second = apart(tell(boards))

    assert second.observed_at == ended_at + minutes(15)
    assert first.observed_at < ended_at


def test_an_episode_nobody_was_told_of_leaves_no_cooldown() -> None:
    first = against_five(-4.5)
    calm = first.later(minutes(1), bovada=-5.5)

    assert len(apart(tell([first, calm, *steady(calm.later(minutes(1), bovada=-4.5), 2)]))) == 1


def test_a_change_of_side_is_another_episode_with_a_cooldown_of_its_own() -> None:
    boards = steady(against_five(-4.5), 3)
    boards += steady(boards[-1].later(minutes(1), bovada=-6.5), 3)

    assert [signal.direction for signal in apart(tell(boards))] == [Direction.TOWARD_HOME, Direction.TOWARD_AWAY]


def test_a_book_that_goes_ends_its_episode() -> None:
    boards = steady(against_five(-4.5), 3)
    gone = boards[-1].later(minutes(1), bovada=None)
    told = tell([*boards, gone, *steady(gone.later(minutes(1), bovada=-4.5), 3)])

    assert len(apart(told)) == 1
    assert told.reasons(SignalType.DISLOCATION) == ["cooldown"]


def test_a_comparison_that_goes_ends_the_episode() -> None:
    boards = steady(against_five(-4.5), 3)
    fewer = boards[-1].later(minutes(1), pinnacle=None)
    told = tell([*boards, fewer, *steady(fewer.later(minutes(1), pinnacle=-5.5), 3)])

    assert len(apart(told)) == 1
    assert "cooldown" in told.reasons(SignalType.DISLOCATION)


def test_after_an_outage_two_new_observations_are_asked_for() -> None:
    first = against_five(-4.5)
    back = first.later(minutes(10))

    assert apart(tell([first, back])) == []
    assert len(apart(tell([first, back, back.later(minutes(1))]))) == 1


def test_books_of_one_feed_give_one_signal() -> None:
    board = a_board(betonlineag=-4.5, lowvig=-4.0, betus=-4.5, **dict.fromkeys(FIVE, -5.5))
    (signal,) = apart(tell(steady(board, 10)))

    assert signal.book == "lowvig"


def test_an_event_has_at_most_six_in_sixty_minutes_and_the_rest_stays_due() -> None:
    """Seven books stand apart: the strongest six are told at once, the seventh when the first are an hour old."""
    low = dict.fromkeys(("a1", "a2", "a3"), -3.5)
    high = dict.fromkeys(("b1", "b2", "b3", "b4"), -7.5)
    middle = dict.fromkeys((*FIVE, "bovada", "espnbet", "bet365", "fanatics"), -5.5)
    boards = steady(a_board(starts_in=timedelta(hours=9), **low, **high, **middle), 70)
    told = tell(boards)

    assert len(apart(told)) == 7
    assert apart(told)[6].observed_at == apart(told)[0].observed_at + minutes(60)
    assert told.reasons(SignalType.DISLOCATION) == ["cap"]


def test_a_palpable_error_is_in_the_log_and_never_a_signal() -> None:
    told = tell(steady(a_board(TOTALS, bovada=3.0, **dict.fromkeys(FIVE, 164.0)), 90))

    assert told.signals == ()
    (row,) = told.log
    assert (row.book, row.reason, row.count, row.direction) == ("bovada", "implausible", 91, "OVER")


def test_without_a_scale_a_palpable_error_is_known_by_its_raw_line() -> None:
    board = a_board(TOTALS, sport_key="basketball_none", bovada=3.0, **dict.fromkeys(FIVE, 164.0))
    told = tell(steady(board, 3))

    assert told.signals == ()
    assert [(row.book, row.reason) for row in told.log] == [("bovada", "implausible")]


def test_without_a_scale_points_have_no_dislocation() -> None:
    told = tell(steady(a_board(sport_key="basketball_none", bovada=-3.5, **dict.fromkeys(FIVE, -5.5)), 5))

    assert told.signals == ()
    assert told.log == ()


def test_the_tip_ends_every_episode() -> None:
    board = against_five(-4.5)
    boards = steady(board.starting(board.observed_at + minutes(3)), 6)
    told = tell(boards)

    assert len(apart(told)) == 1
    assert all(market.episodes == () for market in told.state.markets)


def test_polls_that_do_not_ask_for_the_market_neither_end_nor_complete_anything() -> None:
    first = replace(against_five(-4.5), asked=Coverage(("spreads",)))
    props = [
        msgspec.structs.replace(one.observation, asked=Coverage(("player_points",)), markets=(), keyframe=False)
        for one in steady(first.later(seconds(20)), 1, seconds(20))
    ]
    told = tell([first, *props])
    completed = tell([first, *props, first.later(minutes(1))])

    assert told.signals == ()
    assert len(apart(completed)) == 1


def test_it_lists_the_book_its_prices_and_what_the_others_think() -> None:
    board = a_board(SPREADS, bovada=Offer(-4.5, 1.95, 1.87), **dict.fromkeys(FIVE, -5.5))
    (signal,) = apart(tell(steady(board, 2)))

    assert signal.meta["price"] == "1.95"
    assert signal.meta["price_other"] == "1.87"
    assert signal.meta["others_fair_line"] == "-5.5"
    assert signal.consensus_line == -5.5
    assert float(signal.meta["delta_points"]) == pytest.approx(signal.delta, abs=1e-4)
    assert float(signal.meta["delta_probability"]) < 0
    assert len(signal.inputs) == 6
    assert [one.book for one in signal.inputs if one.role == "to"] == ["bovada"]


def test_agreement_of_the_others_takes_the_place_of_speed() -> None:
    (calm,) = apart(tell(steady(against_five(-4.5), 2)))
    parts = {part.name: part.points for part in calm.components[0].parts}

    assert parts == {"magnitude": 25.0, "speed": 30.0, "books": 10.0, "key_mass": 0.0, "clamp": 0.0}
    assert calm.strength == 65


def test_a_start_that_is_put_off_lets_an_unchanged_book_stand_apart_again() -> None:
    in_play = against_five(-4.5).starting(against_five(-4.5).observed_at - minutes(5))
    boards = steady(in_play, 3)
    put_off = boards[-1].later(minutes(1))
    put_off = put_off.starting(put_off.observed_at + minutes(120))
    again = steady(put_off, 4)

    (signal,) = apart(tell([*boards, *again]))
    assert signal.observed_at == again[1].observed_at

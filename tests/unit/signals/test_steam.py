"""STEAM: many books, fast and far, with hardly one against."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from services.signals.model import DetectedSignal, Direction, SignalType
from services.signals.rules import RuleSettings
from services.signals.testing import H2H, SPREADS, TOTALS, Board, Told, a_board, minutes, steady, tell

SIX = ("betmgm", "bovada", "caesars", "draftkings", "fanduel", "pinnacle")


def six_at(line: float) -> list[Board]:
    return steady(a_board(**dict.fromkeys(SIX, line)), 16)


def steams(told: Told) -> list[DetectedSignal]:
    return told.of(SignalType.STEAM)


def test_four_books_in_three_minutes_are_steam() -> None:
    boards = six_at(-5.5)
    one = boards[-1].later(minutes(1), betmgm=-6.5, bovada=-6.5)
    (steam,) = steams(tell([*boards, one, one.later(minutes(1), caesars=-6.5, draftkings=-6.5)]))

    assert (steam.from_value, steam.to_value, steam.clusters_moved) == (-5.5, -6.5, 4)
    assert steam.direction is Direction.TOWARD_HOME
    assert steam.window_seconds == 180.0


def test_three_books_are_no_steam() -> None:
    boards = steady(a_board(betmgm=-5.5, bovada=-5.5, caesars=-5.5, draftkings=-5.5), 16)

    assert steams(tell([*boards, boards[-1].later(minutes(1), betmgm=-6.5, bovada=-6.5, caesars=-6.5)])) == []


def test_the_same_move_over_five_minutes_is_no_steam() -> None:
    boards = six_at(-5.5)
    boards += [boards[-1].later(minutes(1), betmgm=-6.5, bovada=-6.5)]
    boards += steady(boards[-1].later(minutes(1)), 3)

    assert steams(tell([*boards, boards[-1].later(minutes(1), caesars=-6.5, draftkings=-6.5)])) == []


def test_one_book_against_is_allowed_and_two_are_not() -> None:
    boards = steady(a_board(bet365=-5.5, espnbet=-5.5, **dict.fromkeys(SIX, -5.5)), 16)
    six = dict.fromkeys(SIX, -6.5)
    one = tell([*boards, boards[-1].later(minutes(1), **six, bet365=-5.0)])
    two = tell([*boards, boards[-1].later(minutes(1), **six, bet365=-5.0, espnbet=-5.0)])

    assert len(steams(one)) == 1
    assert steams(two) == []
    assert two.reasons(SignalType.STEAM) == ["against"]


def test_there_is_no_steam_in_h2h() -> None:
    boards = steady(a_board(H2H, **dict.fromkeys(SIX, 0.5)), 16)

    assert steams(tell([*boards, boards[-1].later(minutes(1), H2H, **dict.fromkeys(SIX, 0.6))])) == []


def test_totals_steam_from_a_point_on() -> None:
    boards = steady(a_board(TOTALS, **dict.fromkeys(SIX, 220.0)), 16)
    half = tell([*boards, boards[-1].later(minutes(1), TOTALS, **dict.fromkeys(SIX, 219.5))])
    whole = tell([*boards, boards[-1].later(minutes(1), TOTALS, **dict.fromkeys(SIX, 219.0))])

    assert steams(half) == []
    assert [steam.direction for steam in steams(whole)] == [Direction.UNDER]


def swings(number: int, wait: timedelta) -> list[Board]:
    """A line that goes back and forth, every book with it."""
    boards = six_at(-5.5)
    for turn in range(number):
        boards.append(boards[-1].later(wait, **dict.fromkeys(SIX, -5.5 if turn % 2 else -7.5)))
        boards += steady(boards[-1].later(minutes(1)), 3)
    return boards


def test_a_direction_cools_for_900_seconds() -> None:
    told = tell(swings(4, minutes(1)))

    assert [steam.direction for steam in steams(told)] == [Direction.TOWARD_HOME, Direction.TOWARD_AWAY]
    assert set(told.reasons(SignalType.STEAM)) == {"cooldown"}


def test_an_event_has_at_most_four_in_sixty_minutes() -> None:
    settings = replace(RuleSettings(), steam_cooldown_seconds=0.0)
    told = tell(swings(8, minutes(1)), settings)

    assert [steam.delta for steam in steams(told)] == [-2.0, 2.0, -2.0, 2.0]
    assert "cap" in told.reasons(SignalType.STEAM)


def test_what_is_cooling_takes_nobodys_place_under_the_cap() -> None:
    """Cooldown is tested before the cap: with a cap of two, a cooling market does not use the second place up."""
    settings = replace(RuleSettings(), steam_max_per_event=2)
    boards = steady(a_board(**dict.fromkeys(SIX, -5.5)).with_market(TOTALS, **dict.fromkeys(SIX, 220.0)), 16)
    boards += steady(boards[-1].later(minutes(1), **dict.fromkeys(SIX, -7.5)), 3)
    both = boards[-1].later_in(minutes(1), {SPREADS: dict.fromkeys(SIX, -9.5), TOTALS: dict.fromkeys(SIX, 221.0)})
    told = tell([*boards, both], settings)

    assert [(steam.market, steam.delta) for steam in steams(told)] == [("spreads", -2.0), ("totals", 1.0)]


def test_signals_of_one_fact_name_each_other() -> None:
    boards = six_at(-5.5)
    told = tell([*boards, boards[-1].later(minutes(1), **dict.fromkeys(SIX, -6.5))])

    assert sorted(one.signal_type for one in told.signals) == ["KEY_CROSS", "MULTIBOOK_SYNC", "STEAM"]
    assert len({one.fact_id for one in told.signals}) == 1
    for one in told.signals:
        assert set(one.also) == {other.id for other in told.signals} - {one.id}

"""MULTIBOOK_SYNC: the early warning."""

from __future__ import annotations

import pytest

from services.signals.model import Direction, SignalType
from services.signals.rules import RuleSettings
from services.signals.testing import H2H, Board, Told, a_board, minutes, seconds, steady, tell

EIGHT = ("bet365", "betmgm", "bovada", "caesars", "draftkings", "espnbet", "fanduel", "pinnacle")


def eight_at(line: float) -> list[Board]:
    return steady(a_board(**dict.fromkeys(EIGHT, line)), 16)


def syncs(boards: list[Board]) -> list[Direction]:
    return [signal.direction for signal in tell(boards).of(SignalType.MULTIBOOK_SYNC)]


def test_three_books_of_eight_are_a_sync_before_there_is_a_move() -> None:
    boards = eight_at(-5.5)
    told = tell([*boards, boards[-1].later(minutes(1), betmgm=-6.0, caesars=-6.0, fanduel=-6.5)])
    (sync,) = told.signals

    assert sync.signal_type is SignalType.MULTIBOOK_SYNC
    assert (sync.from_value, sync.to_value, sync.delta) == (-5.5, -6.0, -0.5)
    assert sync.books == ("betmgm", "caesars", "fanduel")
    assert (sync.clusters_moved, sync.clusters_in_panel) == (3, 8)


def test_the_books_that_did_not_move_hold_the_old_number() -> None:
    boards = eight_at(-5.5)
    told = tell([*boards, boards[-1].later(minutes(1), betmgm=-6.5, caesars=-6.5, fanduel=-6.5)])
    (sync,) = told.of(SignalType.MULTIBOOK_SYNC)

    assert [holding.book for holding in sync.books_holding] == ["bet365", "bovada", "draftkings", "espnbet", "pinnacle"]


def test_two_books_are_no_sync() -> None:
    boards = eight_at(-5.5)

    assert syncs([*boards, boards[-1].later(minutes(1), betmgm=-6.5, caesars=-6.5)]) == []


def test_as_many_against_as_with_is_no_sync() -> None:
    boards = eight_at(-5.5)
    after = boards[-1].later(
        minutes(1), betmgm=-6.0, caesars=-6.0, fanduel=-6.0, bovada=-5.0, espnbet=-5.0, bet365=-5.0
    )
    told = tell([*boards, after])

    assert told.signals == ()
    assert told.reasons(SignalType.MULTIBOOK_SYNC) == ["against", "against"]


def test_one_more_than_against_is_a_sync() -> None:
    boards = eight_at(-5.5)
    after = boards[-1].later(minutes(1), betmgm=-6.0, caesars=-6.0, fanduel=-6.0, bovada=-5.0, espnbet=-5.0)

    assert syncs([*boards, after]) == [Direction.TOWARD_HOME]


@pytest.mark.parametrize(("probability", "expected"), [(0.5055, []), (0.5065, [Direction.TOWARD_HOME])])
def test_in_h2h_a_book_moves_from_0_006_on(probability: float, expected: list[Direction]) -> None:
    boards = steady(a_board(H2H, **dict.fromkeys(EIGHT, 0.5)), 16)
    after = boards[-1].later(minutes(1), H2H, betmgm=probability, caesars=probability, fanduel=probability)

    assert syncs([*boards, after]) == expected


def three_and_then_three(wait: float) -> Told:
    """Three books move, and after a while three others do, the same way."""
    boards = eight_at(-5.5)
    first = boards[-1].later(minutes(1), betmgm=-6.5, caesars=-6.5, fanduel=-6.5)
    between = steady(first.later(seconds(60)), int(wait // 60) - 2)
    second = between[-1].later(seconds(wait - 60 * len(between)), bovada=-6.5, espnbet=-6.5, bet365=-6.5)
    return tell([*boards, first, *between, second])


def test_within_300_seconds_of_the_last_a_sync_is_cooling() -> None:
    told = three_and_then_three(299)

    assert len(told.of(SignalType.MULTIBOOK_SYNC)) == 1
    assert "cooldown" in told.reasons(SignalType.MULTIBOOK_SYNC)


def test_after_300_seconds_a_sync_may_be_told_again() -> None:
    assert len(three_and_then_three(300).of(SignalType.MULTIBOOK_SYNC)) == 2


def test_the_other_direction_has_a_cooldown_of_its_own() -> None:
    boards = eight_at(-5.5)
    there = boards[-1].later(minutes(1), betmgm=-6.5, caesars=-6.5, fanduel=-6.5)
    calm = steady(there.later(minutes(1)), 2)
    back = calm[-1].later(minutes(1), bovada=-4.5, espnbet=-4.5, bet365=-4.5, pinnacle=-4.5)

    assert syncs([*boards, there, *calm, back]) == [Direction.TOWARD_HOME, Direction.TOWARD_AWAY]


def test_a_feed_that_moves_as_one_is_one_vote() -> None:
    boards = steady(a_board(betonlineag=-5.5, lowvig=-5.5, betus=-5.5, betmgm=-5.5, caesars=-5.5), 16)
    after = boards[-1].later(minutes(1), betonlineag=-6.5, lowvig=-6.5, betus=-6.5)

    assert syncs([*boards, after]) == []


def test_a_feed_of_which_one_book_moved_has_moved() -> None:
    boards = steady(a_board(betonlineag=-5.5, lowvig=-5.5, betus=-5.5, betmgm=-5.5, caesars=-5.5), 16)
    after = boards[-1].later(minutes(1), lowvig=-6.5, betmgm=-6.5, caesars=-6.5)

    assert syncs([*boards, after]) == [Direction.TOWARD_HOME]


def test_a_stretched_window_does_not_tell_the_same_changes_twice() -> None:
    """At five minutes' cadence a window holds two polls and outlasts the cooldown."""
    every = minutes(5)
    boards = steady(a_board(every=every, **dict.fromkeys(EIGHT, -5.5)), 4, every)
    boards.append(boards[-1].later(every, betmgm=-6.5, caesars=-6.5, fanduel=-6.5))
    boards.append(boards[-1].later(every))
    told = tell(boards, RuleSettings(profile="sampled-5m"))

    assert len(told.of(SignalType.MULTIBOOK_SYNC)) == 1
    assert told.reasons(SignalType.MULTIBOOK_SYNC) == ["cooldown"]

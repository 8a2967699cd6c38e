"""Books that still hold the old number: the point of a movement signal."""

from __future__ import annotations

import pytest

from services.signals.model import BookHolding, DetectedSignal, OldNumber, SignalType
from services.signals.rules import RuleSettings, holding_now
from services.signals.testing import H2H, TOTALS, Board, Offer, a_board, minutes, steady, tell

SIX = ("betmgm", "bovada", "caesars", "draftkings", "fanduel", "pinnacle")
SETTINGS = RuleSettings(nba_key_numbers=())


def old_number(signal: DetectedSignal) -> OldNumber:
    assert signal.from_value is not None
    assert signal.to_value is not None
    return OldNumber(
        signal.market,
        signal.player,
        signal.signal_type,
        signal.direction,
        signal.from_value,
        signal.to_value,
        signal.book,
    )


def the_move(boards: list[Board]) -> DetectedSignal:
    (move,) = tell(boards, SETTINGS).of(SignalType.MOVE)
    return move


def four_of_six_moved(**others: float | Offer | None) -> list[Board]:
    boards = steady(a_board(**dict.fromkeys(SIX, -5.5)), 16)
    return [*boards, boards[-1].later(minutes(1), **{**dict.fromkeys(SIX[:4], -6.5), **others})]


def test_who_stands_on_the_old_number_holds_it() -> None:
    holding = the_move(four_of_six_moved()).books_holding

    assert [one.book for one in holding] == ["fanduel", "pinnacle"]
    assert all(one.line == -5.5 for one in holding)


def test_who_moved_the_other_way_holds_an_even_older_number() -> None:
    assert [one.book for one in the_move(four_of_six_moved(pinnacle=-5.0)).books_holding] == ["fanduel", "pinnacle"]


def test_who_went_half_the_way_stands_no_nearer_to_the_old_number() -> None:
    assert [one.book for one in the_move(four_of_six_moved(pinnacle=-6.0)).books_holding] == ["fanduel"]


def test_who_moved_that_way_holds_nothing_even_on_the_old_number() -> None:
    """pinnacle came to −5.5 from −5.0 with the move: it has moved, though it now stands on the old number."""
    boards = steady(a_board(pinnacle=-5.0, **dict.fromkeys(SIX[:5], -5.5)), 16)
    boards.append(boards[-1].later(minutes(1), pinnacle=-5.5, **dict.fromkeys(SIX[:4], -6.5)))

    assert [one.book for one in the_move(boards).books_holding] == ["fanduel"]


def test_a_book_that_left_holds_nothing() -> None:
    assert [one.book for one in the_move(four_of_six_moved(pinnacle=None)).books_holding] == ["fanduel"]


def test_a_book_that_joined_on_the_old_number_holds_it() -> None:
    assert "espnbet" in [one.book for one in the_move(four_of_six_moved(espnbet=-5.5)).books_holding]


def test_what_the_old_number_costs_is_its_price_at_the_consensus_probability() -> None:
    """At a fair home −6.5, home −5.5 wins with Φ(1/12.3), and 1.91 gives a little more than it costs."""
    boards = steady(a_board(**dict.fromkeys((*SIX, "espnbet"), -5.5)), 16)
    boards.append(boards[-1].later(minutes(1), **dict.fromkeys(SIX, -6.5)))
    (holding,) = the_move(boards).books_holding

    assert (holding.price, holding.price_other, holding.line) == (1.91, 1.91, -5.5)
    assert holding.ev_now == pytest.approx(1.91 * 0.532399 - 1.0, abs=1e-5)
    assert holding.age_seconds == 5.0


def test_the_price_is_that_of_the_side_the_signal_names() -> None:
    boards = steady(a_board(TOTALS, **dict.fromkeys(SIX, 220.0), espnbet=Offer(220.0, 1.95, 1.87)), 16)
    boards.append(boards[-1].later(minutes(1), TOTALS, **dict.fromkeys(SIX, 218.0)))
    move = the_move(boards)
    (holding,) = move.books_holding

    assert move.direction == "UNDER"
    assert (holding.price, holding.price_other) == (1.87, 1.95)
    assert holding.ev_now is not None
    assert holding.ev_now > 1.87 * 0.5 - 1.0


def test_an_h2h_price_that_trembled_still_holds() -> None:
    boards = steady(a_board(H2H, **dict.fromkeys(SIX, 0.5)), 16)
    boards.append(boards[-1].later(minutes(1), H2H, **dict.fromkeys(SIX[:5], 0.54), pinnacle=0.502))

    assert [one.book for one in the_move(boards).books_holding] == ["pinnacle"]


def test_with_a_draw_the_away_price_has_no_known_worth() -> None:
    boards = steady(a_board(H2H, **dict.fromkeys(SIX, Offer(None, 2.4, 3.1, 3.3))), 16)
    boards.append(boards[-1].later(minutes(1), H2H, **dict.fromkeys(SIX[:5], Offer(None, 2.7, 2.7, 3.3))))
    (holding,) = the_move(boards).books_holding

    assert holding.price == 3.1
    assert holding.ev_now is None


def now_holding(boards: list[Board]) -> tuple[BookHolding, ...]:
    told = tell(boards, SETTINGS)
    return holding_now(told.state, old_number(told.of(SignalType.MOVE)[0]), SETTINGS)


def test_who_holds_it_now_is_asked_of_the_newest_observation() -> None:
    boards = four_of_six_moved()
    boards.append(boards[-1].later(minutes(5), fanduel=-6.5))

    assert [one.book for one in now_holding(boards)] == ["pinnacle"]


def test_who_came_back_to_the_old_number_offers_it_now() -> None:
    boards = four_of_six_moved()
    boards.append(boards[-1].later(minutes(5), betmgm=-5.5))

    assert [one.book for one in now_holding(boards)] == ["betmgm", "fanduel", "pinnacle"]


def test_in_play_nobody_holds_an_old_number() -> None:
    boards = four_of_six_moved()
    after = boards[-1].later(minutes(5))

    assert now_holding([*boards, after.starting(after.observed_at)]) == ()


def test_a_dislocated_book_is_named_as_long_as_it_stands_apart() -> None:
    boards = steady(a_board(bovada=-4.0, **dict.fromkeys((*SIX[:1], *SIX[2:]), -5.5)), 3)
    told = tell(boards)
    (signal,) = told.of(SignalType.DISLOCATION)
    after = tell([*boards, boards[-1].later(minutes(1), bovada=-5.0)])

    assert [one.book for one in holding_now(told.state, old_number(signal), SETTINGS)] == ["bovada"]
    assert holding_now(after.state, old_number(signal), SETTINGS) == ()

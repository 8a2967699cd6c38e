"""What is remembered of an event: what changed, nothing twice, and nothing that nobody asks for."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from services.shared.identity import snapshot_id
from services.signals import wire
from services.signals.model import EventState, MarketState, SignalType
from services.signals.rules import IncompleteError, RuleSettings, observe
from services.signals.testing import H2H, TOTALS, Board, a_board, minutes, steady, tell

SETTINGS = RuleSettings()
SIX = ("betmgm", "bovada", "caesars", "draftkings", "fanduel", "pinnacle")


def after(board: Board, state: EventState | None = None) -> EventState:
    return observe(state, board.observation, SETTINGS)[0]


def market(state: EventState) -> MarketState:
    (only,) = state.markets
    return only


def test_a_book_that_is_neither_known_nor_told_of_makes_an_update_useless() -> None:
    later = a_board(draftkings=-5.5, betmgm=-6.5).later(minutes(1), draftkings=-6.0)
    with pytest.raises(IncompleteError, match="betmgm"):
        after(later)


def test_who_is_not_told_of_stands_as_before() -> None:
    board = a_board(draftkings=-5.5, betmgm=-6.5)
    later = board.later(minutes(1), draftkings=-6.0)
    first = after(board)
    betmgm, draftkings = market(after(later, first)).books

    assert [view.book for view in later.observation.markets[0].changed] == ["draftkings"]
    assert betmgm is market(first).books[0]
    assert [stand.quote.line for stand in draftkings.stands] == [-5.5, -6.0]


def test_a_market_that_is_told_again_is_not_even_copied() -> None:
    board = a_board(**dict.fromkeys(SIX, -5.5))
    first = after(board)
    again = after(board.later(minutes(1)).as_keyframe(), first)

    assert again.markets == first.markets
    assert market(again) is market(first)


def test_a_quote_that_ends_keeps_the_reading_of_the_last_change_before() -> None:
    board = a_board(draftkings=-5.5, betmgm=-6.5)
    moved = board.later(minutes(1), betmgm=-6.0)
    ended = moved.later(minutes(1)).later(minutes(1), draftkings=-6.0)
    state = after(ended, after(moved, after(board)))
    _, draftkings = market(state).books

    assert draftkings.stands[0].last_update == moved.observed_at - timedelta(seconds=5)
    assert draftkings.stands[0].until == ended.observed_at
    assert market(state).last_update_of(1) == ended.observed_at - timedelta(seconds=5)


def test_only_of_a_book_that_could_stand_apart_is_the_comparison_remembered() -> None:
    board = a_board(**dict.fromkeys(SIX, -5.5))
    assert market(after(board)).outliers == ()

    apart = board.later(minutes(1), draftkings=-7.0)
    (outlier,) = market(after(apart, after(board))).outliers
    assert (outlier.book, outlier.others.clusters, outlier.others.consensus_line) == ("draftkings", 5, -5.5)


def test_how_the_oldest_quote_came_about_is_forgotten() -> None:
    boards = [a_board(draftkings=-5.5, betmgm=-5.5)]
    for line in (-6.0, -6.5, -7.0):
        boards.extend(steady(boards[-1].later(minutes(1), draftkings=line), 9))
    _, draftkings = market(tell(boards).state).books
    oldest, *_, newest = draftkings.stands

    assert (oldest.quote.changed_after, oldest.quote.changed_by, oldest.quote.previous_seen_at) == (None, None, None)
    assert newest.quote.changed_by is not None


def test_snapshots_are_named_by_when_each_outcome_was_first_seen() -> None:
    board = a_board(**dict.fromkeys(SIX, -5.5))
    apart = board.later(minutes(1), draftkings=-7.5)
    (update,) = apart.observation.markets
    (view,) = update.changed
    earlier = (board.observed_at, apart.observed_at)
    told = replace(view, quote=replace(view.quote, outcomes_observed_at=earlier))
    observation = replace(apart.observation, markets=(replace(update, changed=(told,)),))
    (signal,) = tell([board, observation, apart.later(minutes(1))]).of(SignalType.DISLOCATION)

    assert {
        snapshot_id("event-1", "draftkings", "spreads", "", side, at)
        for side, at in zip(("home", "away"), earlier, strict=True)
    } <= set(signal.snapshot_ids)


def test_an_event_of_twenty_books_takes_few_bytes() -> None:
    names = [f"bookmaker_{number:02}" for number in range(20)]
    board = a_board(**dict.fromkeys(names, -5.5))
    board = board.with_market(TOTALS, **dict.fromkeys(names, 220.0)).with_market(H2H, **dict.fromkeys(names, 0.5))
    state = tell(steady(board, 14)).state

    assert len(wire.dump_state(state)) < 6_500

"""What ingest still knows of a game that is long gone: who played, and how many messages it has led to."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from services.ingest.changes import Coverage, EventState, Poll, Step, observe_poll
from services.ingest.keeping import forgotten
from services.ingest.normalize import normalize
from services.ingest.store import StateRows, state_from
from services.ingest.testing import SPORT, START, a_book, an_event, minutes, spreads

ANOTHER_GAME = an_event(a_book("betmgm", spreads(-2.5)), event_id="another")


def polled(state: EventState | None, body: list[Any], at: datetime) -> Step:
    states = {} if state is None else {state.event_id: state}
    poll = Poll(SPORT, at, 60.0, Coverage(("spreads",)), normalize(body))
    return next(step for step in observe_poll(states, poll) if step.state.event_id == "game")


def a_game() -> Step:
    return polled(None, [an_event(a_book("betmgm", spreads(-5.5)))], START)


def a_gone_game() -> EventState:
    return polled(a_game().state, [ANOTHER_GAME], START + minutes(1)).state


def kept(state: EventState, before: datetime) -> EventState | None:
    stub = forgotten(StateRows().row(state), before)
    return None if stub is None else state_from(stub)


def test_a_game_that_is_long_gone_loses_its_quotes_and_nothing_else() -> None:
    gone = a_gone_game()
    stub = kept(gone, START + minutes(2))
    assert gone.absent
    assert stub is not None
    assert (stub.quotes, stub.absent) == ((), ())
    assert (stub.revision, stub.home_team, stub.gone) == (gone.revision, gone.home_team, True)


def test_a_game_that_went_lately_or_is_not_gone_is_remembered_whole() -> None:
    assert kept(a_gone_game(), START + minutes(1)) is None
    assert kept(a_game().state, START + timedelta(days=100)) is None


def test_a_stub_is_left_as_it_is() -> None:
    stub = kept(a_gone_game(), START + minutes(2))
    assert stub is not None
    assert kept(stub, START + minutes(2)) is None


def test_a_game_that_returns_is_told_whole_and_goes_on_counting() -> None:
    stub = kept(a_gone_game(), START + minutes(2))
    back = polled(stub, [an_event(a_book("betmgm", spreads(-5.5)))], START + timedelta(days=40)).observation
    assert (back.revision, back.previous_revision, back.keyframe) == (3, 2, True)
    assert len(back.changes) == 1

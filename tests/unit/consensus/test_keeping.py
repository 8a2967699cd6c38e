"""What consensus still knows of a game that nobody observes any more: how many messages it has led to."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.consensus.board import BoardRules, step
from services.consensus.events import ConsensusFold, dump_state, load_state
from services.consensus.keeping import forgotten
from services.consensus.model import EventState
from services.consensus.testing import NOW, SPREADS, Feed
from services.shared.errors import Malformed

LINES = {"betmgm": -6.0, "caesars": -6.0, "draftkings": -6.5, "fanduel": -6.5, "pinnacle": -6.0}
LATER = NOW + timedelta(days=40)


def a_game() -> tuple[Feed, EventState]:
    feed = Feed()
    feed.board(SPREADS, LINES)
    return feed, step(step(EventState(), feed.observe(), BoardRules()).state, feed.observe(), BoardRules()).state


def test_a_game_that_nobody_observes_any_more_keeps_its_count_and_nothing_else() -> None:
    _, state = a_game()
    stub = forgotten(dump_state(state), LATER)
    assert stub is not None
    assert load_state(stub) == EventState(revision=2)
    assert forgotten(stub, LATER) is None


def test_a_game_that_was_observed_since_is_remembered() -> None:
    _, state = a_game()
    assert forgotten(dump_state(state), NOW) is None


def test_a_game_that_returns_has_all_its_markets_and_goes_on_counting() -> None:
    feed, state = a_game()
    stub = forgotten(dump_state(state), LATER)
    assert stub is not None
    back = step(load_state(stub), feed.observe(keyframe=True), BoardRules())
    assert back.state.revision == 3
    assert back.published == (SPREADS,)
    assert len(back.quote_points) == len(LINES)


def test_a_change_of_what_is_forgotten_cannot_be_read() -> None:
    feed, state = a_game()
    stub = forgotten(dump_state(state), LATER)
    assert stub is not None
    feed.quote(SPREADS, "pinnacle", -7.0)
    with pytest.raises(Malformed):
        ConsensusFold(BoardRules()).step(load_state(stub), feed.observe(keyframe=False))


def test_a_keyframe_names_every_market_that_is_quoted_so_that_a_list_that_lost_one_heals() -> None:
    feed, state = a_game()
    assert step(state, feed.observe(keyframe=True), BoardRules()).appeared == (SPREADS,)

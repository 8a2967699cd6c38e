"""What the rules still know of a game that nobody observes any more: nothing."""

from __future__ import annotations

from datetime import timedelta

from services.signals import wire
from services.signals.keeping import forgotten
from services.signals.rules import RuleSettings, observe
from services.signals.testing import NOON, a_board, minutes


def a_state() -> bytes:
    state, _, _ = observe(None, a_board(draftkings=-5.5, betmgm=-6.5).observation, RuleSettings())
    return wire.dump_state(state)


def test_a_game_that_nobody_observes_any_more_is_forgotten_whole() -> None:
    stub = forgotten(a_state(), NOON + minutes(1))
    assert stub is not None
    assert wire.load_state(stub) is None
    assert forgotten(stub, NOON + timedelta(days=1)) is None


def test_a_game_that_was_observed_since_is_remembered() -> None:
    assert forgotten(a_state(), NOON) is None

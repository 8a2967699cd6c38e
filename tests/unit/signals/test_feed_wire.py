"""Protobuf to the rules' words and back: nothing is lost, and what cannot be read is refused."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from msgspec.structs import replace

from services.shared.errors import Malformed
from services.signals import wire
from services.signals.events import SignalEvents
from services.signals.feed_testing import NOON, a_signal, market_update
from services.signals.model import Bet
from services.signals.rules import RuleSettings, observe
from services.signals.testing import H2H, SPREADS, TOTALS, Offer, a_board, minutes


@pytest.mark.parametrize(
    "board",
    [
        a_board(draftkings=-5.5, betmgm=-6.5),
        a_board(draftkings=-5.5, betmgm=-6.5).later(minutes(1), draftkings=-6.0),
        a_board(draftkings=-5.5, betmgm=-6.5).later(minutes(1), draftkings=None, betmgm=None),
        a_board(TOTALS, draftkings=220.5, betmgm=221.0, fanduel=220.5, caesars=220.5),
        a_board(H2H, draftkings=Offer(None, 2.4, 2.9, 3.5), betmgm=Offer(None, 2.5, 2.8, 3.4)),
        a_board(SPREADS, starts_in=None, reads=False, sport_key="icehockey_nhl", draftkings=-1.5),
    ],
)
def test_an_observation_survives_the_wire(board):
    sent = market_update(board.observation, revision=1).SerializeToString()
    assert wire.observation(wire.markets_updated(sent)) == board.observation


def test_a_state_survives_the_database():
    state, _, _ = observe(None, a_board(draftkings=-5.5, betmgm=-6.5, fanduel=-5.5).observation, RuleSettings())
    assert wire.load_state(wire.dump_state(state)) == state


def test_an_event_of_which_nothing_could_be_applied_has_no_state():
    assert wire.load_state(wire.dump_state(None)) is None


@pytest.mark.parametrize("broken", [b"\xff\xff", b"", b"\x0a\x00"])
def test_bytes_that_are_no_market_update_are_malformed(broken):
    with pytest.raises(Malformed):
        wire.markets_updated(broken)


@pytest.mark.parametrize("missing", ["event_id", "observed_at", "revision"])
def test_a_market_update_without_event_time_or_revision_is_malformed(missing):
    update = market_update(a_board(draftkings=-5.5).observation, revision=1)
    update.event.ClearField(missing)
    with pytest.raises(Malformed):
        wire.markets_updated(update.SerializeToString())


@pytest.mark.parametrize("price", [1.0, 0.0, -110.0, math.nan, math.inf])
def test_a_price_that_is_none_is_malformed(price):
    update = market_update(a_board(draftkings=-5.5).observation, revision=1)
    update.updated[0].changed[0].quote.outcomes[0].price = price
    with pytest.raises(Malformed):
        wire.observation(update)


def test_a_market_with_one_side_is_malformed():
    update = market_update(a_board(draftkings=-5.5).observation, revision=1)
    del update.updated[0].changed[0].quote.outcomes[1]
    with pytest.raises(Malformed):
        wire.observation(update)


def test_outcomes_that_were_first_seen_at_other_times_survive_the_wire():
    observation = a_board(draftkings=-5.5).observation
    (update,) = observation.markets
    (view,) = update.changed
    apart = replace(view, quote=replace(view.quote, outcomes_observed_at=(NOON, NOON - timedelta(hours=1))))
    told = replace(observation, markets=(replace(update, changed=(apart,)),))
    assert wire.observation(market_update(told, revision=1)) == told


def test_where_to_bet_survives_the_wire():
    observation = a_board(draftkings=-5.5).observation
    (update,) = observation.markets
    with_bet = replace(update.changed[0], bet=Bet(link="https://book.example/home", limit_other=500.0))
    told = replace(observation, markets=(replace(update, changed=(with_bet,)),))
    assert wire.observation(market_update(told, revision=1)) == told


@pytest.mark.parametrize("column", ["books", "read_age_seconds", "others_of"])
def test_columns_that_do_not_fit_the_books_are_malformed(column):
    update = market_update(a_board(draftkings=-5.5, betmgm=-6.5).observation, revision=1)
    getattr(update.updated[0], column).pop()
    with pytest.raises(Malformed):
        wire.observation(update)


def test_a_comparison_that_is_not_there_is_malformed():
    update = market_update(a_board(draftkings=-5.5, betmgm=-6.5).observation, revision=1)
    update.updated[0].others_of[0] = 3
    with pytest.raises(Malformed):
        wire.observation(update)


@pytest.mark.parametrize("age", [1e300, -1e12, math.inf])
def test_a_reading_older_than_time_is_malformed(age):
    update = market_update(a_board(draftkings=-5.5, betmgm=-6.5).observation, revision=1)
    update.updated[0].read_age_seconds[1] = age
    with pytest.raises(Malformed):
        wire.observation(update)


def test_a_change_of_what_is_not_held_is_malformed():
    later = a_board(draftkings=-5.5, betmgm=-6.5).later(minutes(1), draftkings=-6.0).observation
    with pytest.raises(Malformed, match="betmgm"):
        SignalEvents(RuleSettings(), received=lambda: None).step(None, later)


def test_a_signal_carries_every_field_that_it_was_given():
    signal = wire.signal(a_signal("one", meta={"b": "2", "a": "1"}))
    left_to_the_feed = {"published_at", "cursor"}
    for field in signal.DESCRIPTOR.fields:
        given = getattr(a_signal("one"), field.name, None)
        if field.has_presence and field.name not in left_to_the_feed:
            assert signal.HasField(field.name) == (given is not None), field.name
    assert not signal.HasField("published_at")
    assert signal.cursor == ""
    assert signal.books_moved[0].from_value == -5.5
    assert signal.components[0].parts[0].name == "magnitude"


def test_the_same_signal_gives_the_same_bytes_whatever_the_order_of_its_notes():
    one = wire.signal(a_signal("one", meta={"b": "2", "a": "1"}))
    other = wire.signal(a_signal("one", meta={"a": "1", "b": "2"}))
    assert wire.serialized(one) == wire.serialized(other)


def test_a_time_survives_the_wire_to_the_microsecond():
    moment = NOON + timedelta(microseconds=123_457)
    assert wire.moment(wire.stamp(moment)) == moment

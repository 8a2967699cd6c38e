"""Protobuf to the words of consensus, and back."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from stratum.common.v1.market_pb2 import Outcome
from stratum.consensus.v1.events_pb2 import MarketsUpdated
from stratum.ingest.v1.events_pb2 import EventObserved

from services.consensus import wire
from services.consensus.board import BoardRules
from services.consensus.events import ConsensusFold
from services.consensus.model import EventState
from services.consensus.testing import H2H, NOW, SPREADS, Feed, event_observed
from services.shared.errors import Malformed

FIVE = {"betmgm": -6.0, "caesars": -6.0, "draftkings": -6.5, "fanduel": -6.5, "pinnacle": -6.0}


def a_message() -> EventObserved:
    feed = Feed()
    feed.board(SPREADS, FIVE)
    for book in FIVE:
        feed.quote(H2H, book, None, 1.5, 2.7)
    return event_observed(feed.observe())


def test_an_observation_comes_back_as_it_was_sent():
    feed = Feed()
    feed.board(SPREADS, FIVE)
    first = feed.observe()
    feed.quote(SPREADS, "pinnacle", -7.0)
    feed.drop(SPREADS, "betmgm")
    for seen in (first, feed.observe()):
        assert wire.observation(event_observed(seen).SerializeToString()) == seen


def test_a_quote_leaves_as_it_came():
    message = a_message()
    link = message.changes[0].outcomes[1]
    link.link, link.limit, link.sid = "https://book.example/bet", 500.0, "77"
    message.changes[0].changed_after.FromDatetime(NOW - timedelta(seconds=50))
    message.changes[0].changed_by.FromDatetime(NOW - timedelta(seconds=20))
    fold = ConsensusFold(BoardRules(config_hash="abc"))
    arrival = fold.decode(message.SerializeToString())
    (outgoing,) = fold.step(EventState(), arrival.message).outgoing
    update = MarketsUpdated.FromString(outgoing.payload)
    told = [
        (market.key, book.quote, timedelta(seconds=age))
        for market in update.updated
        for book, age in zip(market.changed, market.read_age_seconds, strict=True)
    ]
    expected = []
    for quote in sorted(message.changes, key=lambda quote: (quote.key.market, quote.book)):
        # What stands outside is not said again in each quote.
        key, age = quote.key.__class__.FromString(quote.key.SerializeToString()), NOW - wire.moment(quote.last_update)
        quote.ClearField("key")
        quote.ClearField("last_update")
        expected.append((key, quote, age))
    assert told == expected
    assert (outgoing.event_id, outgoing.message_id) == (message.event.event_id, f"{message.event.event_id}:1")


def test_the_header_is_copied_under_our_own_count():
    message = a_message()
    message.event.revision, message.event.previous_revision = 12, 11
    fold = ConsensusFold(BoardRules())
    state = EventState(revision=3)
    arrival = fold.decode(message.SerializeToString())
    assert (arrival.revision, arrival.previous_revision, arrival.keyframe) == (12, 11, True)
    update = MarketsUpdated.FromString(fold.step(state, arrival.message).outgoing[0].payload)
    message.event.revision, message.event.previous_revision = 4, 3
    assert update.event == message.event


def test_only_changed_quotes_travel_and_everybody_is_named():
    feed = Feed()
    feed.board(SPREADS, FIVE)
    fold = ConsensusFold(BoardRules())
    first = fold.step(EventState(), feed.observe())
    feed.quote(SPREADS, "pinnacle", -7.0)
    (market,) = MarketsUpdated.FromString(fold.step(first.state, feed.observe()).outgoing[0].payload).updated
    assert [book.quote.book for book in market.changed] == ["pinnacle"]
    assert list(market.books) == sorted(FIVE)
    assert list(market.read_age_seconds) == [20.0] * 5


def test_each_book_points_at_the_others_it_is_compared_with():
    feed = Feed()
    feed.board(SPREADS, FIVE)
    outcome = ConsensusFold(BoardRules()).step(EventState(), feed.observe())
    (market,) = MarketsUpdated.FromString(outcome.outgoing[0].payload).updated
    standings = outcome.state.markets[SPREADS].priced.standings
    for book, place in zip(market.books, market.others_of, strict=True):
        told, others = market.others[place - 1], standings[book].others
        assert (told.clusters, told.fair_line, told.dispersion) == (
            others.clusters,
            others.fair_line,
            others.dispersion,
        )


def test_a_book_that_nobody_stands_against_points_at_none():
    feed = Feed()
    feed.board(SPREADS, {"betmgm": -6.0})
    outcome = ConsensusFold(BoardRules()).step(EventState(), feed.observe())
    (market,) = MarketsUpdated.FromString(outcome.outgoing[0].payload).updated
    assert (list(market.others), list(market.others_of)) == ([], [0])


def test_a_start_that_nobody_can_read_stays_absent():
    message = a_message()
    message.event.ClearField("commence_time")
    fold = ConsensusFold(BoardRules())
    outcome = fold.step(EventState(), fold.decode(message.SerializeToString()).message)
    update = MarketsUpdated.FromString(outcome.outgoing[0].payload)
    assert not update.event.HasField("commence_time")
    assert not any(market.consensus.in_play for market in update.updated)


def test_a_moneyline_has_no_line_and_too_few_books_no_numbers():
    message = a_message()
    del message.changes[2:]
    fold = ConsensusFold(BoardRules())
    outcome = fold.step(EventState(), fold.decode(message.SerializeToString()).message)
    (market,) = MarketsUpdated.FromString(outcome.outgoing[0].payload).updated
    assert (market.consensus.note, market.consensus.books) == ("too_few_books", 2)
    for name in ("consensus_line", "fair_line", "fair_probability", "consensus_price", "dispersion"):
        assert not market.consensus.HasField(name)
    assert not any(book.quote.HasField("line") for book in market.changed)


def test_a_negative_zero_is_no_line():
    message = a_message()
    spread = next(quote for quote in message.changes if quote.key.market == "spreads")
    spread.line = -0.0
    seen = wire.observation(message.SerializeToString())
    line = next(quote.line for key, quote in seen.changes if key == SPREADS and quote.book == spread.book)
    assert str(line) == "0.0"


def a_broken(change: Callable[[EventObserved], object]) -> bytes:
    message = a_message()
    change(message)
    return message.SerializeToString()


def clear(name: str) -> Callable[[EventObserved], object]:
    return lambda message: message.event.ClearField(name)


def quote(name: str, value: object) -> Callable[[EventObserved], object]:
    return lambda message: setattr(message.changes[0], name, value)


def outcome(index: int, name: str, value: object) -> Callable[[EventObserved], object]:
    return lambda message: setattr(message.changes[0].outcomes[index], name, value)


@pytest.mark.parametrize(
    "change",
    [
        clear("event_id"),
        clear("sport_key"),
        clear("observed_at"),
        clear("revision"),
        outcome(0, "price", 1.0),
        outcome(1, "price", float("nan")),
        outcome(1, "price", float("inf")),
        outcome(0, "outcome", Outcome.AWAY),
        outcome(1, "outcome", Outcome.OVER),
        lambda message: message.changes[0].outcomes.reverse(),
        lambda message: message.changes[0].outcomes.pop(),
        lambda message: message.changes[0].outcomes.add(outcome=Outcome.HOME, price=2.0),
        lambda message: message.changes[0].ClearField("observed_at"),
        lambda message: message.changes[-1].ClearField("line"),
        lambda message: setattr(message.changes[-1], "line", float("nan")),
        lambda message: setattr(message.changes[0].key, "market", "h2h_lay"),
        lambda message: message.removed.add(book="betmgm").key.CopyFrom(message.changes[0].key.__class__(market="x")),
    ],
)
def test_what_cannot_be_used_is_malformed(change):
    with pytest.raises(Malformed):
        wire.observation(a_broken(change))


def test_other_bytes_are_malformed():
    with pytest.raises(Malformed):
        wire.observation(b"\xff\xff\xff")

"""What is written by hand says what the message would, in the same bytes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from stratum.common.v1 import market_pb2
from stratum.ingest.v1.events_pb2 import EventObserved

from services.ingest.changes import Coverage, HeldQuote, Observation, Reads
from services.ingest.normalize import Offer, OutcomeQuote
from services.ingest.testing import SPORT, START, TIP, minutes
from services.ingest.wire import book_quote, event_observed, timestamp
from services.shared.identity import EPOCH

NAMES = st.text(min_size=1, max_size=200)
MOMENTS = st.integers(0, 4 * 10**15).map(lambda microseconds: EPOCH + timedelta(microseconds=microseconds))
MAYBE = st.none() | MOMENTS
OUTCOMES = st.builds(
    OutcomeQuote,
    st.sampled_from(["home", "away", "draw", "over", "under"]),
    st.floats(1.02, 1000.0),
    st.none() | NAMES,
    st.none() | st.floats(0.5, 1e6),
    st.none() | NAMES,
)
OFFERS = st.builds(
    Offer,
    st.tuples(NAMES, st.just("") | NAMES, NAMES),
    st.none() | st.integers(-40, 40).map(lambda quarters: quarters / 4),
    st.lists(OUTCOMES, min_size=2, max_size=3).map(tuple),
)
QUOTES = st.builds(
    lambda offer, since, *times: HeldQuote(offer, (since,) * len(offer.outcomes), *times),
    OFFERS,
    MOMENTS,
    MOMENTS,
    MAYBE,
    MAYBE,
    MAYBE,
)


def as_message(held: HeldQuote, last_update: datetime | None) -> market_pb2.BookQuote:
    """The quote made field by field as the contract names them."""
    market, player, book = held.offer.key
    return market_pb2.BookQuote(
        book=book,
        key=market_pb2.MarketKey(market=market, player=player),
        line=held.offer.line,
        outcomes=[
            market_pb2.OutcomePrice(
                outcome=market_pb2.Outcome.Value.Value(outcome.outcome.upper()),
                price=outcome.price,
                observed_at=timestamp(since),
                link=outcome.link,
                limit=outcome.limit,
                sid=outcome.sid,
            )
            for outcome, since in zip(held.offer.outcomes, held.since, strict=True)
        ],
        last_update=timestamp(last_update),
        changed_after=timestamp(held.changed_after),
        changed_by=timestamp(held.changed_by),
        observed_at=timestamp(held.observed_at),
        previous_seen_at=timestamp(held.previous_seen_at),
    )


@given(QUOTES, MAYBE)
def test_a_quote_written_by_hand_is_the_quote_as_protobuf_writes_it(held: HeldQuote, reading: datetime | None) -> None:
    assert book_quote(held, reading) == as_message(held, reading).SerializeToString()


def test_an_observation_tells_readings_a_market_at_a_time() -> None:
    offer = Offer(("spreads", "", "draftkings"), -5.5, (OutcomeQuote("home", 1.9), OutcomeQuote("away", 1.9)))
    held = HeldQuote(offer, (START, START), START)
    observation = Observation(
        event_id="game",
        sport_key=SPORT,
        home_team="Lakers",
        away_team="Celtics",
        commence_time=TIP,
        revision=2,
        previous_revision=1,
        observed_at=START + minutes(1),
        expected_interval_seconds=60.0,
        asked=Coverage(("spreads", "totals")),
        keyframe=False,
        changes=(held,),
        readings=(START,),
        removed=(("totals", "", "betmgm"),),
        reads=(Reads("spreads", "", ("betmgm", "fanduel"), (15.0, -0.5)),),
    )
    message = EventObserved.FromString(event_observed(observation))
    assert (message.event.revision, message.event.commence_time.ToDatetime(UTC)) == (2, TIP)
    assert list(message.changes) == [as_message(held, START)]
    assert [(gone.key.market, gone.book) for gone in message.removed] == [("totals", "betmgm")]
    (reads,) = message.market_reads
    assert (reads.key.market, list(reads.books), list(reads.age_seconds)) == (
        "spreads",
        ["betmgm", "fanduel"],
        [15.0, -0.5],
    )

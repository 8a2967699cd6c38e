"""Observations to protobuf. Nothing here decides: what is told was decided in `changes`."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache

from google.protobuf.timestamp_pb2 import Timestamp
from stratum.common.v1 import market_pb2
from stratum.common.v1.error_reason_pb2 import ErrorReason
from stratum.ingest.v1 import events_pb2, ingest_service_pb2

from services.ingest.changes import Coverage, HeldOutcome, Observation
from services.ingest.store import BookHealth
from services.shared.bus import Outgoing
from services.shared.errors import InvalidArgument
from services.shared.identity import EPOCH

_OUTCOMES = {
    "home": market_pb2.Outcome.HOME,
    "away": market_pb2.Outcome.AWAY,
    "draw": market_pb2.Outcome.DRAW,
    "over": market_pb2.Outcome.OVER,
    "under": market_pb2.Outcome.UNDER,
}


def outgoing(observation: Observation) -> Outgoing:
    """The message as it leaves; its id is unique for ever."""
    return Outgoing(
        event_id=observation.event_id,
        message_id=f"{observation.event_id}:{observation.revision}",
        payload=event_observed(observation),
    )


def event_observed(observation: Observation) -> bytes:
    """One event as one poll saw it: an `EventObserved`, serialised.

    Messages whose bytes follow one another are one message that has all their fields, so the bytes of a quote that
    keyframe after keyframe repeats are made once.
    """
    opening = events_pb2.EventObserved(
        event=market_pb2.EventHeader(
            event_id=observation.event_id,
            sport_key=observation.sport_key,
            revision=observation.revision,
            previous_revision=observation.previous_revision,
            observed_at=timestamp(observation.observed_at),
            expected_interval_seconds=observation.expected_interval_seconds,
            asked=coverage(observation.asked),
            commence_time=timestamp(observation.commence_time),
            home_team=observation.home_team,
            away_team=observation.away_team,
            keyframe=observation.keyframe,
        )
    )
    changes = [
        _change(
            quote.book,
            quote.market,
            quote.player,
            quote.line,
            quote.outcomes,
            quote.told_update,
            quote.changed_after,
            quote.changed_by,
            quote.observed_at,
            quote.previous_seen_at,
        )
        for quote in observation.changes
    ]
    ending = events_pb2.EventObserved(
        removed=[
            events_pb2.QuoteRemoved(book=book, key=market_pb2.MarketKey(market=market, player=player))
            for market, player, book in observation.removed
        ],
        reads=[
            events_pb2.QuoteRead(
                book=read.book,
                key=market_pb2.MarketKey(market=read.market, player=read.player),
                age_seconds=read.age_seconds,
            )
            for read in observation.reads
        ],
    )
    return b"".join((opening.SerializeToString(), *changes, ending.SerializeToString()))


def coverage(asked: Coverage) -> market_pb2.Coverage:
    """What a poll asked for."""
    return market_pb2.Coverage(markets=asked.markets, books=asked.books)


# As many as a large board with props has quotes: with fewer, each keyframe would push out what the next one needs.
@lru_cache(1 << 16)
def _change(
    book: str,
    market: str,
    player: str,
    line: float | None,
    outcomes: tuple[HeldOutcome, ...],
    told_update: datetime | None,
    changed_after: datetime | None,
    changed_by: datetime | None,
    observed_at: datetime,
    previous_seen_at: datetime | None,
) -> bytes:
    """A quote whole, with the reading that consumers are to know of, as one of the changes of an `EventObserved`."""
    # Every part is made in its place: a message that is given to another one is copied.
    told = events_pb2.EventObserved()
    quote = told.changes.add(
        book=book,
        line=line,
        last_update=timestamp(told_update),
        changed_after=timestamp(changed_after),
        changed_by=timestamp(changed_by),
        observed_at=timestamp(observed_at),
        previous_seen_at=timestamp(previous_seen_at),
    )
    quote.key.market = market
    quote.key.player = player
    for outcome in outcomes:
        quote.outcomes.add(
            outcome=_OUTCOMES[outcome.outcome],
            price=outcome.price,
            observed_at=timestamp(outcome.observed_at),
            snapshot_id=outcome.snapshot_id,
            link=outcome.link,
            limit=outcome.limit,
            sid=outcome.sid,
        )
    return told.SerializeToString()


def book_health(book: BookHealth, now: datetime | None) -> ingest_service_pb2.BookHealth:
    """One book's part of a feed's health; `now` in event time, if it is known."""
    age = None if now is None or book.last_update is None else (now - book.last_update).total_seconds()
    return ingest_service_pb2.BookHealth(
        book=book.book,
        last_update=timestamp(book.last_update),
        age_seconds=age,
        quotes=book.quotes,
        events=book.events,
    )


@lru_cache(4096)
def timestamp(moment: datetime | None) -> Timestamp | None:
    """The moment, exact to the microsecond; None stays absent. Shared: to be copied into messages, never changed."""
    if moment is None:
        return None
    since = moment - EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)


#: Enough for every game of every sport on a day; a list that is longer is somebody's mistake.
MOST_WATCHED = 1000


def check_watched(request: ingest_service_pb2.SetWatchedEventsRequest) -> None:
    """Refuses a list without a name, and one that is too long. Raises InvalidArgument."""
    if not request.watcher:
        raise InvalidArgument(ErrorReason.INVALID_ARGUMENT, "watcher is empty: say who watches", field="watcher")
    if len(request.event_ids) > MOST_WATCHED:
        message = f"event_ids has {len(request.event_ids)} entries; at most {MOST_WATCHED} can be watched"
        raise InvalidArgument(ErrorReason.INVALID_ARGUMENT, message, field="event_ids")

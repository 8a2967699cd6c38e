"""Observations to protobuf. Nothing here decides: what is told was decided in `changes`."""

from __future__ import annotations

import struct
from datetime import datetime
from functools import lru_cache

from google.protobuf.timestamp_pb2 import Timestamp
from stratum.common.v1 import market_pb2
from stratum.ingest.v1 import events_pb2, ingest_service_pb2

from services.ingest.changes import Coverage, HeldQuote, Observation
from services.ingest.normalize import OutcomeQuote
from services.ingest.store import BookHealth
from services.shared.bus import Outgoing
from services.shared.identity import EPOCH

#: The sides as their one byte on the wire.
_OUTCOMES = {
    name: bytes([value])
    for name, value in (
        ("home", market_pb2.Outcome.HOME),
        ("away", market_pb2.Outcome.AWAY),
        ("draw", market_pb2.Outcome.DRAW),
        ("over", market_pb2.Outcome.OVER),
        ("under", market_pb2.Outcome.UNDER),
    )
}
_DOUBLE = struct.Struct("<Bd").pack


def outgoing(observation: Observation) -> Outgoing:
    """The message as it leaves; its id is unique for ever."""
    return Outgoing(
        event_id=observation.event_id,
        message_id=f"{observation.event_id}:{observation.revision}",
        payload=event_observed(observation),
    )


def event_observed(observation: Observation) -> bytes:
    """One event as one poll saw it: an `EventObserved`, serialised.

    Messages whose bytes follow one another are one message that has all their fields.
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
        _field(events_pb2.EventObserved.CHANGES_FIELD_NUMBER, book_quote(quote, reading))
        for quote, reading in zip(observation.changes, observation.readings, strict=True)
    ]
    ending = events_pb2.EventObserved(
        removed=[
            events_pb2.QuoteRemoved(book=book, key=market_pb2.MarketKey(market=market, player=player))
            for market, player, book in observation.removed
        ],
        market_reads=[
            events_pb2.MarketReads(
                key=market_pb2.MarketKey(market=reads.market, player=reads.player),
                books=reads.books,
                age_seconds=reads.ages_seconds,
            )
            for reads in observation.reads
        ],
    )
    return b"".join((opening.SerializeToString(), *changes, ending.SerializeToString()))


@lru_cache(256)
def coverage(asked: Coverage) -> market_pb2.Coverage:
    """What a poll asked for."""
    return market_pb2.Coverage(markets=asked.markets, books=asked.books)


def book_quote(held: HeldQuote, last_update: datetime | None) -> bytes:
    """A quote whole, with the reading that consumers are to know of: a `BookQuote`, serialised.

    Written field by field, in the order of their numbers: a board repeats the same books, markets and moments, whose
    bytes are made once, and making a message of objects to have it written takes three times as long.
    """
    offer = held.offer
    market, player, book = offer.key
    parts = [
        _text(1, book),
        _key(market, player),
        b"" if offer.line is None else _double(3, offer.line),
        *[_field(4, _outcome(outcome, since)) for outcome, since in zip(offer.outcomes, held.since, strict=True)],
        _moment(5, last_update),
        _moment(6, held.changed_after),
        _moment(7, held.changed_by),
        _moment(8, held.observed_at),
        _moment(9, held.previous_seen_at),
    ]
    return b"".join(parts)


def _outcome(outcome: OutcomeQuote, since: datetime) -> bytes:
    """An `OutcomePrice`, serialised, without the id of its snapshot: readers have everything that it is made of."""
    written = b"\x08" + _OUTCOMES[outcome.outcome] + _double(2, outcome.price) + _moment(3, since)
    if outcome.link is not None:
        written += _text(5, outcome.link)
    if outcome.limit is not None:
        written += _double(6, outcome.limit)
    if outcome.sid is not None:
        written += _text(7, outcome.sid)
    return written


@lru_cache(4096)
def _key(market: str, player: str) -> bytes:
    return _field(2, market_pb2.MarketKey(market=market, player=player).SerializeToString())


@lru_cache(1 << 14)
def _moment(number: int, moment: datetime | None) -> bytes:
    since = timestamp(moment)
    return b"" if since is None else _field(number, since.SerializeToString())


@lru_cache(1 << 14)
def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode())


def _double(number: int, value: float) -> bytes:
    return _DOUBLE(number << 3 | 1, value)


def _field(number: int, content: bytes) -> bytes:
    """A message or text as one field of another: behind the field's number and its own length."""
    return _opening(number, len(content)) + content


@lru_cache(4096)
def _opening(number: int, length: int) -> bytes:
    # Seven bits a byte, the lowest first; the highest bit says that more follow. Field numbers up to 15 take one byte.
    opening = bytearray([number << 3 | 2])
    while length > 0x7F:
        opening.append(length & 0x7F | 0x80)
        length >>= 7
    opening.append(length)
    return bytes(opening)


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

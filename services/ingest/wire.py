"""Observations, health and decisions to protobuf. Nothing here decides: that was done in the pure modules."""

from __future__ import annotations

import struct
from datetime import datetime, timedelta
from functools import lru_cache

from google.protobuf.timestamp_pb2 import Timestamp
from stratum.common.v1 import market_pb2
from stratum.common.v1.error_reason_pb2 import ErrorReason
from stratum.ingest.v1 import events_pb2
from stratum.ingest.v1 import ingest_service_pb2 as pb

from services.ingest.bookmakers import AskedDecision, Decision
from services.ingest.changes import Coverage, HeldQuote, Observation
from services.ingest.comparison import Comparison
from services.ingest.health import BookHealth, Judgement, ReasonKind, SportHealth, Status, changed_share
from services.ingest.normalize import KEY, OutcomeQuote
from services.ingest.store import QuarantinedBook
from services.shared.bus import Outgoing
from services.shared.errors import InvalidArgument
from services.shared.identity import EPOCH

LONGEST_ACTOR = 100
LONGEST_REASON = 500
#: A count in a message is 32 bits wide; one that went beyond stays there.
LARGEST_COUNT = 2**31 - 1
EARLIEST_SECONDS, LATEST_SECONDS = 0, 4_102_444_800

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
_STATUS = {status: pb.SportHealth.Status.Value.Value(status.value) for status in Status}
_REASON = {kind: pb.DegradedReason.Kind.Value.Value(kind.value) for kind in ReasonKind}
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


def sport_health(health: SportHealth, judged: Judgement) -> pb.SportHealth:
    """A feed's health with what was made of it."""
    return pb.SportHealth(
        sport_key=health.sport_key,
        status=_STATUS[judged.status],
        observed_at=timestamp(health.observed_at),
        age_seconds=judged.age_seconds,
        expected_interval_seconds=health.expected_interval_seconds,
        consecutive_failures=health.consecutive_failures,
        last_failure=health.last_failure,
        last_failure_at=timestamp(health.failed_at),
        books=[_book_health(book, judged) for book in health.books],
        credits_remaining=health.credits_remaining,
        reasons=[
            pb.DegradedReason(kind=_REASON[one.kind], book=one.book or None, detail=one.detail)
            for one in judged.reasons
        ],
        changed_share=changed_share(health.books),
        missing_books=sorted(judged.missing),
    )


def _book_health(book: BookHealth, judged: Judgement) -> pb.BookHealth:
    now = judged.event_now
    return pb.BookHealth(
        book=book.book,
        last_update=timestamp(book.last_update),
        age_seconds=None if now is None or book.last_update is None else (now - book.last_update).total_seconds(),
        quotes=book.quotes,
        events=book.events,
        changed_share=changed_share([book]),
        missing=book.book in judged.missing,
        seen_at=timestamp(book.seen_at),
    )


def quarantined_book(book: QuarantinedBook) -> pb.QuarantinedBook:
    """A book that nobody has admitted."""
    return pb.QuarantinedBook(
        book=book.book,
        title=book.title,
        first_seen_at=timestamp(book.first_seen_at),
        last_seen_at=timestamp(book.last_seen_at),
        quotes=min(book.quotes, LARGEST_COUNT),
        sports=book.sports,
        markets=book.markets,
        comparison=None if book.comparison is None else _comparison(book.comparison),
    )


def _comparison(comparison: Comparison) -> pb.BookComparison:
    return pb.BookComparison(
        compared_at=timestamp(comparison.compared_at),
        compared_quotes=comparison.compared_quotes,
        spread_points=comparison.spread_points,
        total_points=comparison.total_points,
        h2h_probability=comparison.h2h_probability,
        closest_book=comparison.closest_book or None,
        closest_share=comparison.closest_share,
    )


def book_decision(decision: Decision) -> pb.BookDecision:
    """A decision of the log."""
    return pb.BookDecision(
        revision=decision.revision,
        book=decision.book,
        before=decision.before,
        after=decision.after,
        effective_from=timestamp(decision.effective_from),
        actor=decision.actor,
        reason=decision.reason,
        decided_at=timestamp(decision.decided_at),
    )


def decision_asked(request: pb.AdmitBookRequest | pb.WithdrawBookRequest) -> AskedDecision:
    """What an operator asks for, in whole milliseconds. Raises InvalidArgument, which names the field."""
    if KEY.fullmatch(request.book) is None:
        raise _invalid("book", "is a provider's key: small letters, digits and underlines, 64 at most")
    for name, longest in (("actor", LONGEST_ACTOR), ("reason", LONGEST_REASON)):
        given = getattr(request, name)
        if not given.strip() or not given.isprintable() or len(given) > longest:
            raise _invalid(name, f"must be given: printable text on one line, {longest} characters at most")
    moment = None
    if request.HasField("effective_from"):
        given_at = request.effective_from
        if not EARLIEST_SECONDS <= given_at.seconds <= LATEST_SECONDS:
            raise _invalid("effective_from", "lies between 1970 and 2100")
        moment = EPOCH + timedelta(seconds=given_at.seconds, milliseconds=given_at.nanos // 1_000_000)
    return AskedDecision(request.book, request.actor.strip(), request.reason.strip(), moment)


def _invalid(field: str, what: str) -> InvalidArgument:
    return InvalidArgument(ErrorReason.INVALID_ARGUMENT, f"{field} {what}", field=field)


@lru_cache(4096)
def timestamp(moment: datetime | None) -> Timestamp | None:
    """The moment, exact to the microsecond; None stays absent. Shared: to be copied into messages, never changed."""
    if moment is None:
        return None
    since = moment - EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)


#: Enough for every game of every sport on a day; a list that is longer is somebody's mistake.
MOST_WATCHED = 1000


def check_watched(request: pb.SetWatchedEventsRequest) -> None:
    """Refuses a list without a name, and one that is too long. Raises InvalidArgument."""
    if not request.watcher:
        raise InvalidArgument(ErrorReason.INVALID_ARGUMENT, "watcher is empty: say who watches", field="watcher")
    if len(request.event_ids) > MOST_WATCHED:
        message = f"event_ids has {len(request.event_ids)} entries; at most {MOST_WATCHED} can be watched"
        raise InvalidArgument(ErrorReason.INVALID_ARGUMENT, message, field="event_ids")

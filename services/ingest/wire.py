"""Observations, health and decisions to protobuf. Nothing here decides: that was done in the pure modules."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache

from google.protobuf.timestamp_pb2 import Timestamp
from stratum.common.v1 import market_pb2
from stratum.common.v1.error_reason_pb2 import ErrorReason
from stratum.ingest.v1 import events_pb2
from stratum.ingest.v1 import ingest_service_pb2 as pb

from services.ingest.bookmakers import AskedDecision, Decision
from services.ingest.changes import Coverage, HeldOutcome, Observation, Read
from services.ingest.comparison import Comparison
from services.ingest.health import BookHealth, Judgement, ReasonKind, SportHealth, Status, changed_share
from services.ingest.normalize import KEY
from services.ingest.store import QuarantinedBook
from services.shared.bus import Outgoing
from services.shared.errors import InvalidArgument
from services.shared.identity import EPOCH

LONGEST_ACTOR = 100
LONGEST_REASON = 500
#: A count in a message is 32 bits wide; one that went beyond stays there.
LARGEST_COUNT = 2**31 - 1
EARLIEST_SECONDS, LATEST_SECONDS = 0, 4_102_444_800

_OUTCOMES = {
    "home": market_pb2.Outcome.HOME,
    "away": market_pb2.Outcome.AWAY,
    "draw": market_pb2.Outcome.DRAW,
    "over": market_pb2.Outcome.OVER,
    "under": market_pb2.Outcome.UNDER,
}
_STATUS = {status: pb.SportHealth.Status.Value.Value(status.value) for status in Status}
_REASON = {kind: pb.DegradedReason.Kind.Value.Value(kind.value) for kind in ReasonKind}


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
        market_reads=_reads(observation.reads),
    )
    return b"".join((opening.SerializeToString(), *changes, ending.SerializeToString()))


def _reads(reads: Sequence[Read]) -> list[events_pb2.MarketReads]:
    by_market: dict[tuple[str, str], list[Read]] = {}
    for read in reads:
        by_market.setdefault((read.market, read.player), []).append(read)
    return [
        events_pb2.MarketReads(
            key=market_pb2.MarketKey(market=market, player=player),
            books=[read.book for read in held],
            age_seconds=[read.age_seconds for read in held],
        )
        for (market, player), held in by_market.items()
    ]


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
            link=outcome.link,
            limit=outcome.limit,
            sid=outcome.sid,
        )
    return told.SerializeToString()


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

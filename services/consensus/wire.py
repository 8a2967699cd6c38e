"""Protobuf to the words of consensus, and back. What cannot be used is refused here, and nobody checks again.

A board says the same again and again: what changes from keyframe to keyframe is when each quote was last read. So the
rest of a quote is read and written once and remembered by its value, and messages are put together from parts that are
bytes already. Messages of one type, one behind the other, are one message with the fields of all; written in the order
of their fields they are the very bytes that the whole would have been.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import isfinite, nan

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from stratum.common.v1 import market_pb2 as common
from stratum.consensus.v1 import consensus_service_pb2, events_pb2, market_pb2
from stratum.ingest.v1.events_pb2 import EventObserved, MarketReads

from services.consensus import model
from services.consensus.model import MarketKey, Observation, OutcomeQuote, Quote
from services.consensus.series import thinned
from services.shared import odds
from services.shared.errors import Malformed
from services.shared.identity import snapshot_id

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OUTCOME_NAMES = {value: name.lower() for name, value in common.Outcome.Value.items()}
_OUTCOME_VALUES = {name: value for value, name in _OUTCOME_NAMES.items()}
#: The outcomes that a market of each kind can have, the canonical one first.
_SIDES: dict[odds.MarketKind, set[tuple[str, ...]]] = {
    odds.MarketKind.H2H: {("home", "away"), ("home", "away", "draw"), ("home", "draw", "away")},
    odds.MarketKind.SPREAD: {("home", "away")},
    odds.MarketKind.TOTAL: {("over", "under")},
}
_kind = lru_cache(maxsize=1024)(odds.market_kind)
#: Quotes whose bytes are remembered: a large board's, at about two kilobytes each.
_REMEMBERED_QUOTES = 16_384


def observation(payload: bytes) -> Observation:
    """What an `EventObserved` says. Raises Malformed for anything that no later message could make sense of."""
    try:
        message = EventObserved.FromString(payload)
    except DecodeError as error:
        raise Malformed(f"not an EventObserved: {error}") from error
    event = message.event
    if not event.event_id or not event.sport_key or not event.HasField("observed_at"):
        raise Malformed("an observation without event, sport or time")
    if event.revision <= event.previous_revision:
        raise Malformed(f"revision {event.revision} does not come after {event.previous_revision}")
    observed_at = moment(event.observed_at)
    return Observation(
        event_id=event.event_id,
        sport_key=event.sport_key,
        home_team=event.home_team,
        away_team=event.away_team,
        revision=event.revision,
        previous_revision=event.previous_revision,
        observed_at=observed_at,
        asked=model.Coverage(
            markets=tuple(sorted(event.asked.markets)),
            books=tuple(sorted(event.asked.books)),
            observed_at=observed_at,
            interval_seconds=event.expected_interval_seconds,
        ),
        commence_time=moment(event.commence_time) if event.HasField("commence_time") else None,
        keyframe=event.keyframe,
        changes=tuple([_quote(change) for change in message.changes]),
        removed=tuple([(_key(gone.key), gone.book) for gone in message.removed]),
        reads=tuple([read for reads in message.market_reads for read in _reads(reads, observed_at)]),
    )


def _reads(reads: MarketReads, observed_at: datetime) -> Iterator[tuple[MarketKey, str, datetime]]:
    key = _key(reads.key)
    for book, age_seconds in zip(reads.books, reads.age_seconds, strict=False):
        yield key, book, _read_at(observed_at, age_seconds)


# The books of a poll were read at a handful of moments.
@lru_cache(maxsize=4096)
def _read_at(observed_at: datetime, age_seconds: float) -> datetime:
    return observed_at - timedelta(seconds=age_seconds)


def markets_updated(
    seen: Observation,
    revision: int,
    keyframe: bool,
    markets: Sequence[bytes],
    removed: Sequence[MarketKey],
    config_hash: str,
) -> bytes:
    """A `MarketsUpdated`: what an observation made of its event, under our own count of revisions.

    `markets` are what `market_updated` makes.
    """
    head = events_pb2.MarketsUpdated(
        event=common.EventHeader(
            event_id=seen.event_id,
            sport_key=seen.sport_key,
            revision=revision,
            previous_revision=revision - 1,
            observed_at=timestamp(seen.observed_at),
            expected_interval_seconds=seen.asked.interval_seconds,
            asked=common.Coverage(markets=seen.asked.markets, books=seen.asked.books),
            commence_time=optional_timestamp(seen.commence_time),
            home_team=seen.home_team,
            away_team=seen.away_team,
            keyframe=keyframe,
        ),
        removed=[market_key(key) for key in removed],
        config_hash=config_hash,
    )
    return head.SerializeToString() + _repeated(events_pb2.MarketsUpdated.UPDATED_FIELD_NUMBER, markets)


def market_updated(seen: Observation, key: MarketKey, state: model.MarketState, told: Sequence[str]) -> bytes:
    """A `MarketUpdated`: a market as it stands after an observation, and whole the quotes of the books in `told`."""
    assert state.priced is not None, "what is published was priced"
    held, standings = state.priced.consensus, state.priced.standings
    books = sorted(standings)
    comparisons: dict[model.Others, int] = {}
    others_of = []
    for book in books:
        others = standings[book].others
        others_of.append(0 if others is None else comparisons.setdefault(others, len(comparisons) + 1))
    ages = _Ages(seen.observed_at)
    message = events_pb2.MarketUpdated(
        key=market_key(key),
        consensus=market_pb2.Consensus(
            consensus_line=held.consensus_line,
            fair_line=held.fair_line,
            fair_probability=held.fair_probability,
            consensus_price=held.consensus_price,
            dispersion=held.dispersion,
            dispersion_mad=held.dispersion_mad,
            books=held.books,
            clusters=held.clusters,
            devig_method=held.devig_method,
            in_play=held.in_play,
            note=held.note,
        ),
        books=books,
        read_age_seconds=[ages[state.quotes[book].last_update] for book in books],
        others_of=others_of,
        excluded=[
            market_pb2.ExcludedBook(book=book, reason=standings[book].excluded)
            for book in books
            if standings[book].excluded
        ]
        if held.excluded
        else (),
    )
    changed = [_book_told(state.quotes[book], standings[book]) for book in told]
    return (
        message.SerializeToString()
        + _repeated(events_pb2.MarketUpdated.CHANGED_FIELD_NUMBER, changed)
        + _repeated(events_pb2.MarketUpdated.OTHERS_FIELD_NUMBER, [_others_told(others) for others in comparisons])
    )


class _Ages(dict[datetime | None, float]):
    """Seconds from a reading to an observation: the books of a poll were read at a handful of moments."""

    def __init__(self, observed_at: datetime) -> None:
        self._observed_at = observed_at

    def __missing__(self, read_at: datetime | None) -> float:
        self[read_at] = age = nan if read_at is None else (self._observed_at - read_at).total_seconds()
        return age


def market_view(event_id: str, sport_key: str, key: MarketKey, state: model.MarketState) -> market_pb2.MarketView:
    """A market whole, as it was last told, for those who ask."""
    assert state.priced is not None, "what is shown was priced"
    return market_pb2.MarketView(
        key=market_key(key),
        consensus=consensus(event_id, sport_key, key, state.changed_at, state.priced.consensus, heartbeat=False),
        books=[
            market_pb2.BookView(
                quote=_book_quote(event_id, key, state.quotes[book]),
                cluster=standing.cluster,
                fair_probability=standing.fair_probability,
                implied_mean=standing.implied_mean,
                excluded=standing.excluded,
                others=None if standing.others is None else _others(standing.others),
            )
            for book, standing in sorted(state.priced.standings.items())
        ],
    )


def _book_quote(event_id: str, key: MarketKey, quote: Quote) -> common.BookQuote:
    return common.BookQuote(
        book=quote.book,
        key=market_key(key),
        line=quote.line,
        outcomes=[
            common.OutcomePrice(
                outcome=_OUTCOME_VALUES[outcome.outcome],
                price=outcome.price,
                observed_at=timestamp(outcome.observed_at),
                snapshot_id=snapshot_id(event_id, quote.book, *key, outcome.outcome, outcome.observed_at),
                link=outcome.link,
                limit=outcome.limit,
                sid=outcome.sid,
            )
            for outcome in quote.outcomes
        ],
        last_update=optional_timestamp(quote.last_update),
        changed_after=optional_timestamp(quote.changed_after),
        changed_by=optional_timestamp(quote.changed_by),
        observed_at=timestamp(quote.observed_at),
        previous_seen_at=optional_timestamp(quote.previous_seen_at),
    )


def consensus(
    event_id: str,
    sport_key: str,
    key: MarketKey,
    observed_at: datetime,
    held: model.Consensus,
    heartbeat: bool,
) -> market_pb2.Consensus:
    """The consensus of one market at one observation."""
    return market_pb2.Consensus(
        event_id=event_id,
        sport_key=sport_key,
        market=key.market,
        player=key.player,
        observed_at=timestamp(observed_at),
        consensus_line=held.consensus_line,
        fair_line=held.fair_line,
        fair_probability=held.fair_probability,
        consensus_price=held.consensus_price,
        dispersion=held.dispersion,
        dispersion_mad=held.dispersion_mad,
        books=held.books,
        clusters=held.clusters,
        devig_method=held.devig_method,
        in_play=held.in_play,
        excluded=[market_pb2.ExcludedBook(book=book, reason=reason) for book, reason in held.excluded],
        note=held.note,
        weights=[market_pb2.BookWeight(book=book, weight=weight) for book, weight in held.weights],
        heartbeat=heartbeat,
    )


def consensus_of_row(row: model.ConsensusRow) -> market_pb2.Consensus:
    """The consensus as it was stored."""
    return consensus(row.event_id, row.sport_key, row.key, row.observed_at, row.consensus, row.heartbeat)


def game(row: model.GameRow) -> consensus_service_pb2.Game:
    """An event as last observed."""
    return consensus_service_pb2.Game(
        event_id=row.event_id,
        sport_key=row.sport_key,
        home_team=row.home_team,
        away_team=row.away_team,
        commence_time=optional_timestamp(row.commence_time),
        observed_at=timestamp(row.observed_at),
        in_play=row.in_play,
        markets=row.markets,
        books=row.books,
    )


def game_market(
    key: MarketKey,
    view: market_pb2.MarketView | None,
    newest: model.ConsensusRow,
    history: Sequence[model.ConsensusRow],
    quotes: Mapping[str, Sequence[model.QuotePoint]],
    now: datetime,
) -> consensus_service_pb2.GameMarket:
    """A market of a game. `view` is None where nobody quotes any more; `now` is the event's newest observation."""
    return consensus_service_pb2.GameMarket(
        key=market_key(key),
        consensus=consensus_of_row(newest) if view is None else view.consensus,
        books=[] if view is None else [_current_quote(book, now) for book in view.books],
        consensus_series=[
            consensus_service_pb2.SeriesPoint(
                observed_at=timestamp(row.observed_at),
                line=row.consensus.consensus_line,
                price=row.consensus.consensus_price,
                fair_probability=row.consensus.fair_probability,
                gone=not row.consensus.exists,
            )
            for row in thinned(history)
        ],
        book_series=[
            consensus_service_pb2.BookSeries(
                book=book,
                points=[
                    consensus_service_pb2.SeriesPoint(
                        observed_at=timestamp(point.observed_at),
                        line=point.line,
                        price=point.price,
                        fair_probability=point.fair_probability,
                        gone=point.price is None,
                    )
                    for point in thinned(points)
                ],
            )
            for book, points in sorted(quotes.items())
        ],
    )


def market_key(key: MarketKey) -> common.MarketKey:
    """The key as it travels."""
    return common.MarketKey(market=key.market, player=key.player)


def moment(stamp: Timestamp) -> datetime:
    """An aware time of a timestamp, to the microsecond."""
    return _moment(stamp.seconds, stamp.nanos)


def timestamp(at: datetime) -> Timestamp:
    """A timestamp of an aware time, to be put into a message: not to be changed, others may hold the same one."""
    return _timestamp(at)


def optional_timestamp(at: datetime | None) -> Timestamp | None:
    """A timestamp, or None where there is no time."""
    return None if at is None else timestamp(at)


# A board repeats the same few times in many quotes.
@lru_cache(maxsize=4096)
def _moment(seconds: int, nanos: int) -> datetime:
    return _EPOCH + timedelta(seconds=seconds, microseconds=nanos // 1000)


@lru_cache(maxsize=4096)
def _timestamp(at: datetime) -> Timestamp:
    since = at - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)


def _key(key: common.MarketKey) -> MarketKey:
    if _kind(key.market) is None:
        raise Malformed(f"a market that nobody reads: {key.market!r}")
    return MarketKey(key.market, key.player)


def _quote(sent: common.BookQuote) -> tuple[MarketKey, Quote]:
    last_update = moment(sent.last_update) if sent.HasField("last_update") else None
    sent.ClearField("last_update")
    key, unread = _unread_quote(sent.SerializeToString())
    return key, unread.read(last_update)


@lru_cache(maxsize=_REMEMBERED_QUOTES)
def _unread_quote(payload: bytes) -> tuple[MarketKey, Quote]:
    sent = common.BookQuote.FromString(payload)
    key = _key(sent.key)
    kind = _kind(key.market)
    outcomes = tuple([_outcome(outcome) for outcome in sent.outcomes])
    names = tuple([outcome.outcome for outcome in outcomes])
    assert kind is not None, "the key was read first"
    if names not in _SIDES[kind]:
        raise Malformed(f"{sent.book} quotes {names} in {key.market}")
    if not sent.HasField("observed_at"):
        raise Malformed(f"{sent.book} quotes {key.market} at no time")
    if kind is not odds.MarketKind.H2H and not (sent.HasField("line") and isfinite(sent.line)):
        raise Malformed(f"{sent.book} quotes {key.market} without a line")
    return key, Quote(
        book=sent.book,
        line=sent.line + 0.0 if sent.HasField("line") else None,
        outcomes=outcomes,
        observed_at=moment(sent.observed_at),
        changed_after=moment(sent.changed_after) if sent.HasField("changed_after") else None,
        changed_by=moment(sent.changed_by) if sent.HasField("changed_by") else None,
        previous_seen_at=moment(sent.previous_seen_at) if sent.HasField("previous_seen_at") else None,
    )


def _outcome(sent: common.OutcomePrice) -> OutcomeQuote:
    if not (sent.price > 1.0 and isfinite(sent.price)):
        raise Malformed(f"a decimal price of {sent.price}")
    return OutcomeQuote(
        outcome=_OUTCOME_NAMES.get(sent.outcome, "unspecified"),
        price=sent.price,
        observed_at=moment(sent.observed_at),
        link=sent.link if sent.HasField("link") else None,
        limit=sent.limit if sent.HasField("limit") else None,
        sid=sent.sid if sent.HasField("sid") else None,
    )


def _book_told(quote: Quote, standing: model.Standing) -> bytes:
    return _told(
        quote.book,
        quote.line,
        quote.outcomes,
        quote.changed_after,
        quote.changed_by,
        quote.observed_at,
        quote.previous_seen_at,
        standing.cluster,
        standing.fair_probability,
        standing.implied_mean,
    )


@lru_cache(maxsize=_REMEMBERED_QUOTES)
def _told(
    book: str,
    line: float | None,
    outcomes: tuple[OutcomeQuote, ...],
    changed_after: datetime | None,
    changed_by: datetime | None,
    observed_at: datetime,
    previous_seen_at: datetime | None,
    cluster: str,
    fair_probability: float,
    implied_mean: float | None,
) -> bytes:
    """A `BookView` of a quote as it changed: without its last reading, which travels beside it."""
    # Every part is made in its place: a message that is given to another one is copied.
    view = market_pb2.BookView(cluster=cluster, fair_probability=fair_probability, implied_mean=implied_mean)
    quote = view.quote
    quote.book = book
    if line is not None:
        quote.line = line
    for outcome in outcomes:
        quote.outcomes.add(
            outcome=_OUTCOME_VALUES[outcome.outcome],
            price=outcome.price,
            observed_at=timestamp(outcome.observed_at),
            link=outcome.link,
            limit=outcome.limit,
            sid=outcome.sid,
        )
    for stamp, at in (
        (quote.changed_after, changed_after),
        (quote.changed_by, changed_by),
        (quote.observed_at, observed_at),
        (quote.previous_seen_at, previous_seen_at),
    ):
        if at is not None:
            stamp.CopyFrom(timestamp(at))
    return view.SerializeToString()


@lru_cache(maxsize=4096)
def _others_told(others: model.Others) -> bytes:
    return _others(others).SerializeToString()


def _repeated(field_number: int, messages: Sequence[bytes]) -> bytes:
    """Serialized messages as one field of another: each behind the field's number and its own length."""
    return b"".join([part for message in messages for part in (_opening(field_number, len(message)), message)])


@lru_cache(maxsize=4096)
def _opening(field_number: int, length: int) -> bytes:
    # Seven bits a byte, the lowest first; the highest bit says that more follow. Field numbers up to 15 take one byte.
    opening = bytearray([field_number << 3 | 2])
    while length > 0x7F:
        opening.append(length & 0x7F | 0x80)
        length >>= 7
    opening.append(length)
    return bytes(opening)


def _current_quote(view: market_pb2.BookView, now: datetime) -> consensus_service_pb2.CurrentQuote:
    quote = view.quote
    canonical, *rest = quote.outcomes
    other = next(outcome for outcome in rest if outcome.outcome != common.Outcome.DRAW)
    return consensus_service_pb2.CurrentQuote(
        view=view,
        read_age_seconds=(now - moment(quote.last_update)).total_seconds() if quote.HasField("last_update") else None,
        value_age_seconds=(now - moment(quote.observed_at)).total_seconds(),
        american=odds.american_from_decimal(canonical.price),
        american_other=odds.american_from_decimal(other.price),
    )


def _others(others: model.Others) -> market_pb2.OthersView:
    return market_pb2.OthersView(
        clusters=others.clusters,
        fair_line=others.fair_line,
        fair_probability=others.fair_probability,
        dispersion=others.dispersion,
        consensus_line=others.consensus_line,
    )

"""Protobuf to the rules' words and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import overload

import msgspec
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp
from stratum.common.v1 import market_pb2 as common
from stratum.consensus.v1 import events_pb2, market_pb2
from stratum.consensus.v1.events_pb2 import MarketsUpdated
from stratum.signals.v1 import signal_pb2 as proto
from stratum.signals.v1.signals_service_pb2 import ExplainedInput, ExplainSignalResponse

from services.shared.errors import Malformed
from services.shared.identity import EPOCH
from services.shared.odds import MarketKind
from services.signals import model
from services.signals.rules.window import kind_of

#: Seconds; more than any reading is old, and less than a time can be taken back by.
_LONGEST_AGE = 1e9
_CANONICAL = frozenset({common.Outcome.HOME, common.Outcome.OVER})


# Market updates in.


def markets_updated(payload: bytes) -> MarketsUpdated:
    """A message of consensus. Raises Malformed for bytes that are none, or that name no event, time or revision."""
    try:
        message = MarketsUpdated.FromString(payload)
    except DecodeError as unreadable:
        raise Malformed("no MarketsUpdated") from unreadable
    event = message.event
    if not event.event_id or not event.HasField("observed_at") or not event.revision:
        raise Malformed("a MarketsUpdated without event, time or revision")
    return message


def observation(message: MarketsUpdated) -> model.Observation:
    """One event as one poll saw it, in the rules' words. Raises Malformed for a price that is none."""
    event = message.event
    observed_at = moment(event.observed_at)
    return model.Observation(
        event_id=event.event_id,
        sport_key=event.sport_key,
        home_team=event.home_team,
        away_team=event.away_team,
        observed_at=observed_at,
        expected_interval_seconds=event.expected_interval_seconds,
        asked=_coverage(tuple(event.asked.markets), tuple(event.asked.books)),
        commence_time=moment(event.commence_time) if event.HasField("commence_time") else None,
        keyframe=event.keyframe,
        markets=tuple([_market(market) for market in message.updated]),
        removed=tuple([_key(key) for key in message.removed]),
    )


def _market(market: events_pb2.MarketUpdated) -> model.MarketUpdate:
    """A market's update, with its columns as values. What few will ask for, the comparisons, is read when asked for."""
    key = _key(market.key)
    books, ages, others_of = list(market.books), list(market.read_age_seconds), list(market.others_of)
    others = _Others(market.others, kind_of(key.market) is MarketKind.H2H)
    if not len(books) == len(ages) == len(others_of) or (others_of and max(others_of) > len(others)):
        raise Malformed(f"an update of {key.market} with columns that do not fit its books")
    told = market.consensus
    return model.MarketUpdate(
        key=key,
        consensus=model.ConsensusView(
            told.consensus_line if told.HasField("consensus_line") else None,
            told.fair_line if told.HasField("fair_line") else None,
            told.fair_probability if told.HasField("fair_probability") else None,
            told.consensus_price if told.HasField("consensus_price") else None,
            told.dispersion if told.HasField("dispersion") else None,
            told.dispersion_mad if told.HasField("dispersion_mad") else None,
            told.books,
            told.clusters,
            told.devig_method,
            told.note,
        ),
        books=tuple(books),
        changed=tuple([_book(view) for view in market.changed]),
        read_ages=_known(ages),
        others=others,
        others_at=others.places(),
        others_of=tuple(others_of),
        excluded=tuple(sorted([(one.book, one.reason) for one in market.excluded])) if market.excluded else (),
    )


def _known(ages: list[float]) -> tuple[float | None, ...]:
    """The ages, with None for what is no number. Raises Malformed for one that is no age of anything."""
    if -_LONGEST_AGE < sum(ages) < _LONGEST_AGE:  # false with a single one that is no number
        return tuple(ages)
    known = tuple([None if math.isnan(age) else age for age in ages])
    if any(age is not None and not -_LONGEST_AGE < age < _LONGEST_AGE for age in known):
        raise Malformed("a reading that is older than time")
    return known


class _Others(Sequence[model.OthersView]):
    """The comparisons of a market, each read when it is asked for: that is a book far from the others, one of many."""

    __slots__ = ("_is_h2h", "_views")

    def __init__(self, views: Sequence[market_pb2.OthersView], is_h2h: bool) -> None:
        self._views = list(views)
        self._is_h2h = is_h2h

    def places(self) -> tuple[float | None, ...]:
        """Where each stands on the market's scale."""
        if self._is_h2h:
            return tuple([v.fair_probability if v.HasField("fair_probability") else None for v in self._views])
        return tuple([view.fair_line if view.HasField("fair_line") else None for view in self._views])

    def __len__(self) -> int:
        return len(self._views)

    @overload
    def __getitem__(self, index: int) -> model.OthersView: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[model.OthersView]: ...
    def __getitem__(self, index: int | slice) -> model.OthersView | Sequence[model.OthersView]:
        if isinstance(index, slice):
            return [_others(view) for view in self._views[index]]
        return _others(self._views[index])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))


def _book(view: market_pb2.BookView) -> model.BookView:
    quote = view.quote
    canonical, other, draw = _sides(quote)
    observed_at = moment(quote.observed_at)
    seen = [moment(side.observed_at) for side in (canonical, other, draw) if side is not None]
    return model.BookView(
        book=quote.book,
        cluster=view.cluster,
        quote=model.Quote(
            line=quote.line if quote.HasField("line") else None,
            price=canonical.price,
            price_other=other.price,
            price_draw=None if draw is None else draw.price,
            fair_probability=view.fair_probability if view.HasField("fair_probability") else None,
            changed_after=moment(quote.changed_after) if quote.HasField("changed_after") else None,
            changed_by=moment(quote.changed_by) if quote.HasField("changed_by") else None,
            previous_seen_at=moment(quote.previous_seen_at) if quote.HasField("previous_seen_at") else None,
            outcomes_observed_at=() if seen.count(observed_at) == len(seen) else tuple(seen),
        ),
        observed_at=observed_at,
        implied_mean=view.implied_mean if view.HasField("implied_mean") else None,
        bet=_bet(canonical, other),
    )


def _bet(canonical: common.OutcomePrice, other: common.OutcomePrice) -> model.Bet | None:
    link = canonical.link if canonical.HasField("link") else None
    link_other = other.link if other.HasField("link") else None
    limit = canonical.limit if canonical.HasField("limit") else None
    limit_other = other.limit if other.HasField("limit") else None
    if link is None and link_other is None and limit is None and limit_other is None:
        return None
    return model.Bet(link, link_other, limit, limit_other)


def _sides(quote: common.BookQuote) -> tuple[common.OutcomePrice, common.OutcomePrice, common.OutcomePrice | None]:
    canonical = other = draw = None
    for outcome in quote.outcomes:
        if not 1.0 < outcome.price < math.inf:
            raise Malformed(f"{quote.book} has a price of {outcome.price}")
        if outcome.outcome in _CANONICAL:
            canonical = outcome
        elif outcome.outcome == common.Outcome.DRAW:
            draw = outcome
        else:
            other = outcome
    if canonical is None or other is None:
        raise Malformed(f"{quote.book} has a market with one side")
    return canonical, other, draw


def _others(others: market_pb2.OthersView) -> model.OthersView:
    return model.OthersView(
        clusters=others.clusters,
        fair_line=others.fair_line if others.HasField("fair_line") else None,
        fair_probability=others.fair_probability if others.HasField("fair_probability") else None,
        dispersion=others.dispersion if others.HasField("dispersion") else None,
        consensus_line=others.consensus_line if others.HasField("consensus_line") else None,
    )


@lru_cache(maxsize=256)  # polls ask for the same again and again
def _coverage(markets: tuple[str, ...], books: tuple[str, ...]) -> model.Coverage:
    return model.Coverage(markets, books)


def _key(key: common.MarketKey) -> model.MarketKey:
    return _market_key(key.market, key.player)


@lru_cache(maxsize=4096)  # as many as the props of a large board
def _market_key(market: str, player: str) -> model.MarketKey:
    return model.MarketKey(market, player)


# Signals out.


def signal(detected: model.DetectedSignal) -> proto.Signal:
    """The signal in its FULL view; without `published_at` and `cursor`, which it gets where it enters the feed."""
    return proto.Signal(
        id=detected.id,
        fact_id=detected.fact_id,
        also=detected.also,
        sport_key=detected.sport_key,
        event_id=detected.event_id,
        home_team=detected.home_team,
        away_team=detected.away_team,
        commence_time=stamp(detected.commence_time),
        market=detected.market,
        player=detected.player,
        signal_type=proto.SignalType.Value.Value(detected.signal_type),
        direction=proto.Direction.Value.Value(detected.direction),
        book=detected.book,
        from_value=detected.from_value,
        to_value=detected.to_value,
        delta=detected.delta,
        from_price=detected.from_price,
        to_price=detected.to_price,
        strength=detected.strength,
        velocity=detected.velocity,
        acceleration=detected.acceleration,
        composite_score=detected.composite_score,
        score_source=proto.ScoreSource.Value.Value(detected.score_source),
        tier=proto.Tier.Value.Value(detected.tier),
        components=[_component(component) for component in detected.components],
        minutes_to_tip=detected.minutes_to_tip,
        time_bucket=proto.TimeBucket.Value.Value(detected.time_bucket),
        observed_at=stamp(detected.observed_at),
        sampling_seconds=detected.sampling_seconds,
        window_seconds=detected.window_seconds,
        elapsed_seconds=detected.elapsed_seconds,
        clusters_moved=detected.clusters_moved,
        clusters_in_panel=detected.clusters_in_panel,
        books_moved=[_move(move) for move in detected.books_moved],
        books_holding=holdings(detected.books_holding),
        consensus_line=detected.consensus_line,
        fair_line=detected.fair_line,
        fair_probability=detected.fair_probability,
        devig_method=detected.devig_method,
        dispersion=detected.dispersion,
        snapshot_ids=detected.snapshot_ids,
        rules_version=detected.rules_version,
        config_hash=detected.config_hash,
        profile=detected.profile,
        meta=detected.meta,
        books=detected.books,
    )


def basic_view(full: proto.Signal) -> proto.Signal:
    """The same signal without the long lists."""
    basic = proto.Signal()
    basic.CopyFrom(full)
    basic.ClearField("books_moved")
    basic.ClearField("books_holding")
    basic.ClearField("snapshot_ids")
    return basic


def explanation(detected: model.DetectedSignal) -> ExplainSignalResponse:
    """What an explanation adds to the signal: its inputs and the steps. Signal, rule and configuration come later."""
    return ExplainSignalResponse(
        rules_version=detected.rules_version,
        config_hash=detected.config_hash,
        inputs=[
            ExplainedInput(
                snapshot_id=each.snapshot_id,
                book=each.book,
                cluster=each.cluster,
                role=each.role,
                line=each.line,
                price=each.price,
                price_other=each.price_other,
                fair_probability=each.fair_probability,
                observed_at=stamp(each.observed_at),
                last_update=stamp(each.last_update),
            )
            for each in detected.inputs
        ],
        steps=detected.steps,
    )


def holdings(books: Iterable[model.BookHolding]) -> list[proto.BookHolding]:
    """The books that still offer the old number."""
    return [
        proto.BookHolding(
            book=holding.book,
            line=holding.line,
            price=holding.price,
            price_other=holding.price_other,
            last_update=stamp(holding.last_update),
            age_seconds=holding.age_seconds,
            ev_now=holding.ev_now,
            link=holding.link,
            limit=holding.limit,
        )
        for holding in books
    ]


def old_number(full: proto.Signal) -> model.OldNumber:
    """Which number is old, so that one can ask who still offers it. Every type has both ends."""
    return model.OldNumber(
        market=full.market,
        player=full.player,
        signal_type=proto.SignalType.Value.Name(full.signal_type),
        direction=proto.Direction.Value.Name(full.direction),
        from_value=full.from_value,
        to_value=full.to_value,
        book=full.book if full.HasField("book") else None,
    )


def suppression(row: model.SuppressionRow) -> proto.Suppression:
    """A span at which something was held back."""
    return proto.Suppression(
        event_id=row.event_id,
        sport_key=row.sport_key,
        market=row.market,
        player=row.player,
        signal_type=proto.SignalType.Value.Value(row.signal_type),
        direction=proto.Direction.Value.Value(row.direction),
        book=row.book,
        reason=row.reason,
        count=row.count,
        first_seen_at=stamp(row.first_seen_at),
        last_seen_at=stamp(row.last_seen_at),
    )


def _component(component: model.ScoreComponent) -> proto.ScoreComponent:
    return proto.ScoreComponent(
        name=component.name,
        points=component.points,
        parts=[proto.ScorePart(name=part.name, points=part.points) for part in component.parts],
    )


def _move(move: model.BookMove) -> proto.BookMove:
    return proto.BookMove(
        book=move.book,
        cluster=move.cluster,
        from_value=move.from_value,
        to_value=move.to_value,
        changed_after=stamp(move.changed_after),
        changed_by=stamp(move.changed_by),
    )


# Event states in and out of the database.

_STATES: msgspec.msgpack.Decoder[model.EventState | None] = msgspec.msgpack.Decoder(model.EventState | None)
_STATE_BYTES = msgspec.msgpack.Encoder()


def load_state(stored: bytes) -> model.EventState | None:
    """An event's state as `dump_state` wrote it; None for an event of which nothing could be applied yet."""
    return _STATES.decode(stored)


def dump_state(state: model.EventState | None) -> bytes:
    """The state as bytes, from which `load_state` makes an equal one: floats are exact and times keep their zone."""
    return _STATE_BYTES.encode(state)


# Times.


def moment(timestamp: Timestamp) -> datetime:
    """The time with its zone, to the microsecond."""
    return _moment(timestamp.seconds, timestamp.nanos)


@lru_cache(maxsize=4096)  # the books of a message share a handful of times
def _moment(seconds: int, nanos: int) -> datetime:
    return EPOCH + timedelta(seconds=seconds, microseconds=nanos // 1000)


def stamp(at: datetime | None) -> Timestamp | None:
    """The time as protobuf has it; None stays absent."""
    if at is None:
        return None
    since = at - EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)


def serialized(message: Message) -> bytes:
    """The message's bytes, the same for the same content: maps in key order."""
    return message.SerializeToString(deterministic=True)

"""Builders for tests of the feed: signals with everything filled in, of which a test names only what it is about, and
market updates as consensus would send them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import replace
from sqlalchemy import create_engine
from stratum.common.v1.market_pb2 import BookQuote, Coverage, EventHeader, MarketKey, Outcome, OutcomePrice
from stratum.consensus.v1 import market_pb2 as consensus
from stratum.consensus.v1.events_pb2 import MarketsUpdated, MarketUpdated

from services.shared.bus import MARKETS, Bus, Outgoing
from services.shared.clock import utc_now
from services.shared.database import Database
from services.shared.keeping import Run
from services.signals import model, store, wire
from services.signals.events import found_signals
from services.signals.keeping import Signals
from services.signals.model import (
    BookHolding,
    BookMove,
    DetectedSignal,
    Direction,
    ExplainedInput,
    Observation,
    Reason,
    ScoreComponent,
    ScorePart,
    ScoreSource,
    SignalType,
    SuppressionRow,
    Tier,
    TimeBucket,
)
from services.signals.testing import Board, a_board, minutes

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
CONFIGURATION = '{"rules_version": "v1"}'


def a_signal(name: str, **told: Any) -> DetectedSignal:
    """A MOVE of two books from −5.5 to −6.5, at noon, with the fields that are told in place of its own."""
    books: tuple[str, ...] = told.get("books", ("betmgm", "draftkings"))
    usual = DetectedSignal(
        id=name,
        fact_id=f"fact-of-{name}",
        also=(),
        sport_key="basketball_nba",
        event_id="event-1",
        home_team="Boston Celtics",
        away_team="New York Knicks",
        commence_time=NOON + timedelta(hours=5),
        market="spreads",
        player="",
        signal_type=SignalType.MOVE,
        direction=Direction.TOWARD_HOME,
        book=None,
        from_value=-5.5,
        to_value=-6.5,
        delta=-1.0,
        from_price=1.9,
        to_price=1.95,
        strength=70,
        velocity=0.5,
        acceleration=None,
        composite_score=60.5,
        score_source=ScoreSource.COMPOSITE,
        tier=Tier.MEDIUM,
        components=(ScoreComponent("strength", 31.5, (ScorePart("magnitude", 50.0),)),),
        minutes_to_tip=300.0,
        time_bucket=TimeBucket.MID,
        observed_at=NOON,
        sampling_seconds=60.0,
        window_seconds=600.0,
        elapsed_seconds=120.0,
        clusters_moved=len(books),
        clusters_in_panel=5,
        books_moved=tuple(BookMove(book, book, -5.5, -6.5, NOON - timedelta(minutes=2), NOON) for book in books),
        books_holding=(BookHolding("caesars", -5.5, 1.9, 1.92, NOON, 12.0, -0.01, None, None),),
        consensus_line=-6.5,
        fair_line=-6.4,
        fair_probability=0.51,
        devig_method="multiplicative",
        dispersion=0.3,
        snapshot_ids=("snapshot-1", "snapshot-2"),
        rules_version="v1",
        config_hash="0123456789abcdef",
        profile="live",
        meta={},
        books=books,
        inputs=(
            ExplainedInput("snapshot-1", "betmgm", "betmgm", "from", -5.5, 1.9, 1.92, 0.5, NOON, None),
            ExplainedInput("snapshot-2", "betmgm", "betmgm", "to", -6.5, 1.9, 1.92, 0.5, NOON, None),
        ),
        steps=("two books moved",),
    )
    return replace(usual, **told)


def a_span(**told: Any) -> SuppressionRow:
    """A STEAM that was held back by its cooldown, once, at noon."""
    usual = SuppressionRow(
        event_id="event-1",
        sport_key="basketball_nba",
        market="spreads",
        player="",
        signal_type=SignalType.STEAM,
        direction=Direction.TOWARD_HOME,
        book="",
        reason=Reason.COOLDOWN,
        count=1,
        first_seen_at=NOON,
        last_seen_at=NOON,
    )
    return replace(usual, **told)


async def publish(database: Database, signals: Sequence[DetectedSignal], published_at: datetime | None = None) -> None:
    """Puts the signals into the feed in one transaction, as the stage does."""
    async with database.begin() as connection:
        await store.write_signals(connection, found_signals(signals), CONFIGURATION, published_at or utc_now())


def forget(database: Database, kept_days: float) -> int:
    """Removes the signals that were published longer ago, as retention does; how many."""
    engine = create_engine(database.engine.url)
    with engine.connect() as connection:
        removed = Signals(kept_days).keep(Run(connection, utc_now())).rows_removed
    engine.dispose()
    return removed


async def hold_back(database: Database, spans: Sequence[SuppressionRow]) -> None:
    """Keeps the spans in one transaction, as the stage does."""
    async with database.begin() as connection:
        await store.write_suppressions(connection, spans)


def a_busy_evening() -> list[Board]:
    """Five books that move together, one that stays, and a reversal."""
    books = ("draftkings", "betmgm", "fanduel", "caesars", "pinnacle", "betrivers")
    opening: dict[str, Any] = dict.fromkeys(books, -5.5)
    boards = [a_board(**opening)]
    for polls, line in ((12, -6.5), (12, -7.5), (12, -5.5)):
        for _ in range(polls):
            boards.append(boards[-1].later(minutes(1)))
        together: dict[str, Any] = dict.fromkeys(books[:4], line)
        boards.append(boards[-1].later(minutes(1), **together))
        boards.append(boards[-1].later(minutes(1), pinnacle=line))
    return boards


async def send(bus: Bus, observations: Sequence[Observation]) -> None:
    """Puts the updates on the bus, as consensus does."""
    await bus.publish(
        MARKETS,
        [
            Outgoing(seen.event_id, f"{seen.event_id}:{revision}", market_update(seen, revision).SerializeToString())
            for revision, seen in enumerate(observations, start=1)
        ],
    )


def market_update(seen: Observation, revision: int) -> MarketsUpdated:
    """The message of consensus that says what was observed: `wire.observation` the other way round."""
    event = EventHeader(
        event_id=seen.event_id,
        sport_key=seen.sport_key,
        revision=revision,
        previous_revision=revision - 1,
        observed_at=wire.stamp(seen.observed_at),
        expected_interval_seconds=seen.expected_interval_seconds,
        asked=Coverage(markets=seen.asked.markets, books=seen.asked.books),
        commence_time=wire.stamp(seen.commence_time),
        home_team=seen.home_team,
        away_team=seen.away_team,
        keyframe=seen.keyframe,
    )
    removed = [_key(key) for key in seen.removed]
    updated = [_market(update) for update in seen.markets]
    return MarketsUpdated(event=event, updated=updated, removed=removed)


def _market(update: model.MarketUpdate) -> MarketUpdated:
    said = update.consensus
    return MarketUpdated(
        key=_key(update.key),
        consensus=consensus.Consensus(
            consensus_line=said.consensus_line,
            fair_line=said.fair_line,
            fair_probability=said.fair_probability,
            consensus_price=said.consensus_price,
            dispersion=said.dispersion,
            dispersion_mad=said.dispersion_mad,
            books=said.books,
            clusters=said.clusters,
            devig_method=said.devig_method,
            note=said.note,
        ),
        books=update.books,
        changed=[_book(update.key, view) for view in update.changed],
        read_age_seconds=[math.nan if age is None else age for age in update.read_ages],
        others=[
            consensus.OthersView(
                clusters=others.clusters,
                fair_line=others.fair_line,
                fair_probability=others.fair_probability,
                dispersion=others.dispersion,
                consensus_line=others.consensus_line,
            )
            for others in update.others
        ],
        others_of=update.others_of,
        excluded=[consensus.ExcludedBook(book=book, reason=reason) for book, reason in update.excluded],
    )


def _book(key: model.MarketKey, view: model.BookView) -> consensus.BookView:
    quote, bet = view.quote, view.bet or model.Bet()
    is_total = key.market.startswith(("totals", "player_"))
    sides = [
        (Outcome.OVER if is_total else Outcome.HOME, quote.price, bet.link, bet.limit),
        (Outcome.UNDER if is_total else Outcome.AWAY, quote.price_other, bet.link_other, bet.limit_other),
    ]
    if quote.price_draw is not None:
        sides.append((Outcome.DRAW, quote.price_draw, None, None))
    seen = quote.outcomes_observed_at or (view.observed_at,) * len(sides)
    return consensus.BookView(
        quote=BookQuote(
            book=view.book,
            key=_key(key),
            line=quote.line,
            outcomes=[
                OutcomePrice(outcome=outcome, price=price, observed_at=wire.stamp(at), link=link, limit=limit)
                for (outcome, price, link, limit), at in zip(sides, seen, strict=True)
            ],
            changed_after=wire.stamp(quote.changed_after),
            changed_by=wire.stamp(quote.changed_by),
            observed_at=wire.stamp(view.observed_at),
            previous_seen_at=wire.stamp(quote.previous_seen_at),
        ),
        cluster=view.cluster,
        fair_probability=quote.fair_probability,
        implied_mean=view.implied_mean,
    )


def _key(key: model.MarketKey) -> MarketKey:
    return MarketKey(market=key.market, player=key.player)

"""Observations in, markets out: how consensus takes part in the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from services.consensus import board, store, wire
from services.consensus.board import BoardRules
from services.consensus.model import Coverage, EventState, MarketKey, MarketState, Observation, Quote, Value
from services.consensus.store import CurrentMarket
from services.shared.cycles import Share
from services.shared.errors import Malformed
from services.shared.stage import Arrival, Outcome, Outgoing


class StoredMarket(Value, frozen=True):
    """A market as it is written down: what its prices and standings are made of, and not those."""

    market: str
    player: str
    quotes: tuple[Quote, ...]
    dead: dict[str, str]
    in_play: bool
    row_at: datetime
    changed_at: datetime


class StoredEvent(Value, frozen=True):
    """An event as it is written down."""

    revision: int
    config_hash: str
    coverage: tuple[Coverage, ...]
    markets: tuple[StoredMarket, ...]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(StoredEvent)


class ConsensusFold:
    """Turns each `EventObserved` into rows and exactly one `MarketsUpdated`."""

    def __init__(self, rules: BoardRules) -> None:
        self._rules = rules

    def decode(self, payload: bytes) -> Arrival[Observation]:
        """Reads an observation. Raises Malformed."""
        seen = wire.observation(payload)
        return Arrival(seen.event_id, seen.revision, seen.previous_revision, seen.keyframe, seen)

    def load(self, stored: bytes | None) -> EventState:
        """The event as it was stored; an empty one before its first observation."""
        return EventState() if stored is None else load_state(stored)

    def dump(self, state: EventState) -> bytes:
        """The event as bytes; numbers and times come back exactly."""
        return dump_state(state)

    def step(self, state: EventState, message: Observation) -> Outcome[EventState]:
        """The event after the observation, what to store of it, and what to tell the others.

        Raises Malformed for a change of what is not known any more: an event that was silent for long is forgotten.
        """
        if state.revision and not state.coverage and not message.keyframe:
            raise Malformed("what was known of the event is forgotten, and this tells only what changed in it")
        done = board.step(state, message, self._rules)
        told = [wire.market_updated(message, key, done.state.markets[key], done.told[key]) for key in done.published]
        update = wire.markets_updated(
            message, done.state.revision, done.keyframe, told, done.removed, self._rules.config_hash
        )
        current = [
            CurrentMarket(message.event_id, message.sport_key, key, quoted)
            for keys, quoted in ((done.appeared, True), (done.removed, False))
            for key in keys
        ]
        return Outcome(
            state=done.state,
            rows=[done.game, *done.consensus_rows, *done.quote_points, *current],
            outgoing=[Outgoing(message.event_id, f"{message.event_id}:{done.state.revision}", update)],
            share=Share(message.sport_key, message.observed_at, {"consensus_points_written": len(done.consensus_rows)}),
        )

    async def write(self, connection: AsyncConnection, rows: Sequence[Any]) -> None:
        """Stores the rows of a batch in its transaction."""
        await store.write(connection, rows)


def dump_state(state: EventState) -> bytes:
    """An event as it is written down."""
    markets = tuple(
        [
            StoredMarket(*key, tuple(held.quotes.values()), held.dead, held.in_play, held.row_at, held.changed_at)
            for key, held in state.markets.items()
        ]
    )
    return _encoder.encode(StoredEvent(state.revision, state.config_hash, state.coverage, markets))


def load_state(stored: bytes) -> EventState:
    """An event as `dump_state` wrote it down; its markets are priced when somebody asks for what they are worth."""
    event = _decoder.decode(stored)
    return EventState(
        event.revision,
        event.config_hash,
        event.coverage,
        {
            MarketKey(held.market, held.player): MarketState(
                {quote.book: quote for quote in held.quotes},
                held.dead,
                held.in_play,
                held.row_at,
                held.changed_at,
                priced=None,
            )
            for held in event.markets
        },
    )

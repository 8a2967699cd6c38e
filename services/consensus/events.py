"""Observations in, markets out: how consensus takes part in the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from services.consensus import board, store, wire
from services.consensus.board import BoardRules
from services.consensus.model import EventState, Observation
from services.consensus.store import CurrentMarket
from services.shared.cycles import Share
from services.shared.stage import Arrival, Outcome, Outgoing

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(EventState)


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
        return EventState() if stored is None else _decoder.decode(stored)

    def dump(self, state: EventState) -> bytes:
        """The event as bytes; numbers and times come back exactly."""
        return _encoder.encode(state)

    def step(self, state: EventState, message: Observation) -> Outcome[EventState]:
        """The event after the observation, what to store of it, and what to tell the others."""
        done = board.step(state, message, self._rules)
        views = [wire.market_view(message, key, done.state.markets[key]) for key in done.published]
        update = wire.markets_updated(
            message, done.state.revision, done.keyframe, views, done.removed, self._rules.config_hash
        )
        current = [
            CurrentMarket(message.event_id, message.sport_key, key, message.observed_at, view)
            for key, view in zip(done.published, views, strict=True)
        ]
        gone = [
            CurrentMarket(message.event_id, message.sport_key, key, message.observed_at, None) for key in done.removed
        ]
        return Outcome(
            state=done.state,
            rows=[done.game, *done.consensus_rows, *done.quote_points, *current, *gone],
            outgoing=[Outgoing(message.event_id, f"{message.event_id}:{done.state.revision}", update)],
            share=Share(message.sport_key, message.observed_at, {"consensus_points_written": len(done.consensus_rows)}),
        )

    async def write(self, connection: AsyncConnection, rows: Sequence[Any]) -> None:
        """Stores the rows of a batch in its transaction."""
        await store.write(connection, rows)

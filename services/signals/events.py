"""Messages in and out: each market update goes through the rules once, and what they find goes into the feed and on."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection
from stratum.ingest.v1.ingest_service_pb2 import RequestKeyframesRequest
from stratum.ingest.v1.ingest_service_pb2_grpc import IngestServiceStub
from stratum.signals.v1.events_pb2 import SignalDetected

from services.shared import client
from services.shared.clock import utc_now
from services.shared.cycles import Share
from services.shared.errors import Malformed
from services.shared.keyring import Keyring
from services.shared.stage import Arrival, Outcome, Outgoing
from services.signals import store, wire
from services.signals.model import DetectedSignal, EventState, Observation, SignalType, SuppressionRow
from services.signals.rules import IncompleteError, observe
from services.signals.rules.settings import RuleSettings
from services.signals.store import FoundSignal

#: Of two equally strong signals of one fact, the earlier in this list speaks for it.
_SPEAKS_FIRST = {
    kind: rank
    for rank, kind in enumerate(
        (SignalType.STEAM, SignalType.KEY_CROSS, SignalType.MOVE, SignalType.MULTIBOOK_SYNC, SignalType.DISLOCATION)
    )
}

Row = FoundSignal | SuppressionRow


class SignalEvents:
    """The fold from market updates to signals. `received` is told of every update that comes in."""

    def __init__(
        self, settings: RuleSettings, received: Callable[[], None], clock: Callable[[], datetime] = utc_now
    ) -> None:
        """`clock` says when signals are published."""
        self._settings = settings
        self._configuration = json.dumps(settings.configuration(), sort_keys=True)
        self._received = received
        self._clock = clock

    def decode(self, payload: bytes) -> Arrival[Observation]:
        """A market update in the rules' words. Raises Malformed."""
        message = wire.markets_updated(payload)
        self._received()
        event = message.event
        return Arrival(
            event.event_id, event.revision, event.previous_revision, event.keyframe, wire.observation(message)
        )

    def load(self, stored: bytes | None) -> EventState | None:
        """What the rules remember of an event; None before its first update."""
        return None if stored is None else wire.load_state(stored)

    def dump(self, state: EventState | None) -> bytes:
        """The same as bytes."""
        return wire.dump_state(state)

    def step(self, state: EventState | None, message: Observation) -> Outcome[EventState | None]:
        """What the rules say to one observation. Raises Malformed for one that builds on what we do not hold."""
        try:
            after, signals, suppressions = observe(state, message, self._settings)
        except IncompleteError as incomplete:
            raise Malformed(str(incomplete)) from incomplete
        found = found_signals(signals)
        outgoing = [
            Outgoing(each.signal.event_id, each.signal.id, wire.serialized(SignalDetected(signal=each.signal)))
            for each in found
        ]
        share = Share(message.sport_key, message.observed_at, created(signals))
        return Outcome(after, [*found, *suppressions], outgoing, share)

    async def write(self, connection: AsyncConnection, rows: Sequence[Row]) -> None:
        """Suppressions first; the feed last, because it is locked from then until the commit.

        `published_at` is taken here: it is the moment of this attempt, and the one column of a signal for which nothing
        that was observed answers.
        """
        await store.write_suppressions(connection, [row for row in rows if isinstance(row, SuppressionRow)])
        found = [row for row in rows if isinstance(row, FoundSignal)]
        await store.write_signals(connection, found, self._configuration, self._clock())


@asynccontextmanager
async def keyframes_of(ingest_address: str, ring: Keyring) -> AsyncIterator[Callable[[str], Awaitable[None]] | None]:
    """Asks ingest for an event's whole state, as a stage does at a gap; None without an address: the next one heals."""
    if not ingest_address:
        yield None
        return
    async with client.channel(ingest_address, "signals", ring) as channel:
        ingest = IngestServiceStub(channel)

        async def request(event_id: str) -> None:
            await ingest.RequestKeyframes(RequestKeyframesRequest(event_ids=[event_id]))

        yield request


def created(signals: Sequence[DetectedSignal]) -> dict[str, int]:
    """How many signals there are, in all and by type, as the poll's KPIs name them."""
    counts = {"signals_created_total": len(signals)}
    for signal in signals:
        name = f"signals_created_by_type.{signal.signal_type.value}"
        counts[name] = counts.get(name, 0) + 1
    return counts


def found_signals(signals: Sequence[DetectedSignal]) -> list[FoundSignal]:
    """The signals of one observation as they enter the feed, each with its rank among those of its fact."""
    facts: defaultdict[str, list[DetectedSignal]] = defaultdict(list)
    for signal in signals:
        facts[signal.fact_id].append(signal)
    ranks = {
        signal.id: rank for fact in facts.values() for rank, signal in enumerate(sorted(fact, key=_strongest_first))
    }
    return [
        FoundSignal(wire.signal(signal), wire.serialized(wire.explanation(signal)), ranks[signal.id])
        for signal in signals
    ]


def _strongest_first(signal: DetectedSignal) -> tuple[int, int, str]:
    return -signal.strength, _SPEAKS_FIRST[signal.signal_type], signal.book or ""

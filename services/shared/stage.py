"""A pipeline stage: a pure fold over ordered messages, inside one transaction.

The life of a batch (docs/architecture.md, "A stage is a pure fold inside one transaction"):

1. Read on from the position in our own database. The broker keeps none for us.
2. Open a transaction and advance the positions *from the values we started at*. Fewer rows than expected means that
   another worker owns a partition: roll back, drop everything, start again. That is the fence.
3. Fold message by message: (state of the event, message) → (state, rows, messages out).
4. Write rows, outgoing messages, event states; commit.
5. Publish the outbox in order, before the next batch and first of all after a start.

Whatever fails, at whatever point: drop the states in memory and the reader, wait, start at 1. A crash between 4 and 5
leaves the messages in the outbox; a crash after publishing publishes again, and the revision tells the consumer.

A stream that was created again (or has lost its end) has another identity (or ends before our position): every
position restarts at its beginning. What we had applied is recognised by its revision; what is missing is a gap, and a
gap waits for the event's next keyframe.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.shared import metrics, tracing
from services.shared.bus import ALL_PARTITIONS, Bus, BusError, Delivery, Outgoing, Reader, StreamSpec, StreamState
from services.shared.cycles import QUIET_SECONDS, CycleLog, Share, Tallies, add
from services.shared.database import Database
from services.shared.errors import Malformed
from services.shared.logging import logger
from services.shared.outbox import Outbox
from services.shared.tables import StageTables, stage_tables

__all__ = [
    "Arrival",
    "Fold",
    "Outcome",
    "Outgoing",
    "PartitionLostError",
    "Stage",
    "StageTables",
    "drained",
    "stage_tables",
]

log = logger(__name__)

M = TypeVar("M")
S = TypeVar("S")

#: How long one wait for messages lasts; a message that arrives ends it at once.
_WAIT_SECONDS = 30.0
_GAP_CALL_SECONDS = 5.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 10.0


@dataclass(frozen=True, slots=True)
class Arrival(Generic[M]):
    """A message that could be read, with its place in its event's history."""

    event_id: str
    #: Counts the producer's messages of the event, from 1.
    revision: int
    #: The last the producer emitted before this one; another than the one we applied is a gap.
    previous_revision: int
    #: Carries the event's whole state and heals any gap.
    keyframe: bool
    message: M


@dataclass(frozen=True, slots=True)
class Outcome(Generic[S]):
    """What a message leads to: the event's new state, rows for the fold's `write`, and messages for the next stage."""

    state: S
    rows: Sequence[Any] = ()
    outgoing: Sequence[Outgoing] = ()
    #: What it adds to the poll that it came from.
    share: Share | None = None


class Fold(Protocol[M, S]):
    """What a service does with its messages. Everything but `write` is pure."""

    def decode(self, payload: bytes) -> Arrival[M]:
        """Reads a message. Raises Malformed for one that can never be read."""
        ...

    def load(self, stored: bytes | None) -> S:
        """An event's state as `dump` stored it; None before the event's first message."""
        ...

    def dump(self, state: S) -> bytes:
        """The state as bytes from which `load` makes an equal one."""
        ...

    def step(self, state: S, message: M) -> Outcome[S]:
        """What the message leads to. Reads no clock and touches nothing; may raise Malformed."""
        ...

    async def write(self, connection: AsyncConnection, rows: Sequence[Any]) -> None:
        """Stores the rows of a whole batch, in its transaction, just before it commits."""
        ...


class PartitionLostError(Exception):
    """Another worker has advanced a position that we held."""


@dataclass(slots=True)
class _EventState(Generic[S]):
    """An event as of the last message that was applied to it."""

    partition: int
    state: S
    applied_revision: int = 0
    awaiting_keyframe: bool = False


@dataclass(slots=True)
class _Batch(Generic[S]):
    """What folding a batch has led to so far. Becomes true with the commit, or not at all."""

    touched: dict[str, _EventState[S]] = field(default_factory=dict)
    rows: list[Any] = field(default_factory=list)
    outgoing: list[Outgoing] = field(default_factory=list)
    cycles: Tallies = field(default_factory=dict)
    dead: list[tuple[Delivery, str]] = field(default_factory=list)
    #: Events that a message found waiting, or left waiting, for a keyframe.
    waiting: dict[str, None] = field(default_factory=dict)
    applied: int = 0
    repeated: int = 0
    gaps: int = 0


class Stage(Generic[M, S]):
    """One worker for a share of the partitions of one stream. `run` never returns by itself."""

    def __init__(
        self,
        name: str,
        database: Database,
        bus: Bus,
        fold: Fold[M, S],
        source: StreamSpec,
        target: StreamSpec | None,
        tables: StageTables,
        partitions: Sequence[int] = ALL_PARTITIONS,
        batch_size: int = 500,
        on_gap: Callable[[str], Awaitable[None]] | None = None,
        cached_events: int = 10_000,
        cycles: Table | None = None,
    ) -> None:
        self.name = name
        self._database = database
        self._bus = bus
        self._fold = fold
        self._source = source
        self._target = target
        self._tables = tables
        self._partitions = tuple(sorted(partitions))
        self._batch_size = batch_size
        self._on_gap = on_gap
        self._cached_events = cached_events
        self._outbox = Outbox(database, bus, tables, target) if target is not None else None
        self._cycles = CycleLog(name, self._partitions[0], cycles)
        self._sql = _Statements(tables)
        # A cache of the event_state rows and nothing more: emptied by every failure.
        self._cache: OrderedDict[str, _EventState[S]] = OrderedDict()
        self._gap_calls: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._lag: int | None = None

    async def run(self) -> None:
        """Works until cancelled. Every failure ends in a pause, at most ten seconds, and a start from the database."""
        try:
            while True:
                try:
                    await self._work()
                except Exception as error:
                    await self._pause(error)
        finally:
            for call in self._gap_calls:
                call.cancel()

    def lag(self) -> int | None:
        """Messages of our partitions behind the newest batch, as the broker counted then; None while not reading."""
        return self._lag

    async def drained(self) -> bool:
        """Whether every message that is in the stream now has been applied, and all that followed is published."""
        return await drained(self._database, self._bus, self._tables, self._source, self._target, self._partitions)

    async def _pause(self, error: Exception) -> None:
        longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(self._failures, 10))
        seconds = longest * random.uniform(0.5, 1.0)  # noqa: S311 - two workers shall not start again in step
        self._failures += 1
        self._lag = None
        metrics.stage_failures.labels(self.name, type(error).__name__).inc()
        log.warning(
            "stage starts again", stage=self.name, failures=self._failures, pause_seconds=seconds, exc_info=error
        )
        await asyncio.sleep(seconds)

    async def _work(self) -> None:
        self._cache.clear()
        identity, positions = await self._take_positions()
        await self._publish()
        async with self._bus.read(
            self._source, min(positions.values()), self._partitions, window=2 * self._batch_size
        ) as reader:
            # The reader is of the stream that is there now: positions in the one before would pass over its beginning.
            if (await self._bus.stream_state(self._source)).identity != identity:
                raise BusError(f"{self._source.name} was made anew meanwhile")
            while True:
                self._note_lag(reader)
                wait = QUIET_SECONDS if self._cycles.waiting else _WAIT_SECONDS
                deliveries = await reader.next_batch(self._batch_size, wait)
                if deliveries:
                    with tracing.consuming(self.name, self._source.name, [each.traceparent for each in deliveries]):
                        positions = await self._apply(identity, positions, deliveries)
                        await self._publish()
                else:
                    self._cycles.quiet()
                    # When nothing came too: the stream that we publish to may be another one by now.
                    await self._publish()
                self._failures = 0

    async def _publish(self) -> None:
        if self._outbox is not None:
            await self._outbox.publish(self._partitions)

    def _note_lag(self, reader: Reader) -> None:
        self._lag = reader.pending + reader.buffered
        metrics.stage_lag.labels(self.name).set(self._lag)

    async def _take_positions(self) -> tuple[str, dict[int, int]]:
        """The stream's identity, and where each partition stands in it; rows that stand elsewhere begin anew."""
        if self._target is not None:
            await self._bus.ensure_stream(self._target)
        # Read before the stream is asked: what we have applied was in it by then.
        async with self._database.begin() as connection:
            await connection.execute(self._sql.add_positions, {"partitions": list(self._partitions)})
            held = await self._sql.positions_of(connection, self._partitions)
        stream = await self._bus.ensure_stream(self._source)
        stale = {partition: place for partition, place in held.items() if not _stands(*place, stream)}
        if stale:
            if any(identity for identity, _ in stale.values()):
                log.warning("the stream is another or has lost its end", stage=self.name, partitions=sorted(stale))
            async with self._database.begin() as connection:
                moved = await connection.execute(
                    self._sql.restart,
                    {
                        "partitions": list(stale),
                        "identities": [identity for identity, _ in stale.values()],
                        "sequences": [sequence for _, sequence in stale.values()],
                        "identity": stream.identity,
                    },
                )
                self._held_all(moved.rowcount, len(stale))
        return stream.identity, {
            partition: 0 if partition in stale else sequence for partition, (_, sequence) in held.items()
        }

    async def _apply(self, identity: str, positions: dict[int, int], deliveries: Sequence[Delivery]) -> dict[int, int]:
        """One batch, one transaction; returns the positions after it."""
        last = deliveries[-1].sequence
        fresh = [delivery for delivery in deliveries if delivery.sequence > positions[delivery.partition]]
        batch: _Batch[S] = _Batch()
        with metrics.stage_batch_seconds.labels(self.name).time():
            async with self._database.begin() as connection:
                moved = await connection.execute(
                    self._sql.advance,
                    {
                        "partitions": list(positions),
                        "sequences": list(positions.values()),
                        "identity": identity,
                        "last": last,
                    },
                )
                self._held_all(moved.rowcount, len(positions))
                states = await self._load_states(connection, fresh)
                with tracing.span("fold", messages=len(fresh)):
                    for number, delivery in enumerate(fresh):
                        if number % 16 == 15:
                            await asyncio.sleep(0)  # the RPCs of this process do not wait for a whole batch
                        self._fold_one(batch, states[delivery.event_id], delivery)
                await self._store(connection, batch, identity)
        self._remember(states)
        self._count(batch, len(deliveries))
        self._ask_keyframes(batch)
        return {partition: max(sequence, last) for partition, sequence in positions.items()}

    def _held_all(self, moved: int, expected: int) -> None:
        if moved != expected:
            raise PartitionLostError(f"{expected - moved} of {expected} partitions are in other hands")

    async def _load_states(
        self, connection: AsyncConnection, deliveries: Sequence[Delivery]
    ) -> dict[str, _EventState[S]]:
        partitions = {delivery.event_id: delivery.partition for delivery in deliveries}
        states = {event_id: self._cache[event_id] for event_id in partitions if event_id in self._cache}
        absent = [event_id for event_id in partitions if event_id not in states]
        if absent:
            for row in await connection.execute(self._sql.states, {"event_ids": absent}):
                states[row.event_id] = _EventState(
                    row.partition, self._fold.load(row.state), row.applied_revision, row.awaiting_keyframe
                )
            for event_id in absent:
                if event_id not in states:
                    states[event_id] = _EventState(partitions[event_id], self._fold.load(None))
        return states

    def _fold_one(self, batch: _Batch[S], event: _EventState[S], delivery: Delivery) -> None:
        try:
            arrival = self._fold.decode(delivery.payload)
            if arrival.event_id != delivery.event_id:
                raise Malformed("the message is of another event than its subject")
            if arrival.revision <= event.applied_revision:
                batch.repeated += 1
                return
            # What follows exactly on what was applied heals a gap as a keyframe does: it is what was missing.
            broken = arrival.previous_revision != event.applied_revision
            if broken and not arrival.keyframe:
                batch.gaps += not event.awaiting_keyframe
                self._await_keyframe(batch, event, delivery.event_id)
                return
            outcome = self._fold.step(event.state, arrival.message)
        except (Malformed, OverflowError) as error:  # a timestamp that no calendar has overflows wherever it is read
            batch.dead.append((delivery, str(error)))
            self._await_keyframe(batch, event, delivery.event_id)
            return
        event.state = outcome.state
        event.applied_revision = arrival.revision
        event.awaiting_keyframe = False
        batch.touched[delivery.event_id] = event
        batch.waiting.pop(delivery.event_id, None)
        batch.rows.extend(outcome.rows)
        if delivery.traceparent is None:
            batch.outgoing.extend(outcome.outgoing)
        else:
            onward = tracing.onward(delivery.traceparent)
            batch.outgoing.extend(replace(message, traceparent=onward) for message in outcome.outgoing)
        if outcome.share is not None:
            add(batch.cycles, outcome.share)
        batch.applied += 1

    @staticmethod
    def _await_keyframe(batch: _Batch[S], event: _EventState[S], event_id: str) -> None:
        event.awaiting_keyframe = True
        batch.touched[event_id] = event
        batch.waiting[event_id] = None

    @tracing.traced("write")
    async def _store(self, connection: AsyncConnection, batch: _Batch[S], identity: str) -> None:
        if batch.rows:
            await self._fold.write(connection, batch.rows)
        if batch.outgoing:
            if self._outbox is None:
                raise TypeError(f"the stage {self.name} has messages to send and no stream to send them to")
            await self._outbox.add(connection, batch.outgoing)
        await self._cycles.write(connection, batch.cycles)
        if batch.dead:
            await connection.execute(
                self._sql.bury,
                {
                    "identity": identity,
                    "sequences": [delivery.sequence for delivery, _ in batch.dead],
                    "partitions": [delivery.partition for delivery, _ in batch.dead],
                    "event_ids": [delivery.event_id for delivery, _ in batch.dead],
                    "reasons": [reason for _, reason in batch.dead],
                    "payloads": [delivery.payload for delivery, _ in batch.dead],
                },
            )
        if batch.touched:
            events = list(batch.touched.values())
            await connection.execute(
                self._sql.keep_states,
                {
                    "event_ids": list(batch.touched),
                    "partitions": [event.partition for event in events],
                    "revisions": [event.applied_revision for event in events],
                    "awaiting": [event.awaiting_keyframe for event in events],
                    "states": [self._fold.dump(event.state) for event in events],
                },
            )

    def _remember(self, states: dict[str, _EventState[S]]) -> None:
        for event_id, event in states.items():
            self._cache[event_id] = event
            self._cache.move_to_end(event_id)
        while len(self._cache) > self._cached_events:
            self._cache.popitem(last=False)
        metrics.stage_cached_events.labels(self.name).set(len(self._cache))

    def _count(self, batch: _Batch[S], messages: int) -> None:
        metrics.stage_batch_messages.labels(self.name).observe(messages)
        metrics.stage_messages.labels(self.name, "applied").inc(batch.applied)
        metrics.stage_messages.labels(self.name, "repeated").inc(batch.repeated)
        metrics.stage_dead_letters.labels(self.name).inc(len(batch.dead))
        metrics.stage_gaps.labels(self.name).inc(batch.gaps)
        self._cycles.committed(batch.cycles)
        for delivery, reason in batch.dead:
            log.error(
                "message not readable",
                stage=self.name,
                sequence=delivery.sequence,
                event_id=delivery.event_id,
                reason=reason,
            )

    def _ask_keyframes(self, batch: _Batch[S]) -> None:
        # Asked again with every message that finds its event waiting, so a call that fails needs no retry of its own.
        if self._on_gap is None or not batch.waiting:
            return
        call = asyncio.create_task(_ask_each(self._on_gap, list(batch.waiting)))
        self._gap_calls.add(call)
        call.add_done_callback(self._gap_calls.discard)


async def _ask_each(on_gap: Callable[[str], Awaitable[None]], event_ids: Sequence[str]) -> None:
    for event_id in event_ids:
        try:
            async with asyncio.timeout(_GAP_CALL_SECONDS):
                await on_gap(event_id)
        except Exception as error:
            log.warning("a keyframe could not be asked for", event_id=event_id, exc_info=error)


async def drained(
    database: Database,
    bus: Bus,
    tables: StageTables,
    source: StreamSpec,
    target: StreamSpec | None,
    partitions: Sequence[int] = ALL_PARTITIONS,
) -> bool:
    """Whether a stage has applied every message that is in its stream now, and published all that it led to.

    Needs only the stage's tables, so another process can ask as well.
    """
    # Read before the stream is asked: what had been applied was in it by then.
    async with database.begin() as connection:
        held = await _Statements(tables).positions_of(connection, partitions)
    stream = await bus.stream_state(source)
    for partition in partitions:
        identity, sequence = held.get(partition, ("", 0))
        place = sequence if _stands(identity, sequence, stream) else 0
        # A partition's own newest message counts: the stream's may belong to another worker's share.
        if place < stream.last_sequence and place < await bus.last_sequence(source, partition):
            return False
    return target is None or await Outbox(database, bus, tables, target).is_empty(partitions)


def _stands(identity: str, sequence: int, stream: StreamState) -> bool:
    """Whether a position, read before the stream's state, is one in this stream as it is."""
    return identity == stream.identity and sequence <= stream.last_sequence


class _Statements:
    """The stage's SQL: a handful of statements a batch, however many messages it holds."""

    def __init__(self, tables: StageTables) -> None:
        position, event_state = tables.position.fullname, tables.event_state.fullname
        # ruff: noqa: S608 - the only names put into these statements are those of our own tables
        self.add_positions = text(
            f"INSERT INTO {position} (partition, stream_identity, sequence) "
            "SELECT unnest(CAST(:partitions AS smallint[])), '', 0 ON CONFLICT DO NOTHING"
        )
        self._positions = text(
            f"SELECT partition, stream_identity, sequence FROM {position} "
            "WHERE partition = ANY(CAST(:partitions AS smallint[])) ORDER BY partition"
        )
        self.restart = text(
            f"UPDATE {position} AS held SET stream_identity = :identity, sequence = 0 "
            "FROM unnest(CAST(:partitions AS smallint[]), CAST(:identities AS text[]), CAST(:sequences AS bigint[])) "
            "AS started (partition, stream_identity, sequence) WHERE held.partition = started.partition "
            "AND held.stream_identity = started.stream_identity AND held.sequence = started.sequence"
        )
        self.advance = text(
            f"UPDATE {position} AS held SET sequence = greatest(held.sequence, :last) "
            "FROM unnest(CAST(:partitions AS smallint[]), CAST(:sequences AS bigint[])) AS started "
            "(partition, sequence) WHERE held.partition = started.partition AND held.stream_identity = :identity "
            "AND held.sequence = started.sequence"
        )
        self.states = text(
            f"SELECT event_id, partition, applied_revision, awaiting_keyframe, state FROM {event_state} "
            "WHERE event_id = ANY(CAST(:event_ids AS text[]))"
        )
        self.keep_states = text(
            f"INSERT INTO {event_state} (event_id, partition, applied_revision, awaiting_keyframe, state) "
            "SELECT * FROM unnest(CAST(:event_ids AS text[]), CAST(:partitions AS smallint[]), "
            "CAST(:revisions AS bigint[]), CAST(:awaiting AS boolean[]), CAST(:states AS bytea[])) "
            "ON CONFLICT (event_id) DO UPDATE SET applied_revision = excluded.applied_revision, "
            "awaiting_keyframe = excluded.awaiting_keyframe, state = excluded.state"
        )
        self.bury = text(
            f"INSERT INTO {tables.dead_letter.fullname} "
            "(stream_identity, sequence, partition, event_id, reason, payload) "
            "SELECT :identity, * FROM unnest(CAST(:sequences AS bigint[]), CAST(:partitions AS smallint[]), "
            "CAST(:event_ids AS text[]), CAST(:reasons AS text[]), CAST(:payloads AS bytea[])) ON CONFLICT DO NOTHING"
        )

    async def positions_of(self, connection: AsyncConnection, partitions: Sequence[int]) -> dict[int, tuple[str, int]]:
        """Stream identity and sequence of each partition that has a row."""
        rows = await connection.execute(self._positions, {"partitions": list(partitions)})
        return {row.partition: (row.stream_identity, row.sequence) for row in rows}

"""Messages that a stage could not read: what waits for an operator, and how it is put back through.

A dead letter is a message of one event. The event takes no message behind it until the missing one comes after all, or
a keyframe that carries everything. So putting it back means: everything of this event that its producer still keeps is
published again, in order. What was applied is known by its revision; the missing message and all that waited behind it
are applied as if nothing had happened. Behind a keyframe there is nothing left to put back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import uuid4

from sqlalchemy import Row, Select, func, select, update

from services.shared.bus import Bus, Outgoing, partition_of
from services.shared.database import Database
from services.shared.outbox import Outbox
from services.shared.tables import StageTables


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be read, as the stage buried it."""

    stream_identity: str
    sequence: int
    event_id: str
    #: Why it could not be read, in the reader's words.
    reason: str
    payload: bytes
    noted_at: datetime
    #: When an operator was done with it, and what was done; None while it waits for one.
    settled_at: datetime | None
    settlement: str | None


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a stage is with an event."""

    applied_revision: int
    #: It takes nothing until the missing message or a keyframe comes.
    waits: bool


class DeadLetters:
    """The dead letters of one stage, seen with its own service's role."""

    def __init__(self, database: Database, tables: StageTables) -> None:
        self._database = database
        self._tables = tables

    async def listed(self, settled: bool = False, limit: int = 1000) -> list[DeadLetter]:
        """Those that wait for an operator, oldest first; with `settled` the others too."""
        table = self._tables.dead_letter
        query = _letters(self._tables).order_by(table.c.noted_at, table.c.sequence).limit(limit)
        return await self._found(query if settled else query.where(table.c.settled_at.is_(None)))

    async def at(self, sequence: int, stream_identity: str = "") -> list[DeadLetter]:
        """Those at a sequence; more than one only where the stream was made anew and no identity is given."""
        table = self._tables.dead_letter
        query = _letters(self._tables).where(table.c.sequence == sequence)
        return await self._found(query.where(table.c.stream_identity == stream_identity) if stream_identity else query)

    async def settle(self, letter: DeadLetter, settlement: str) -> None:
        """Notes what was done. The letter stays, for those who ask later."""
        table = self._tables.dead_letter.c
        async with self._database.begin() as connection:
            await connection.execute(
                update(self._tables.dead_letter)
                .where(table.stream_identity == letter.stream_identity, table.sequence == letter.sequence)
                .values(settled_at=func.now(), settlement=settlement)
            )

    async def standing(self, event_id: str) -> Standing:
        """How far the stage is with an event."""
        state = self._tables.event_state.c
        async with self._database.begin() as connection:
            row = (
                await connection.execute(
                    select(state.applied_revision, state.awaiting_keyframe).where(state.event_id == event_id)
                )
            ).one_or_none()
        return Standing(0, False) if row is None else Standing(row.applied_revision, row.awaiting_keyframe)

    async def has_read(self, event_id: str, stream_identity: str, sequence: int) -> bool:
        """Whether the stage has read the stream up to a sequence, in the partition of an event."""
        position = self._tables.position.c
        async with self._database.begin() as connection:
            row = (
                await connection.execute(
                    select(position.stream_identity, position.sequence).where(
                        position.partition == partition_of(event_id)
                    )
                )
            ).one_or_none()
        return row is not None and row.stream_identity == stream_identity and row.sequence >= sequence

    async def _found(self, query: Select[*tuple[object, ...]]) -> list[DeadLetter]:
        async with self._database.begin() as connection:
            return [_letter(row) for row in await connection.execute(query)]


async def put_back(letter: DeadLetter, standing: Standing, producer: Outbox, bus: Bus) -> int:
    """Publishes again what the producer keeps of the letter's event, oldest first; returns how many messages that were.

    Where what follows on `standing` is no longer kept, the letter goes ahead as it is. Raises BusError.
    """
    kept: Sequence[Outgoing] = await producer.kept_of(letter.event_id)
    missing = f"{letter.event_id}:{standing.applied_revision + 1}"
    if all(message.message_id != missing for message in kept):
        kept = [Outgoing(letter.event_id, f"{letter.event_id}:dead", letter.payload), *kept]
    # Under ids of their own: the broker shall not take them for repeats.
    attempt = uuid4().hex
    await bus.publish(
        producer.target, [replace(message, message_id=f"{message.message_id}@{attempt}") for message in kept]
    )
    return len(kept)


def _letters(tables: StageTables) -> Select[*tuple[object, ...]]:
    table = tables.dead_letter.c
    return select(
        table.stream_identity,
        table.sequence,
        table.event_id,
        table.reason,
        table.payload,
        table.noted_at,
        table.settled_at,
        table.settlement,
    )


def _letter(row: Row[*tuple[object, ...]]) -> DeadLetter:
    return DeadLetter(**row._mapping)

"""Messages that were decided in a transaction and leave after it: kept in the same commit, published in order.

What was published stays for a while, because a stream can be lost with what nobody has read yet: somebody deletes it,
or it comes back from an older copy. A publisher knows which stream it is and how far it goes, by asking or by its own
last publishing, and the stream takes nothing unless it still goes just so far. If it is another one, or ends before
where it ended already, everything that is kept is published again, and first: consumers know by its revision what they
have applied, and apply what they had missed before a keyframe could make them pass over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.shared import tracing
from services.shared.bus import (
    ALL_PARTITIONS,
    ATOMIC_BATCH,
    Bus,
    Outgoing,
    StreamMovedError,
    StreamSpec,
    StreamState,
    is_token,
    partition_of,
)
from services.shared.database import Database
from services.shared.logging import logger
from services.shared.tables import StageTables

log = logger(__name__)

#: About so many of the newest messages stay after they were published. A consumer that is further behind when the
#: stream is lost has a gap, which the next keyframe heals.
KEPT_MESSAGES = 50_000
TRIM_EVERY = 1_000
#: So often in a row a publisher waits for the stream to end where it was seen to end.
MOVED_AT_MOST = 5


class Outbox:
    """The outbox of one schema, bound for one stream.

    Order: rows of a partition are written only by whoever holds that partition (a stage's fence, the poller's lease),
    so their ids rise in the order in which their transactions commit.
    """

    def __init__(
        self, database: Database, bus: Bus, tables: StageTables, target: StreamSpec, kept_messages: int = KEPT_MESSAGES
    ) -> None:
        self.target = target
        self._database = database
        self._bus = bus
        self._kept_messages = kept_messages
        #: False after a start and after every failure, when the stream may be gone.
        self._stream_is_there = False
        self._trimmed = 0
        #: The stream as our last publishing left it; None when it must be asked.
        self._ended: StreamState | None = None
        table, position = tables.outbox.fullname, tables.outbox_position.fullname
        owned = "partition = ANY(CAST(:partitions AS smallint[]))"
        # ruff: noqa: S608 - the only names put into these statements are those of our own tables
        self._insert = text(
            f"INSERT INTO {table} (partition, event_id, message_id, payload) "
            "SELECT partition, event_id, message_id, payload FROM unnest(CAST(:partitions AS smallint[]), "
            "CAST(:event_ids AS text[]), CAST(:message_ids AS text[]), CAST(:payloads AS bytea[])) WITH ORDINALITY "
            "AS message (partition, event_id, message_id, payload, number) ORDER BY number"
        )
        #: The same, and its trace: only of a followed one.
        self._insert_followed = text(
            f"INSERT INTO {table} (partition, event_id, message_id, payload, traceparent) "
            "SELECT partition, event_id, message_id, payload, traceparent FROM unnest(CAST(:partitions AS smallint[]), "
            "CAST(:event_ids AS text[]), CAST(:message_ids AS text[]), CAST(:payloads AS bytea[]), "
            "CAST(:traceparents AS text[])) WITH ORDINALITY "
            "AS message (partition, event_id, message_id, payload, traceparent, number) ORDER BY number"
        )
        self._add_positions = text(
            f"INSERT INTO {position} (partition, stream_identity, sequence, published_id) "
            "SELECT unnest(CAST(:partitions AS smallint[])), '', 0, 0 ON CONFLICT DO NOTHING"
        )
        self._begin_anew = text(
            f"UPDATE {position} SET stream_identity = :identity, sequence = 0, published_id = 0 "
            f"WHERE {owned} AND (stream_identity <> :identity OR sequence > :last)"
        )
        self._oldest = text(
            f"SELECT id, event_id, message_id, payload, traceparent, stream_identity, sequence FROM {table} "
            f"JOIN {position} USING (partition) WHERE {owned} AND id > published_id "
            f"AND id > (SELECT min(published_id) FROM {position} WHERE {owned}) ORDER BY id LIMIT {ATOMIC_BATCH}"
        )
        self._advance = text(
            f"UPDATE {position} SET sequence = greatest(sequence, :last), published_id = greatest(published_id, :id) "
            f"WHERE {owned} AND stream_identity = :identity"
        )
        self._trim = text(f"DELETE FROM {table} WHERE {owned} AND id <= :id")
        self._of_event = text(
            f"SELECT event_id, message_id, payload FROM {table} WHERE event_id = :event_id ORDER BY id"
        )
        self._any = text(
            f"SELECT EXISTS (SELECT FROM {table} AS message LEFT JOIN {position} AS held USING (partition) "
            f"WHERE {owned} AND (held.partition IS NULL OR message.id > held.published_id "
            "OR held.stream_identity <> :identity OR held.sequence > :last))"
        )

    async def add(
        self, connection: AsyncConnection, messages: Sequence[Outgoing], traceparent: str | None = None
    ) -> None:
        """Keeps the messages in the caller's transaction. Raises ValueError for an id that no subject can hold.

        `traceparent` is of the trace, if one is followed, that those are part of which say nothing of their own.
        """
        if not messages:
            return
        for message in messages:
            if not is_token(message.event_id):
                raise ValueError(f"an event id that cannot be published: {message.event_id!r}")
        columns = {
            "partitions": [partition_of(message.event_id) for message in messages],
            "event_ids": [message.event_id for message in messages],
            "message_ids": [message.message_id for message in messages],
            "payloads": [message.payload for message in messages],
        }
        traceparents = [message.traceparent or traceparent for message in messages]
        if any(traceparents):
            await connection.execute(self._insert_followed, {**columns, "traceparents": traceparents})
        else:
            await connection.execute(self._insert, columns)

    async def publish(self, partitions: Sequence[int] = ALL_PARTITIONS) -> int:
        """Publishes everything of these partitions that is not in the stream yet, in order; returns how many.

        Raises BusError when the bus does not take one: it and all behind it stay to be published. When we die between
        publishing and noting it, the next call publishes again, and the bus or the revision says that it was a repeat.
        """
        if not self._stream_is_there:
            await self._bus.ensure_stream(self.target)
            async with self._database.begin() as connection:
                await connection.execute(self._add_positions, {"partitions": list(partitions)})
        self._stream_is_there = False
        published = moved = 0
        while True:
            async with self._database.reading() as connection:
                rows = (await connection.execute(self._oldest, {"partitions": list(partitions)})).all()
            # Where it ended after our own last publishing need not be asked: if it ends elsewhere, it takes nothing.
            ended, self._ended = self._ended, None
            stream: StreamState = ended if rows and ended is not None else await self._bus.stream_state(self.target)
            if await self._begins_anew(partitions, stream, rows):
                continue
            if rows:
                # Unless the stream still ends there, it may be another by now, and what is missing must come first.
                # Where others publish as well it seldom does; then the last look has to do.
                expected = stream.last_sequence if moved < MOVED_AT_MOST else None
                try:
                    with tracing.span(f"publish {self.target.name}", messages=len(rows)):
                        last = await self._bus.publish(self.target, [_outgoing(row) for row in rows], expected)
                except StreamMovedError:
                    moved += 1
                    continue
                await self._note(partitions, stream, last, rows[-1].id)
                self._ended = replace(stream, last_sequence=max(last, stream.last_sequence)) if last else None
                published += len(rows)
                moved = 0
            if len(rows) < ATOMIC_BATCH:
                self._stream_is_there = True
                return published

    async def is_empty(self, partitions: Sequence[int] = ALL_PARTITIONS) -> bool:
        """Whether everything of these partitions has been published, to the stream that is there now."""
        stream = await self._bus.stream_state(self.target)
        async with self._database.begin() as connection:
            return not await connection.scalar(
                self._any, {"partitions": list(partitions), "identity": stream.identity, "last": stream.last_sequence}
            )

    async def kept_of(self, event_id: str) -> list[Outgoing]:
        """What is kept of an event's messages, oldest first. Reads the whole table: for a person, not for a stage."""
        async with self._database.begin() as connection:
            rows = await connection.execute(self._of_event, {"event_id": event_id})
            return [Outgoing(row.event_id, row.message_id, row.payload) for row in rows]

    async def _begins_anew(self, partitions: Sequence[int], stream: StreamState, rows: Sequence[Any]) -> bool:
        """Whether the stream is not the one, or not all of the one, that was published to; then all begins anew."""
        if rows and all(
            row.stream_identity == stream.identity and row.sequence <= stream.last_sequence for row in rows
        ):
            return False
        async with self._database.begin() as connection:
            begun = await connection.execute(
                self._begin_anew,
                {"partitions": list(partitions), "identity": stream.identity, "last": stream.last_sequence},
            )
        if begun.rowcount:
            log.info("publishing from the beginning of what is kept", stream=self.target.name, identity=stream.identity)
        return begun.rowcount > 0

    async def _note(self, partitions: Sequence[int], stream: StreamState, last: int, newest: int) -> None:
        async with self._database.begin() as connection:
            # What a crash undoes of this costs a repeat, so it need not wait for the disk.
            await connection.execute(text("SET LOCAL synchronous_commit = off"))
            await connection.execute(
                self._advance,
                {
                    "partitions": list(partitions),
                    "identity": stream.identity,
                    "last": max(last, stream.last_sequence),
                    "id": newest,
                },
            )
            if newest - self._trimmed >= min(TRIM_EVERY, self._kept_messages):
                await connection.execute(
                    self._trim, {"partitions": list(partitions), "id": newest - self._kept_messages}
                )
                self._trimmed = newest


def _outgoing(row: Any) -> Outgoing:
    # The id names the stream as well: what is published anew must not pass for a repeat in the new one.
    return Outgoing(row.event_id, f"{row.message_id}@{row.stream_identity}", row.payload, row.traceparent)

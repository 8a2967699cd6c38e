"""Messages that were decided in a transaction and leave after it: kept in the same commit, published in order."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.shared import tracing
from services.shared.bus import ALL_PARTITIONS, ATOMIC_BATCH, Bus, Outgoing, StreamSpec, is_token, partition_of
from services.shared.database import Database
from services.shared.tables import StageTables


class Outbox:
    """The outbox of one schema, bound for one stream.

    Order: rows of a partition are written only by whoever holds that partition (a stage's fence, the poller's lease),
    so their ids rise in the order in which their transactions commit.
    """

    def __init__(self, database: Database, bus: Bus, tables: StageTables, target: StreamSpec) -> None:
        self.target = target
        self._database = database
        self._bus = bus
        table = tables.outbox.fullname
        owned = "partition = ANY(CAST(:partitions AS smallint[]))"
        self._insert = text(
            f"INSERT INTO {table} (partition, event_id, message_id, payload) "  # noqa: S608 - our own table's name
            "SELECT partition, event_id, message_id, payload FROM unnest(CAST(:partitions AS smallint[]), "
            "CAST(:event_ids AS text[]), CAST(:message_ids AS text[]), CAST(:payloads AS bytea[])) WITH ORDINALITY "
            "AS message (partition, event_id, message_id, payload, number) ORDER BY number"
        )
        #: The same, and its trace: only of a followed one.
        self._insert_followed = text(
            f"INSERT INTO {table} (partition, event_id, message_id, payload, traceparent) "  # noqa: S608 - the same
            "SELECT partition, event_id, message_id, payload, traceparent FROM unnest(CAST(:partitions AS smallint[]), "
            "CAST(:event_ids AS text[]), CAST(:message_ids AS text[]), CAST(:payloads AS bytea[]), "
            "CAST(:traceparents AS text[])) WITH ORDINALITY "
            "AS message (partition, event_id, message_id, payload, traceparent, number) ORDER BY number"
        )
        self._oldest = text(
            f"SELECT id, event_id, message_id, payload, traceparent FROM {table} WHERE {owned} "  # noqa: S608 - our own table's name
            f"ORDER BY id LIMIT {ATOMIC_BATCH}"
        )
        self._remove = text(f"DELETE FROM {table} WHERE id = ANY(CAST(:ids AS bigint[]))")  # noqa: S608 - the same
        self._any = text(f"SELECT EXISTS (SELECT FROM {table} WHERE {owned})")  # noqa: S608 - the same

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
        """Publishes everything that these partitions hold, in order, and removes what the bus has; returns how many.

        Raises BusError when the bus does not take one: it and all behind it stay. When we die between publishing and
        removing, the next call publishes again, and the bus or the revision says that it was a repeat.
        """
        published = 0
        while True:
            async with self._database.begin() as connection:
                rows = (await connection.execute(self._oldest, {"partitions": list(partitions)})).all()
            if not rows:
                return published
            messages = [Outgoing(row.event_id, row.message_id, row.payload, row.traceparent) for row in rows]
            with tracing.span(f"publish {self.target.name}", messages=len(messages)):
                await self._bus.publish(self.target, messages)
            async with self._database.begin() as connection:
                # A removal that a crash undoes costs a repeat, so it need not wait for the disk.
                await connection.execute(text("SET LOCAL synchronous_commit = off"))
                await connection.execute(self._remove, {"ids": [row.id for row in rows]})
            published += len(rows)
            if len(rows) < ATOMIC_BATCH:
                return published

    async def is_empty(self, partitions: Sequence[int] = ALL_PARTITIONS) -> bool:
        """Whether everything of these partitions has been published."""
        async with self._database.begin() as connection:
            return not await connection.scalar(self._any, {"partitions": list(partitions)})

"""Messages that were decided in a transaction and leave after it: kept in the same commit, published in order.

What was published stays for a while, because a stream can be lost with what nobody has read yet: somebody deletes it,
or it comes back from an older copy. After each publishing the stream is asked which one it is and how far it goes. If
it is another one, or ends before where it ended already, everything that is kept is published again; consumers know by
its revision what they have applied, and apply what they had missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.shared.bus import (
    ALL_PARTITIONS,
    ATOMIC_BATCH,
    Bus,
    Outgoing,
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
        table, position = tables.outbox.fullname, tables.outbox_position.fullname
        owned = "partition = ANY(CAST(:partitions AS smallint[]))"
        # ruff: noqa: S608 - the only names put into these statements are those of our own tables
        self._insert = text(
            f"INSERT INTO {table} (partition, event_id, message_id, payload) "
            "SELECT partition, event_id, message_id, payload FROM unnest(CAST(:partitions AS smallint[]), "
            "CAST(:event_ids AS text[]), CAST(:message_ids AS text[]), CAST(:payloads AS bytea[])) WITH ORDINALITY "
            "AS message (partition, event_id, message_id, payload, number) ORDER BY number"
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
            f"SELECT id, event_id, message_id, payload, stream_identity FROM {table} JOIN {position} USING (partition) "
            f"WHERE {owned} AND id > published_id AND id > (SELECT min(published_id) FROM {position} WHERE {owned}) "
            f"ORDER BY id LIMIT {ATOMIC_BATCH}"
        )
        self._advance = text(
            f"UPDATE {position} SET sequence = greatest(sequence, :last), published_id = greatest(published_id, :id) "
            f"WHERE {owned} AND stream_identity = :identity"
        )
        self._trim = text(f"DELETE FROM {table} WHERE {owned} AND id <= :id")
        self._any = text(
            f"SELECT EXISTS (SELECT FROM {table} AS message LEFT JOIN {position} AS held USING (partition) "
            f"WHERE {owned} AND (held.partition IS NULL OR message.id > held.published_id "
            "OR held.stream_identity <> :identity OR held.sequence > :last))"
        )

    async def add(self, connection: AsyncConnection, messages: Sequence[Outgoing]) -> None:
        """Keeps the messages in the caller's transaction. Raises ValueError for an id that no subject can hold."""
        if not messages:
            return
        for message in messages:
            if not is_token(message.event_id):
                raise ValueError(f"an event id that cannot be published: {message.event_id!r}")
        await connection.execute(
            self._insert,
            {
                "partitions": [partition_of(message.event_id) for message in messages],
                "event_ids": [message.event_id for message in messages],
                "message_ids": [message.message_id for message in messages],
                "payloads": [message.payload for message in messages],
            },
        )

    async def publish(self, partitions: Sequence[int] = ALL_PARTITIONS) -> int:
        """Publishes everything of these partitions that is not in the stream yet, in order; returns how many.

        Raises BusError when the bus does not take one: it and all behind it stay to be published. When we die between
        publishing and noting it, the next call publishes again, and the bus or the revision says that it was a repeat.
        """
        if not self._stream_is_there:
            stream = await self._bus.ensure_stream(self.target)
            async with self._database.begin() as connection:
                await self._is_anew(connection, partitions, stream)
        self._stream_is_there = False
        published = 0
        while True:
            async with self._database.begin() as connection:
                rows = (await connection.execute(self._oldest, {"partitions": list(partitions)})).all()
            if rows:
                await self._bus.publish(self.target, [_outgoing(row) for row in rows])
                published += len(rows)
            stream = await self._bus.stream_state(self.target)
            async with self._database.begin() as connection:
                # What a crash undoes of this costs a repeat, so it need not wait for the disk.
                await connection.execute(text("SET LOCAL synchronous_commit = off"))
                if await self._is_anew(connection, partitions, stream):
                    continue
                if rows:
                    await self._note(connection, partitions, stream, rows[-1].id)
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

    async def _is_anew(self, connection: AsyncConnection, partitions: Sequence[int], stream: StreamState) -> bool:
        """Whether the stream is not the one, or not all of the one, that was published to; then all begins anew."""
        await connection.execute(self._add_positions, {"partitions": list(partitions)})
        begun = await connection.execute(
            self._begin_anew,
            {"partitions": list(partitions), "identity": stream.identity, "last": stream.last_sequence},
        )
        anew = begun.rowcount > 0
        if anew:
            log.info("publishing from the beginning of what is kept", stream=self.target.name, identity=stream.identity)
        return anew

    async def _note(
        self, connection: AsyncConnection, partitions: Sequence[int], stream: StreamState, newest: int
    ) -> None:
        await connection.execute(
            self._advance,
            {
                "partitions": list(partitions),
                "identity": stream.identity,
                "last": stream.last_sequence,
                "id": newest,
            },
        )
        await connection.execute(self._trim, {"partitions": list(partitions), "id": newest - self._kept_messages})


def _outgoing(row: Any) -> Outgoing:
    # The id names the stream as well: what is published anew must not pass for a repeat in the new one.
    return Outgoing(row.event_id, f"{row.message_id}@{row.stream_identity}", row.payload)

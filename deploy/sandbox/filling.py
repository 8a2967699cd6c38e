"""How the evening gets into the database: through the services' own classes, without a bus, in one transaction.

Each answer goes through ingest's recorder; what that would publish goes through consensus's fold, and what that would
publish through the signals' fold. All rows of all schemas become true with one commit, so that a death in the middle
leaves nothing behind, and nobody ever reads half an evening.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Generic, TypeVar

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from deploy.sandbox.evening import BEGINS_AT, CADENCE, QUERY, Evening, board_rules, rule_settings
from deploy.simulator.market import SPORT_KEY
from services.consensus import store as consensus_store
from services.consensus.events import ConsensusFold
from services.ingest import store as ingest_store
from services.ingest.changes import Coverage, Poll
from services.ingest.normalize import Memory, normalize
from services.ingest.provider import Quota
from services.ingest.recorder import Answered, Recorder
from services.ingest.store import poller_lease
from services.shared.bus import ALL_PARTITIONS, Outgoing, partition_of
from services.shared.database import Database
from services.shared.outbox import Outbox
from services.shared.stage import Fold
from services.shared.tables import StageTables
from services.signals import store as signals_store
from services.signals.events import SignalEvents

M = TypeVar("M")
S = TypeVar("S")

#: Who polled, as the lease says; with the evening's name behind it, which evening is there.
HOLDER = "sandbox"
#: Nobody else wants the lease, and nobody lets it go.
LEASE_SECONDS = 600.0
ASKED = Coverage(tuple(QUERY["markets"].split(",")))

#: Told after each answer: how many minutes of the evening are done, of how many.
Progress = Callable[[int, int], None]


async def fill(database: Database, evening: Evening, progress: Progress = lambda *_: None) -> bool:
    """Brings the evening into the database, in place of another one; False when it was there already.

    Of several that do so at once, one does and the others wait for it; if they have to wait for longer than for a lock,
    or anything else happens to the database, its error is raised, and what is there is as it was.
    """
    async with database.begin() as connection:
        await connection.execute(select(signals_store.feed).with_for_update())
        holder = f"{HOLDER} {evening.name}"
        if await connection.scalar(select(poller_lease.c.holder)) == holder:
            return False
        await _clear(connection, evening)
        lease = await ingest_store.acquire_lease(connection, holder, LEASE_SECONDS)
        assert lease is not None, "its table is empty and nobody else fills"
        outbox, clock, memory = _HandedOn(), _Clock(), Memory()
        recorder = Recorder(_OneTransaction(database, connection), outbox, lease, LEASE_SECONDS, rate=0.0)
        consensus = _Following(ConsensusFold(board_rules()), consensus_store.stage)
        signals = _Following(SignalEvents(rule_settings(), lambda: None, clock), signals_store.stage)
        for number, (at, body) in enumerate(evening.answers()):
            clock.now = at
            poll = Poll(SPORT_KEY, at, CADENCE.total_seconds(), ASKED, normalize(body, SPORT_KEY, memory))
            await recorder.record([Answered(poll, Quota(), body)])
            await signals.take(connection, await consensus.take(connection, outbox.taken()))
            progress(number, evening.minutes)
        await consensus.keep(connection)
        await signals.keep(connection)
    return True


async def _clear(connection: AsyncConnection, evening: Evening) -> None:
    """Nothing is left but an empty feed under the evening's name: its cursors are good wherever this evening is."""
    for store in (signals_store, consensus_store, ingest_store):
        for table in reversed(store.metadata.sorted_tables):
            if table is not signals_store.feed:
                await connection.execute(delete(table))
    begun = {"epoch": evening.name, "position": 0, "trimmed_position": 0, "received_at": None}
    await connection.execute(update(signals_store.feed).values(begun))


class _Clock:
    """The evening's own time: a signal is published at the moment of the answer that showed it."""

    def __init__(self) -> None:
        self.now = BEGINS_AT

    def __call__(self) -> datetime:
        return self.now


class _OneTransaction(Database):
    """A database whose every transaction is part of one that is open."""

    def __init__(self, database: Database, connection: AsyncConnection) -> None:
        super().__init__(database.engine, database.readers)
        self._connection = connection

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """The open transaction."""
        yield self._connection


class _HandedOn(Outbox):
    """What would wait to be published is handed on in this process."""

    def __init__(self) -> None:
        self._messages: list[Outgoing] = []

    async def add(
        self,
        connection: AsyncConnection,  # noqa: ARG002 - the base class's, as below
        messages: Sequence[Outgoing],
        traceparent: str | None = None,  # noqa: ARG002 - as the outbox has it
    ) -> None:
        """Keeps the messages for whoever takes them."""
        self._messages += messages

    async def publish(self, partitions: Sequence[int] = ALL_PARTITIONS) -> int:  # noqa: ARG002 - as the outbox has it
        """There is no bus."""
        return 0

    def taken(self) -> list[Outgoing]:
        """What has come since it was last asked, in order."""
        messages, self._messages = self._messages, []
        return messages


class _Following(Generic[M, S]):
    """A stage without a stream: it takes messages as they come, and its states are kept at the end."""

    def __init__(self, fold: Fold[M, S], tables: StageTables) -> None:
        self._fold = fold
        self._tables = tables
        #: By event, the state and the revision of the message that it is of.
        self._states: dict[str, tuple[S, int]] = {}

    async def take(self, connection: AsyncConnection, messages: Sequence[Outgoing]) -> list[Outgoing]:
        """Applies the messages and writes what they lead to; returns what goes to the next stage."""
        rows: list[object] = []
        told: list[Outgoing] = []
        for message in messages:
            arrival = self._fold.decode(message.payload)
            held = self._states.get(arrival.event_id)
            outcome = self._fold.step(self._fold.load(None) if held is None else held[0], arrival.message)
            self._states[arrival.event_id] = outcome.state, arrival.revision
            rows += outcome.rows
            told += outcome.outgoing
        if rows:
            await self._fold.write(connection, rows)
        return told

    async def keep(self, connection: AsyncConnection) -> None:
        """Writes down every event as it is now: the services answer from it."""
        states = [
            {
                "event_id": event_id,
                "partition": partition_of(event_id),
                "applied_revision": revision,
                "awaiting_keyframe": False,
                "state": self._fold.dump(state),
            }
            for event_id, (state, revision) in sorted(self._states.items())
        ]
        await connection.execute(insert(self._tables.event_state), states)

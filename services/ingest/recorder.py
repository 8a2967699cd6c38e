"""Keeps polls: what they change, what they leave to be told, and that we may, all in one transaction each.

The poller and the backfill both work through this. If it dies before the commit, nothing happened, and the poll is
asked for again or missed like any failed one. If it dies after the commit and before publishing, the messages lie in
the outbox and are published first of all by whoever polls next.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime

import prometheus_client
from sqlalchemy.ext.asyncio import AsyncConnection

from services.ingest import store, wire
from services.ingest.changes import EventState, Observation, Poll, is_believable, observe_poll
from services.ingest.normalize import SeenEvent
from services.ingest.provider import Quota
from services.ingest.store import BookHealth, Lease, PollRow, Rows, SportHealth
from services.shared.clock import utc_now
from services.shared.database import Database
from services.shared.outbox import Outbox

polls_total = prometheus_client.Counter(
    "stratum_ingest_polls_total", "Polls by what became of them.", ["sport_key", "result"]
)
rejected_total = prometheus_client.Counter(
    "stratum_ingest_rejected_total", "What was sent and not used, in outcomes.", ["reason"]
)

EMPTY_BODY = "empty_body"


@dataclass(frozen=True, slots=True)
class Answered:
    """A poll that was answered, and what the provider said about credits with it."""

    poll: Poll
    quota: Quota


#: Something more to do in the transaction of a batch: saving a cursor.
Also = Callable[[AsyncConnection], Awaitable[None]]


class Recorder:
    """Writes for one holder of the lease. What it remembers between batches is a cache of the state rows."""

    def __init__(self, database: Database, outbox: Outbox, lease: Lease, lease_seconds: float, rate: float) -> None:
        """`rate` is how much faster the provider's time runs than ours; 0 where it stands still."""
        self._database = database
        self._outbox = outbox
        self._lease = lease
        self._lease_seconds = lease_seconds
        self._rate = rate
        self._states: dict[str, EventState] = {}
        self._loaded: set[str] = set()
        #: One transaction at a time: a renewal must not wait for the row that our own batch has locked.
        self._turn = asyncio.Lock()

    async def record(self, batch: Sequence[Answered], also: Also | None = None) -> list[bool]:
        """Keeps the polls in order, in one transaction; says of each whether it was believed.

        Raises LeaseLost when somebody else polls now, and whatever the database raises; then nothing was kept.
        """
        async with self._transaction() as connection:
            await self._load(connection, [answered.poll for answered in batch])
            requested = await store.load_keyframe_requests(connection)
            rows = Rows()
            states = dict(self._states)
            believed = []
            told: list[Observation] = []
            for answered in batch:
                poll = _asking(answered.poll, requested - rows.answered_keyframes)
                believed.append(is_believable(states.values(), poll))
                if believed[-1]:
                    told.extend(_apply(states, rows, poll, answered.quota))
            newest = {poll.sport_key: poll for poll in _kept(batch, believed) if poll.whole}
            for sport_key, poll in newest.items():
                rows.books[sport_key] = tuple(_book_health(sport_key, poll.seen.events))
            await store.write(connection, rows)
            await self._note_health(connection, batch, believed)
            await self._outbox.add(connection, [wire.outgoing(observation) for observation in told])
            if also is not None:
                await also(connection)
        self._states = {event_id: state for event_id, state in states.items() if not state.gone}
        for answered, good in zip(batch, believed, strict=True):
            polls_total.labels(answered.poll.sport_key, "kept" if good else EMPTY_BODY).inc()
            for reason, count in answered.poll.seen.rejected.items():
                rejected_total.labels(reason).inc(count)
        return believed

    async def note_failure(self, poll: Poll, kind: str) -> None:
        """A poll failed; `poll` says when it would have been and of what. Nobody dies of it."""
        async with self._transaction() as connection:
            await self._note_failure(connection, poll, kind)
        polls_total.labels(poll.sport_key, kind).inc()

    async def renew(self) -> None:
        """Keeps the lease from expiring between polls. Raises LeaseLost."""
        async with self._transaction():
            pass

    @property
    def term(self) -> int:
        """Of the lease that this holds."""
        return self._lease.term

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A transaction of the lease's holder, which takes turns with the others. Raises LeaseLost."""
        return self._transaction()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        async with self._turn:
            try:
                async with self._database.begin() as connection:
                    await store.hold_lease(connection, self._lease, self._lease_seconds)
                    yield connection
            except BaseException:
                self._states.clear()
                self._loaded.clear()
                raise

    async def _load(self, connection: AsyncConnection, polls: Iterable[Poll]) -> None:
        shown: set[str] = set()
        for poll in polls:
            await self._load_sport(connection, poll.sport_key)
            shown.update(event.event_id for event in poll.seen.events)
            shown |= poll.keyframes
        unknown = shown - self._states.keys()
        if unknown:
            self._remember(await store.load_events(connection, unknown))

    async def _load_sport(self, connection: AsyncConnection, sport_key: str) -> None:
        if sport_key not in self._loaded:
            self._remember(await store.load_present(connection, sport_key))
            self._loaded.add(sport_key)

    def _remember(self, states: Iterable[EventState]) -> None:
        self._states.update((state.event_id, state) for state in states)

    async def _note_failure(self, connection: AsyncConnection, poll: Poll, kind: str) -> None:
        await store.note_failure(
            connection, poll.sport_key, poll.observed_at, kind, poll.expected_interval_seconds, self._rate
        )

    async def _note_health(
        self, connection: AsyncConnection, batch: Sequence[Answered], believed: Sequence[bool]
    ) -> None:
        newest = {answered.poll.sport_key: answered for answered, good in zip(batch, believed, strict=True) if good}
        for answered, good in zip(batch, believed, strict=True):
            poll = answered.poll
            if not good:
                await self._note_failure(connection, poll, EMPTY_BODY)
            elif answered is newest.get(poll.sport_key):
                health = SportHealth(
                    sport_key=poll.sport_key,
                    observed_at=poll.observed_at,
                    polled_at=utc_now(),
                    clock_rate=self._rate,
                    expected_interval_seconds=poll.expected_interval_seconds,
                    consecutive_failures=0,
                    last_failure="",
                    credits_remaining=answered.quota.remaining,
                )
                await store.note_success(connection, health)


def _asking(poll: Poll, requested: frozenset[str]) -> Poll:
    return replace(poll, keyframes=poll.keyframes | requested) if requested else poll


def _kept(batch: Sequence[Answered], believed: Sequence[bool]) -> list[Poll]:
    return [answered.poll for answered, good in zip(batch, believed, strict=True) if good]


def _apply(states: dict[str, EventState], rows: Rows, poll: Poll, quota: Quota) -> list[Observation]:
    """Takes one poll into the states and the rows; what is to be told of it."""
    told = []
    changes = snapshots = gone = 0
    for step in observe_poll(states, poll):
        state = step.state
        before = states.get(state.event_id)
        if before is None:
            rows.first.append(state)
        if before is None or before.commence_time != state.commence_time:
            rows.starts.append(state)
        states[state.event_id] = rows.states[state.event_id] = state
        rows.snapshots.extend(step.snapshots)
        rows.disappearances.extend(step.disappearances)
        if step.observation.keyframe:
            rows.answered_keyframes.add(state.event_id)
        changes += step.changed
        snapshots += len(step.snapshots)
        gone += len(step.disappearances)
        told.append(step.observation)
    events = poll.seen.events
    quotes = sum(len(event.quotes) for event in events)
    rows.polls.append(
        PollRow(
            sport_key=poll.sport_key,
            observed_at=poll.observed_at,
            events=len(events),
            quotes=quotes,
            changes=changes,
            snapshots=snapshots,
            credits_last=quota.last,
            credits_remaining=quota.remaining,
        )
    )
    rows.quarantined.extend((book, poll.observed_at) for book in poll.seen.quarantined)
    counted = {
        "responses": 1,
        "events": len(events),
        "quotes": quotes,
        "changes": changes,
        "snapshots": snapshots,
        "disappearances": gone,
        "observations": len(told),
    }
    for name, count in counted.items():
        rows.tallies[poll.sport_key, name, ""] += count
    for reason, count in poll.seen.rejected.items():
        rows.tallies[poll.sport_key, "rejected", reason.value] += count
    return told


def _book_health(sport_key: str, events: Iterable[SeenEvent]) -> Iterator[BookHealth]:
    quotes: Counter[str] = Counter()
    seen_in: Counter[str] = Counter()
    updates: dict[str, datetime] = {}
    for event in events:
        seen_in.update({quote.book for quote in event.quotes})
        for quote in event.quotes:
            quotes[quote.book] += 1
            if quote.last_update is not None:
                updates[quote.book] = max(quote.last_update, updates.get(quote.book, quote.last_update))
    for book in sorted(quotes):
        yield BookHealth(sport_key, book, updates.get(book), quotes[book], seen_in[book])

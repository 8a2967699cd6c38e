"""Keeps polls: what they change, what they leave to be told, and that we may, all in one transaction each.

The poller and the backfill both work through this. If it dies before the commit, nothing happened, and the poll is
asked for again or missed like any failed one. If it dies after the commit and before publishing, the messages lie in
the outbox and are published first of all by whoever polls next. Only a board of very many events is kept in several
transactions.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime

import prometheus_client
from sqlalchemy.ext.asyncio import AsyncConnection

from services.ingest import store, wire
from services.ingest.changes import EventState, Observation, Poll, Step, is_believable, observe_poll
from services.ingest.normalize import SeenEvent
from services.ingest.provider import Quota
from services.ingest.store import BookHealth, Lease, PollRow, Rows, SportHealth, StateRows
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
#: After so many events a transaction ends: a twentieth of a second of work, about.
SLICE_EVENTS = 250


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
        self._state_rows = StateRows()
        #: One transaction at a time: a renewal must not wait for the row that our own batch has locked.
        self._turn = asyncio.Lock()
        #: One batch at a time, since it may take several transactions.
        self._recording = asyncio.Lock()
        #: Two that publish the same rows at once would publish them twice.
        self._publishing = asyncio.Lock()

    async def record(self, batch: Sequence[Answered], also: Also | None = None) -> list[bool]:
        """Keeps the polls in order; says of each whether it was believed.

        A large board is kept slice by slice, each in a transaction of its own, so that what the first slices lead to is
        on its way while the rest is worked out, and nobody waits long for this process. What belongs to the polls as
        wholes, their health and `also`, is kept with the last slice. Dying in between is missing the rest of a poll; a
        walk that repeats it finds the events of the first slices observed already, and leaves them alone.

        Raises LeaseLost when somebody else polls now, and whatever the database raises; then the slice was not kept,
        nor any behind it. What was kept is published, but for the last slice.
        """
        believed: list[bool] = []
        async with self._recording:
            slices: Iterator[_Slice] | None = None
            states: dict[str, EventState] = {}
            publishing: asyncio.Task[int] | None = None
            ended = False
            try:
                while not ended:
                    async with self._transaction() as connection:
                        if slices is None:
                            await self._load(connection, [answered.poll for answered in batch])
                            requested = await store.load_keyframe_requests(connection)
                            states = dict(self._states)
                            slices = _slices(states, batch, requested, believed)
                        part = next(slices)
                        ended = part.last
                        await store.write(connection, part.rows, self._state_rows)
                        await self._outbox.add(connection, [wire.outgoing(observation) for observation in part.told])
                        if ended:
                            await self._note_health(connection, batch, believed)
                            if also is not None:
                                await also(connection)
                    if publishing is not None:
                        await publishing
                    publishing = None if ended else asyncio.create_task(self.publish())
            finally:
                if publishing is not None:
                    publishing.cancel()
                    await asyncio.gather(publishing, return_exceptions=True)
            self._states = {event_id: state for event_id, state in states.items() if not state.gone}
        for answered, good in zip(batch, believed, strict=True):
            polls_total.labels(answered.poll.sport_key, "kept" if good else EMPTY_BODY).inc()
            for reason, count in answered.poll.seen.rejected.items():
                rejected_total.labels(reason).inc(count)
        return believed

    async def publish(self) -> int:
        """Publishes what was kept; returns how many messages. Raises BusError when the bus does not take one."""
        async with self._publishing:
            return await self._outbox.publish()

    async def note_failure(self, poll: Poll, kind: str) -> None:
        """A poll failed; `poll` says when it would have been and of what. Nobody dies of it."""
        async with self._transaction() as connection:
            await self._note_failure(connection, poll, kind)
        polls_total.labels(poll.sport_key, kind).inc()

    async def renew(self) -> None:
        """Keeps the lease from expiring between polls. Raises LeaseLost."""
        async with self._transaction():
            pass

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


@dataclass(frozen=True, slots=True)
class _Slice:
    """A part of what some polls lead to: what one transaction keeps."""

    rows: Rows
    told: list[Observation]
    last: bool


def _slices(
    states: dict[str, EventState], batch: Sequence[Answered], requested: frozenset[str], believed: list[bool]
) -> Iterator[_Slice]:
    """Takes the polls into the states, and ends a slice after so many events; notes of each poll if it is believed."""
    rows, told = Rows(), list[Observation]()
    answered_keyframes: set[str] = set()
    for answered in batch:
        poll = _asking(answered.poll, requested - answered_keyframes)
        believed.append(is_believable(states.values(), poll))
        if not believed[-1]:
            continue
        counts: Counter[str] = Counter()
        for step in observe_poll(states, poll):
            if len(told) >= SLICE_EVENTS:
                yield _Slice(rows, told, last=False)
                rows, told = Rows(), []
            _apply(states, rows, poll.sport_key, step, counts)
            if step.observation.keyframe:
                answered_keyframes.add(step.state.event_id)
            told.append(step.observation)
        _end_poll(rows, poll, answered.quota, counts)
    for sport_key, poll in _newest(batch, believed).items():
        rows.books[sport_key] = tuple(_book_health(sport_key, poll.seen.events))
    yield _Slice(rows, told, last=True)


def _newest(batch: Sequence[Answered], believed: Sequence[bool]) -> dict[str, Poll]:
    """The last poll of each sport that was believed and asked for the whole sport."""
    kept = [answered.poll for answered, good in zip(batch, believed, strict=True) if good]
    return {poll.sport_key: poll for poll in kept if poll.whole}


def _apply(states: dict[str, EventState], rows: Rows, sport_key: str, step: Step, counts: Counter[str]) -> None:
    """Takes one step into the states and the rows, and counts it for its poll."""
    state = step.state
    before = states.get(state.event_id)
    if before is None:
        rows.first.append(state)
    elif _game(before) != _game(state):
        rows.renewed.add(state.event_id)
    if before is None or before.commence_time != state.commence_time:
        rows.starts.append(state)
    states[state.event_id] = rows.states[state.event_id] = state
    rows.snapshots.extend(step.snapshots)
    rows.disappearances.extend(step.disappearances)
    if step.observation.keyframe:
        rows.answered_keyframes.add(state.event_id)
    counted = {
        "changes": step.changed,
        "snapshots": len(step.snapshots),
        "disappearances": len(step.disappearances),
        "observations": 1,
    }
    for name, count in counted.items():
        counts[name] += count
        rows.tallies[sport_key, name, ""] += count


def _end_poll(rows: Rows, poll: Poll, quota: Quota, counts: Mapping[str, int]) -> None:
    """Adds what belongs to a poll as a whole."""
    events = poll.seen.events
    quotes = sum([len(event.offers) for event in events])
    rows.polls.append(
        PollRow(
            sport_key=poll.sport_key,
            observed_at=poll.observed_at,
            events=len(events),
            quotes=quotes,
            changes=counts["changes"],
            snapshots=counts["snapshots"],
            credits_last=quota.last,
            credits_remaining=quota.remaining,
        )
    )
    rows.quarantined.extend((book, poll.observed_at) for book in poll.seen.quarantined)
    for name, count in {"responses": 1, "events": len(events), "quotes": quotes}.items():
        rows.tallies[poll.sport_key, name, ""] += count
    for reason, count in poll.seen.rejected.items():
        rows.tallies[poll.sport_key, "rejected", reason.value] += count


def _game(state: EventState) -> tuple[object, ...]:
    """What a game's row says, but for when it was observed."""
    return state.sport_key, state.home_team, state.away_team, state.commence_time, state.gone


def _book_health(sport_key: str, events: Iterable[SeenEvent]) -> Iterator[BookHealth]:
    quotes: Counter[str] = Counter()
    seen_in: Counter[str] = Counter()
    updates: dict[str, datetime] = {}
    for event in events:
        books = [book for _, _, book in event.keys]
        quotes.update(books)
        seen_in.update(set(books))
        for book, reading in set(zip(books, event.readings, strict=True)):
            if reading is not None:
                updates[book] = max(reading, updates.get(book, reading))
    for book in sorted(quotes):
        yield BookHealth(sport_key, book, updates.get(book), quotes[book], seen_in[book])

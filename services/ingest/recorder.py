"""Keeps polls: what they change, what they leave to be told, and that we may, all in one transaction each.

The poller and the backfill both work through this. If it dies before the commit, nothing happened, and the poll is
asked for again or missed like any failed one. If it dies after the commit and before publishing, the messages lie in
the outbox and are published first of all by whoever polls next. Only a board of very many events is kept in several
transactions.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import prometheus_client
from sqlalchemy.ext.asyncio import AsyncConnection

from services.ingest import health, store, wire
from services.ingest.bookmakers import Books, Decision, books_at
from services.ingest.changes import EventState, Observation, Poll, Step, is_believable, observe_poll
from services.ingest.comparison import Comparison, compare
from services.ingest.cycles import Cycles
from services.ingest.health import SportHealth
from services.ingest.normalize import normalize
from services.ingest.provider import Quota
from services.ingest.store import Lease, PollRow, Rows, StateRows
from services.shared import tracing
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
#: Books in quarantine are compared with the others once in so much event time: an answer has to be read again for it.
COMPARE_EVERY = timedelta(minutes=10)
#: After so many events a transaction ends: a twentieth of a second of work, about.
SLICE_EVENTS = 250


@dataclass(frozen=True, slots=True)
class Answered:
    """A poll that was answered, and what the provider said about credits with it."""

    poll: Poll
    quota: Quota
    #: The body of the answer, from which the poll is read again where the books have changed meanwhile.
    body: object


#: Something more to do in the transaction of a batch: saving a cursor.
Also = Callable[[AsyncConnection], Awaitable[None]]


class Recorder:
    """Writes for one holder of the lease. What it remembers between batches is a cache of the state rows."""

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        lease: Lease,
        lease_seconds: float,
        rate: float,
        cycles: Cycles | None = None,
    ) -> None:
        """`rate` is how much faster the provider's time runs than ours; 0 where it stands still.

        `cycles` is told of everything that is kept or noted; a walk through the past has none.
        """
        self._cycles = cycles
        self._database = database
        self._outbox = outbox
        self._lease = lease
        self._lease_seconds = lease_seconds
        self._rate = rate
        self._states: dict[str, EventState] = {}
        self._loaded: set[str] = set()
        #: The decisions about books as the last transaction found them.
        self._decisions: list[Decision] = []
        #: By sport, when its books in quarantine were last compared with the others.
        self._compared: dict[str, datetime] = {}
        self._state_rows = StateRows()
        #: One transaction at a time: a renewal must not wait for the row that our own batch has locked.
        self._turn = asyncio.Lock()
        #: One batch at a time, since it may take several transactions.
        self._recording = asyncio.Lock()
        #: Two that publish the same rows at once would publish them twice.
        self._publishing = asyncio.Lock()

    @tracing.traced("record")
    async def record(self, batch: Sequence[Answered], also: Also | None = None) -> list[bool]:
        """Keeps the polls in order; says of each whether it was believed.

        A large board's poll is kept slice by slice, each in a transaction of its own, so that what the first slices
        lead to is on its way while the rest is worked out, and nobody waits long for this process. What belongs to the
        poll as a whole, its health and `also`, is kept with the last slice. Dying in between is missing the rest of the
        poll; a walk that repeats it finds the events of the first slices observed already, and leaves them alone.

        Raises LeaseLost when somebody else polls now, and whatever the database raises; then the slice was not kept,
        nor any behind it. What was kept is published, but for the last slice, as far as the bus takes it.
        """
        work = _Work()
        async with self._recording:
            slices: Iterator[_Slice] | None = None
            publishing: asyncio.Task[int] | None = None
            published, ended = True, False
            try:
                while not ended:
                    async with self._transaction() as connection:
                        if slices is None:
                            self._decisions = await store.load_decisions(connection)
                            batch = [_read_by(self.books_at(answered.poll.observed_at), answered) for answered in batch]
                            await self._load(connection, [answered.poll for answered in batch])
                            requested = await store.load_keyframe_requests(connection)
                            work = _Work(dict(self._states))
                            slices = _slices(work, batch, requested)
                        part = next(slices)
                        ended = part.last
                        if ended:
                            await self._observe_books(connection, part.rows, batch, work)
                        await store.write(connection, part.rows, self._state_rows)
                        messages = [wire.outgoing(observation) for observation in part.told]
                        await self._outbox.add(connection, messages, tracing.traceparent())
                        if ended:
                            await self._note_health(connection, batch, work.believed)
                            if also is not None:
                                await also(connection)
                    if publishing is not None:
                        # A bus that is away costs nothing of an answer that was paid for: the rest is kept.
                        (failure,) = await asyncio.gather(publishing, return_exceptions=True)
                        published = not isinstance(failure, BaseException)
                    publishing = asyncio.create_task(self.publish()) if published and not ended else None
            finally:
                if publishing is not None:
                    publishing.cancel()
                    await asyncio.gather(publishing, return_exceptions=True)
            self._states = {event_id: state for event_id, state in work.states.items() if not state.gone}
        believed = work.believed
        for answered, good in zip(batch, believed, strict=True):
            polls_total.labels(answered.poll.sport_key, "kept" if good else EMPTY_BODY).inc()
            for reason, count in answered.poll.seen.rejected.items():
                rejected_total.labels(reason).inc(count)
        self._tell(batch, believed, work.polls)
        return believed

    def books_at(self, moment: datetime) -> Books:
        """Who counts as a bookmaker at a time, as far as is known here; a poll that is kept is read by what holds."""
        return books_at(self._decisions, moment)

    async def _observe_books(
        self, connection: AsyncConnection, rows: Rows, batch: Sequence[Answered], work: _Work
    ) -> None:
        """How each book did in the newest poll of each sport that asked for all of it."""
        for sport_key, answered in _newest(batch, work.believed).items():
            before = await store.load_books(connection, [sport_key])
            changed = work.changed[sport_key, answered.poll.observed_at]
            rows.books[sport_key] = health.observe_books(before, answered.poll, changed)
            rows.comparisons.extend(self._compare(answered))

    def _compare(self, answered: Answered) -> list[Comparison]:
        """Now and then, how the books in quarantine compare with the others. A walk through the past does without."""
        poll = answered.poll
        strangers = frozenset(book.book for book in poll.seen.quarantined)
        last = self._compared.get(poll.sport_key)
        due = last is None or poll.observed_at - last >= COMPARE_EVERY
        if not strangers or not due or self._rate == 0.0:
            return []
        self._compared[poll.sport_key] = poll.observed_at
        admitted = {**self.books_at(poll.observed_at).admitted, **{book: book for book in strangers}}
        books = Books(poll.seen.books_revision, admitted)
        return compare(normalize(answered.body, poll.sport_key, books=books), strangers, poll.observed_at)

    async def publish(self) -> int:
        """Publishes what was kept; returns how many messages. Raises BusError when the bus does not take one."""
        async with self._publishing:
            return await self._outbox.publish()

    async def note_failure(self, poll: Poll, kind: str) -> None:
        """A poll failed; `poll` says when it would have been and of what. Nobody dies of it."""
        async with self._transaction() as connection:
            await self._note_failure(connection, poll, kind)
        polls_total.labels(poll.sport_key, kind).inc()
        if self._cycles is not None:
            self._cycles.failed(poll, kind)

    async def renew(self) -> None:
        """Keeps the lease from expiring between polls. Raises LeaseLost."""
        async with self._transaction():
            pass

    def _tell(self, batch: Sequence[Answered], believed: Sequence[bool], polls: Sequence[PollRow]) -> None:
        if self._cycles is None:
            return
        kept = iter(polls)
        for answered, good in zip(batch, believed, strict=True):
            if good:
                self._cycles.kept(answered.poll, answered.quota, next(kept))
            else:
                self._cycles.failed(answered.poll, EMPTY_BODY, answered.quota)

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
                doing_well = SportHealth(
                    sport_key=poll.sport_key,
                    observed_at=poll.observed_at,
                    polled_at=utc_now(),
                    clock_rate=self._rate,
                    expected_interval_seconds=poll.expected_interval_seconds,
                    consecutive_failures=0,
                    last_failure="",
                    credits_remaining=answered.quota.remaining,
                )
                await store.note_success(connection, doing_well)


def _read_by(books: Books, answered: Answered) -> Answered:
    """The poll as these books show it: an operator may have decided something since its body was read."""
    poll = answered.poll
    if poll.seen.books_revision != books.revision:
        poll = replace(poll, seen=normalize(answered.body, poll.sport_key, books=books))
    if books.admitted and poll.asked.books:
        # A book that is asked for under another name is held to come under its own.
        names = tuple(books.canonical(name) or name for name in poll.asked.books)
        poll = replace(poll, asked=replace(poll.asked, books=names))
    return answered if poll is answered.poll else replace(answered, poll=poll)


def _asking(poll: Poll, requested: frozenset[str]) -> Poll:
    return replace(poll, keyframes=poll.keyframes | requested) if requested else poll


@dataclass(frozen=True, slots=True)
class _Slice:
    """A part of what some polls lead to: what one transaction keeps."""

    rows: Rows
    told: list[Observation]
    last: bool


@dataclass(frozen=True, slots=True)
class _Work:
    """What some polls have led to so far, over all their slices."""

    states: dict[str, EventState] = field(default_factory=dict)
    #: Of each poll, whether it is believed.
    believed: list[bool] = field(default_factory=list)
    #: The rows of those that are, in their order.
    polls: list[PollRow] = field(default_factory=list)
    #: Quotes that a sport's poll found changed, by book.
    changed: defaultdict[tuple[str, datetime], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))


def _slices(work: _Work, batch: Sequence[Answered], requested: frozenset[str]) -> Iterator[_Slice]:
    """Takes the polls into the states; notes of each if it is believed.

    A poll by itself is cut into slices of so many events. Several are kept together: they are read by one log of
    decisions, and a walk's place moves with all of them.
    """
    rows, told = Rows(), list[Observation]()
    answered_keyframes: set[str] = set()
    for answered in batch:
        poll = _asking(answered.poll, requested - answered_keyframes)
        work.believed.append(is_believable(work.states.values(), poll))
        if not work.believed[-1]:
            continue
        counts: Counter[str] = Counter()
        changed = work.changed[poll.sport_key, poll.observed_at]
        for step in observe_poll(work.states, poll):
            if len(batch) == 1 and len(told) >= SLICE_EVENTS:
                yield _Slice(rows, told, last=False)
                rows, told = Rows(), []
            _apply(work.states, rows, poll.sport_key, step, counts)
            if step.observation.keyframe:
                answered_keyframes.add(step.state.event_id)
            changed.update(health.changed_books(step.observation))
            told.append(step.observation)
        work.polls.append(_end_poll(rows, poll, answered.quota, counts))
    yield _Slice(rows, told, last=True)


def _newest(batch: Sequence[Answered], believed: Sequence[bool]) -> dict[str, Answered]:
    """The last poll of each sport that was believed and asked for the whole sport."""
    kept = [answered for answered, good in zip(batch, believed, strict=True) if good]
    return {answered.poll.sport_key: answered for answered in kept if answered.poll.whole}


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


def _end_poll(rows: Rows, poll: Poll, quota: Quota, counts: Mapping[str, int]) -> PollRow:
    """Adds what belongs to a poll as a whole; returns its row."""
    events = poll.seen.events
    quotes = sum([len(event.offers) for event in events])
    row = PollRow(
        sport_key=poll.sport_key,
        observed_at=poll.observed_at,
        events=len(events),
        quotes=quotes,
        changes=counts["changes"],
        snapshots=counts["snapshots"],
        credits_last=quota.last,
        credits_remaining=quota.remaining,
        books_revision=poll.seen.books_revision,
    )
    rows.polls.append(row)
    rows.quarantined.extend((book, poll.sport_key, poll.observed_at) for book in poll.seen.quarantined)
    for name, count in {"responses": 1, "events": len(events), "quotes": quotes}.items():
        rows.tallies[poll.sport_key, name, ""] += count
    for reason, count in poll.seen.rejected.items():
        rows.tallies[poll.sport_key, "rejected", reason.value] += count
    return row


def _game(state: EventState) -> tuple[object, ...]:
    """What a game's row says, but for when it was observed."""
    return state.sport_key, state.home_team, state.away_team, state.commence_time, state.gone

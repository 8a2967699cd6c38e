"""The live end of the feed: who reads along, how they are woken, and how a stream begins, beats and ends.

A stream reads the table at its own pace and keeps nothing but its position; the bell only says that there is more. So a
slow reader costs no memory, and one that comes back after hours is served like one that was never gone.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import psycopg
from sqlalchemy.exc import SQLAlchemyError
from stratum.common.v1.error_reason_pb2 import ErrorReason

from services.shared.clock import utc_now
from services.shared.errors import ResourceExhausted
from services.shared.logging import logger
from services.signals.cursor import Cursor
from services.signals.store import FeedState, Filters, SignalStore

log = logger(__name__)

#: Signals that a stream which has to catch up is given at a time.
STRETCH = 100
#: While the database is away, or has hung up: seconds until it is asked again.
PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Opened:
    """The stream stands here."""

    cursor: Cursor


@dataclass(frozen=True, slots=True)
class Truncated:
    """Signals between the reader's cursor and this one can no longer be given."""

    #: `retention`: their time is over. `unknown_feed`: the cursor is of another database, or of this one's future.
    reason: str
    cursor: Cursor


@dataclass(frozen=True, slots=True)
class More:
    """Serialized signals, in the order of the feed."""

    payloads: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Beat:
    """Nothing new for this reader; all up to the cursor was looked at."""

    cursor: Cursor


@dataclass(frozen=True, slots=True)
class Ended:
    """The stream ends: `draining`, because this process stops, `max_age`, or `internal`, a fault of ours: come back
    with the last cursor. Or the reader may not go on, and the reason is the one that a new call would be refused with,
    such as `KEY_REVOKED`."""

    reason: str


Item = Opened | Truncated | More | Beat | Ended


@dataclass(frozen=True, slots=True)
class FeedLimits:
    """How many streams there may be, and how they live."""

    open_streams: int = 256
    #: Of those, how many one account may have: a single key must not close the feed to everybody else.
    streams_of_one: int = 16
    heartbeat_seconds: float = 15.0
    #: Just under the hour after which the gateway would cut a stream without a word.
    stream_seconds: float = 3540.0
    #: How often the table is asked although nobody rang; a notification can be lost with its connection.
    poll_seconds: float = 5.0


class Place(NamedTuple):
    """Where the feed stands. While it stays there, the same question has the same answer."""

    #: How often it became unsure where the feed stands.
    certainty: int
    position: int
    trimmed_position: int


class Feed:
    """How far the feed goes, as this process knows, and everyone who waits for it to go further."""

    def __init__(self, store: SignalStore, limits: FeedLimits) -> None:
        self._store = store
        self._limits = limits
        self._position = 0
        self._trimmed_position = 0
        self._hears = False
        self._is_certain = False
        self._certainty = 0
        self._bell = asyncio.Event()
        self._draining = False
        self._open_streams = 0
        self._streams_of: Counter[str] = Counter()
        self._received_at: datetime | None = None
        self._noted_at: datetime | None = None

    async def run(self) -> None:
        """Listens and looks, until cancelled. A database that is away is waited for, never an end."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_again_and_again(self._listen, PAUSE_SECONDS))
            tasks.create_task(_again_and_again(self._look, self._limits.poll_seconds))

    def drain(self) -> None:
        """Every stream says why and ends; new ones end at once."""
        self._draining = True
        self._ring()

    def wake(self) -> None:
        """Every stream looks whether it may go on."""
        self._ring()

    def received(self) -> None:
        """A market update came in just now."""
        self._received_at = utc_now()

    def place(self) -> Place | None:
        """Where the feed stands, as far as the bell was heard: milliseconds behind the table. None while that is not
        certain: the bell's connection is gone, or the table was seen to stand further back."""
        return Place(self._certainty, self._position, self._trimmed_position) if self._is_certain else None

    def data_age_seconds(self) -> float | None:
        """Since the newest market update came in, here or in another process; None when none ever did."""
        if self._received_at is None:
            return None
        return max(0.0, (utc_now() - self._received_at).total_seconds())

    @contextmanager
    def seat(self, account_id: str = "") -> Iterator[None]:
        """Room for one stream of an account, or of one of our own. Raises ResourceExhausted (TOO_MANY_STREAMS)."""
        if self._open_streams >= self._limits.open_streams:
            raise ResourceExhausted(
                ErrorReason.TOO_MANY_STREAMS, f"{self._open_streams} streams are open, which is all there may be"
            )
        if account_id and self._streams_of[account_id] >= self._limits.streams_of_one:
            raise ResourceExhausted(
                ErrorReason.TOO_MANY_STREAMS,
                f"the account has {self._streams_of[account_id]} open streams, as many as it may",
            )
        self._open_streams += 1
        self._streams_of[account_id] += 1
        try:
            yield
        finally:
            self._open_streams -= 1
            self._streams_of[account_id] -= 1
            if not self._streams_of[account_id]:
                del self._streams_of[account_id]

    async def follow(
        self,
        filters: Filters,
        *,
        full: bool,
        after: Cursor | None,
        refusal: Callable[[], str | None] = lambda: None,
    ) -> AsyncIterator[Item]:
        """The feed behind a cursor, or from now on: every signal once, in order, until the stream has to end.

        `refusal` says why the reader may not go on, if so. It is asked before anything is given, and again at each
        `wake`.
        """
        until = asyncio.get_running_loop().time() + self._limits.stream_seconds
        feed = await self._store.feed_state()
        self._reach(feed)
        beginning = _beginning(feed, after)
        yield beginning
        seen = beginning.cursor.position
        beat_at = self._next_beat()
        while not self._draining:
            now = asyncio.get_running_loop().time()
            if (reason := refusal() or ("max_age" if now >= until else None)) is not None:
                yield Ended(reason)
                return
            if now >= beat_at:
                yield Beat(Cursor(feed.epoch, seen))
                beat_at = self._next_beat()
            elif seen < self._position:
                stretch = await self._store.stretch(
                    filters, full=full, after=seen, through=self._position, size=STRETCH
                )
                seen = stretch.through
                if stretch.payloads:
                    yield More(stretch.payloads)
                    beat_at = self._next_beat()
            else:
                await self._rung(min(beat_at, until))
        yield Ended("draining")

    def _next_beat(self) -> float:
        return asyncio.get_running_loop().time() + self._limits.heartbeat_seconds

    async def _rung(self, until: float) -> None:
        bell = self._bell
        try:
            async with asyncio.timeout_at(until):
                await bell.wait()
        except TimeoutError:
            return

    def _ring(self) -> None:
        self._bell.set()
        self._bell = asyncio.Event()

    def _reach(self, feed: FeedState) -> None:
        if feed.received_at is not None and (self._received_at is None or feed.received_at > self._received_at):
            self._received_at = self._noted_at = feed.received_at
        self._trimmed_position = feed.trimmed_position
        if feed.position < self._position:
            # A look that a bell overtook; or the database came back from an older copy, and walks there once more.
            self._doubt()
        elif self._hears:
            self._is_certain = True
        self._reach_position(feed.position)

    def _doubt(self) -> None:
        self._is_certain = False
        self._certainty += 1

    def _reach_position(self, position: int) -> None:
        if position > self._position:
            self._position = position
            self._ring()

    async def _listen(self) -> None:
        try:
            async with self._store.listening() as positions:
                self._hears = True
                self._reach(await self._store.feed_state())  # it may have grown before we listened
                async for position in positions:
                    self._reach_position(position)
        finally:
            self._hears = False
            self._doubt()

    async def _look(self) -> None:
        if self._received_at is not None and self._received_at != self._noted_at:
            self._noted_at = self._received_at
            await self._store.note_received(self._received_at)
        try:
            self._reach(await self._store.feed_state())
        except BaseException:
            # The bell's connection may be as dead as this one, and not know it.
            self._doubt()
            raise


def _beginning(feed: FeedState, after: Cursor | None) -> Opened | Truncated:
    if after is None:
        return Opened(Cursor(feed.epoch, feed.position))
    oldest = Cursor(feed.epoch, feed.trimmed_position)
    if after.epoch != feed.epoch or after.position > feed.position:
        return Truncated("unknown_feed", oldest)
    return Truncated("retention", oldest) if after < oldest else Opened(after)


async def _again_and_again(work: Callable[[], Awaitable[None]], pause_seconds: float) -> None:
    while True:
        try:
            await work()
        except (psycopg.Error, SQLAlchemyError, OSError) as away:
            log.warning("feed_database_away", work=work.__name__, error=type(away).__name__)
        await asyncio.sleep(pause_seconds)

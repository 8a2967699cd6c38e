"""Walks the provider's past, answer by answer, and keeps it as if it had been polled: how a recording is replayed too.

The walk asks for a time, is told which neighbours it has, and goes on to the next. Time is the answer's `timestamp`.
Where the walk stands is kept in the transaction of what it brought, so it goes on after a crash with the same question
and gets the same answer: neither speed nor crashes can change a byte. How many answers share a transaction changes
nothing either.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from services.ingest import store
from services.ingest.bookmakers import KNOWN, Books
from services.ingest.changes import Coverage, Poll
from services.ingest.config import Config
from services.ingest.ledger import open_ledger
from services.ingest.normalize import Memory, normalize
from services.ingest.poller import acquire, release
from services.ingest.provider import Answer, CircuitOpen, OddsApi, Page, RateLimited, Unavailable
from services.ingest.recorder import Answered, Recorder
from services.ingest.store import Cursor, Lease, LeaseLost
from services.shared import tracing
from services.shared.bus import BusError
from services.shared.database import Database
from services.shared.logging import logger
from services.shared.odds import median
from services.shared.outbox import Outbox

log = logger(__name__)

#: The interval of a recording is the median of this many gaps.
GAPS = 20
#: What a walk survives: a server that is being started again. With a lasting fault it ends after about five minutes.
PASSING = (SQLAlchemyError, BusError, LeaseLost, Unavailable, RateLimited, CircuitOpen)
LONGEST_PAUSE_SECONDS = 5.0
ATTEMPTS_WITHOUT_PROGRESS = 60
#: A lease that nobody renews is free after its length; three times as long is waited for it, in so many looks a length.
LEASE_LOOKS = 20
WAITS_FOR_LEASE = 3 * LEASE_LOOKS

#: Told after every commit: where the walk stands.
Progress = Callable[[Cursor], None]


class BackfillError(Exception):
    """The walk cannot go on, and repeating it will not help."""


@dataclass(frozen=True, slots=True)
class Stop:
    """An answer of the walk if it is to be kept, and where the walk stands then."""

    answered: Answered | None
    cursor: Cursor


class Backfill:
    """Walks over the past of a sport, for one process."""

    def __init__(self, config: Config, api: OddsApi, database: Database, outbox: Outbox, holder: str) -> None:
        """`holder` names this process among those that may poll."""
        self._config = config
        self._api = api
        self._database = database
        self._outbox = outbox
        self._holder = holder
        self._attempts = 0
        self._memory = Memory()
        self._books_at: Callable[[datetime], Books] = lambda _: KNOWN

    async def run(self, sport_key: str, since: datetime, until: datetime, progress: Progress) -> None:
        """Walks from `since` to `until`, both included; goes on where an earlier run of the same walk stopped.

        Raises BackfillError, the provider's refusals, and what database or bus raise when it does not pass.
        """
        if self._config.is_live_provider and not self._config.odds_api_historical_enabled:
            raise BackfillError("the provider's past costs ten times its present: set ODDS_API_HISTORICAL_ENABLED=true")
        while True:
            try:
                await self._walk(sport_key, since, until, progress)
                return
            except PASSING as error:
                self._attempts += 1
                if self._attempts >= ATTEMPTS_WITHOUT_PROGRESS:
                    raise
                log.warning("interrupted, going on", error=type(error).__name__, detail=str(error))
            await asyncio.sleep(min(LONGEST_PAUSE_SECONDS, 0.25 * 2.0 ** min(self._attempts, 10)))

    async def _walk(self, sport_key: str, since: datetime, until: datetime, progress: Progress) -> None:
        lease = await self._acquire()
        recorder = Recorder(self._database, self._outbox, lease, self._config.ingest_lease_seconds, rate=0.0)
        self._books_at = recorder.books_at
        api = self._api.charged_to(open_ledger(self._config, self._database, recorder))
        await recorder.publish()
        async with self._database.begin() as connection:
            cursor = await store.load_cursor(connection, sport_key, since, until)
        publishing: asyncio.Task[int] | None = None
        try:
            async with aclosing(self._batches(api, cursor)) as batches:
                async for batch in batches:
                    cursor = batch[-1].cursor
                    answered = [stop.answered for stop in batch if stop.answered is not None]
                    with tracing.trace("walk", sport_key=sport_key, answers=len(answered)):
                        await recorder.record(answered, partial(store.save_cursor, cursor=cursor))
                    self._attempts = 0
                    # The bus writes one batch to its disk while the next is being worked out.
                    if publishing is not None:
                        await publishing
                    publishing = asyncio.create_task(recorder.publish())
                    progress(cursor)
            if publishing is not None:
                await publishing
        finally:
            if publishing is not None:
                await _end(publishing)
            await release(self._database, lease)

    async def _acquire(self) -> Lease:
        """The lease, when its holder lets go of it or does not renew it for as long as a lease lasts."""
        for _ in range(WAITS_FOR_LEASE):
            lease = await acquire(self._database, self._holder, self._config.ingest_lease_seconds)
            if lease is not None:
                return lease
            await asyncio.sleep(self._config.ingest_lease_seconds / LEASE_LOOKS)
        raise BackfillError("another process polls: stop it, or let it end, before the past is walked")

    async def _batches(self, api: OddsApi, cursor: Cursor) -> AsyncGenerator[list[Stop], None]:
        """The rest of the walk in order: together whatever had arrived when the last batch was done."""
        ahead: asyncio.Queue[Stop | None] = asyncio.Queue(2 * self._config.ingest_backfill_batch)
        fetching = asyncio.create_task(self._fetch(api, cursor, ahead))
        try:
            ended = False
            while not ended:
                arrived = [await ahead.get()]
                while len(arrived) < self._config.ingest_backfill_batch and not ahead.empty():
                    arrived.append(ahead.get_nowait())
                ended = arrived[-1] is None
                batch = [stop for stop in arrived if stop is not None]
                if batch:
                    yield batch
            await fetching
        finally:
            await _end(fetching)

    async def _fetch(self, api: OddsApi, cursor: Cursor, ahead: asyncio.Queue[Stop | None]) -> None:
        """Puts every further stop into the queue, and None behind the last; asks while the batch before is kept."""
        try:
            while cursor.next_date is not None:
                answer = await api.historical_odds(cursor.sport_key, cursor.next_date)
                stop = self._stop(cursor, answer)
                cursor = stop.cursor
                await ahead.put(stop)
        except Exception:
            await ahead.put(None)
            raise
        await ahead.put(None)

    def _stop(self, cursor: Cursor, answer: Answer[Page[object]]) -> Stop:
        page = answer.value
        timestamp, following = page.timestamp, page.next_timestamp
        asked = cursor.next_date
        if timestamp is None or asked is None or (following is not None and following <= asked):
            raise BackfillError(f"the past of {cursor.sport_key} at {asked} does not lead on")
        next_date = following if following is not None and following <= cursor.until else None
        onward = replace(cursor, next_date=next_date)
        observed_at = timestamp.replace(microsecond=timestamp.microsecond // 1000 * 1000)
        kept_before = cursor.since if cursor.timestamp is None else cursor.timestamp
        if observed_at < kept_before or observed_at == cursor.timestamp:
            # The first question may be answered with the state before the walk begins.
            return Stop(None, onward)
        gaps = cursor.gaps
        if cursor.timestamp is not None:
            gaps = (*gaps, (observed_at - cursor.timestamp).total_seconds())[-GAPS:]
        onward = replace(onward, timestamp=observed_at, gaps=gaps, responses=cursor.responses + 1)
        poll = Poll(
            sport_key=cursor.sport_key,
            observed_at=observed_at,
            expected_interval_seconds=self._interval(gaps, observed_at, following),
            asked=Coverage(answer.markets, self._config.asked_books),
            seen=normalize(page.data, cursor.sport_key, self._memory, self._books_at(observed_at)),
        )
        return Stop(Answered(poll, answer.quota, page.data), onward)

    def _interval(self, gaps: tuple[float, ...], observed_at: datetime, following: datetime | None) -> float:
        """The median of the last gaps; at the first answer, which has none behind it, the one before it."""
        if gaps:
            return median(gaps)
        if following is not None and following > observed_at:
            return (following - observed_at).total_seconds()
        return self._config.odds_api_poll_interval_seconds or self._config.odds_api_near_seconds


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

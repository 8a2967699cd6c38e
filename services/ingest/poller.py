"""Asks the provider for each sport at its interval and keeps the answers, while it holds the lease.

A failed poll, of whatever kind, is a row in the log and a word in the feed's health: nothing is taken for gone because
of it, and the next poll comes at its time. Only a refused key ends the asking: nothing but a person can mend it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NoReturn

from sqlalchemy.exc import SQLAlchemyError

from services.ingest import store
from services.ingest.changes import Coverage, Poll
from services.ingest.config import Config
from services.ingest.cycles import Cycles
from services.ingest.normalize import Memory, Seen, normalize
from services.ingest.provider import Answer, KeyRefused, NotFound, OddsApi, OutOfCredits, ProviderFailure
from services.ingest.recorder import Answered, Recorder
from services.ingest.store import Lease, LeaseLost
from services.shared import tracing
from services.shared.bus import BusError
from services.shared.clock import utc_now
from services.shared.database import Database
from services.shared.logging import logger
from services.shared.outbox import Outbox

log = logger(__name__)

#: Without credits only a free answer can come; asking now and then finds out when they are back.
OUT_OF_CREDITS_PAUSE_SECONDS = 900.0
_TICK = timedelta(milliseconds=1)


class Poller:
    """Polls every sport of the settings; waits for the lease before it asks for anything."""

    def __init__(self, config: Config, api: OddsApi, database: Database, outbox: Outbox, holder: str) -> None:
        """`holder` names this process among those that may poll."""
        self._config = config
        self._api = api
        self._database = database
        self._outbox = outbox
        self._holder = holder
        self._observed: dict[str, datetime] = {}
        self._memories: dict[str, Memory] = {}
        self._cycles = Cycles(database)

    async def run(self) -> NoReturn:
        """Never returns by itself. Loses and regains the lease as the database says."""
        while True:
            try:
                lease = await acquire(self._database, self._holder, self._config.ingest_lease_seconds)
                if lease is not None:
                    log.info("polling", term=lease.term, sports=self._config.odds_api_sports)
                    await self._hold(lease)
            except KeyRefused:
                log.critical("polling has ended: the provider refuses the key, and only a person can mend that")
                await asyncio.Event().wait()
            except (LeaseLost, SQLAlchemyError, BusError) as error:
                log.warning("polling was interrupted", error=type(error).__name__, detail=str(error))
            await asyncio.sleep(self._config.ingest_lease_seconds / 3)

    async def _hold(self, lease: Lease) -> None:
        """One term: what a predecessor left in the outbox first, then every sport, until the lease is lost."""
        recorder = Recorder(
            self._database,
            self._outbox,
            lease,
            self._config.ingest_lease_seconds,
            self._config.odds_api_clock_rate,
            self._cycles,
        )
        try:
            await recorder.renew()
            await recorder.publish()
            async with self._database.begin() as connection:
                for health in await store.load_health(connection, self._config.odds_api_sports):
                    if health.observed_at is not None:
                        self._observed[health.sport_key] = health.observed_at
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_renewing(recorder))
                for sport_key in self._config.odds_api_sports:
                    tasks.create_task(self._poll_for_ever(recorder, sport_key))
        except* (KeyRefused, LeaseLost, SQLAlchemyError, BusError) as group:
            raise group.exceptions[0] from None
        finally:
            await release(self._database, lease)

    async def _keep_renewing(self, recorder: Recorder) -> NoReturn:
        while True:
            await asyncio.sleep(self._config.ingest_lease_seconds / 3)
            await recorder.renew()

    async def _poll_for_ever(self, recorder: Recorder, sport_key: str) -> NoReturn:
        interval = self._config.odds_api_poll_interval_seconds / self._config.odds_api_clock_rate
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            async with self._cycles.cycle(sport_key):
                pause = await self.poll(recorder, sport_key)
            due = max(due + interval, clock())
            await asyncio.sleep(max(due - clock(), pause))

    async def poll(self, recorder: Recorder, sport_key: str) -> float:
        """One poll of one sport, kept and published; returns the least pause before the next, in seconds.

        Raises KeyRefused, LeaseLost, and the errors of database and bus; other failures of the provider are noted.
        """
        try:
            answer = await self._api.odds(sport_key)
        except ProviderFailure as failure:
            log.error("a poll failed", sport_key=sport_key, kind=failure.kind, failure=str(failure))
            await recorder.note_failure(self._poll(sport_key, self._next(sport_key, utc_now())), failure.kind)
            if isinstance(failure, KeyRefused):
                raise
            return OUT_OF_CREDITS_PAUSE_SECONDS if isinstance(failure, OutOfCredits) else 0.0
        observed_at = self._next(sport_key, self._time_of(answer))
        with tracing.span("normalize"):
            seen = normalize(
                answer.value,
                sport_key,
                self._memories.setdefault(sport_key, Memory()),
                recorder.books_at(observed_at),
            )
        poll = self._poll(sport_key, observed_at, seen, answer.markets)
        await self._keep(recorder, poll, answer)
        if self._config.odds_api_event_markets:
            await self._poll_events(recorder, poll)
        return 0.0

    async def _poll_events(self, recorder: Recorder, sport: Poll) -> None:
        """Asks for the markets that are sold event by event, of the games that begin soonest."""
        upcoming = sorted(
            (event.commence_time, event.event_id)
            for event in sport.seen.events
            if event.commence_time is not None and event.commence_time > sport.observed_at
        )
        for _, event_id in upcoming[: self._config.odds_api_max_events_per_cycle]:
            try:
                answer = await self._api.event_odds(sport.sport_key, event_id, self._config.odds_api_event_markets)
            except NotFound:
                continue
            except ProviderFailure as failure:
                log.error("an event could not be asked for, leaving the rest of this cycle", failure=str(failure))
                return
            observed_at = self._next(sport.sport_key, self._time_of(answer))
            seen = normalize(answer.value, sport.sport_key, books=recorder.books_at(observed_at))
            poll = self._poll(sport.sport_key, observed_at, seen, answer.markets)
            await self._keep(recorder, replace(poll, whole=False), answer)

    async def _keep(self, recorder: Recorder, poll: Poll, answer: Answer[object]) -> None:
        await recorder.record([Answered(poll, answer.quota, answer.value)])
        self._observed[poll.sport_key] = poll.observed_at
        await recorder.publish()

    def _poll(
        self, sport_key: str, observed_at: datetime, seen: Seen | None = None, markets: tuple[str, ...] = ()
    ) -> Poll:
        return Poll(
            sport_key=sport_key,
            observed_at=observed_at,
            expected_interval_seconds=self._config.odds_api_poll_interval_seconds,
            asked=Coverage(markets, self._config.asked_books),
            seen=Seen() if seen is None else seen,
        )

    def _time_of(self, answer: Answer[object]) -> datetime:
        if self._config.odds_api_clock == "provider" and answer.dated is not None:
            return answer.dated
        return answer.received_at

    def _next(self, sport_key: str, moment: datetime) -> datetime:
        """The moment in whole milliseconds, and later than every one before it."""
        whole = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
        before = self._observed.get(sport_key)
        return whole if before is None or whole > before else before + _TICK


async def acquire(database: Database, holder: str, seconds: float) -> Lease | None:
    """The lease if it is free; None while somebody else holds it."""
    async with database.begin() as connection:
        return await store.acquire_lease(connection, holder, seconds)


async def release(database: Database, lease: Lease) -> None:
    """Lets the next one in; when the database is away the lease is left to expire."""
    try:
        async with database.begin() as connection:
            await store.release_lease(connection, lease)
    except SQLAlchemyError as error:
        log.info("the lease was left to expire", error=type(error).__name__)

"""Asks the provider for each sport when `cadence` says so and keeps the answers, while it holds the lease.

A failed poll, of whatever kind, is a row in the log and a word in the feed's health: nothing is taken for gone because
of it, and the next poll comes at its time. Only a refused key ends the asking: nothing but a person can mend it. What
is done about each kind of failure stands in `docs/provider-failures.md`.

Each poll tells with its observations when the next one comes, so that is decided between an answer and its keeping.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NoReturn

from prometheus_client import Counter, Gauge
from sqlalchemy.exc import SQLAlchemyError

from services.ingest import store
from services.ingest.cadence import Asks, Limit, Phase
from services.ingest.changes import Coverage, Poll
from services.ingest.config import Config
from services.ingest.cycles import Cycles
from services.ingest.ledger import open_ledger
from services.ingest.normalize import Memory, Seen, normalize
from services.ingest.pace import Pace
from services.ingest.provider import (
    Answer,
    BudgetExhausted,
    CircuitOpen,
    InvalidRequest,
    KeyRefused,
    NotFound,
    OddsApi,
    OutOfCredits,
    ProviderFailure,
    RateLimited,
)
from services.ingest.recorder import Answered, Recorder
from services.ingest.store import Lease, LeaseLost
from services.shared import tracing
from services.shared.bus import BusError
from services.shared.database import Database
from services.shared.logging import logger
from services.shared.outbox import Outbox

log = logger(__name__)

key_refused = Gauge(
    "stratum_ingest_key_refused", "1 while polling has ended because the provider refuses the key: page somebody."
)
future_readings_total = Counter(
    "stratum_ingest_future_readings_total", "Quotes dated later than the answer that shows them.", ["sport_key"]
)

#: Without credits only a free answer can come; asking now and then finds out when they are back.
OUT_OF_CREDITS_PAUSE_SECONDS = 900.0
#: What is refused now is refused in a minute too: a sport that is unknown, a request that cannot be asked.
REFUSED_PAUSE_SECONDS = 900.0
#: When every attempt of a call was answered "too many".
RATE_LIMITED_PAUSE_SECONDS = 30.0
#: How soon it is noticed, in our own time, that somebody began to watch a game.
WATCH_SECONDS = 20.0
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
        self._pace = Pace(config, database)
        self._observed: dict[str, datetime] = {}
        self._memories: dict[str, Memory] = {}
        self._cycles = Cycles(database)
        #: Sports of which health says already that there are no credits for them.
        self._told_exhausted: set[str] = set()
        self._ahead: set[str] = set()

    async def run(self) -> NoReturn:
        """Never returns by itself. Loses and regains the lease as the database says."""
        while True:
            try:
                lease = await acquire(self._database, self._holder, self._config.ingest_lease_seconds)
                if lease is not None:
                    log.info("polling", term=lease.term, sports=self._config.odds_api_sports)
                    await self._hold(lease)
            except KeyRefused:
                key_refused.set(1)
                log.critical("polling has ended: the provider refuses the key; set a valid one and start ingest again")
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
            await self._pace.recall(self._observed)
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
        pace, rate = self._pace, self._config.odds_api_clock_rate
        clock = asyncio.get_running_loop().time
        asks = Asks.ODDS if pace.is_fixed else Asks.EVENTS
        due = clock()
        while True:
            await pace.look_around()
            before = pace.decision(sport_key)
            limit = pace.exhausted(sport_key)
            if limit is not Limit.NOTHING:
                await self._note_exhausted(recorder, sport_key, limit)
            if asks is Asks.ODDS and limit is Limit.NOTHING:
                async with self._cycles.cycle(sport_key):
                    pause = await self.poll(recorder, sport_key)
            else:
                pause = await self.look(recorder, sport_key)
                await pace.look_around()
            decision = pace.decide(sport_key, pace.now())
            pace.take(sport_key, decision)
            await pace.keep(sport_key, before)
            # A fixed cadence keeps its beat however long a poll takes; otherwise a pause begins where it was decided.
            begin = due if decision.phase is Phase.FIXED else clock()
            due = max(begin + decision.pause_seconds / rate, clock() + pause)
            asks = decision.asks
            while (left := due - clock()) > 0.0:
                await asyncio.sleep(left if pace.is_fixed else min(left, WATCH_SECONDS))
                if due > clock() and not pause and await pace.look_around():
                    sooner = pace.decide(sport_key, pace.now())
                    if clock() + sooner.pause_seconds / rate < due:
                        pace.take(sport_key, sooner)
                        asks, due = sooner.asks, clock() + sooner.pause_seconds / rate

    async def poll(self, recorder: Recorder, sport_key: str) -> float:
        """One poll of one sport, kept and published; returns the least pause before the next, in seconds.

        Raises KeyRefused, LeaseLost, and the errors of database and bus; other failures of the provider are noted.
        """
        api = self._api.charged_to(open_ledger(self._config, self._database, recorder))
        try:
            answer = await api.odds(sport_key)
        except BudgetExhausted as failure:
            await self._note_exhausted(recorder, sport_key, failure.limit)
            return 0.0
        except ProviderFailure as failure:
            return await self._note_failure(recorder, sport_key, failure)
        told_at = self._time_of(answer)
        observed_at = self._next(sport_key, told_at)
        with tracing.span("normalize"):
            seen = normalize(
                answer.value,
                sport_key,
                self._memories.setdefault(sport_key, Memory()),
                recorder.books_at(observed_at),
            )
        self._count_future_readings(sport_key, seen, observed_at)
        self._pace.saw(sport_key, told_at, {event.event_id: event.commence_time for event in seen.events}, whole=False)
        self._pace.asked(sport_key, told_at)
        self._pace.take(sport_key, self._pace.decide(sport_key, told_at))
        poll = self._poll(sport_key, observed_at, seen, answer.markets)
        await self._keep(recorder, poll, answer)
        self._told_exhausted.discard(sport_key)
        if self._config.odds_api_event_markets:
            await self._poll_events(api, recorder, poll)
        return 0.0

    async def look(self, recorder: Recorder, sport_key: str) -> float:
        """Asks what is on, which is free; returns the least pause before the next question, in seconds.

        Raises KeyRefused, LeaseLost and the database's errors. Other failures leave what was known before.
        """
        api = self._api.charged_to(open_ledger(self._config, self._database, recorder))
        try:
            answer = await api.events(sport_key)
        except KeyRefused as failure:
            return await self._note_failure(recorder, sport_key, failure)
        except ProviderFailure as failure:
            log.warning("what is on could not be asked", sport_key=sport_key, kind=failure.kind, failure=str(failure))
            return self._pause_after(failure)
        starts = {event.id: event.commence_time for event in answer.value}
        self._pace.saw(sport_key, self._time_of(answer), starts, whole=True)
        self._pace.credits_left(sport_key, answer.quota.remaining)
        return 0.0

    async def _note_failure(self, recorder: Recorder, sport_key: str, failure: ProviderFailure) -> float:
        """Says that a poll failed; returns the least pause after it. Raises what only a person can mend."""
        say = log.critical if isinstance(failure, KeyRefused) else log.error
        say("a poll failed", sport_key=sport_key, kind=failure.kind, failure=str(failure))
        now = self._pace.now()
        self._pace.asked(sport_key, now)
        await recorder.note_failure(self._poll(sport_key, self._next(sport_key, now)), failure.kind)
        if isinstance(failure, KeyRefused):
            raise failure
        if isinstance(failure, OutOfCredits):
            self._pace.credits_spent()
        return self._pause_after(failure)

    async def _note_exhausted(self, recorder: Recorder, sport_key: str, limit: str) -> None:
        """Says in log and health that a sport is not asked for want of credits: once, until a poll has an answer."""
        if sport_key not in self._told_exhausted:
            self._told_exhausted.add(sport_key)
            log.error("not polling: no credits are left", sport_key=sport_key, limit=limit)
            poll = self._poll(sport_key, self._next(sport_key, self._pace.now()))
            await recorder.note_failure(poll, BudgetExhausted.kind)

    def _pause_after(self, failure: ProviderFailure) -> float:
        """Seconds for which nothing is asked after a failure, beyond what the cadence says. In our own time."""
        match failure:
            case CircuitOpen():
                return failure.seconds_left
            case RateLimited():
                return RATE_LIMITED_PAUSE_SECONDS
            case OutOfCredits():
                return OUT_OF_CREDITS_PAUSE_SECONDS / self._config.odds_api_clock_rate
            case NotFound() | InvalidRequest():
                return REFUSED_PAUSE_SECONDS / self._config.odds_api_clock_rate
        return 0.0

    async def _poll_events(self, api: OddsApi, recorder: Recorder, sport: Poll) -> None:
        """Asks for the markets that are sold event by event, of the games that begin soonest."""
        upcoming = sorted(
            (event.commence_time, event.event_id)
            for event in sport.seen.events
            if event.commence_time is not None and event.commence_time > sport.observed_at
        )
        for _, event_id in upcoming[: self._config.odds_api_max_events_per_cycle]:
            try:
                answer = await api.event_odds(sport.sport_key, event_id, self._config.odds_api_event_markets)
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
            expected_interval_seconds=self._pace.interval_seconds(sport_key),
            asked=Coverage(markets, self._config.asked_books),
            seen=Seen() if seen is None else seen,
        )

    def _count_future_readings(self, sport_key: str, seen: Seen, observed_at: datetime) -> None:
        """Counts quotes that a book dates later than we saw them; what becomes of them is the rules' business."""
        latest = observed_at + timedelta(seconds=self._config.odds_api_clock_skew_seconds)
        count = sum(
            sum([reading is not None and reading > latest for reading in event.readings]) for event in seen.events
        )
        if count:
            future_readings_total.labels(sport_key).inc(count)
        if bool(count) != (sport_key in self._ahead):
            self._ahead ^= {sport_key}
            say = log.warning if count else log.info
            say("quotes dated in the future", sport_key=sport_key, quotes=count)

    def _time_of(self, answer: Answer[Any]) -> datetime:
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

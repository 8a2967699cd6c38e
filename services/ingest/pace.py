"""What the poller knows of games, watchers and credits, and what it makes of that: the shell around `cadence`.

Where the interval is fixed and nothing is limited, nothing here reads the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from prometheus_client import Gauge

from services.ingest import store
from services.ingest.cadence import IN_PLAY_UNTIL, Asks, Budget, Calendar, Decision, Limit, Plan, decide, plan
from services.ingest.config import Config
from services.ingest.costs import Endpoint
from services.ingest.ledger import load_budget
from services.shared.clock import utc_now
from services.shared.database import Database
from services.shared.logging import logger

log = logger(__name__)

cadence_seconds = Gauge(
    "stratum_ingest_cadence_seconds",
    "Seconds from one poll of a sport to the next, why so many, and what keeps them from being fewer.",
    ["sport_key", "phase", "limited_by"],
)


@dataclass(slots=True)
class Sport:
    """What is known of a sport, and what was decided."""

    #: By event id.
    starts: dict[str, datetime] = field(default_factory=dict)
    #: The newest poll, failed ones too.
    asked_at: datetime | None = None
    decision: Decision | None = None


class Pace:
    """Decides for every sport of the settings."""

    def __init__(self, config: Config, database: Database) -> None:
        self._config = config
        self._database = database
        self._cadence = config.cadence
        self._is_free = config.limits == (None, None)
        self._sports = {sport_key: Sport() for sport_key in config.odds_api_sports}
        self._left = Budget()
        self._watched: frozenset[str] = frozenset()
        #: The year and month in which the provider said that all credits are spent.
        self._spent_in: tuple[int, int] | None = None
        #: A moment of the provider's time, and the loop's clock then.
        self._anchor: tuple[datetime, float] | None = None

    @property
    def is_fixed(self) -> bool:
        """Whether sports are asked at one interval, whatever is on."""
        return self._cadence.fixed is not None

    @property
    def budget(self) -> Budget:
        """What is left, as far as it is known."""
        is_spent = self._spent_in is not None and self._spent_in == _month(utc_now())
        return replace(self._left, provider=0) if is_spent else self._left

    def now(self) -> datetime:
        """The provider's time: ours, or one that a stand-in told and that runs at its rate."""
        rate = self._config.odds_api_clock_rate
        if self._anchor is None or (self._config.odds_api_clock == "system" and rate == 1.0):
            return utc_now()
        moment, then = self._anchor
        return moment + timedelta(seconds=(_clock() - then) * rate)

    def interval_seconds(self, sport_key: str) -> float:
        """What is told with an observation: seconds until the next one."""
        decision = self._sports[sport_key].decision
        return self._cadence.fixed or self._cadence.near if decision is None else decision.interval_seconds

    async def recall(self, observed: Mapping[str, datetime]) -> None:
        """What was known before this term: when each sport was last seen, and which games are to come."""
        async with self._database.begin() as connection:
            for sport_key, sport in self._sports.items():
                sport.asked_at = observed.get(sport_key)
                if not self.is_fixed and not sport.starts:
                    sport.starts = await store.load_starts(connection, sport_key, utc_now() - IN_PLAY_UNTIL)

    async def look_around(self) -> bool:
        """Reads what is left and who watches what; says whether the watched events are others than before."""
        before = self._watched
        if not self.is_fixed or not self._is_free:
            async with self._database.begin() as connection:
                self._left = await load_budget(self._config, connection)
                self._watched = frozenset(await store.load_watched(connection))
        return self._watched != before

    def saw(self, sport_key: str, at: datetime, starts: Mapping[str, datetime | None], whole: bool) -> None:
        """An answer of a moment showed these games; a whole one all that there are."""
        self._anchor = (at, _clock())
        sport = self._sports[sport_key]
        told = {event_id: start for event_id, start in starts.items() if start is not None}
        # A game without prices is not in every answer.
        sport.starts = told if whole else {**sport.starts, **told}

    def asked(self, sport_key: str, at: datetime) -> None:
        """A sport was polled, with or without an answer."""
        self._sports[sport_key].asked_at = at

    def credits_spent(self) -> None:
        """The provider says that the month's credits are spent: until they are back only what is free is asked."""
        self._spent_in = _month(utc_now())

    def credits_left(self, sport_key: str, remaining: int | None) -> None:
        """What the provider said with a free answer; None where it said nothing."""
        if remaining is not None and remaining >= self.cost(sport_key):
            self._spent_in = None

    def exhausted(self, sport_key: str) -> Limit:
        """What has not enough left for one poll of a sport."""
        return self.budget.limit_of(self.cost(sport_key))

    def cost(self, sport_key: str) -> int:
        """The most that one poll can cost: the sport, and the markets that are sold event by event."""
        config = self._config
        cost = config.cost(Endpoint.ODDS, len(config.odds_api_markets))
        if config.odds_api_event_markets:
            events = min(config.odds_api_max_events_per_cycle, len(self._sports[sport_key].starts))
            cost += events * config.cost(Endpoint.EVENT_ODDS, len(config.odds_api_event_markets))
        return cost

    def decide(self, sport_key: str, now: datetime) -> Decision:
        """What a sport is asked next, and when; not yet the sport's decision."""
        sport = self._sports[sport_key]
        if self.is_fixed:
            # Nothing is planned, and what is on does not matter.
            return decide(now, None, Calendar(sport_key, cost=self.cost(sport_key)), Plan(), self.budget, self._cadence)
        calendars = {
            key: Calendar.of(key, other.starts, self._watched, self.cost(key)) for key, other in self._sports.items()
        }
        made = plan(now, list(calendars.values()), self.budget, self._cadence)
        return decide(now, sport.asked_at, calendars[sport_key], made, self.budget, self._cadence)

    def take(self, sport_key: str, decision: Decision) -> None:
        """Makes a decision the sport's, and says so where it is of another kind than the one before."""
        sport = self._sports[sport_key]
        before, sport.decision = sport.decision, decision
        if before is None or _kind(before) != _kind(decision):
            log.info(
                "cadence",
                sport_key=sport_key,
                asks=decision.asks,
                interval_seconds=round(decision.interval_seconds, 1),
                reason=decision.reason,
            )
            if before is not None:
                cadence_seconds.remove(sport_key, before.phase, before.limit)
        cadence_seconds.labels(sport_key, decision.phase, decision.limit).set(decision.interval_seconds)

    async def keep(self, sport_key: str, before: Decision | None) -> None:
        """Keeps a sport's decision where others can read it, unless it is the one before."""
        decision = self._sports[sport_key].decision
        if decision is not None and decision != before:
            async with self._database.begin() as connection:
                await store.save_cadence(connection, sport_key, decision, utc_now())

    def decision(self, sport_key: str) -> Decision | None:
        """What was decided last."""
        return self._sports[sport_key].decision


def _kind(decision: Decision) -> tuple[Asks, str, str]:
    return decision.asks, decision.phase, decision.limit


def _month(moment: datetime) -> tuple[int, int]:
    return moment.year, moment.month


def _clock() -> float:
    return asyncio.get_running_loop().time()

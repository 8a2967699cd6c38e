"""What a schedule of games will cost: the poller's own decisions, played over days before anything is spent. Pure.

Nothing here knows more than the poller will: games appear in the list some days before they begin, and every decision
is made by `services.ingest.cadence` from what was known and left at that moment.
"""

from __future__ import annotations

import json
import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from services.ingest.cadence import IN_PLAY_UNTIL, Asks, Budget, Cadence, Calendar, Phase, decide, plan

#: A tip is missed when no answer came within so many seconds before it.
TOLERANCE_SECONDS = 120.0
#: How long before its start the provider lists a game.
LISTED_BEFORE = timedelta(days=7)

#: Starts of a day of the NBA in winter, as minutes after 17:00 UTC, and how often each is chosen.
_EVENINGS = {420: 10, 450: 8, 480: 7, 510: 3, 540: 4, 570: 1, 600: 4, 630: 4}
_MATINEES = {0: 1, 60: 2, 180: 2, 210: 3, 300: 2, 330: 1, 360: 3, 390: 1}
#: Games of an average Monday, Tuesday and so on.
_GAMES_A_DAY = (8, 7, 10, 4, 10, 8, 7)
FEWEST_GAMES, MOST_GAMES = 2, 14


class UnreadableScheduleError(Exception):
    """A file of starts that cannot be used; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Spending:
    """What a plan allows, and how it is asked."""

    #: Credits of the month, and of each day in UTC; None is no limit.
    month: int | None
    day: int | None
    #: Credits of one call for a sport's prices.
    cost: int = 3
    cadence: Cadence = field(default_factory=Cadence)
    #: The share of calls that bring nothing and cost all the same.
    failing: float = 0.0


@dataclass(frozen=True, slots=True)
class Call:
    """One call for prices."""

    at: datetime
    credits: int
    phase: Phase
    answered: bool = True


@dataclass(frozen=True, slots=True)
class Forecast:
    """How a schedule went."""

    starts: tuple[datetime, ...]
    calls: tuple[Call, ...]
    #: Looks at the list of games, which are free.
    looks: int
    #: Calls that the budget refused.
    refused: int

    @property
    def credits(self) -> int:
        """What was spent."""
        return sum(call.credits for call in self.calls)

    @property
    def by_day(self) -> dict[date, int]:
        """Credits by day, in UTC."""
        spent: Counter[date] = Counter()
        for call in self.calls:
            spent[call.at.date()] += call.credits
        return dict(sorted(spent.items()))

    def by_hour(self, day: date) -> dict[int, int]:
        """Credits by hour of a day, in UTC."""
        spent = dict.fromkeys(range(24), 0)
        for call in self.calls:
            if call.at.date() == day:
                spent[call.at.hour] += call.credits
        return spent

    @property
    def by_phase(self) -> dict[Phase, tuple[int, float]]:
        """For each phase its calls, and the median of the seconds from the call before to each."""
        gaps: dict[Phase, list[float]] = {}
        for before, call in zip((None, *self.calls), self.calls, strict=False):
            gaps.setdefault(call.phase, []).append(0.0 if before is None else (call.at - before.at).total_seconds())
        return {phase: (len(gaps[phase]), sorted(gaps[phase])[len(gaps[phase]) // 2]) for phase in sorted(gaps)}

    def gaps_before_tips(self) -> dict[datetime, float]:
        """For each start the seconds from the last answer before it."""
        answered = [call.at for call in self.calls if call.answered]
        gaps = {}
        for start in sorted(set(self.starts)):
            index = bisect_left(answered, start)
            gaps[start] = (start - answered[index - 1]).total_seconds() if index else float("inf")
        return gaps

    def missed(self, tolerance_seconds: float = TOLERANCE_SECONDS) -> int:
        """Games before whose start no answer came within so many seconds."""
        gaps = self.gaps_before_tips()
        return sum(gaps[start] > tolerance_seconds for start in self.starts)


def forecast(
    starts: Iterable[datetime], since: datetime, until: datetime, spending: Spending, watched: int = 0, seed: int = 1
) -> Forecast:
    """Plays the poller over a schedule. `watched` games of each day, its last, are followed in play."""
    schedule = sorted(starts)
    followed = sorted(_last_of_each_day(schedule, watched))
    chance = random.Random(seed)  # noqa: S311 - chance of a game, no secret
    calls: list[Call] = []
    looks = refused = 0
    spent_by_day: Counter[date] = Counter()
    spent_by_month: Counter[tuple[int, int]] = Counter()
    asked_at: datetime | None = None
    now = since
    while True:
        known = _between(schedule, now - IN_PLAY_UNTIL, now + LISTED_BEFORE)
        calendar = Calendar(
            "schedule", tuple(dict.fromkeys(known)), _between(followed, now - IN_PLAY_UNTIL, now + LISTED_BEFORE),
            spending.cost,
        )  # fmt: skip
        budget = Budget(
            None if spending.day is None else spending.day - spent_by_day[now.date()],
            None if spending.month is None else spending.month - spent_by_month[now.year, now.month],
        )
        decision = decide(
            now, asked_at, calendar, plan(now, [calendar], budget, spending.cadence), budget, spending.cadence
        )
        now += timedelta(seconds=decision.pause_seconds)
        if now >= until:
            return Forecast(tuple(start for start in schedule if since < start < until), tuple(calls), looks, refused)
        if decision.asks is Asks.EVENTS:
            looks += 1
            continue
        asked_at = now
        # An answer without games is free.
        cost = spending.cost if _between(schedule, now - IN_PLAY_UNTIL, now + LISTED_BEFORE) else 0
        for _ in range(3):
            day_left = spending.day is None or spent_by_day[now.date()] + cost <= spending.day
            month_left = spending.month is None or spent_by_month[now.year, now.month] + cost <= spending.month
            if not day_left or not month_left:
                refused += 1
                break
            spent_by_day[now.date()] += cost
            spent_by_month[now.year, now.month] += cost
            answered = chance.random() >= spending.failing
            calls.append(Call(now, cost, decision.phase, answered))
            if answered:
                break


def nba_like_month(first: date, seed: int = 1, games_a_day: int | None = None) -> list[datetime]:
    """Starts of a made-up month of the NBA: 2 to 14 games a day between 17:00 and 03:30 UTC, or so many every day."""
    chance = random.Random(seed)  # noqa: S311 - chance of a game, no secret
    starts = []
    day = first
    while day.month == first.month:
        usual = _GAMES_A_DAY[day.weekday()] + chance.randint(-3, 3)
        games = games_a_day if games_a_day is not None else max(FEWEST_GAMES, min(MOST_GAMES, usual))
        slots = _EVENINGS | _MATINEES if day.weekday() >= 5 else _EVENINGS
        opening = datetime(day.year, day.month, day.day, 17, tzinfo=UTC)
        chosen = chance.choices(list(slots), weights=list(slots.values()), k=games)
        starts += [opening + timedelta(minutes=minutes) for minutes in chosen]
        day += timedelta(days=1)
    return sorted(starts)


def read_starts(text: str) -> list[datetime]:
    """Starts from a file: a time a line, or the answer of the provider's `/events`, which is JSON.

    Raises UnreadableScheduleError.
    """
    if text.lstrip().startswith("["):
        try:
            given = [event["commence_time"] for event in json.loads(text)]
        except (ValueError, TypeError, KeyError) as error:
            raise UnreadableScheduleError(f"is no answer of /events: {error}") from None
    else:
        given = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    starts = []
    for number, written in enumerate(given, 1):
        try:
            start = datetime.fromisoformat(written)
        except (TypeError, ValueError):
            raise UnreadableScheduleError(f"number {number}, {written!r}, is no time") from None
        if start.tzinfo is None:
            raise UnreadableScheduleError(f"number {number}, {written}, says no zone: write it as 2026-12-01T00:30:00Z")
        starts.append(start.astimezone(UTC))
    if not starts:
        raise UnreadableScheduleError("holds no start")
    return sorted(starts)


def _between(moments: Sequence[datetime], since: datetime, until: datetime) -> tuple[datetime, ...]:
    return tuple(moments[bisect_left(moments, since) : bisect_left(moments, until)])


def _last_of_each_day(starts: Iterable[datetime], count: int) -> list[datetime]:
    by_day: dict[date, list[datetime]] = {}
    for start in sorted(starts):
        by_day.setdefault((start - timedelta(hours=10)).date(), []).append(start)
    return [start for games in by_day.values() for start in games[len(games) - min(count, len(games)) :]]

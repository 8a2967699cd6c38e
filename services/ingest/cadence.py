"""When a sport is asked next, and whether for odds or only for what is on: what makes the credits last. Pure.

One call shows every game of a sport, so the game that wants to be seen soonest decides. Far from a tip prices are
looked at rarely, before it as often as the provider reads them anew, and afterwards only where somebody watches a game.
The list of games is free, and is all that is asked while nothing is near.

A *plan* holds what the known games would like to cost against what is left of the day and of the month, and stretches
what does not fit, the least important first:

1. the capture: one call shortly before each tip, which is the closing price if no other call succeeds;
2. the last ten minutes before a tip;
3. the hours before it, the quarter of an hour in which a start is late, and watched games in play: all by one factor;
4. looking at games that begin tomorrow, from what the others leave.

The afternoon can thus never spend what the evening's tips need. The plan is made anew after every call from what is
really left, so that whatever a month brings (longer nights, failed calls that cost all the same) is spread over what
remains of it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import IntEnum, StrEnum
from functools import lru_cache
from itertools import chain, pairwise
from math import inf

EARLY_WITHIN = timedelta(hours=36)
FAR_WITHIN = timedelta(hours=6)
APPROACH_WITHIN = timedelta(hours=3)
NEAR_WITHIN = timedelta(hours=1)
CLOSE_WITHIN = timedelta(minutes=10)
#: A game that is due begins a few minutes late: so long after its start it is looked at as before it.
LATE_UNTIL = timedelta(minutes=15)
#: The longest that a watched game is taken to be played.
IN_PLAY_UNTIL = timedelta(hours=3)

#: How often the provider reads books anew before and in play, and exchanges; from FAR_WITHIN on the interval shrinks
#: evenly to that in play.
REFRESH_SECONDS = (60.0, 40.0)
EXCHANGE_REFRESH_SECONDS = (30.0, 20.0)

#: What is stretched further than this is not asked at all: so few looks show no movement, and cost what a tip may need.
LONGEST_STRETCH = 8.0
#: The share of what is left that a plan leaves alone, for calls that have to be repeated.
MARGIN = 0.03
#: What a day of which no game is known yet is taken to cost, in calls, when no whole day is known to compare with: six
#: tips between 23:00 and 03:30 UTC.
TYPICAL_CALLS = 330.0
#: A day of games ends here, in UTC: at midnight an American evening is in full swing.
GAME_DAY_ENDS = timedelta(hours=10)


class Phase(StrEnum):
    """Why a sport is asked as often as it is."""

    FIXED = "fixed"
    IDLE = "idle"
    EARLY = "early"
    FAR = "far"
    APPROACH = "approach"
    NEAR = "near"
    CLOSE = "close"
    CAPTURE = "capture"
    LATE = "late_start"
    IN_PLAY = "in_play"


class Asks(StrEnum):
    """What is asked: the prices, which cost credits, or only the list of games, which is free."""

    ODDS = "odds"
    EVENTS = "events"


class Limit(StrEnum):
    """What keeps a cadence from being as quick as it would like to be."""

    NOTHING = "nothing"
    DAY = "day_budget"
    MONTH = "month_budget"
    PROVIDER = "provider_credits"


class Tier(IntEnum):
    """In which order phases get credits."""

    CLOSE = 0
    USUAL = 1
    EARLY = 2


_TIERS: Mapping[Phase, Tier] = {
    Phase.CLOSE: Tier.CLOSE,
    Phase.NEAR: Tier.USUAL,
    Phase.APPROACH: Tier.USUAL,
    Phase.FAR: Tier.USUAL,
    Phase.LATE: Tier.USUAL,
    Phase.IN_PLAY: Tier.USUAL,
    Phase.EARLY: Tier.EARLY,
}
_BEFORE_TIP = (
    (CLOSE_WITHIN, Phase.CLOSE),
    (NEAR_WITHIN, Phase.NEAR),
    (APPROACH_WITHIN, Phase.APPROACH),
    (FAR_WITHIN, Phase.FAR),
    (EARLY_WITHIN, Phase.EARLY),
)


@dataclass(frozen=True, slots=True)
class Cadence:
    """Seconds between two calls in each phase, while there are credits."""

    #: Always this, whatever is on; None decides by what is on.
    fixed: float | None = None
    #: Between two looks at the list of games, while no prices are asked.
    idle: float = 300.0
    early: float = 1800.0
    far: float = 900.0
    approach: float = 300.0
    near: float = 60.0
    close: float = 60.0
    late: float = 60.0
    in_play: float = 40.0
    #: How long before a tip its capture is asked.
    capture_lead: float = 45.0
    #: Whether exchanges are asked for, which the provider reads twice as often.
    exchanges: bool = False

    def of(self, phase: Phase) -> float:
        """The interval of a phase, unstretched."""
        match phase:
            case Phase.CLOSE:
                return self.close
            case Phase.NEAR:
                return self.near
            case Phase.APPROACH:
                return self.approach
            case Phase.FAR:
                return self.far
            case Phase.EARLY:
                return self.early
            case Phase.LATE:
                return self.late
            case Phase.IN_PLAY:
                return self.in_play
            case _:
                return self.idle

    def refresh(self, until_tip: float) -> float:
        """Seconds between two readings by the provider, so many seconds before a tip; negative is in play."""
        before, playing = EXCHANGE_REFRESH_SECONDS if self.exchanges else REFRESH_SECONDS
        share = min(1.0, max(0.0, until_tip / FAR_WITHIN.total_seconds()))
        return playing + (before - playing) * share


@dataclass(frozen=True, slots=True)
class Calendar:
    """The games of a sport, as far as they are known, and what one call for their prices costs."""

    sport_key: str
    #: Starts, in order.
    starts: tuple[datetime, ...] = ()
    #: Starts of the games that somebody wants to follow in play, in order.
    watched: tuple[datetime, ...] = ()
    cost: int = 3

    @staticmethod
    def of(sport_key: str, starts: Mapping[str, datetime], watched: Iterable[str] = (), cost: int = 3) -> Calendar:
        """From starts by event id, and the ids of watched events."""
        followed = sorted(starts[event_id] for event_id in set(watched) & starts.keys())
        return Calendar(sport_key, tuple(sorted(set(starts.values()))), tuple(followed), cost)


@dataclass(frozen=True, slots=True)
class Budget:
    """Credits that are left; None is no limit."""

    day: int | None = None
    month: int | None = None
    #: What the provider says is left until the first of the month.
    provider: int | None = None

    def limit_of(self, cost: int) -> Limit:
        """What forbids a call of this cost."""
        for left, limit in ((self.provider, Limit.PROVIDER), (self.month, Limit.MONTH), (self.day, Limit.DAY)):
            if left is not None and left < cost:
                return limit
        return Limit.NOTHING


@dataclass(frozen=True, slots=True)
class Demand:
    """Credits that a span of time would like to cost, by tier; `captures` is one call a tip."""

    captures: float = 0.0
    tiers: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def plus(self, other: Demand) -> Demand:
        """Both together."""
        first, second, third = (mine + theirs for mine, theirs in zip(self.tiers, other.tiers, strict=True))
        return Demand(self.captures + other.captures, (first, second, third))

    @property
    def usual(self) -> float:
        """Without what is only looked at when there is something left."""
        return self.captures + self.tiers[Tier.CLOSE] + self.tiers[Tier.USUAL]


@dataclass(frozen=True, slots=True)
class Plan:
    """How far each tier's intervals are stretched, infinitely where it is not asked, and because of what."""

    stretch: tuple[float, float, float] = (1.0, 1.0, 1.0)
    limits: tuple[Limit, Limit, Limit] = field(default=(Limit.NOTHING,) * 3)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a sport is asked next, when, and why."""

    asks: Asks
    #: Seconds until it is asked.
    pause_seconds: float
    #: Seconds from one call for prices to the next, as consumers are told; the pause between looks where none is due.
    interval_seconds: float
    phase: Phase
    #: How many times longer than usual the interval is, and what makes it so.
    stretch: float = 1.0
    limit: Limit = Limit.NOTHING

    @property
    def reason(self) -> str:
        """In a few words, for health and logs."""
        if self.limit is Limit.NOTHING:
            return str(self.phase)
        if self.asks is Asks.EVENTS and self.phase is Phase.IDLE:
            return f"{self.phase}: no credits for more ({self.limit})"
        return f"{self.phase}, stretched {self.stretch:.1f} times ({self.limit})"


def plan(now: datetime, calendars: Sequence[Calendar], budget: Budget, cadence: Cadence) -> Plan:
    """What makes the known games of all sports fit into what is left of the day and of the month, both in UTC."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    turn = (midnight.replace(day=1) + timedelta(days=32)).replace(day=1) if midnight.day > 1 else midnight
    constraints = []
    if budget.day is not None:
        constraints.append((Limit.DAY, _demand_of_all(calendars, now, midnight, cadence), budget.day * (1.0 - MARGIN)))
    of_month = [
        (credits, limit)
        for credits, limit in ((budget.provider, Limit.PROVIDER), (budget.month, Limit.MONTH))
        if credits is not None
    ]
    if of_month:
        left, limit = min(of_month)
        known = _demand_of_all(calendars, now, turn, cadence)
        unknown = _unknown_demand(now, turn, calendars, cadence)
        share = known.usual / (known.usual + unknown) if known.usual + unknown > 0.0 else 1.0
        constraints.append((limit, known, left * (1.0 - MARGIN) * share))
    made = Plan()
    for limit, demand, available in constraints:
        made = _slower(made, limit, _funded(demand, available))
    return made


def decide(
    now: datetime, asked_at: datetime | None, calendar: Calendar, made: Plan, budget: Budget, cadence: Cadence
) -> Decision:
    """What a sport is asked next, after its prices were last asked for at `asked_at`."""
    broke = budget.limit_of(calendar.cost)
    if broke is not Limit.NOTHING:
        return Decision(Asks.EVENTS, cadence.idle, cadence.idle, Phase.IDLE, inf, broke)
    if cadence.fixed is not None:
        return Decision(Asks.ODDS, cadence.fixed, cadence.fixed, Phase.FIXED)
    present, limit = _quickest(calendar, now, made, cadence)
    due, phase = _next_call(now, asked_at, calendar, made, cadence)
    pause = inf if due is None else max(0.0, (due - now).total_seconds())
    interval = inf if due is None else (due - (now if asked_at is None else asked_at)).total_seconds()
    factor, because = _stretch_of(phase, made)
    # Before a long pause ends, the list of games is looked at: it is free, and may show something sooner.
    if pause <= (cadence.idle if present is None else cadence.far):
        return Decision(Asks.ODDS, pause, interval, phase, factor, because)
    if present is not None and pause <= cadence.far * LONGEST_STRETCH:
        return Decision(Asks.EVENTS, cadence.idle, interval, phase, factor, because)
    factor = 1.0 if limit is Limit.NOTHING else inf
    return Decision(Asks.EVENTS, cadence.idle, cadence.idle, Phase.IDLE, factor, limit)


def demand(calendar: Calendar, since: datetime, until: datetime, cadence: Cadence) -> Demand:
    """What the known games of a sport would like to cost in a span of time."""
    if calendar.starts:
        until = min(until, calendar.starts[-1] + IN_PLAY_UNTIL)
    cut = _next_cut(since)
    if not calendar.starts or until <= since:
        return Demand()
    if until <= cut:
        return _demand_of_part(_part(calendar, since, until), since, until, cadence)
    return _demand_of_part(_part(calendar, since, cut), since, cut, cadence).plus(
        _demand_of_parts(calendar, cut, until, cadence)
    )


@lru_cache(256)
def _demand_of_parts(calendar: Calendar, since: datetime, until: datetime, cadence: Cadence) -> Demand:
    """The same from a cut on, which is the same for hours: only the time until then is worked out after every call."""
    return demand(calendar, since, until, cadence)


def _next_cut(moment: datetime) -> datetime:
    """Midnight, or the end of a day of games: what lies between two of them is asked for again and again."""
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    day_end = midnight + GAME_DAY_ENDS
    return day_end if moment < day_end else midnight + timedelta(days=1)


def _part(calendar: Calendar, since: datetime, until: datetime) -> Calendar:
    """Only the games that matter in a span of time: of those that begin after it, the first."""
    starts, watched = calendar.starts, calendar.watched
    return Calendar(
        calendar.sport_key,
        starts[bisect_left(starts, since - LATE_UNTIL) : bisect_right(starts, until) + 1],
        watched[bisect_left(watched, since - IN_PLAY_UNTIL) : bisect_left(watched, until)],
        calendar.cost,
    )


@lru_cache(4096)
def _demand_of_part(calendar: Calendar, since: datetime, until: datetime, cadence: Cadence) -> Demand:
    tiers = [0.0, 0.0, 0.0]
    for begin, end in _spans(calendar, since, until):
        phases = _phases(calendar, begin)
        if phases:
            seconds, phase = min((_unstretched(calendar, begin, phase, cadence), phase) for phase in phases)
            tiers[_TIERS[phase]] += (end - begin).total_seconds() / seconds * calendar.cost
    lead = timedelta(seconds=cadence.capture_lead)
    captures = sum(1 for start in calendar.starts if since <= start - lead < until)
    return Demand(float(captures * calendar.cost), (tiers[0], tiers[1], tiers[2]))


def _demand_of_all(calendars: Iterable[Calendar], since: datetime, until: datetime, cadence: Cadence) -> Demand:
    total = Demand()
    for calendar in calendars:
        total = total.plus(demand(calendar, since, until, cadence))
    return total


def _unknown_demand(now: datetime, turn: datetime, calendars: Sequence[Calendar], cadence: Cadence) -> float:
    """What the rest of the month costs beyond the last known game: as much a day as the whole days known before."""
    today, last = _game_day(now), _game_day(turn - timedelta(seconds=1))
    latest = max((calendar.starts[-1] for calendar in calendars if calendar.starts), default=now)
    known = min(last, max(today, _game_day(latest)))
    whole_days = (known - today).days
    if whole_days:
        tomorrow = datetime(today.year, today.month, today.day, tzinfo=UTC) + timedelta(days=1) + GAME_DAY_ENDS
        a_day = _demand_of_all(calendars, tomorrow, tomorrow + timedelta(days=whole_days), cadence).usual / whole_days
    else:
        a_day = sum(TYPICAL_CALLS * calendar.cost for calendar in calendars if calendar.starts)
    return (last - known).days * a_day


def _game_day(moment: datetime) -> date:
    return (moment - GAME_DAY_ENDS).date()


def _funded(wanted: Demand, available: float) -> tuple[float, float, float]:
    """How far each tier has to be stretched so that all fit; the captures come first and are never stretched."""
    rest = available - wanted.captures
    stretches = []
    for credits in wanted.tiers:
        if credits <= rest or credits <= 0.0:
            stretches.append(1.0)
            rest -= credits
            continue
        factor = credits / rest if rest > 0.0 else inf
        stretches.append(factor if factor <= LONGEST_STRETCH else inf)
        rest = 0.0
    return (stretches[0], stretches[1], stretches[2])


def _slower(made: Plan, limit: Limit, stretch: tuple[float, float, float]) -> Plan:
    """The plan, slowed down where another constraint asks for it."""
    factors = list(made.stretch)
    limits = list(made.limits)
    for tier, factor in enumerate(stretch):
        if factor > factors[tier]:
            factors[tier], limits[tier] = factor, limit
    return Plan((factors[0], factors[1], factors[2]), (limits[0], limits[1], limits[2]))


def _stretch_of(phase: Phase, made: Plan) -> tuple[float, Limit]:
    tier = _TIERS.get(phase)
    return (1.0, Limit.NOTHING) if tier is None else (made.stretch[tier], made.limits[tier])


def _next_call(
    now: datetime, asked_at: datetime | None, calendar: Calendar, made: Plan, cadence: Cadence
) -> tuple[datetime | None, Phase]:
    """The first moment at which the interval of that moment has passed since the last call, or a capture is due."""
    due: datetime | None = None
    because = Phase.IDLE
    soon, last = now + NEAR_WITHIN, now + EARLY_WITHIN
    # Most often the first hour has the answer, and the rest is not cut up.
    for begin, end in chain(_spans(calendar, now, soon), _later_spans(calendar, soon, last)):
        phase, _ = _quickest(calendar, begin, made, cadence)
        if phase is None:
            continue
        seconds = _unstretched(calendar, begin, phase, cadence) * made.stretch[_TIERS[phase]]
        at = begin if asked_at is None else max(begin, asked_at + timedelta(seconds=seconds))
        if at < end:
            due, because = at, phase
            break
    captured = _next_capture(now, asked_at, calendar, cadence)
    if captured is not None and (due is None or captured < due):
        return captured, Phase.CAPTURE
    return due, because


def _next_capture(now: datetime, asked_at: datetime | None, calendar: Calendar, cadence: Cadence) -> datetime | None:
    """The next moment shortly before a tip, unless the call before it is so near that it would show nothing newer."""
    lead = timedelta(seconds=cadence.capture_lead)
    first = bisect_right(calendar.starts, now)
    for start in calendar.starts[first:]:
        at = max(now, start - lead)
        refresh = timedelta(seconds=cadence.refresh((start - at).total_seconds()))
        if asked_at is None or at - asked_at >= refresh:
            return at
    return None


def _quickest(calendar: Calendar, moment: datetime, made: Plan, cadence: Cadence) -> tuple[Phase | None, Limit]:
    """The phase that wants to ask soonest of those that get credits; else what keeps the others from any."""
    best: Phase | None = None
    seconds = inf
    limit = Limit.NOTHING
    for phase in _phases(calendar, moment):
        interval = _unstretched(calendar, moment, phase, cadence) * made.stretch[_TIERS[phase]]
        if interval < seconds:
            best, seconds = phase, interval
        elif interval == inf:
            limit = made.limits[_TIERS[phase]]
    return best, limit


def _unstretched(calendar: Calendar, moment: datetime, phase: Phase, cadence: Cadence) -> float:
    """The interval of a phase, no shorter than that of the provider's own readings."""
    index = bisect_right(calendar.starts, moment)
    until_tip = (calendar.starts[index] - moment).total_seconds() if index < len(calendar.starts) else inf
    playing = phase in (Phase.LATE, Phase.IN_PLAY)
    return max(cadence.of(phase), cadence.refresh(0.0 if playing else until_tip))


def _phases(calendar: Calendar, moment: datetime) -> list[Phase]:
    """Every phase that some game is in."""
    found = []
    index = bisect_right(calendar.starts, moment)
    if index < len(calendar.starts):
        until_tip = calendar.starts[index] - moment
        found += [phase for within, phase in _BEFORE_TIP if until_tip <= within][:1]
    if index and moment - calendar.starts[index - 1] < LATE_UNTIL:
        found.append(Phase.LATE)
    followed = bisect_right(calendar.watched, moment)
    if followed and moment - calendar.watched[followed - 1] < IN_PLAY_UNTIL:
        found.append(Phase.IN_PLAY)
    return found


def _later_spans(calendar: Calendar, since: datetime, until: datetime) -> Iterator[tuple[datetime, datetime]]:
    yield from _spans(calendar, since, until)


def _spans(calendar: Calendar, since: datetime, until: datetime) -> list[tuple[datetime, datetime]]:
    """The time between two moments, cut wherever the phases may change."""
    part = _part(calendar, since, until)
    cuts = {since, until}
    for start in part.starts:
        cuts.update((start, start + LATE_UNTIL, *(start - within for within, _ in _BEFORE_TIP)))
    for start in part.watched:
        cuts.update((start, start + IN_PLAY_UNTIL))
    inside = sorted(cut for cut in cuts if since <= cut <= until)
    return list(pairwise(inside))

"""What new lines add to the ledger and to every sum that is made of it. Pure: the ledger reads before and writes after.

The sums are those of the period, of the day and key, and of the hour under which something is billed. Each is the sum
of the same rows, so they cannot disagree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import NamedTuple

from services.billing.periods import period_of
from services.billing.rating import (
    Line,
    Part,
    billed_hour,
    overage_of,
    thresholds,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What an account's periods and their limits follow from."""

    anchor: datetime
    code: str
    soft_limit: int
    #: Cents for 1,000 units above it.
    overage_rate_cents: int


@dataclass(slots=True)
class AccountPeriod:
    """One period of an account, and what is counted in it so far."""

    account_id: str
    start: datetime
    end: datetime
    soft_limit: int
    overage_rate_cents: int
    used_units: int = 0
    overage_units: int = 0


class Periods:
    """The periods of some accounts: those that are kept, and those that begin with the next line."""

    def __init__(self, plans: Mapping[str, Plan], kept: Iterable[AccountPeriod]) -> None:
        """`kept`: of each account those that ended within a year before the earliest moment that is asked for, and all
        later ones. Their limits are their own: whoever changes an account's writes it into the period that it is in."""
        self._plans = plans
        self._of: defaultdict[str, list[AccountPeriod]] = defaultdict(list)
        for period in kept:
            self._of[period.account_id].append(period)

    def at(self, account_id: str, moment: datetime) -> AccountPeriod:
        """The period that holds a moment. One that is kept comes before one that is computed, and a computed one is cut
        where it would overlap with a kept one, as it may when the plan has changed: no moment is in two periods."""
        kept = self._of[account_id]
        for period in kept:
            if period.start <= moment < period.end:
                return period
        plan = self._plans[account_id]
        start, end = period_of(plan.anchor, plan.code, moment)
        for period in kept:
            if period.end <= moment:
                start = max(start, period.end)
            else:
                end = min(end, period.start)
        begun = AccountPeriod(account_id, start, end, plan.soft_limit, plan.overage_rate_cents)
        # Lines come by account in runs, so the newest is asked for first.
        kept.insert(0, begun)
        return begun


#: A row's key: when it began, the request's id, the number of its part.
RowKey = tuple[datetime, str, int]


class Facts(NamedTuple):
    """What two lines of one request must agree on."""

    account_id: str
    key_id: str
    method: str
    status: int


@dataclass(frozen=True, slots=True)
class Sifted:
    """Lines, sorted by what the ledger knows of them already."""

    new: list[tuple[Line, Part]]
    recorded: int
    repeated: int
    #: Lines that contradict what was known. They change nothing.
    conflicting: list[Line]


def facts_of(line: Line) -> Facts:
    """The line's side of the comparison."""
    return Facts(line.account_id, line.key_id, line.method, line.status)


def sift(rated: Iterable[tuple[Line, Sequence[Part]]], known: MutableMapping[RowKey, Facts]) -> Sifted:
    """Which rows are new. `known` is what the ledger has of these rows; it takes on what the lines bring, because a
    batch may hold a request twice. Of two lines that contradict each other the first counts."""
    new: list[tuple[Line, Part]] = []
    recorded = repeated = 0
    conflicting: list[Line] = []
    for line, parts in rated:
        facts = facts_of(line)
        unseen = []
        contradicts = False
        for part in parts:
            key = (part.started_at, line.request_id, part.part)
            before = known.get(key)
            if before is None:
                unseen.append((key, part))
            elif before != facts:
                contradicts = True
        if contradicts:
            conflicting.append(line)
        elif unseen:
            recorded += 1
            for key, part in unseen:
                known[key] = facts
                new.append((line, part))
        else:
            repeated += 1
    return Sifted(new, recorded, repeated, conflicting)


class Entry(NamedTuple):
    """One row of the ledger, in the order of its columns."""

    started_at: datetime
    request_id: str
    part: int
    account_id: str
    key_id: str
    method: str
    path: str
    status: int
    units: int
    overage_units: int
    period_start: datetime
    billed_hour: datetime
    late: bool
    gateway: str


@dataclass(slots=True)
class DaySum:
    """What one key added to one day of one period."""

    requests: int = 0
    units: int = 0


@dataclass(slots=True)
class HourSum:
    """What is added to one hour's bill for one period."""

    units: int = 0
    overage_units: int = 0
    late_units: int = 0


@dataclass(slots=True)
class Growth:
    """What is added to one period."""

    period: AccountPeriod
    units: int = 0
    overage_units: int = 0
    #: Thresholds, in percent, that are reached now, and when: the start of the call that did it. The first call also
    #: names those that were reached before it: most were told then, but a limit may have been lowered since.
    reached: list[tuple[int, datetime]] = field(default_factory=list)
    _ahead: list[tuple[int, int]] = field(init=False)

    def __post_init__(self) -> None:
        self._ahead = list(thresholds(self.period.soft_limit))

    def add(self, units: int, started_at: datetime) -> int:
        """Counts a call's units; how many of them are above the limit."""
        overage = overage_of(units, self.period.used_units + self.units, self.period.soft_limit)
        self.units += units
        self.overage_units += overage
        while self._ahead and self.period.used_units + self.units >= self._ahead[0][1]:
            self.reached.append((self._ahead.pop(0)[0], started_at))
        return overage


#: Account, day (UTC), key, start of the period.
DayKey = tuple[str, date, str, datetime]
#: Account, hour, start of the period.
HourKey = tuple[str, datetime, datetime]


@dataclass(frozen=True, slots=True)
class Counted:
    """New rows, in order, and what they add."""

    entries: list[Entry]
    periods: dict[tuple[str, datetime], Growth]
    days: dict[DayKey, DaySum]
    #: Only hours in which units were used: nothing is billed of the others.
    hours: dict[HourKey, HourSum]

    def grown(self) -> Iterator[Growth]:
        """The periods in which units were used, by account and start."""
        return (growth for _, growth in sorted(self.periods.items()) if growth.units)


def count(new: Iterable[tuple[Line, Part]], periods: Periods, sealed_until: datetime) -> Counted:
    """Counts rows one after the other, in the order of their start, on top of what their periods hold."""
    entries: list[Entry] = []
    grown: dict[tuple[str, datetime], Growth] = {}
    days: dict[DayKey, DaySum] = {}
    hours: dict[HourKey, HourSum] = {}
    for line, part in sorted(new, key=_place):
        started_at, units, account_id = part.started_at, part.units, line.account_id
        period = periods.at(account_id, started_at)
        growth = grown.get((account_id, period.start))
        if growth is None:
            growth = grown[account_id, period.start] = Growth(period)
        day_key = (account_id, started_at.date(), line.key_id, period.start)
        day = days.get(day_key)
        if day is None:
            day = days[day_key] = DaySum()
        day.requests += part.part == 0
        hour, late = billed_hour(started_at, sealed_until)
        overage = 0
        if units:
            overage = growth.add(units, started_at)
            day.units += units
            hour_sum = hours.setdefault((account_id, hour, period.start), HourSum())
            hour_sum.units += units
            hour_sum.overage_units += overage
            hour_sum.late_units += units if late else 0
        entries.append(
            Entry(
                started_at,
                line.request_id,
                part.part,
                account_id,
                line.key_id,
                line.method,
                line.path,
                line.status,
                units,
                overage,
                period.start,
                hour,
                late,
                line.gateway,
            )
        )
    return Counted(entries, grown, days, hours)


def _place(row: tuple[Line, Part]) -> RowKey:
    line, part = row
    return (part.started_at, line.request_id, part.part)

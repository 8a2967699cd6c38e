"""Where a period's usage leads to, if it goes on as it did."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from services.billing.plans import overage_cost_cents

#: How far back the pace is taken from; less where the period is younger.
PACE_WINDOW = timedelta(days=7)
#: In the first minutes of a period a few calls say nothing: they are taken for the whole first hour's.
SHORTEST = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Standing:
    """What is counted in a period so far, and what it includes."""

    used_units: int
    overage_units: int
    soft_limit: int
    #: Cents for 1,000 units above the limit.
    overage_rate_cents: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """A period at its end."""

    units: int
    overage_units: int
    overage_cost_cents: int
    #: When the limit will be reached; None when it is reached already, or not before the period's end.
    limit_reached_at: datetime | None


def pace_begins(period_start: datetime, now: datetime) -> datetime:
    """From when on the pace is taken, in UTC: seven days back and from the beginning of that day, because days are what
    is counted; not before the period's own beginning."""
    day = (now - PACE_WINDOW).astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return max(period_start.astimezone(UTC), day)


def forecast(standing: Standing, recent_units: int, since: datetime, now: datetime, period_end: datetime) -> Forecast:
    """The period's end, if units go on coming at the pace of those since a moment. Exact: whole units, half a one
    counts as one."""
    elapsed, left = max(now - since, SHORTEST), max(period_end - now, timedelta(0))
    # In microseconds, which are whole numbers.
    span, rest = elapsed // timedelta(microseconds=1), left // timedelta(microseconds=1)
    coming = (2 * recent_units * rest + span) // (2 * span)
    included = max(0, standing.soft_limit - standing.used_units)
    overage = standing.overage_units + max(0, coming - included)
    reached_at = None
    if included and recent_units:
        # Before the sum, because a slow pace leads further than there are years.
        wait = -(-included * span // recent_units)
        reached_at = now + timedelta(microseconds=wait) if wait < rest else None
    return Forecast(
        units=standing.used_units + coming,
        overage_units=overage,
        overage_cost_cents=overage_cost_cents(overage, standing.overage_rate_cents),
        limit_reached_at=reached_at,
    )

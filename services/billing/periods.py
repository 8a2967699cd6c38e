"""Billing periods: a month or a year long, one behind the other, counted from an account's anchor. Pure.

Each boundary is reckoned from the anchor itself, never from the boundary before, so that an anchor on the 31st falls on
the last day of a shorter month and on the 31st again in the next that has one. Days are days in UTC.
"""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime

from services.billing.model import Period
from services.billing.plans import PLANS


def period_of(anchor: datetime, plan_code: str, moment: datetime) -> Period:
    """The period of a plan that holds the moment, when one of them begins at the anchor.

    Periods go on in both directions, so that a moment before the anchor is in one too. Raises KeyError for an unknown
    plan, and ValueError where the period would reach beyond the years 1 to 9999.
    """
    months = PLANS[plan_code].months
    anchor, moment = anchor.astimezone(UTC), moment.astimezone(UTC)
    number = ((moment.year - anchor.year) * 12 + moment.month - anchor.month) // months
    # In the month of a boundary it depends on the day and the time which side of it the moment is on.
    if months_after(anchor, number * months) > moment:
        number -= 1
    return Period(months_after(anchor, number * months), months_after(anchor, (number + 1) * months))


def months_after(anchor: datetime, months: int) -> datetime:
    """The same day and time so many months later, or the month's last day where it is shorter."""
    years, month = divmod(anchor.month - 1 + months, 12)
    year = anchor.year + years
    if not 1 <= year <= 9999:
        raise ValueError(f"no year {year}")
    return anchor.replace(year=year, month=month + 1, day=min(anchor.day, monthrange(year, month + 1)[1]))

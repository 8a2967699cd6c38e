"""Periods of accounts: whole months or years from their anchor."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime

_MONTHS = {"api_monthly": 1, "api_annual": 12}


def period_of(anchor: datetime, plan_code: str, moment: datetime) -> tuple[datetime, datetime]:
    """The period that holds a moment: from its beginning to the beginning of the next one.

    Each begins a whole number of months or years after the anchor. Where a month has no such day it begins on the last
    one, and the day returns in the next month that has it. Raises KeyError for a plan that is unknown.
    """
    months = _MONTHS[plan_code]
    anchor, moment = anchor.astimezone(UTC), moment.astimezone(UTC)
    number = ((moment.year - anchor.year) * 12 + moment.month - anchor.month) // months
    while _later(anchor, number * months) > moment:
        number -= 1
    while _later(anchor, (number + 1) * months) <= moment:
        number += 1
    return _later(anchor, number * months), _later(anchor, (number + 1) * months)


def _later(anchor: datetime, months: int) -> datetime:
    year, month = divmod(anchor.year * 12 + anchor.month - 1 + months, 12)
    return anchor.replace(year=year, month=month + 1, day=min(anchor.day, monthrange(year, month + 1)[1]))

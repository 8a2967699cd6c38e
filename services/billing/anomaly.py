"""Hours unlike an account's own past: far more than usual, or next to nothing where there was always something.

*What is compared with what.* Use has a rhythm of days (games are in the evening), so an hour is held against the same
hour of the last 28 days. Programs are also moved from one hour to another, so that a spike must stand out among all
hours of the last 7 days as well.

*How far is far.* By the modified z-score of Iglewicz and Hoaglin, "How to Detect and Handle Outliers" (ASQC, 1993), as
in the NIST/SEMATECH e-Handbook, 1.3.5.17: `0.6745 (x - median) / MAD`, where MAD is the median of the absolute
deviations from the median and 0.6745 makes it comparable with a standard deviation; above 3.5 a value is an outlier. Up
to half of the past may be outliers itself without moving median or MAD, so an incident of last week does not hide one
of today. A program that asks at a fixed pace has a MAD of 0 and each odd call would be infinitely far out: the spread
is therefore never taken to be smaller than chance alone makes it (the square root of the median, as of counted events),
nor than a tenth of the median.

*Enough past.* 14 days since the first hour with use among the last 28; the first evening of a new partner is no
anomaly.

*Large enough.* An hour that differs by fewer than `MINIMUM_UNITS` from what is usual is worth nobody's while.

*Once.* A silence that goes on is said at its beginning only; a spike again in each of its hours, since each costs,
until the last 7 days know such hours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, sqrt
from statistics import median

HOURS_A_DAY = 24
#: How much of the past is looked at, in hours.
PAST_HOURS = 28 * HOURS_A_DAY
RECENT_HOURS = 7 * HOURS_A_DAY
ENOUGH_HOURS = 14 * HOURS_A_DAY
#: The modified z-score above which a value is an outlier, and what makes a MAD comparable with a standard deviation.
OUTLYING = 3.5
CONSISTENCY = 0.6745
#: A difference of fewer units from what is usual is no anomaly.
MINIMUM_UNITS = 300
#: The share of the last 7 days' hours that a spike must tower above, and how many times as high it must be.
BUSY_SHARE = 0.98
BUSY_FACTOR = 1.5
#: "Next to nothing": at most this share of what is usual.
NOTHING_SHARE = 0.05


class AnomalyKind(StrEnum):
    """In which way an hour is unlike the past."""

    SPIKE = "SPIKE"
    SILENCE = "SILENCE"


@dataclass(frozen=True, slots=True)
class Anomaly:
    """An hour that is unlike the past, and what is usual."""

    kind: AnomalyKind
    units: int
    #: The median of the same hour of the last 28 days.
    usual_units: float
    #: How far the same hours spread around it, comparable with a standard deviation.
    usual_spread: float


def judge(past: Sequence[int], units: int) -> Anomaly | None:
    """What is to be said of an hour in which so many units were used. `past`: the units of every hour before it, the
    newest last, hours without any use included; older than 28 days does not count."""
    past = _known(past)
    if len(past) < ENOUGH_HOURS:
        return None
    usual, spread = _usual(past)
    if _is_spike(past, units, usual, spread):
        return Anomaly(AnomalyKind.SPIKE, units, usual, spread)
    if _is_silence(past, units, usual) and not _was_silent_before(past):
        return Anomaly(AnomalyKind.SILENCE, units, usual, spread)
    return None


def believed(found: Mapping[str, Anomaly], counted: Iterable[str]) -> dict[str, Anomaly]:
    """Of the anomalies of one hour, by account, those that the accounts themselves have caused. `counted`: the accounts
    that used anything in the hour.

    Where several accounts fall silent and nobody is left, it is the gateway or the counting that was silent.
    """
    silent = {account for account, anomaly in found.items() if anomaly.kind is AnomalyKind.SILENCE}
    if len(silent) > 1 and silent.issuperset(counted):
        return {account: anomaly for account, anomaly in found.items() if account not in silent}
    return dict(found)


def _known(past: Sequence[int]) -> Sequence[int]:
    """The last 28 days, from the first hour with use."""
    window = past[-PAST_HOURS:]
    first = next((index for index, units in enumerate(window) if units), len(window))
    return window[first:]


def _same_hours(past: Sequence[int]) -> Sequence[int]:
    """The hours a whole number of days before the one that comes next."""
    return past[-HOURS_A_DAY::-HOURS_A_DAY]


def _usual(past: Sequence[int]) -> tuple[float, float]:
    """The median of the same hours, and their spread."""
    same = _same_hours(past)
    middle = median(same)
    deviation = median(abs(units - middle) for units in same)
    return middle, max(deviation / CONSISTENCY, sqrt(middle), 0.1 * middle)


def _is_spike(past: Sequence[int], units: int, usual: float, spread: float) -> bool:
    if units - usual < MINIMUM_UNITS or units - usual <= OUTLYING * spread:
        return False
    recent = sorted(past[-RECENT_HOURS:])
    busy = recent[ceil(BUSY_SHARE * len(recent)) - 1]
    return units > BUSY_FACTOR * busy


def _is_silence(past: Sequence[int], units: int, usual: float) -> bool:
    nothing = NOTHING_SHARE * usual
    if units > nothing or usual - units < MINIMUM_UNITS:
        return False
    same = _same_hours(past)
    # "Always": on each of the last seven days, and on nine of ten of all.
    return all(was > nothing for was in same[:7]) and sum(was > nothing for was in same) >= 0.9 * len(same)


def _was_silent_before(past: Sequence[int]) -> bool:
    """Whether the hour before was one of silence as well, so that this one only goes on with it."""
    earlier, units = past[:-1], past[-1]
    usual, _ = _usual(earlier)
    return _is_silence(earlier, units, usual)

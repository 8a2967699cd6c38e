"""What a line of the access log counts, and under which hour it is billed.

A call counts 1 unit when its method is paid, its key is live and it was served: status 2xx, or 304. A stream counts 1
for each stretch of 300 s that it began: it lasts from its start to the duration that the line gives, and a stretch that
would begin at the very moment of its end did not begin. Everything else counts 0 and is in the ledger all the same.

A line that cannot be counted is *unrated*. It is kept aside with the reason and never dropped.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

STRETCH = timedelta(seconds=300)
#: How old a line may be when it becomes known, and how far ahead of our clock a gateway's may be. The payment provider
#: takes usage of the same span, so that what is counted can be billed.
OLDEST = timedelta(days=35)
FURTHEST_AHEAD = timedelta(minutes=5)
#: The gateway ends a stream after an hour. What claims to have lasted for more than a day is a fault.
LONGEST = timedelta(days=1)
#: Shares of the soft limit, in percent, at which an account is told.
THRESHOLDS = (80, 100, 120)

_LONGEST_ID = 128
_STRETCH_MILLISECONDS = STRETCH // timedelta(milliseconds=1)
_LONGEST_MILLISECONDS = LONGEST // timedelta(milliseconds=1)


class Unrated(StrEnum):
    """Why a line cannot be counted."""

    #: Without an id or a time, or with a value that it cannot have.
    UNREADABLE = "UNREADABLE"
    UNKNOWN_ACCOUNT = "UNKNOWN_ACCOUNT"
    UNKNOWN_KEY = "UNKNOWN_KEY"
    KEY_OF_ANOTHER_ACCOUNT = "KEY_OF_ANOTHER_ACCOUNT"
    #: Began more than 35 days ago.
    TOO_OLD = "TOO_OLD"
    #: Ended more than 5 minutes from now.
    IN_THE_FUTURE = "IN_THE_FUTURE"
    #: No method of that name is reached through the gateway.
    UNKNOWN_METHOD = "UNKNOWN_METHOD"


class Line(NamedTuple):
    """One line of a gateway's access log."""

    request_id: str
    #: In UTC; None where the line gives no time, or one that does not exist.
    started_at: datetime | None
    duration_milliseconds: int
    account_id: str
    key_id: str
    method: str
    path: str
    status: int
    test: bool
    gateway: str


@dataclass(frozen=True, slots=True)
class MethodKind:
    """What rating has to know of a method."""

    paid: bool
    streaming: bool


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What rating has to know of a key. Neither ever changes."""

    account_id: str
    live: bool


class Part(NamedTuple):
    """One row of the ledger: a call, or one stretch of a stream."""

    #: 0 for a call; of a stream the number of the stretch, from 0.
    part: int
    started_at: datetime
    units: int


def rate(
    line: Line,
    methods: Mapping[str, MethodKind],
    keys: Mapping[str, KeyFacts],
    accounts: Container[str],
    now: datetime,
) -> tuple[Part, ...] | Unrated:
    """The rows that a line is in the ledger, or why it cannot be there. The first reason in the order of `Unrated`."""
    started_at = line.started_at
    if started_at is None or not _is_readable(line):
        return Unrated.UNREADABLE
    if line.account_id not in accounts:
        return Unrated.UNKNOWN_ACCOUNT
    key = keys.get(line.key_id)
    if key is None:
        return Unrated.UNKNOWN_KEY
    if key.account_id != line.account_id:
        return Unrated.KEY_OF_ANOTHER_ACCOUNT
    if started_at < now - OLDEST:
        return Unrated.TOO_OLD
    if started_at > now + FURTHEST_AHEAD - timedelta(milliseconds=line.duration_milliseconds):
        return Unrated.IN_THE_FUTURE
    method = methods.get(line.method)
    if method is None:
        return Unrated.UNKNOWN_METHOD
    if not (method.paid and key.live and not line.test and is_served(line.status)):
        return (Part(0, started_at, 0),)
    if not method.streaming:
        return (Part(0, started_at, 1),)
    return tuple(Part(number, started_at + number * STRETCH, 1) for number in range(stretches(line)))


def stretches(line: Line) -> int:
    """How many stretches a stream began: at least one, and one more for each 300 s that it outlasted."""
    return max(1, -(-line.duration_milliseconds // _STRETCH_MILLISECONDS))


def is_served(status: int) -> bool:
    """Whether the caller got what he asked for: 2xx, or that he has it already (304)."""
    return 200 <= status <= 299 or status == 304


def overage_of(units: int, used_units: int, soft_limit: int) -> int:
    """Of the units that come next, those above the limit, when so many were used before."""
    return max(0, min(units, used_units + units - soft_limit))


def thresholds(soft_limit: int) -> tuple[tuple[int, int], ...]:
    """Each threshold, in percent, with the first number of units that reaches it; the lowest first. None of a limit of
    0, which has no shares."""
    if soft_limit <= 0:
        return ()
    return tuple((percent, -(-soft_limit * percent // 100)) for percent in THRESHOLDS)


def hour_of(moment: datetime) -> datetime:
    """The beginning of the hour, in UTC, that holds a moment."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def billed_hour(started_at: datetime, sealed_until: datetime) -> tuple[datetime, bool]:
    """The hour that a call is billed under, and whether it is late: its own while that is open, else the oldest open
    one, which begins where the sealed ones end."""
    own = hour_of(started_at)
    return (own, False) if own >= sealed_until else (sealed_until, True)


def _is_readable(line: Line) -> bool:
    return (
        0 < len(line.request_id) <= _LONGEST_ID
        and 0 <= line.duration_milliseconds <= _LONGEST_MILLISECONDS
        and 0 <= line.status <= 999
        and "\0" not in line.request_id + line.path + line.gateway
    )

"""What the headers of the last answer said: limits, usage, and how long to wait before the next call."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock

#: How long a token takes where nobody says how fast the bucket fills.
DEFAULT_PAUSE_SECONDS = 1.0
_POLICY = re.compile(r'\s*"?[\w-]+"?\s*;(?=.*\bq=(\d{1,9})\b)(?=.*\bw=(\d{1,9})\b)')


@dataclass(frozen=True, slots=True)
class Limits:
    """How fast the key may call, and how much of that is left."""

    #: Calls that may be made at once when none were made for a while.
    limit: int
    #: Calls that may be made now.
    remaining: int
    #: Seconds until the limit is whole again.
    reset_seconds: int
    #: In which time as many calls as `limit` become possible again; None where the answer did not say.
    per_seconds: int | None

    @property
    def seconds_a_call(self) -> float:
        """How long it takes until one more call may be made."""
        if self.per_seconds and self.limit:
            return self.per_seconds / self.limit
        return min(float(self.reset_seconds), DEFAULT_PAUSE_SECONDS)


@dataclass(frozen=True, slots=True)
class UsageSeen:
    """What the account has used in its period, as the last paid answer told: a few seconds old."""

    used: int
    remaining: int
    overage: int
    #: None where it was not said, or not readably.
    period_end: datetime | None


class Seen:
    """What the last answers told. One client's, whatever number of threads or tasks use it."""

    def __init__(self) -> None:
        self.limits: Limits | None = None
        self.usage: UsageSeen | None = None
        self.request_id: str | None = None
        self.data_age_seconds: float | None = None
        self._free_at = 0.0
        self._lock = Lock()

    def note(self, headers: Mapping[str, str], now: float) -> None:
        """Takes what an answer's headers say; what they do not say stays as it was. Never raises."""
        self.request_id = headers.get("x-request-id")
        self.data_age_seconds = _number(headers.get("x-data-age"))
        self.usage = usage_of(headers) or self.usage
        limits = limits_of(headers)
        if limits is None:
            return
        self.limits = limits
        if limits.remaining == 0:
            with self._lock:
                self._free_at = max(self._free_at, now + limits.seconds_a_call)

    def pause(self, now: float) -> float:
        """Seconds to wait before the next call, so that it is not refused; each asker gets a later moment."""
        with self._lock:
            if self._free_at <= now or self.limits is None:
                return 0.0
            mine = self._free_at
            self._free_at += self.limits.seconds_a_call
            return mine - now


def limits_of(headers: Mapping[str, str]) -> Limits | None:
    """The limits that the headers tell; None where they tell none."""
    limit, remaining, reset = (_integer(headers.get(f"x-ratelimit-{name}")) for name in ("limit", "remaining", "reset"))
    if limit is None or remaining is None:
        return None
    policy = _POLICY.match(headers.get("ratelimit-policy", ""))
    per_seconds = int(policy[2]) if policy and int(policy[1]) == limit else None
    return Limits(limit, remaining, reset or 0, per_seconds)


def usage_of(headers: Mapping[str, str]) -> UsageSeen | None:
    """The usage that the headers tell; None where they tell none."""
    used, remaining, overage = (_integer(headers.get(f"x-usage-{name}")) for name in ("used", "remaining", "overage"))
    if used is None:
        return None
    return UsageSeen(used, remaining or 0, overage or 0, _moment(headers.get("x-usage-period-end")))


def _integer(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 16 else None


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _moment(text: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

"""Billing's own words: accounts, keys, periods, and what was used in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple


class Standing(StrEnum):
    """Whether an account pays."""

    GOOD = "GOOD"
    #: A payment failed; served while it is tried again.
    GRACE = "GRACE"
    SUSPENDED = "SUSPENDED"


class KeyStatus(StrEnum):
    """Whether a key opens anything."""

    ACTIVE = "ACTIVE"
    EXPIRED = "EXPIRED"
    REVOKED = "REVOKED"


class RevokedReason(StrEnum):
    """Why a key was revoked."""

    REVOKED = "revoked"
    ROTATED = "rotated"
    LEAKED = "leaked"


@dataclass(frozen=True, slots=True)
class RateLimit:
    """How fast one key may call: a bucket of `requests` that fills evenly in `per_seconds`."""

    requests: int
    per_seconds: int


class Period(NamedTuple):
    """A stretch of time that is billed as one: from `start` on, and before `end`."""

    start: datetime
    end: datetime

    def holds(self, moment: datetime) -> bool:
        """Whether the moment is in it."""
        return self.start <= moment < self.end


@dataclass(frozen=True, slots=True)
class UsedPeriod:
    """A period of an account, the limit that holds in it, and what was used."""

    period: Period
    soft_limit: int
    #: Cents for 1,000 units above the limit.
    overage_rate_cents: int
    used_units: int = 0
    overage_units: int = 0


@dataclass(frozen=True, slots=True)
class Account:
    """Who pays, and for what."""

    id: str
    name: str
    email: str
    api_access_enabled: bool
    api_plan_code: str
    #: Units included in a period.
    api_usage_soft_limit: int
    #: Cents for 1,000 units above the limit.
    api_overage_rate_cents: int
    standing: Standing
    rate_class: str
    period_anchor: datetime
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept: everything but the secret."""

    id: str
    account_id: str
    #: The first of the keys that this one succeeded by rotation; itself where none.
    lineage: str
    replaces: str | None
    name: str
    live: bool
    pepper_version: int
    hash: bytes = field(repr=False)
    hint: str
    scopes: tuple[str, ...]
    allowed_addresses: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None
    revoked_reason: RevokedReason | None = None

    def status(self, now: datetime) -> KeyStatus:
        """What the key is at a moment. From its expiry on it is expired."""
        if self.revoked_at is not None:
            return KeyStatus.REVOKED
        return KeyStatus.EXPIRED if self.expires_at is not None and self.expires_at <= now else KeyStatus.ACTIVE

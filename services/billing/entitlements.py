"""What may be done with accounts and keys, and what it leads to. Pure: time comes in, and nothing is asked or kept."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any

from services.billing.model import Account, ApiKey, KeyStatus, Period, RevokedReason, UsedPeriod
from services.billing.periods import period_of
from services.billing.plans import PLANS, RATE_CLASSES

#: Keys of one account that are neither revoked nor expired.
KEYS_AT_MOST = 20
#: New keys within a day, above which a partner rotates none. Each key stays in the access table for ever, so that who
#: calls with an old one is told why: without a bound one partner's loop would make it too large to be asked for.
NEW_KEYS_AT_MOST, NEW_KEYS_WITHIN = 100, timedelta(days=1)
#: How long a rotated key may go on, as it is asked for.
OVERLAPS = {
    "0s": timedelta(0),
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
DEFAULT_SCOPES = ("account:read", "markets:read", "signals:read")
NAME_LENGTH, EMAIL_LENGTH, ADDRESSES_AT_MOST = 100, 254, 100
#: More than anybody sells; whatever is computed from it stays far within 64 bits.
LARGEST_LIMIT, LARGEST_RATE_CENTS = 100_000_000, 1_000_000
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
#: What looks like a key, wherever it stands.
_KEY = re.compile(r"(stratum_(?:live|test)_)[0-9A-Za-z]{8,}")
FOUND_AT_LENGTH = 1000


class Refusal(Enum):
    """Why something may not be done."""

    WRONG_VALUE = auto()
    TOO_MANY_KEYS = auto()
    KEY_NOT_ACTIVE = auto()


class RefusedError(Exception):
    """It may not be done. `field` names the wrong value, where there is one."""

    def __init__(self, refusal: Refusal, message: str, field: str = "") -> None:
        super().__init__(message)
        self.refusal = refusal
        self.message = message
        self.field = field


# Keys.


@dataclass(frozen=True, slots=True)
class KeyWish:
    """What a key is asked to be."""

    name: str
    live: bool
    #: The usual ones where empty.
    scopes: tuple[str, ...] = ()
    allowed_addresses: tuple[str, ...] = ()
    expires_at: datetime | None = None


def granted(wish: KeyWish, known_scopes: Collection[str], now: datetime) -> KeyWish:
    """The wish in the form in which it is kept: scopes in order, addresses as they are usually written.

    Raises RefusedError for a name, scope, address or expiry that cannot be.
    """
    if wish.expires_at is not None and wish.expires_at <= now:
        raise _wrong("expires_at", "is over already")
    unknown = sorted(set(wish.scopes) - set(known_scopes))
    if unknown:
        raise _wrong("scopes", f"are of {', '.join(sorted(known_scopes))}; {unknown[0][:NAME_LENGTH]!r} is none")
    if len(wish.allowed_addresses) > ADDRESSES_AT_MOST:
        raise _wrong("allowed_addresses", f"are at most {ADDRESSES_AT_MOST}")
    return replace(
        wish,
        name=named("name", wish.name),
        scopes=tuple(sorted(set(wish.scopes or DEFAULT_SCOPES))),
        allowed_addresses=tuple(dict.fromkeys(map(_address, wish.allowed_addresses))),
    )


def has_room(active_keys: int) -> None:
    """Returns when an account with so many active keys may have one more. Raises RefusedError."""
    if active_keys >= KEYS_AT_MOST:
        raise RefusedError(Refusal.TOO_MANY_KEYS, f"the account has {active_keys} active keys, as many as it may")


def may_rotate(new_keys: int) -> None:
    """Returns when the partner whose account has so many new keys may make another one. Raises RefusedError."""
    if new_keys >= NEW_KEYS_AT_MOST:
        raise RefusedError(Refusal.TOO_MANY_KEYS, f"the account has {new_keys} keys of the last day, as many as it may")


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation leads to."""

    #: The old key as it is from now on.
    old: ApiKey
    #: Until when the old key goes on.
    old_key_expires_at: datetime
    #: What its successor is to be: the same rights and the same end.
    successor: KeyWish


def rotated(key: ApiKey, overlap: str, active_keys: int, now: datetime) -> Rotation:
    """The rotation of a key whose account has so many active ones, itself included.

    With an overlap of 0s the old key is revoked; otherwise it goes on for as long, but never beyond its own expiry. The
    successor ends when the old key would have ended, so that rotating prolongs nothing; that of a key which is on its
    way out already ends with it. Raises RefusedError.
    """
    if overlap not in OVERLAPS:
        raise _wrong("overlap", f"is one of {', '.join(OVERLAPS)}")
    status = key.status(now)
    if status is not KeyStatus.ACTIVE:
        raise RefusedError(Refusal.KEY_NOT_ACTIVE, f"the key is {status.lower()}")
    successor = KeyWish(key.name, key.live, key.scopes, key.allowed_addresses, key.expires_at)
    if not OVERLAPS[overlap]:
        return Rotation(revoked(key, RevokedReason.ROTATED, now), now, successor)
    # Both are active for a while, so that one who rotates again and again comes to the same end as one who issues.
    has_room(active_keys)
    ends = now + OVERLAPS[overlap]
    if key.expires_at is not None:
        ends = min(ends, key.expires_at)
    return Rotation(replace(key, expires_at=ends), ends, successor)


def successors(key: ApiKey, keys: Iterable[ApiKey]) -> list[ApiKey]:
    """Those of the keys that were made from this one by rotation, one after another."""
    by_predecessor: dict[str | None, list[ApiKey]] = {}
    for one in keys:
        by_predecessor.setdefault(one.replaces, []).append(one)
    found: list[ApiKey] = []
    waiting = [key]
    while waiting:
        made = by_predecessor.get(waiting.pop().id, [])
        found += made
        waiting += made
    return found


def revoked(key: ApiKey, reason: RevokedReason, now: datetime) -> ApiKey:
    """The key without any use. One that was revoked before stays as it was."""
    return key if key.revoked_at is not None else replace(key, revoked_at=now, revoked_reason=reason)


def place_of_find(found_at: str) -> str:
    """Where a leaked key was found, as its finder said, but without the key, if he said it there too. Raises
    RefusedError for a long story."""
    if len(found_at) > FOUND_AT_LENGTH:
        raise _wrong("found_at", f"is at most {FOUND_AT_LENGTH} characters")
    return _KEY.sub(r"\1…", found_at.strip())


# Accounts.


@dataclass(frozen=True, slots=True)
class AccountChange:
    """What an account becomes by a change, and what becomes of the period that it is in."""

    account: Account
    #: The period in which the change happens, as it is from now on; None where the change leaves it alone.
    present: UsedPeriod | None


def checked(account: Account) -> Account:
    """The account, when its values can be. Raises RefusedError."""
    if len(account.email) > EMAIL_LENGTH or not account.email.isprintable() or not _EMAIL.fullmatch(account.email):
        raise _wrong("account.email", "is no address")
    if account.api_plan_code not in PLANS:
        raise _wrong("account.api_plan_code", f"is one of {', '.join(PLANS)}")
    if account.rate_class not in RATE_CLASSES:
        raise _wrong("account.rate_class", f"is one of {', '.join(RATE_CLASSES)}")
    if not 0 <= account.api_usage_soft_limit <= LARGEST_LIMIT:
        raise _wrong("account.api_usage_soft_limit", f"is from 0 to {LARGEST_LIMIT}")
    if not 0 <= account.api_overage_rate_cents <= LARGEST_RATE_CENTS:
        raise _wrong("account.api_overage_rate_cents", f"is from 0 to {LARGEST_RATE_CENTS}")
    return replace(account, name=named("account.name", account.name))


#: What an update may name. The rest is not the operator's to say, or follows from these.
CHANGEABLE = tuple(field.name for field in fields(Account) if field.name not in {"id", "period_anchor", "created_at"})


def changed(account: Account, values: Mapping[str, Any], used: UsedPeriod | None, now: datetime) -> AccountChange:
    """The account with these fields changed; `used` is what is kept of the period that holds now, if anything is.

    Another plan brings its own limit and rate where the change names none, and begins now: now is the new anchor, and
    the present period ends. Another limit or rate alone holds for the present period from now on. Raises RefusedError.
    """
    if not values:
        raise _wrong("update_mask", "names no field")
    for name in values:
        if name not in CHANGEABLE:
            raise _wrong("update_mask", f"cannot name {name[:NAME_LENGTH]}; it names some of {', '.join(CHANGEABLE)}")
    plan = PLANS.get(values.get("api_plan_code", account.api_plan_code))
    if plan is None:
        raise _wrong("account.api_plan_code", f"is one of {', '.join(PLANS)}")
    if plan.code == account.api_plan_code:
        after = checked(replace(account, **values))
        return AccountChange(after, _with_terms(used, after))
    terms = {"api_usage_soft_limit": plan.included_units, "api_overage_rate_cents": plan.overage_rate_cents}
    after = checked(replace(account, **{**terms, **values}, period_anchor=now))
    present = used or unused(account, now)
    if present.period.start == now:
        # Nothing of it has passed: it is not cut, it is the new one.
        return AccountChange(after, replace(_terms(present, after), period=unused(after, now).period))
    return AccountChange(after, replace(present, period=Period(present.period.start, now)))


def unused(account: Account, moment: datetime) -> UsedPeriod:
    """The period that holds a moment, by the account's own anchor and terms, as long as nothing was counted in it."""
    period = period_of(account.period_anchor, account.api_plan_code, moment)
    return UsedPeriod(period, account.api_usage_soft_limit, account.api_overage_rate_cents)


def named(field: str, name: str) -> str:
    """The name without space around it. Raises RefusedError for none, a long one, one that cannot be printed, or one
    that is a key, which nobody shall read in a list."""
    name = name.strip()
    if _KEY.search(name):
        raise _wrong(field, "holds a key")
    if not name or len(name) > NAME_LENGTH or not name.isprintable():
        raise _wrong(field, f"is from 1 to {NAME_LENGTH} printable characters")
    return name


def _with_terms(used: UsedPeriod | None, account: Account) -> UsedPeriod | None:
    after = _terms(used, account) if used is not None else None
    return None if after == used else after


def _terms(used: UsedPeriod, account: Account) -> UsedPeriod:
    return replace(used, soft_limit=account.api_usage_soft_limit, overage_rate_cents=account.api_overage_rate_cents)


def _address(written: str) -> str:
    try:
        if "%" in written:
            raise ValueError("a zone means something on one machine only")
        if "/" in written:
            return str(ipaddress.ip_network(written))
        return str(ipaddress.ip_address(written))
    except ValueError:
        raise _wrong("allowed_addresses", f"holds no address and no network: {written[:NAME_LENGTH]!r}") from None


def _wrong(field: str, why: str) -> RefusedError:
    # What is refused may be anything, a key that slipped into the wrong field included; and refusals are logged.
    return RefusedError(Refusal.WRONG_VALUE, _KEY.sub(r"\1…", f"{field} {why}"), field)

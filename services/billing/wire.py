"""Protobuf to billing's words and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from stratum.billing.v1 import access_service_pb2 as access_proto
from stratum.billing.v1 import account_pb2 as proto
from stratum.billing.v1 import accounts_service_pb2 as accounts_proto
from stratum.billing.v1 import billing_service_pb2 as billing_proto
from stratum.billing.v1 import key_pb2 as key_proto

from services.billing.entitlements import KeyWish, unused
from services.billing.model import Account, ApiKey, RateLimit, Standing, UsedPeriod
from services.billing.plans import DEFAULT_PLAN, PLANS, RATE_CLASSES, overage_cost_cents
from services.billing.store import AccessRows
from services.shared.asked import wrong

#: Messages that partners see hold no 64-bit integers.
_LARGEST = 2**31 - 1
_STANDINGS = {Standing(name): number for name, number in proto.Account.Standing.Value.items() if number}
_GIVEN_STANDINGS = {number: standing for standing, number in _STANDINGS.items()}


def serialized(message: Message) -> bytes:
    """The same bytes for equal messages."""
    return message.SerializeToString(deterministic=True)


def timestamp(moment: datetime) -> Timestamp:
    """A moment as it travels."""
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def fitting(number: int) -> int:
    """A sum as a partner sees it: what is more than 32 bits hold is shown as the most that they do."""
    return min(number, _LARGEST)


def moment(field: str, stamp: Timestamp) -> datetime:
    """A moment that somebody sent. Raises InvalidArgument for one that no calendar has."""
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise wrong(field, "is no time of this era") from None


# In.


def new_account(given: proto.Account, account_id: str, now: datetime) -> Account:
    """The account that is asked for, with what was left empty taken from its plan. Raises InvalidArgument."""
    plan = PLANS.get(given.api_plan_code or DEFAULT_PLAN)
    if plan is None:
        raise wrong("account.api_plan_code", f"is one of {', '.join(PLANS)}")
    anchor = moment("account.period_anchor", given.period_anchor) if given.HasField("period_anchor") else now
    if anchor > now or anchor.year < 2000:
        raise wrong("account.period_anchor", "is not in the future, and not before 2000")
    return Account(
        id=account_id,
        name=given.name,
        email=given.email,
        api_access_enabled=given.api_access_enabled,
        api_plan_code=plan.code,
        api_usage_soft_limit=_given(given, "api_usage_soft_limit", plan.included_units),
        api_overage_rate_cents=_given(given, "api_overage_rate_cents", plan.overage_rate_cents),
        standing=_standing(given.standing) if given.standing else Standing.GOOD,
        rate_class=given.rate_class or plan.rate_class,
        period_anchor=anchor,
        created_at=now,
    )


def _given(given: proto.Account, field: str, otherwise: int) -> int:
    """A number that may be 0, and then is meant."""
    return int(getattr(given, field)) if given.HasField(field) else otherwise  # type: ignore[arg-type]  # one of its own


def changes(request: accounts_proto.UpdateAccountRequest) -> Mapping[str, Any]:
    """The fields that an update names, with their new values. Raises InvalidArgument for one that no account has."""
    given, read = request.account, _READERS
    values: dict[str, Any] = {}
    for path in request.update_mask.paths:
        if path not in proto.Account.DESCRIPTOR.fields_by_name:
            raise wrong("update_mask", f"names {path[:100]!r}, which an account does not have")
        values[path] = read[path](given) if path in read else None
    return values


_READERS: Mapping[str, Callable[[proto.Account], Any]] = {
    "name": lambda given: given.name,
    "email": lambda given: given.email,
    "api_access_enabled": lambda given: given.api_access_enabled,
    "api_plan_code": lambda given: given.api_plan_code,
    "api_usage_soft_limit": lambda given: given.api_usage_soft_limit,
    "api_overage_rate_cents": lambda given: given.api_overage_rate_cents,
    "standing": lambda given: _standing(given.standing),
    "rate_class": lambda given: given.rate_class,
}


def key_wish(request: accounts_proto.IssueKeyRequest) -> KeyWish:
    """What a key is asked to be. Raises InvalidArgument."""
    mode = key_proto.ApiKey.Mode
    if request.mode not in (mode.LIVE, mode.TEST):
        raise wrong("mode", "is LIVE or TEST")
    return KeyWish(
        name=request.name,
        live=request.mode == mode.LIVE,
        scopes=tuple(request.scopes),
        allowed_addresses=tuple(request.allowed_addresses),
        expires_at=moment("expires_at", request.expires_at) if request.HasField("expires_at") else None,
    )


def _standing(number: proto.Account.Standing.Value.ValueType) -> Standing:
    if number not in _GIVEN_STANDINGS:
        raise wrong("account.standing", f"is one of {', '.join(_STANDINGS)}")
    return _GIVEN_STANDINGS[number]


# Out.


def account(held: Account) -> proto.Account:
    """An account as operators see it."""
    return proto.Account(
        id=held.id,
        name=held.name,
        email=held.email,
        api_access_enabled=held.api_access_enabled,
        api_plan_code=held.api_plan_code,
        api_usage_soft_limit=held.api_usage_soft_limit,
        api_overage_rate_cents=held.api_overage_rate_cents,
        standing=_STANDINGS[held.standing],
        rate_class=held.rate_class,
        period_anchor=timestamp(held.period_anchor),
        created_at=timestamp(held.created_at),
    )


def key(held: ApiKey, now: datetime) -> key_proto.ApiKey:
    """A key as it may be shown, with what it is at a moment."""
    return key_proto.ApiKey(
        id=held.id,
        account_id=held.account_id,
        name=held.name,
        mode=key_proto.ApiKey.Mode.LIVE if held.live else key_proto.ApiKey.Mode.TEST,
        hint=held.hint,
        status=key_proto.ApiKey.Status.Value.Value(held.status(now).value),
        scopes=held.scopes,
        allowed_addresses=held.allowed_addresses,
        created_at=timestamp(held.created_at),
        expires_at=_optional(held.expires_at),
        last_used_at=_optional(held.last_used_at),
        revoked_at=_optional(held.revoked_at),
        revoked_reason=held.revoked_reason or "",
        replaces=held.replaces,
    )


def keys(held: Sequence[ApiKey], now: datetime) -> list[key_proto.ApiKey]:
    """Keys as they may be shown."""
    return [key(each, now) for each in held]


def plan_status(held: Account, used: UsedPeriod | None, now: datetime) -> billing_proto.PlanStatus:
    """What an account bought and how it stands. `used`: what was counted in the period that holds now."""
    present = used or unused(held, now)
    return billing_proto.PlanStatus(
        account_id=held.id,
        api_access_enabled=held.api_access_enabled,
        api_plan_code=held.api_plan_code,
        api_usage_soft_limit=held.api_usage_soft_limit,
        api_overage_rate_cents=held.api_overage_rate_cents,
        standing=_STANDINGS[held.standing],
        rate_class=held.rate_class,
        rate_limit=_rate_limit(RATE_CLASSES[held.rate_class]),
        period_start=timestamp(present.period.start),
        period_end=timestamp(present.period.end),
        in_overage=present.used_units > present.soft_limit,
        overage_units=fitting(present.overage_units),
        overage_cost_cents=fitting(overage_cost_cents(present.overage_units, present.overage_rate_cents)),
    )


def access_rows(rows: AccessRows, now: datetime) -> access_proto.GetAccessTableResponse:
    """What changed in the access table, with each account's period that holds now."""
    return access_proto.GetAccessTableResponse(
        revision=rows.revision,
        complete=rows.complete,
        accounts=[_account_access(held, rows.used.get(held.id) or unused(held, now)) for held in rows.accounts],
        keys=[_key_access(held) for held in rows.keys],
        epoch=rows.epoch,
    )


def _account_access(held: Account, present: UsedPeriod) -> access_proto.AccountAccess:
    return access_proto.AccountAccess(
        account_id=held.id,
        api_access_enabled=held.api_access_enabled,
        standing=_STANDINGS[held.standing],
        rate_limit=_rate_limit(RATE_CLASSES[held.rate_class]),
        period_start=timestamp(present.period.start),
        period_end=timestamp(present.period.end),
        included_units=present.soft_limit,
        used_units=present.used_units,
        overage_units=present.overage_units,
    )


def _key_access(held: ApiKey) -> access_proto.KeyAccess:
    return access_proto.KeyAccess(
        key_id=held.id,
        account_id=held.account_id,
        lineage=held.lineage,
        pepper_version=held.pepper_version,
        hash=held.hash,
        live=held.live,
        scopes=held.scopes,
        allowed_addresses=held.allowed_addresses,
        expires_at=_optional(held.expires_at),
        revoked_at=_optional(held.revoked_at),
    )


def _rate_limit(limit: RateLimit) -> proto.RateLimit:
    return proto.RateLimit(requests=limit.requests, per_seconds=limit.per_seconds)


def _optional(moment: datetime | None) -> Timestamp | None:
    return None if moment is None else timestamp(moment)

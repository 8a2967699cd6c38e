"""Builders for the tests of billing: values of which a test says only what it is about."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from services.billing.model import Account, ApiKey, Standing

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)


def an_account(**given: Any) -> Account:
    """An account on the monthly plan, since noon."""
    return Account(
        **{
            "id": "acct_1",
            "name": "Sharp & Sons",
            "email": "odds@sharp.example",
            "api_access_enabled": True,
            "api_plan_code": "api_monthly",
            "api_usage_soft_limit": 10_000,
            "api_overage_rate_cents": 100,
            "standing": Standing.GOOD,
            "rate_class": "standard",
            "period_anchor": NOON,
            "created_at": NOON,
            **given,
        }
    )


def a_key(**given: Any) -> ApiKey:
    """A live key of that account, without an end."""
    return ApiKey(
        **{
            "id": "key_1",
            "account_id": "acct_1",
            "lineage": "key_1",
            "replaces": None,
            "name": "production",
            "live": True,
            "pepper_version": 1,
            "hash": b"\x5a" * 32,
            "hint": "stratum_live_…x7Qk",
            "scopes": ("account:read", "signals:read"),
            "allowed_addresses": (),
            "created_at": NOON,
            **given,
        }
    )

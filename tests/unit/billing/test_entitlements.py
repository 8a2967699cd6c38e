"""What may be done with accounts and keys."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.entitlements import (
    KEYS_AT_MOST,
    OVERLAPS,
    KeyWish,
    Refusal,
    RefusedError,
    changed,
    checked,
    granted,
    has_room,
    place_of_find,
    revoked,
    rotated,
    unused,
)
from services.billing.model import KeyStatus, Period, RevokedReason, UsedPeriod
from services.billing.testing import NOON, a_key, an_account

SCOPES = ("account:read", "keys:write", "markets:read", "signals:read")
WISH = KeyWish("production", live=True)
LATER = NOON + timedelta(days=10)
ENDS = st.one_of(st.none(), st.timedeltas(timedelta(seconds=1), timedelta(days=900)).map(lambda left: NOON + left))


# Keys.


@given(overlap=st.sampled_from(sorted(OVERLAPS)), expires_at=ENDS)
def test_a_rotation_prolongs_neither_key(overlap: str, expires_at: datetime | None) -> None:
    rotation = rotated(a_key(expires_at=expires_at), overlap, 1, NOON)
    assert rotation.successor.expires_at == expires_at
    assert NOON <= rotation.old_key_expires_at <= NOON + OVERLAPS[overlap]
    assert expires_at is None or rotation.old_key_expires_at <= expires_at


@pytest.mark.parametrize("overlap", sorted(OVERLAPS.keys() - {"0s"}))
def test_with_an_overlap_the_old_key_goes_on_and_then_ends(overlap: str) -> None:
    old = rotated(a_key(), overlap, 1, NOON).old
    ends = NOON + OVERLAPS[overlap]
    assert (old.status(ends - timedelta(microseconds=1)), old.status(ends)) == (KeyStatus.ACTIVE, KeyStatus.EXPIRED)


def test_without_an_overlap_the_old_key_is_revoked_as_rotated() -> None:
    old = rotated(a_key(), "0s", 1, NOON).old
    assert (old.revoked_at, old.revoked_reason, old.expires_at) == (NOON, RevokedReason.ROTATED, None)


def test_a_successor_has_the_same_rights() -> None:
    key = a_key(live=False, scopes=("keys:write",), allowed_addresses=("203.0.113.0/24",))
    successor = rotated(key, "24h", 1, NOON).successor
    assert successor == KeyWish("production", False, ("keys:write",), ("203.0.113.0/24",), None)


@pytest.mark.parametrize("key", [a_key(revoked_at=NOON), a_key(expires_at=NOON)])
def test_a_key_that_is_over_is_not_rotated(key: object) -> None:
    assert _refused(rotated, key, "1h", 1, NOON).refusal is Refusal.KEY_NOT_ACTIVE


@pytest.mark.parametrize("overlap", ["", "0", "2h", "24H", "86400s"])
def test_an_overlap_is_one_of_five(overlap: str) -> None:
    assert _refused(rotated, a_key(), overlap, 1, NOON).field == "overlap"


def test_an_account_that_is_full_may_replace_a_key_at_once_and_not_by_and_by() -> None:
    assert rotated(a_key(), "0s", KEYS_AT_MOST, NOON).old.revoked_at == NOON
    assert _refused(rotated, a_key(), "1h", KEYS_AT_MOST, NOON).refusal is Refusal.TOO_MANY_KEYS


def test_the_last_key_that_an_account_may_have_is_made_and_no_more() -> None:
    has_room(KEYS_AT_MOST - 1)
    assert _refused(has_room, KEYS_AT_MOST).refusal is Refusal.TOO_MANY_KEYS


def test_what_was_revoked_keeps_its_first_reason_and_time() -> None:
    once = revoked(a_key(), RevokedReason.LEAKED, NOON)
    assert revoked(once, RevokedReason.REVOKED, LATER) == once


def test_a_revoked_key_that_also_expired_counts_as_revoked() -> None:
    assert a_key(expires_at=NOON, revoked_at=NOON).status(LATER) is KeyStatus.REVOKED


def test_the_usual_scopes_are_granted_where_none_is_asked_for() -> None:
    assert granted(WISH, SCOPES, NOON).scopes == ("account:read", "markets:read", "signals:read")


def test_a_wish_is_kept_in_one_form() -> None:
    wish = replace(
        WISH,
        name="  production ",
        scopes=("signals:read", "keys:write", "signals:read"),
        allowed_addresses=("2001:DB8::0001", "203.0.113.0/24", "203.0.113.7", "203.0.113.7"),
    )
    kept = granted(wish, SCOPES, NOON)
    assert (kept.name, kept.scopes) == ("production", ("keys:write", "signals:read"))
    assert kept.allowed_addresses == ("2001:db8::1", "203.0.113.0/24", "203.0.113.7")


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        (replace(WISH, name=""), "name"),
        (replace(WISH, name="  "), "name"),
        (replace(WISH, name="n" * 101), "name"),
        (replace(WISH, name="two\nlines"), "name"),
        (replace(WISH, name="was stratum_live_0123456789abcdef"), "name"),
        (replace(WISH, scopes=("signals:write",)), "scopes"),
        (replace(WISH, allowed_addresses=("203.0.113.300",)), "allowed_addresses"),
        (replace(WISH, allowed_addresses=("203.0.113.7/24",)), "allowed_addresses"),
        (replace(WISH, allowed_addresses=("fe80::1%eth0",)), "allowed_addresses"),
        (replace(WISH, allowed_addresses=("example.org",)), "allowed_addresses"),
        (replace(WISH, allowed_addresses=("203.0.113.7",) * 101), "allowed_addresses"),
        (replace(WISH, expires_at=NOON), "expires_at"),
    ],
)
def test_a_wish_that_cannot_be_is_refused_by_its_field(wish: KeyWish, field: str) -> None:
    assert _refused(granted, wish, SCOPES, NOON).field == field


def test_a_key_that_slipped_into_the_wrong_field_is_not_told_back() -> None:
    slipped = replace(WISH, allowed_addresses=("stratum_live_0123456789abcdefghijABCDEFGHIJ012345",))
    assert "0123456789" not in _refused(granted, slipped, SCOPES, NOON).message


def test_where_a_key_was_found_is_kept_without_the_key() -> None:
    told = place_of_find(" https://paste.example/?k=stratum_live_0123456789abcdefghijABCDEFGHIJ012345 line 7 ")
    assert told == "https://paste.example/?k=stratum_live_… line 7"
    assert _refused(place_of_find, "x" * 1001).field == "found_at"


# Accounts.

NOVEMBER = UsedPeriod(unused(an_account(), NOON).period, 10_000, 100, used_units=7_000)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", " "),
        ("email", "nobody"),
        ("email", "a@b c"),
        ("email", f"{'a' * 250}@b.cd"),
        ("api_plan_code", "api_weekly"),
        ("rate_class", "warp"),
        ("api_usage_soft_limit", -1),
        ("api_usage_soft_limit", 100_000_001),
        ("api_overage_rate_cents", -1),
    ],
)
def test_an_account_that_cannot_be_is_refused_by_its_field(field: str, value: object) -> None:
    assert _refused(checked, an_account(**{field: value})).field == f"account.{field}"


def test_another_plan_begins_now_with_its_own_terms_and_cuts_the_present_period() -> None:
    change = changed(an_account(), {"api_plan_code": "api_annual"}, NOVEMBER, LATER)
    assert change.account == an_account(api_plan_code="api_annual", api_usage_soft_limit=120_000, period_anchor=LATER)
    assert change.present == replace(NOVEMBER, period=Period(NOON, LATER))


def test_another_plan_takes_the_terms_that_come_with_it() -> None:
    values = {"api_plan_code": "api_annual", "api_usage_soft_limit": 500_000}
    assert changed(an_account(), values, None, LATER).account.api_usage_soft_limit == 500_000


def test_a_period_in_which_nothing_was_counted_is_cut_as_well_so_that_late_calls_find_it() -> None:
    present = changed(an_account(), {"api_plan_code": "api_annual"}, None, LATER).present
    assert present == UsedPeriod(Period(NOON, LATER), 10_000, 100)


def test_another_plan_in_a_periods_first_moment_replaces_the_period() -> None:
    change = changed(an_account(), {"api_plan_code": "api_annual"}, None, NOON)
    assert change.present == unused(change.account, NOON)


def test_the_same_plan_named_again_changes_no_period() -> None:
    change = changed(an_account(), {"api_plan_code": "api_monthly", "name": "New"}, NOVEMBER, LATER)
    assert (change.account.period_anchor, change.account.name, change.present) == (NOON, "New", None)


@pytest.mark.parametrize(
    ("field", "value", "terms"),
    [("api_usage_soft_limit", 20_000, (20_000, 100)), ("api_overage_rate_cents", 50, (10_000, 50))],
)
def test_another_limit_or_rate_holds_for_the_present_period(field: str, value: int, terms: tuple[int, int]) -> None:
    present = changed(an_account(), {field: value}, NOVEMBER, LATER).present
    assert present is not None
    assert (present.soft_limit, present.overage_rate_cents) == terms
    assert (present.period, present.used_units) == (NOVEMBER.period, 7_000)


@pytest.mark.parametrize("values", [{}, {"id": "x"}, {"period_anchor": NOON}, {"created_at": NOON}])
def test_what_an_operator_cannot_change_is_refused(values: dict[str, object]) -> None:
    assert _refused(changed, an_account(), values, None, NOON).field == "update_mask"


def _refused(rule: object, *arguments: object) -> RefusedError:
    assert callable(rule)
    with pytest.raises(RefusedError) as refused:
        rule(*arguments)
    return refused.value

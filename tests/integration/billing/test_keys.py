"""Keys: issued, listed, rotated and revoked, by operators and by partners; and reported by whoever finds one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import text
from stratum.billing.v1 import accounts_service_pb2 as accounts
from stratum.billing.v1 import billing_service_pb2 as billing
from stratum.billing.v1.key_pb2 import ApiKey

from services.billing.entitlements import KEYS_AT_MOST, NEW_KEYS_AT_MOST
from services.billing.service_testing import ALL_SCOPES, PEPPERS, Billing, refused
from services.billing.testing import NOON
from services.shared import api_keys

Status = ApiKey.Status


def stamp(moment: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment)
    return made


async def keys_of(service: Billing, account_id: str) -> list[ApiKey]:
    answer = await service.operator.ListKeys(accounts.ListKeysRequest(account_id=account_id))
    return list(answer.keys)


async def rotated(service: Billing, key_id: str, overlap: str) -> accounts.RotateKeyResponse:
    answer: accounts.RotateKeyResponse = await service.operator.RotateKey(
        accounts.RotateKeyRequest(key_id=key_id, overlap=overlap)
    )
    return answer


async def columns(service: Billing, question: str, **values: object) -> Any:
    async with service.database.begin() as connection:
        return (await connection.execute(text(question), values)).one()


async def test_a_key_is_shown_once_and_kept_as_a_hash_under_the_newest_pepper(billing_service: Billing) -> None:
    account = await billing_service.account()
    issued = await billing_service.key(account.id)
    assert api_keys.is_well_formed(issued.secret)
    assert api_keys.is_live(issued.secret)
    row = await columns(billing_service, "SELECT pepper_version, hash FROM api_key")
    assert (row.pepper_version, bytes(row.hash)) == PEPPERS.sign(issued.secret.encode())
    assert row.pepper_version == 2
    (listed,) = await keys_of(billing_service, account.id)
    assert listed == issued.key
    assert listed.hint == f"stratum_live_…{issued.secret[-4:]}"
    assert issued.secret not in str(listed)


async def test_a_test_key_looks_like_one(billing_service: Billing) -> None:
    account = await billing_service.account()
    issued = await billing_service.key(account.id, mode=ApiKey.Mode.TEST)
    assert issued.secret.startswith("stratum_test_")
    assert issued.key.mode == ApiKey.Mode.TEST


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("mode", {"mode": ApiKey.Mode.UNSPECIFIED}),
        ("name", {"name": ""}),
        ("scopes", {"scopes": ["everything"]}),
        ("allowed_addresses", {"allowed_addresses": ["10.0.0.0/33"]}),
        ("expires_at", {"expires_at": stamp(NOON)}),
        ("expires_at", {"expires_at": Timestamp(seconds=10**12)}),
    ],
)
async def test_a_key_that_cannot_be_is_not_made(billing_service: Billing, field: str, given: dict[str, Any]) -> None:
    account = await billing_service.account()
    told = await refused(billing_service.key(account.id, **given))
    assert (told.code, told.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    assert await keys_of(billing_service, account.id) == []


async def test_an_account_has_room_for_twenty_keys_that_open_something(billing_service: Billing) -> None:
    account = await billing_service.account()
    ends = stamp(NOON + timedelta(hours=1))
    made = [await billing_service.key(account.id, expires_at=ends) for _ in range(KEYS_AT_MOST)]
    told = await refused(billing_service.key(account.id))
    assert (told.code, told.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TOO_MANY_KEYS")
    await billing_service.operator.RevokeKey(accounts.RevokeKeyRequest(key_id=made[0].key.id))
    await billing_service.key(account.id)
    billing_service.clock.passes(hours=1)
    await billing_service.key(account.id)
    assert len(await keys_of(billing_service, account.id)) == KEYS_AT_MOST + 2


async def test_twenty_five_at_once_make_twenty(billing_service: Billing) -> None:
    account = await billing_service.account()
    answers = await asyncio.gather(
        *(billing_service.key(account.id) for _ in range(KEYS_AT_MOST + 5)), return_exceptions=True
    )
    assert sum(isinstance(answer, accounts.IssueKeyResponse) for answer in answers) == KEYS_AT_MOST
    assert len(await keys_of(billing_service, account.id)) == KEYS_AT_MOST


# Rotation.


async def test_a_successor_inherits_rights_end_and_lineage(billing_service: Billing) -> None:
    account = await billing_service.account()
    ends = stamp(NOON + timedelta(days=90))
    first = await billing_service.key(account.id, allowed_addresses=["203.0.113.7"], expires_at=ends)
    second = await rotated(billing_service, first.key.id, "24h")
    third = await rotated(billing_service, second.key.id, "0s")
    assert len({first.secret, second.secret, third.secret}) == 3
    assert (second.key.replaces, third.key.replaces) == (first.key.id, second.key.id)
    for successor in (second.key, third.key):
        assert tuple(successor.scopes) == ALL_SCOPES
        assert (list(successor.allowed_addresses), successor.expires_at) == (["203.0.113.7"], ends)
    lineages = await columns(billing_service, "SELECT array_agg(DISTINCT lineage) AS all FROM api_key")
    assert lineages.all == [first.key.id]


async def test_a_partner_who_rotates_without_end_comes_to_one_and_an_operator_still_can(
    billing_service: Billing,
) -> None:
    account = await billing_service.account()
    key_id = (await billing_service.key(account.id)).key.id
    # As so many rotations leave them.
    async with billing_service.database.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO api_key SELECT (made).* FROM (SELECT jsonb_populate_record(key, jsonb_build_object("
                "'id', 'key_' || number, 'hash', '\\x' || md5(number::text), 'revoked_at', key.created_at)) AS made "
                "FROM api_key AS key, generate_series(3, :most) AS number) AS rotated"
            ),
            {"most": NEW_KEYS_AT_MOST},
        )
    first = billing.RotateOwnKeyRequest(key_id=key_id, overlap="0s")
    key_id = (await billing_service.partner("RotateOwnKey", first, account.id)).key.id
    again = billing.RotateOwnKeyRequest(key_id=key_id, overlap="0s")
    told = await refused(billing_service.partner("RotateOwnKey", again, account.id))
    assert (told.code, told.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TOO_MANY_KEYS")
    by_operator = (await rotated(billing_service, key_id, "0s")).key.id
    billing_service.clock.passes(days=1)
    tomorrow = billing.RotateOwnKeyRequest(key_id=by_operator, overlap="0s")
    assert (await billing_service.partner("RotateOwnKey", tomorrow, account.id)).secret


async def test_a_rotated_key_goes_on_for_the_overlap_and_no_longer(billing_service: Billing) -> None:
    account = await billing_service.account()
    first = await billing_service.key(account.id)
    second = await rotated(billing_service, first.key.id, "1h")
    assert second.old_key_expires_at.ToDatetime(tzinfo=UTC) == NOON + timedelta(hours=1)
    billing_service.clock.passes(minutes=59)
    assert {key.status for key in await keys_of(billing_service, account.id)} == {Status.ACTIVE}
    billing_service.clock.passes(minutes=1)
    after = {key.id: key.status for key in await keys_of(billing_service, account.id)}
    assert after == {first.key.id: Status.EXPIRED, second.key.id: Status.ACTIVE}


async def test_an_overlap_never_outlives_the_old_keys_own_end(billing_service: Billing) -> None:
    account = await billing_service.account()
    ends = stamp(NOON + timedelta(hours=2))
    first = await billing_service.key(account.id, expires_at=ends)
    second = await rotated(billing_service, first.key.id, "30d")
    assert (second.old_key_expires_at, second.key.expires_at) == (ends, ends)


async def test_without_an_overlap_the_old_key_ends_now_as_rotated(billing_service: Billing) -> None:
    account = await billing_service.account()
    first = await billing_service.key(account.id)
    await rotated(billing_service, first.key.id, "0s")
    old = next(key for key in await keys_of(billing_service, account.id) if key.id == first.key.id)
    assert (old.status, old.revoked_reason) == (Status.REVOKED, "rotated")
    told = await refused(rotated(billing_service, first.key.id, "0s"))
    assert (told.code, told.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "KEY_NOT_ACTIVE")


async def test_two_rotations_at_once_without_overlap_make_one_successor(billing_service: Billing) -> None:
    account = await billing_service.account()
    first = await billing_service.key(account.id)
    answers = await asyncio.gather(
        *(rotated(billing_service, first.key.id, "0s") for _ in range(2)), return_exceptions=True
    )
    assert sum(isinstance(answer, accounts.RotateKeyResponse) for answer in answers) == 1


# What partners do.


async def test_a_partner_sees_and_changes_only_his_own_keys(billing_service: Billing) -> None:
    mine, other = await billing_service.account(), await billing_service.account()
    own, foreign = await billing_service.key(mine.id), await billing_service.key(other.id)
    listed = await billing_service.partner("ListOwnKeys", billing.ListOwnKeysRequest(), mine.id)
    assert [key.id for key in listed.keys] == [own.key.id]
    for method, request in (
        ("RevokeOwnKey", billing.RevokeOwnKeyRequest(key_id=foreign.key.id)),
        ("RotateOwnKey", billing.RotateOwnKeyRequest(key_id=foreign.key.id, overlap="0s")),
        ("RevokeOwnKey", billing.RevokeOwnKeyRequest(key_id="key_none")),
    ):
        told = await refused(billing_service.partner(method, request, mine.id))
        assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "KEY_NOT_FOUND")
    assert [key.status for key in await keys_of(billing_service, other.id)] == [Status.ACTIVE]


async def test_a_partner_rotates_and_revokes_his_own(billing_service: Billing) -> None:
    mine = await billing_service.account()
    own = await billing_service.key(mine.id)
    request = billing.RotateOwnKeyRequest(key_id=own.key.id, overlap="7d")
    successor = await billing_service.partner("RotateOwnKey", request, mine.id)
    assert api_keys.is_well_formed(successor.secret)
    revoke = billing.RevokeOwnKeyRequest(key_id=own.key.id)
    ended = (await billing_service.partner("RevokeOwnKey", revoke, mine.id)).key
    assert (ended.status, ended.revoked_reason) == (Status.REVOKED, "revoked")
    billing_service.clock.passes(hours=1)
    again = (await billing_service.partner("RevokeOwnKey", revoke, mine.id)).key
    assert again.revoked_at == ended.revoked_at


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("RevokeOwnKey", billing.RevokeOwnKeyRequest(key_id="key_any")),
        ("RotateOwnKey", billing.RotateOwnKeyRequest(key_id="key_any", overlap="0s")),
    ],
)
async def test_a_test_key_changes_nothing(billing_service: Billing, method: str, request_: Any) -> None:
    told = await refused(billing_service.partner(method, request_, "acct_any", test=True))
    assert (told.code, told.reason) == (grpc.StatusCode.PERMISSION_DENIED, "TEST_KEY")


async def test_a_partner_is_never_let_in_to_what_operators_do(billing_service: Billing) -> None:
    account = await billing_service.account()
    with pytest.raises(AttributeError):
        await billing_service.partner("IssueKey", accounts.IssueKeyRequest(account_id=account.id), account.id)
    told = await refused(billing_service.partners.GetPlan(billing.GetPlanRequest()))
    assert (told.code, told.reason) == (grpc.StatusCode.UNAUTHENTICATED, "PRINCIPAL_INVALID")


# Leaks.


async def test_a_reported_key_is_revoked_at_once_and_reporting_it_again_says_the_same(billing_service: Billing) -> None:
    account = await billing_service.account()
    issued = await billing_service.key(account.id)
    assert await billing_service.report_leak(f" {issued.secret}\n", found_at="https://paste.example/1") is True
    billing_service.clock.passes(minutes=5)
    assert await billing_service.report_leak(issued.secret) is True
    (key,) = await keys_of(billing_service, account.id)
    assert (key.status, key.revoked_reason) == (Status.REVOKED, "leaked")
    assert key.revoked_at.ToDatetime(tzinfo=UTC) == NOON


async def test_a_key_made_under_an_older_pepper_is_found_too(billing_service: Billing) -> None:
    account = await billing_service.account()
    issued = await billing_service.key(account.id)
    version, digest = PEPPERS.every(issued.secret.encode())[1]
    async with billing_service.database.begin() as connection:
        await connection.execute(
            text("UPDATE api_key SET pepper_version = :version, hash = :hash"), {"version": version, "hash": digest}
        )
    assert await billing_service.report_leak(issued.secret) is True


@pytest.mark.parametrize("report", ["", "hello", "stratum_live_x", api_keys.made(api_keys.LIVE), "x" * 10_000, "\0"])
async def test_a_strangers_text_that_is_no_key_of_ours_gets_the_same_answer(
    billing_service: Billing, report: str
) -> None:
    account = await billing_service.account()
    await billing_service.key(account.id)
    assert await billing_service.report_leak(report) is False
    assert [key.status for key in await keys_of(billing_service, account.id)] == [Status.ACTIVE]


async def test_a_report_is_one_of_the_posts_that_need_a_key_of_their_own(billing_service: Billing) -> None:
    told = await refused(billing_service.report_leak("hello", repeat_key=None))
    assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "IDEMPOTENCY_KEY_MISSING")


async def test_two_strangers_who_choose_the_same_idempotency_key_do_not_meet(billing_service: Billing) -> None:
    account = await billing_service.account()
    one, two = await billing_service.key(account.id), await billing_service.key(account.id)
    assert await billing_service.report_leak(one.secret, repeat_key="1") is True
    assert await billing_service.report_leak(two.secret, repeat_key="1") is True


async def test_a_long_story_of_where_a_key_was_found_is_refused(billing_service: Billing) -> None:
    assert (await refused(billing_service.report_leak("hello", found_at="x" * 1001))).field == "found_at"

"""A call that is repeated with its idempotency key: made once, answered alike, and without the secret."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from sqlalchemy import text
from stratum.billing.v1 import account_pb2
from stratum.billing.v1 import accounts_service_pb2 as accounts
from stratum.billing.v1 import billing_service_pb2 as billing

from services.billing.service_testing import Billing, refused
from services.shared.testing import eventually

REPEATED = "6f7c"


async def count(service: Billing, table: str) -> int:
    async with service.database.begin() as connection:
        return int(await connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0)


async def test_two_concurrent_issues_with_one_idempotency_key_make_one_key(billing_service: Billing) -> None:
    account = await billing_service.account()
    answers = await asyncio.gather(*(billing_service.key(account.id, REPEATED) for _ in range(8)))
    assert await count(billing_service, "api_key") == 1
    assert len({answer.key.id for answer in answers}) == 1
    assert sorted(bool(answer.secret) for answer in answers) == [False] * 7 + [True]


async def test_a_loser_waits_for_the_winner_and_does_it_himself_when_that_one_fails(billing_service: Billing) -> None:
    account = await billing_service.account()
    async with billing_service.database.engine.connect() as winner:
        await winner.execute(
            text(
                "INSERT INTO idempotency (caller, key, method, request_digest, response) "
                "VALUES ('tests', :key, 'any', '', '')"
            ),
            {"key": REPEATED},
        )
        loser = asyncio.create_task(billing_service.key(account.id, REPEATED))
        await _somebody_waits(billing_service)
        assert not loser.done()
        await winner.rollback()
    assert (await loser).secret


async def test_a_repeated_issue_gives_the_same_key_without_its_secret(billing_service: Billing) -> None:
    account = await billing_service.account()
    first = await billing_service.key(account.id, REPEATED)
    again = await billing_service.key(account.id, REPEATED)
    assert again == accounts.IssueKeyResponse(key=first.key)


async def test_a_repeated_rotation_gives_the_same_successor_without_its_secret(billing_service: Billing) -> None:
    account = await billing_service.account()
    issued = await billing_service.key(account.id)
    request = billing.RotateOwnKeyRequest(key_id=issued.key.id, overlap="0s")
    first = await billing_service.partner("RotateOwnKey", request, account.id, REPEATED)
    again = await billing_service.partner("RotateOwnKey", request, account.id, REPEATED)
    assert first.secret
    assert again == billing.RotateOwnKeyResponse(key=first.key, old_key_expires_at=first.old_key_expires_at)


async def test_a_repeated_account_is_one_account(billing_service: Billing) -> None:
    request = accounts.CreateAccountRequest(account=account_pb2.Account(name="One", email="a@b.example"))

    async def create() -> Any:
        return await billing_service.operator.CreateAccount(request, metadata=[("idempotency-key", REPEATED)])

    assert await create() == await create()
    assert await count(billing_service, "account") == 1


async def test_the_same_idempotency_key_for_another_call_is_refused(billing_service: Billing) -> None:
    account = await billing_service.account()
    await billing_service.key(account.id, REPEATED)
    told = await refused(billing_service.key(account.id, REPEATED, name="another"))
    assert (told.code, told.reason) == (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_KEY_REUSED")
    told = await refused(
        billing_service.operator.RevokeKey(
            accounts.RevokeKeyRequest(key_id="key_1"), metadata=[("idempotency-key", REPEATED)]
        )
    )
    assert told.reason == "IDEMPOTENCY_KEY_REUSED"


async def test_two_accounts_may_choose_the_same_idempotency_key(billing_service: Billing) -> None:
    for _ in range(2):
        account = await billing_service.account()
        issued = await billing_service.key(account.id)
        request = billing.RotateOwnKeyRequest(key_id=issued.key.id, overlap="0s")
        assert (await billing_service.partner("RotateOwnKey", request, account.id, REPEATED)).secret


async def test_a_refused_call_may_be_corrected_under_its_key(billing_service: Billing) -> None:
    account = await billing_service.account()
    await refused(billing_service.key(account.id, REPEATED, name=""))
    assert (await billing_service.key(account.id, REPEATED)).secret


async def test_a_partners_change_without_a_key_is_refused_and_an_operators_is_not(billing_service: Billing) -> None:
    account = await billing_service.account()
    issued = await billing_service.key(account.id)
    request = billing.RevokeOwnKeyRequest(key_id=issued.key.id)
    told = await refused(billing_service.partner("RevokeOwnKey", request, account.id, repeat_key=None))
    assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "IDEMPOTENCY_KEY_MISSING")
    await billing_service.operator.RevokeKey(accounts.RevokeKeyRequest(key_id=issued.key.id))


async def _somebody_waits(service: Billing) -> None:
    async def waits() -> bool:
        async with service.database.begin() as connection:
            waiting = (
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%idempotency%' "
                "AND datname = current_database()"
            )
            return bool(await connection.scalar(text(waiting)))

    await eventually(waits)

"""What others learn: the access table, the events on the bus, and never a secret."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import UTC, timedelta
from functools import partial

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from sqlalchemy import text
from stratum.billing.v1 import access_service_pb2 as access
from stratum.billing.v1 import account_pb2
from stratum.billing.v1 import accounts_service_pb2 as accounts
from stratum.billing.v1 import billing_service_pb2 as billing
from stratum.billing.v1.events_pb2 import AccountEvent
from stratum.billing.v1.metering_service_pb2 import RecordUsageRequest

from services.billing import store
from services.billing.events import access_changed
from services.billing.ledger import Ledger
from services.billing.metering import MeteringApi, reachable_methods
from services.billing.metering_testing import a_line
from services.billing.service_testing import Billing
from services.billing.testing import NOON
from services.billing.turnover import tell_turned
from services.shared.bus import ACCOUNTS, Bus, partition_of
from services.shared.testing import eventually, stored


async def table(service: Billing, after: int = 0) -> access.GetAccessTableResponse:
    answer: access.GetAccessTableResponse = await service.table.GetAccessTable(
        access.GetAccessTableRequest(after_revision=after)
    )
    return answer


async def events(bus: Bus) -> list[AccountEvent]:
    return [AccountEvent.FromString(delivery.payload) for delivery in await stored(bus, ACCOUNTS)]


async def revoke(service: Billing, key_id: str) -> None:
    await service.operator.RevokeKey(accounts.RevokeKeyRequest(key_id=key_id))


# The access table.


async def test_an_empty_table_has_an_epoch_and_is_complete(billing_service: Billing) -> None:
    empty = await table(billing_service)
    assert (empty.revision, empty.complete, len(empty.epoch)) == (0, True, 16)


async def test_the_whole_table_says_what_each_key_opens_and_what_its_account_may(billing_service: Billing) -> None:
    account = await billing_service.account(rate_class="professional")
    issued = await billing_service.key(account.id, allowed_addresses=["203.0.113.0/24"])
    whole = await table(billing_service)
    assert (whole.complete, whole.revision) == (True, 2)
    (held,), (key,) = whole.accounts, whole.keys
    assert (held.account_id, held.rate_limit.requests, held.api_access_enabled) == (account.id, 1_200, True)
    assert (held.period_start.ToDatetime(tzinfo=UTC), held.included_units, held.used_units) == (NOON, 10_000, 0)
    assert (key.key_id, key.lineage, key.live, key.pepper_version) == (issued.key.id, issued.key.id, True, 2)
    assert (list(key.allowed_addresses), list(key.scopes)) == (["203.0.113.0/24"], list(issued.key.scopes))


async def test_behind_a_revision_there_is_only_what_changed_since(billing_service: Billing) -> None:
    account = await billing_service.account()
    kept, ended = await billing_service.key(account.id), await billing_service.key(account.id)
    before = (await table(billing_service)).revision
    await revoke(billing_service, ended.key.id)
    delta = await table(billing_service, before)
    assert (delta.complete, delta.revision, len(delta.accounts)) == (False, before + 1, 0)
    assert [(key.key_id, key.HasField("revoked_at")) for key in delta.keys] == [(ended.key.id, True)]
    nothing = await table(billing_service, delta.revision)
    assert (nothing.complete, len(nothing.keys), kept.key.id in str(delta)) == (False, 0, False)


async def test_who_asks_behind_a_revision_that_never_was_gets_everything(billing_service: Billing) -> None:
    account = await billing_service.account()
    await billing_service.key(account.id)
    for after in (1_000, -1):
        answer = await table(billing_service, after)
        assert (answer.complete, len(answer.accounts), len(answer.keys)) == (True, 1, 1)


async def test_a_rotation_is_one_revision_with_both_keys_in_it(billing_service: Billing) -> None:
    account = await billing_service.account()
    issued = await billing_service.key(account.id)
    before = (await table(billing_service)).revision
    await billing_service.operator.RotateKey(accounts.RotateKeyRequest(key_id=issued.key.id, overlap="1h"))
    delta = await table(billing_service, before)
    assert delta.revision == before + 1
    assert {key.lineage for key in delta.keys} == {issued.key.id}
    assert sorted(key.HasField("expires_at") for key in delta.keys) == [False, True]


async def test_what_was_used_is_that_of_the_period_that_holds_now(billing_service: Billing) -> None:
    account = await billing_service.account()
    async with billing_service.database.begin() as connection:
        await connection.execute(
            text("INSERT INTO usage_period VALUES (:account, :start, :end, 10000, 100, 123, 4)"),
            {"account": account.id, "start": NOON, "end": NOON + timedelta(days=30)},
        )
    (during,) = (await table(billing_service)).accounts
    assert (during.used_units, during.overage_units) == (123, 4)
    billing_service.clock.passes(days=30)
    (after,) = (await table(billing_service)).accounts
    assert (after.used_units, after.period_start.ToDatetime(tzinfo=UTC)) == (0, NOON.replace(month=12))


async def test_nobody_who_follows_revisions_misses_a_change_that_commits_late(billing_service: Billing) -> None:
    account = await billing_service.account()

    async def change() -> None:
        await billing_service.key(account.id)

    seen: set[str] = set()
    after = 0
    changing = asyncio.gather(*(change() for _ in range(20)))
    while not changing.done() or after < (await table(billing_service)).revision:
        delta = await table(billing_service, after)
        seen.update(key.key_id for key in delta.keys)
        after = delta.revision
    assert seen == {key.key_id for key in (await table(billing_service)).keys}
    assert len(seen) == 20


async def test_the_table_is_of_one_moment(billing_service: Billing) -> None:
    account = await billing_service.account()
    issued = await billing_service.key(account.id)
    async with billing_service.database.begin() as connection:
        rows = await store.load_access(connection, 1, NOON)
        await revoke(billing_service, issued.key.id)
        again = await connection.scalar(text("SELECT revision FROM access_table"))
    assert (rows.revision, again) == (2, 2)


async def test_a_period_that_begins_is_in_the_table_once_without_anybodys_call(billing_service: Billing) -> None:
    account = await billing_service.account()
    before, began = await table(billing_service), NOON.replace(month=12)
    turned = (billing_service.database, billing_service.events)
    assert await tell_turned(*turned, NOON - timedelta(days=1), NOON) == 0
    assert await tell_turned(*turned, NOON, began - timedelta(seconds=1)) == 0
    assert await tell_turned(*turned, began - timedelta(seconds=1), began) == 1
    assert await tell_turned(*turned, began, began + timedelta(days=1)) == 0
    billing_service.clock.now = began
    (held,) = (await table(billing_service, before.revision)).accounts
    assert (held.account_id, held.period_start.ToDatetime(tzinfo=UTC)) == (account.id, began)


async def test_what_was_used_is_in_the_table_and_adds_nothing_to_a_stream_that_nobody_empties(
    billing_service: Billing,
) -> None:
    account = await billing_service.account()
    await billing_service.key(account.id)
    before = await table(billing_service)
    ledger = Ledger(billing_service.database, billing_service.events, reachable_methods())
    line = a_line(at=NOON, account_id=account.id, key_id=before.keys[0].key_id)
    kept = text("SELECT count(*) FROM outbox")
    async with billing_service.database.begin() as connection:
        said = await connection.scalar(kept)
    recorded = await MeteringApi(ledger, billing_service.clock).RecordUsage(RecordUsageRequest(lines=[line]), None)  # type: ignore[arg-type]  # the handler has no use for a context
    assert recorded.recorded == 1
    after = await table(billing_service, before.revision)
    assert (after.revision, [held.used_units for held in after.accounts]) == (before.revision + 1, [1])
    async with billing_service.database.begin() as connection:
        assert await connection.scalar(kept) == said


# Events.


async def test_a_revocation_is_on_the_bus_well_within_a_second(billing_service: Billing, bus: Bus) -> None:
    account = await billing_service.account()
    issued = await billing_service.key(account.id)
    revision = (await table(billing_service)).revision

    async def issuing_was_said() -> bool:
        return any(event.access_changed.revision == revision for event in await events(bus))

    await eventually(issuing_was_said)
    begun = time.perf_counter()
    await revoke(billing_service, issued.key.id)

    async def was_said() -> bool:
        said = await events(bus)
        return any(event.access_changed.revision == revision + 1 for event in said)

    await eventually(was_said, within=0.9)
    assert time.perf_counter() - begun < 0.9
    *_, ended, changed = await events(bus)
    assert (ended.key_revoked.key_id, ended.key_revoked.reason) == (issued.key.id, "revoked")
    assert (changed.account_id, changed.access_changed.revision) == (account.id, revision + 1)


async def test_every_change_says_its_revision_in_their_order_and_once(billing_service: Billing, bus: Bus) -> None:
    account = await billing_service.account()
    await asyncio.gather(*(billing_service.key(account.id) for _ in range(10)))
    made = accounts.UpdateAccountRequest(
        account=account_pb2.Account(id=account.id, standing=account_pb2.Account.Standing.SUSPENDED),
        update_mask=FieldMask(paths=["standing"]),
    )
    await billing_service.operator.UpdateAccount(made)
    newest = (await table(billing_service)).revision

    async def all_are_said() -> bool:
        said = [event.access_changed.revision for event in await events(bus)]
        return said == list(range(1, newest + 1)) == list(range(1, 13))

    await eventually(all_are_said)


@pytest.mark.parametrize("accounts_at_once", [8])
async def test_what_many_accounts_say_at_once_all_arrives(
    billing_service: Billing, bus: Bus, accounts_at_once: int
) -> None:
    await asyncio.gather(*(billing_service.account() for _ in range(accounts_at_once)))

    async def all_are_said() -> bool:
        said = [event.access_changed.revision for event in await events(bus)]
        return said == list(range(1, accounts_at_once + 1))

    await eventually(all_are_said)


async def test_what_commits_late_is_published_although_a_later_one_of_another_partition_was_already_added(
    billing_service: Billing, bus: Bus
) -> None:
    one, other = "acct_1", "acct_2"
    assert partition_of(one) != partition_of(other)

    async def say(account_id: str) -> None:
        async with billing_service.database.begin() as connection:
            await billing_service.events.add(connection, [access_changed(account_id, 1, NOON)])
        billing_service.events.committed()

    async with billing_service.database.begin() as early:
        await billing_service.events.add(early, [access_changed(one, 1, NOON)])
        later = asyncio.create_task(say(other))
        # The later one has every chance to be published, which would take the early one as published too.
        with suppress(AssertionError):
            await eventually(partial(stored, bus, ACCOUNTS), within=1.0)
    await later

    async def both_are_said() -> bool:
        return [event.account_id for event in await events(bus)] == [one, other]

    await eventually(both_are_said)


async def test_who_counts_and_who_changes_keys_never_wait_for_each_other_in_a_circle(billing_service: Billing) -> None:
    made = sorted([(await billing_service.account()).id for _ in range(3)])

    async def count() -> None:
        async with billing_service.database.begin() as connection:
            await store.lock_accounts(connection, made)
            await billing_service.events.changed(connection, made)

    before = (await table(billing_service)).revision
    await asyncio.gather(*(count() for _ in range(15)), *(billing_service.key(made[n % 3]) for n in range(15)))
    after = await table(billing_service, before)
    assert (after.revision, len(after.keys), len(after.accounts)) == (before + 30, 15, 3)


async def test_a_leak_says_where_it_was_found_without_the_key(billing_service: Billing, bus: Bus) -> None:
    account = await billing_service.account()
    issued = await billing_service.key(account.id)
    await billing_service.report_leak(issued.secret, found_at=f"https://paste.example/?q={issued.secret}")
    await billing_service.report_leak(issued.secret, found_at="elsewhere")

    async def was_said() -> list[AccountEvent]:
        return [event for event in await events(bus) if event.HasField("key_revoked")]

    (ended,) = await eventually(was_said)
    assert (ended.key_revoked.reason, ended.key_revoked.found_at) == (
        "leaked",
        "https://paste.example/?q=stratum_live_…",
    )


async def test_a_leaked_key_that_may_rotate_takes_its_successors_along(billing_service: Billing, bus: Bus) -> None:
    account = await billing_service.account()
    issued = await billing_service.key(account.id)
    bystander = await billing_service.key(account.id)
    rotated = await billing_service.operator.RotateKey(accounts.RotateKeyRequest(key_id=issued.key.id, overlap="24h"))
    await billing_service.report_leak(issued.secret)
    listed = await billing_service.operator.ListKeys(accounts.ListKeysRequest(account_id=account.id))
    over = {key.id for key in listed.keys if key.revoked_reason == "leaked"}
    assert over == {issued.key.id, rotated.key.id}
    assert bystander.key.id not in over


async def test_a_refused_change_says_nothing_and_takes_no_revision(billing_service: Billing, bus: Bus) -> None:
    account = await billing_service.account()
    with pytest.raises(Exception, match="name"):
        await billing_service.key(account.id, name="")
    assert (await table(billing_service)).revision == 1


# Secrets.


async def test_the_database_and_the_bus_hold_no_secret(billing_service: Billing, bus: Bus) -> None:
    account = await billing_service.account()
    issued = await billing_service.key(account.id, "repeat-1")
    request = billing.RotateOwnKeyRequest(key_id=issued.key.id, overlap="1h")
    successor = await billing_service.partner("RotateOwnKey", request, account.id, "repeat-2")
    test_key = await billing_service.key(account.id, mode=2)
    await billing_service.report_leak(test_key.secret, found_at=test_key.secret)
    secrets = [issued.secret, successor.secret, test_key.secret]
    assert all(secrets)

    async def all_is_said() -> bool:
        return len(await events(bus)) == 6

    await eventually(all_is_said)
    said = b"".join([event.SerializeToString() for event in await events(bus)])
    rows = await everything(billing_service)
    assert any(issued.key.id in row for row in rows)
    for secret in secrets:
        # Neither whole nor without its prefix; bytes are shown as digits.
        chance = secret.rpartition("_")[2][:-4]
        for form in (chance, chance.encode().hex()):
            assert not [row for row in rows if form in row]
        assert chance.encode() not in said


async def everything(service: Billing) -> list[str]:
    """Every row of every table, as text."""
    found: list[str] = []
    async with service.database.begin() as connection:
        tables = await connection.scalars(
            text(
                "SELECT relname FROM pg_class WHERE relnamespace = 'billing'::regnamespace AND relkind IN ('r', 'p') "
                "AND has_table_privilege(oid, 'SELECT')"
            )
        )
        names = list(tables)
        assert {"api_key", "account", "idempotency", "outbox"} <= set(names)
        for name in names:
            rows = await connection.scalars(text(f"SELECT CAST(whole AS text) FROM billing.{name} AS whole"))
            found.extend(rows)
    return found

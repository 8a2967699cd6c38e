"""Accounts, as operators make, change and list them."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import insert, select
from stratum.billing.v1 import account_pb2
from stratum.billing.v1 import accounts_service_pb2 as accounts
from stratum.billing.v1 import billing_service_pb2 as billing

from services.billing import wire
from services.billing.service_testing import Billing, refused
from services.billing.tables import usage_period
from services.billing.testing import NOON

Standing = account_pb2.Account.Standing


async def update(service: Billing, account_id: str, *fields: str, **values: Any) -> account_pb2.Account:
    request = accounts.UpdateAccountRequest(
        account=account_pb2.Account(id=account_id, **values), update_mask=FieldMask(paths=fields or values.keys())
    )
    return (await service.operator.UpdateAccount(request)).account


async def counted(service: Billing, account_id: str, units: int) -> None:
    """What metering would have counted in the first month."""
    async with service.database.begin() as connection:
        await connection.execute(
            insert(usage_period).values(
                account_id=account_id,
                period_start=NOON,
                period_end=NOON + timedelta(days=30),
                soft_limit=10_000,
                overage_rate_cents=100,
                used_units=units,
                overage_units=max(0, units - 10_000),
            )
        )


async def periods(service: Billing) -> list[Any]:
    async with service.database.begin() as connection:
        column = usage_period.c
        rows = await connection.execute(
            select(column.period_start, column.period_end, column.soft_limit, column.used_units).order_by(
                column.period_start
            )
        )
        return [tuple(row) for row in rows]


async def test_what_a_new_account_does_not_say_is_taken_from_its_plan(billing_service: Billing) -> None:
    made = await billing_service.account()
    assert made.id.startswith("acct_")
    assert (made.api_plan_code, made.api_usage_soft_limit, made.api_overage_rate_cents) == ("api_monthly", 10_000, 100)
    assert (made.rate_class, made.standing) == ("standard", Standing.GOOD)
    assert made.period_anchor.ToDatetime(tzinfo=UTC) == NOON
    held = await billing_service.operator.GetAccount(accounts.GetAccountRequest(account_id=made.id))
    assert held.account == made


async def test_what_a_new_account_says_is_kept(billing_service: Billing) -> None:
    made = await billing_service.account(
        api_plan_code="api_annual", rate_class="enterprise", api_usage_soft_limit=7, standing=Standing.GRACE
    )
    assert (made.rate_class, made.api_usage_soft_limit, made.standing) == ("enterprise", 7, Standing.GRACE)


async def test_a_limit_and_a_rate_of_nothing_that_are_given_are_meant(billing_service: Billing) -> None:
    made = await billing_service.account(api_usage_soft_limit=0, api_overage_rate_cents=0)
    assert (made.api_usage_soft_limit, made.api_overage_rate_cents) == (0, 0)


async def test_an_account_that_cannot_be_is_refused_and_leaves_nothing(billing_service: Billing) -> None:
    told = await refused(billing_service.account(email="nobody"))
    assert (told.code, told.field) == (grpc.StatusCode.INVALID_ARGUMENT, "account.email")
    told = await refused(billing_service.account(period_anchor=Timestamp(seconds=-(10**12))))
    assert told.field == "account.period_anchor"
    assert not (await billing_service.operator.ListAccounts(accounts.ListAccountsRequest())).accounts


async def test_only_the_named_fields_change(billing_service: Billing) -> None:
    made = await billing_service.account()
    changed = await update(billing_service, made.id, "standing", standing=Standing.SUSPENDED, name="Not named")
    assert (changed.standing, changed.name) == (Standing.SUSPENDED, made.name)


@pytest.mark.parametrize("field", ["id", "period_anchor", "created_at", "password"])
async def test_what_cannot_be_changed_is_refused(billing_service: Billing, field: str) -> None:
    made = await billing_service.account()
    assert (await refused(update(billing_service, made.id, field))).field == "update_mask"


async def test_an_unknown_account_is_not_found(billing_service: Billing) -> None:
    for call in (
        update(billing_service, "acct_none", name="x"),
        billing_service.operator.GetAccount(accounts.GetAccountRequest(account_id="acct\0")),
        billing_service.operator.GetPlanStatus(accounts.GetPlanStatusRequest(account_id="acct_none")),
        billing_service.operator.GetUsageSummary(accounts.GetUsageSummaryRequest(account_id="acct_none")),
        billing_service.operator.ListKeys(accounts.ListKeysRequest(account_id="acct_none")),
        billing_service.key("acct_none"),
    ):
        assert (await refused(call)).reason == "ACCOUNT_NOT_FOUND"


async def test_another_limit_holds_in_the_period_that_is_counted(billing_service: Billing) -> None:
    made = await billing_service.account()
    await counted(billing_service, made.id, 9_000)
    billing_service.clock.passes(days=3)
    await update(billing_service, made.id, api_usage_soft_limit=20_000)
    assert await periods(billing_service) == [(NOON, NOON + timedelta(days=30), 20_000, 9_000)]


async def test_another_limit_holds_in_the_next_period_too_where_a_fast_clock_has_begun_it(
    billing_service: Billing,
) -> None:
    made = await billing_service.account(period_anchor=wire.timestamp(NOON.replace(month=10)))
    billing_service.clock.passes(minutes=-1)
    await counted(billing_service, made.id, 1)
    await update(billing_service, made.id, api_usage_soft_limit=20_000)
    assert await periods(billing_service) == [(NOON, NOON + timedelta(days=30), 20_000, 1)]


async def test_a_period_that_is_over_keeps_its_limit(billing_service: Billing) -> None:
    made = await billing_service.account()
    await counted(billing_service, made.id, 9_000)
    billing_service.clock.passes(days=31)
    await update(billing_service, made.id, api_usage_soft_limit=20_000)
    assert await periods(billing_service) == [(NOON, NOON + timedelta(days=30), 10_000, 9_000)]


async def test_another_plan_ends_the_present_period_and_begins_now(billing_service: Billing) -> None:
    made = await billing_service.account()
    await counted(billing_service, made.id, 9_000)
    billing_service.clock.passes(days=3)
    changed = await update(billing_service, made.id, api_plan_code="api_annual")
    now = billing_service.clock.now
    assert await periods(billing_service) == [(NOON, now, 10_000, 9_000)]
    assert changed.period_anchor.ToDatetime(tzinfo=UTC) == now
    answer = await billing_service.operator.GetPlanStatus(accounts.GetPlanStatusRequest(account_id=made.id))
    assert answer.plan.api_usage_soft_limit == 120_000
    assert answer.plan.period_start.ToDatetime(tzinfo=UTC) == now
    assert answer.plan.period_end.ToDatetime(tzinfo=UTC) == now.replace(year=2027)
    assert not answer.plan.in_overage


async def test_a_plan_says_what_is_over_its_limit_and_what_that_costs(billing_service: Billing) -> None:
    made = await billing_service.account()
    await counted(billing_service, made.id, 10_011)
    plan = (await billing_service.partner("GetPlan", billing.GetPlanRequest(), made.id)).plan
    assert (plan.in_overage, plan.overage_units, plan.overage_cost_cents) == (True, 11, 2)
    assert (plan.rate_limit.requests, plan.rate_limit.per_seconds) == (300, 60)


async def test_accounts_are_listed_page_by_page(billing_service: Billing) -> None:
    made = {(await billing_service.account()).id for _ in range(3)}
    first = await billing_service.operator.ListAccounts(accounts.ListAccountsRequest(page_size=2))
    rest = await billing_service.operator.ListAccounts(
        accounts.ListAccountsRequest(page_size=2, page_token=first.next_page_token)
    )
    assert (len(first.accounts), len(rest.accounts), rest.next_page_token) == (2, 1, "")
    assert {account.id for account in [*first.accounts, *rest.accounts]} == made


async def test_questions_about_usage_go_to_whoever_counts(billing_service: Billing) -> None:
    made = await billing_service.account()
    asked = accounts.GetUsageSummaryRequest(account_id=made.id)
    assert (await billing_service.operator.GetUsageSummary(asked)).usage.account_id == made.id
    usage = await billing_service.partner("GetUsage", billing.GetUsageRequest(), made.id)
    assert usage.usage.account_id == made.id
    quote = await billing_service.partner("QuoteUsage", billing.QuoteUsageRequest(path="/api/v1/plan"), made.id)
    assert quote.method == "/api/v1/plan"
    ledger = await billing_service.partner("ListUsageLedger", billing.ListUsageLedgerRequest(), made.id)
    assert [entry.request_id for entry in ledger.entries] == ["one"]

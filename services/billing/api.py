"""gRPC in and out: translate, have it done, translate back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Any, Protocol, TypeVar

from google.api.httpbody_pb2 import HttpBody
from google.protobuf.message import Message
from grpc.aio import ServicerContext
from sqlalchemy.ext.asyncio import AsyncConnection
from stratum.billing.v1 import access_service_pb2 as access
from stratum.billing.v1 import accounts_service_pb2 as accounts
from stratum.billing.v1 import billing_service_pb2 as billing
from stratum.billing.v1.access_service_pb2_grpc import AccessServiceServicer
from stratum.billing.v1.accounts_service_pb2_grpc import AccountsServiceServicer
from stratum.billing.v1.billing_service_pb2_grpc import BillingServiceServicer

from services.billing import changes, store, wire
from services.billing.changes import Changes
from services.billing.events import Clock
from services.billing.idempotency import Call, Once, key_from
from services.shared import paging, principal
from services.shared.clock import utc_now
from services.shared.database import Database
from services.shared.principal import Principal

Context = ServicerContext[Any, Any]
Response = TypeVar("Response", bound=Message)


class UsageApi(Protocol):
    """What answers the questions about usage."""

    async def GetUsage(self, request: billing.GetUsageRequest, context: Context) -> billing.GetUsageResponse: ...

    async def ListUsageLedger(
        self, request: billing.ListUsageLedgerRequest, context: Context
    ) -> billing.ListUsageLedgerResponse: ...

    def ExportUsageLedger(
        self, request: billing.ExportUsageLedgerRequest, context: Context
    ) -> AsyncIterator[HttpBody]: ...

    async def QuoteUsage(self, request: billing.QuoteUsageRequest, context: Context) -> billing.QuoteUsageResponse: ...

    async def summary(self, account_id: str, at: datetime | None) -> billing.UsageSummary:
        """An account's usage in the period that holds a moment; in the present one without. The account exists."""
        ...


class AccountsApi(AccountsServiceServicer):
    """What operators do about accounts and keys."""

    def __init__(self, database: Database, once: Once, desk: Changes, usage: UsageApi, clock: Clock = utc_now) -> None:
        self._database = database
        self._once = once
        self._desk = desk
        self._usage = usage
        self._clock = clock

    async def CreateAccount(
        self, request: accounts.CreateAccountRequest, context: Context
    ) -> accounts.CreateAccountResponse:
        async def create(connection: AsyncConnection) -> accounts.CreateAccountResponse:
            made = await self._desk.create_account(connection, request.account)
            return accounts.CreateAccountResponse(account=wire.account(made))

        return await self._change(request, context, accounts.CreateAccountResponse, create)

    async def UpdateAccount(
        self, request: accounts.UpdateAccountRequest, context: Context
    ) -> accounts.UpdateAccountResponse:
        async def update(connection: AsyncConnection) -> accounts.UpdateAccountResponse:
            changed = await self._desk.update_account(connection, request)
            return accounts.UpdateAccountResponse(account=wire.account(changed))

        return await self._change(request, context, accounts.UpdateAccountResponse, update)

    async def GetAccount(self, request: accounts.GetAccountRequest, _context: Context) -> accounts.GetAccountResponse:
        async with self._database.reading() as connection:
            held = await changes.account(connection, request.account_id)
        return accounts.GetAccountResponse(account=wire.account(held))

    async def ListAccounts(
        self, request: accounts.ListAccountsRequest, _context: Context
    ) -> accounts.ListAccountsResponse:
        size = paging.page_size(request.page_size)
        after = paging.decode(request.page_token, b"", str) if request.page_token else ""
        async with self._database.reading() as connection:
            found = await store.list_accounts(connection, after, size + 1)
        page = found[:size]
        return accounts.ListAccountsResponse(
            accounts=[wire.account(held) for held in page],
            next_page_token=paging.encode(page[-1].id, b"") if len(found) > size else "",
        )

    async def IssueKey(self, request: accounts.IssueKeyRequest, context: Context) -> accounts.IssueKeyResponse:
        async def issue(connection: AsyncConnection) -> accounts.IssueKeyResponse:
            issued = await self._desk.issue_key(connection, request.account_id, wire.key_wish(request))
            return accounts.IssueKeyResponse(key=wire.key(issued.key, self._clock()), secret=issued.secret)

        return await self._change(request, context, accounts.IssueKeyResponse, issue)

    async def ListKeys(self, request: accounts.ListKeysRequest, _context: Context) -> accounts.ListKeysResponse:
        now = self._clock()
        async with self._database.reading() as connection:
            held = await changes.account(connection, request.account_id)
            found = await store.list_keys(connection, held.id, now)
        return accounts.ListKeysResponse(keys=wire.keys(found, now))

    async def RevokeKey(self, request: accounts.RevokeKeyRequest, context: Context) -> accounts.RevokeKeyResponse:
        async def revoke(connection: AsyncConnection) -> accounts.RevokeKeyResponse:
            ended = await self._desk.revoke_key(connection, request.key_id)
            return accounts.RevokeKeyResponse(key=wire.key(ended, self._clock()))

        return await self._change(request, context, accounts.RevokeKeyResponse, revoke)

    async def RotateKey(self, request: accounts.RotateKeyRequest, context: Context) -> accounts.RotateKeyResponse:
        async def rotate(connection: AsyncConnection) -> accounts.RotateKeyResponse:
            rotated = await self._desk.rotate_key(connection, request.key_id, request.overlap)
            return accounts.RotateKeyResponse(
                key=wire.key(rotated.successor.key, self._clock()),
                secret=rotated.successor.secret,
                old_key_expires_at=wire.timestamp(rotated.old_key_expires_at),
            )

        return await self._change(request, context, accounts.RotateKeyResponse, rotate)

    async def GetUsageSummary(
        self, request: accounts.GetUsageSummaryRequest, _context: Context
    ) -> accounts.GetUsageSummaryResponse:
        at = wire.moment("at", request.at) if request.HasField("at") else None
        async with self._database.reading() as connection:
            held = await changes.account(connection, request.account_id)
        return accounts.GetUsageSummaryResponse(usage=await self._usage.summary(held.id, at))

    async def GetPlanStatus(
        self, request: accounts.GetPlanStatusRequest, _context: Context
    ) -> accounts.GetPlanStatusResponse:
        async with self._database.begin() as connection:
            plan = await _plan(connection, request.account_id, self._clock())
        return accounts.GetPlanStatusResponse(plan=plan)

    async def _change(
        self,
        request: Message,
        context: Context,
        kind: type[Response],
        work: Callable[[AsyncConnection], Awaitable[Response]],
    ) -> Response:
        asking = principal.current.get()
        caller = asking.service if asking is not None else ""
        call = Call.of(caller, key_from(context.invocation_metadata(), required=False), request)
        return await self._once.answer(call, kind, work)


class BillingApi(BillingServiceServicer):
    """What a partner reads and does about his own account."""

    def __init__(self, database: Database, once: Once, desk: Changes, usage: UsageApi, clock: Clock = utc_now) -> None:
        self._database = database
        self._once = once
        self._desk = desk
        self._usage = usage
        self._clock = clock

    async def GetUsage(self, request: billing.GetUsageRequest, context: Context) -> billing.GetUsageResponse:
        return await self._usage.GetUsage(request, context)

    async def ListUsageLedger(
        self, request: billing.ListUsageLedgerRequest, context: Context
    ) -> billing.ListUsageLedgerResponse:
        return await self._usage.ListUsageLedger(request, context)

    async def ExportUsageLedger(
        self, request: billing.ExportUsageLedgerRequest, context: Context
    ) -> AsyncIterator[HttpBody]:
        async for piece in self._usage.ExportUsageLedger(request, context):
            yield piece

    async def QuoteUsage(self, request: billing.QuoteUsageRequest, context: Context) -> billing.QuoteUsageResponse:
        return await self._usage.QuoteUsage(request, context)

    async def GetPlan(self, _request: billing.GetPlanRequest, _context: Context) -> billing.GetPlanResponse:
        async with self._database.begin() as connection:
            return billing.GetPlanResponse(plan=await _plan(connection, principal.partner().account_id, self._clock()))

    async def ListOwnKeys(self, _request: billing.ListOwnKeysRequest, _context: Context) -> billing.ListOwnKeysResponse:
        now = self._clock()
        async with self._database.reading() as connection:
            found = await store.list_keys(connection, principal.partner().account_id, now)
        return billing.ListOwnKeysResponse(keys=wire.keys(found, now))

    async def RotateOwnKey(
        self, request: billing.RotateOwnKeyRequest, context: Context
    ) -> billing.RotateOwnKeyResponse:
        asking = principal.partner()

        async def rotate(connection: AsyncConnection) -> billing.RotateOwnKeyResponse:
            rotated = await self._desk.rotate_key(connection, request.key_id, request.overlap, asking.account_id)
            return billing.RotateOwnKeyResponse(
                key=wire.key(rotated.successor.key, self._clock()),
                secret=rotated.successor.secret,
                old_key_expires_at=wire.timestamp(rotated.old_key_expires_at),
            )

        return await self._change(asking, request, context, billing.RotateOwnKeyResponse, rotate)

    async def RevokeOwnKey(
        self, request: billing.RevokeOwnKeyRequest, context: Context
    ) -> billing.RevokeOwnKeyResponse:
        asking = principal.partner()

        async def revoke(connection: AsyncConnection) -> billing.RevokeOwnKeyResponse:
            ended = await self._desk.revoke_key(connection, request.key_id, asking.account_id)
            return billing.RevokeOwnKeyResponse(key=wire.key(ended, self._clock()))

        return await self._change(asking, request, context, billing.RevokeOwnKeyResponse, revoke)

    async def ReportLeakedKey(
        self, request: billing.ReportLeakedKeyRequest, context: Context
    ) -> billing.ReportLeakedKeyResponse:
        # Nobody is known by name here, so keys of strangers' choice are not kept: a report may be repeated anyway.
        key_from(context.invocation_metadata(), required=True)

        async def report(connection: AsyncConnection) -> billing.ReportLeakedKeyResponse:
            revoked = await self._desk.revoke_leaked_key(connection, request.key, request.found_at)
            return billing.ReportLeakedKeyResponse(revoked=revoked)

        unkept = Call(caller="", key="", method="", digest=b"")
        return await self._once.answer(unkept, billing.ReportLeakedKeyResponse, report)

    async def _change(
        self,
        asking: Principal,
        request: Message,
        context: Context,
        kind: type[Response],
        work: Callable[[AsyncConnection], Awaitable[Response]],
    ) -> Response:
        key = key_from(context.invocation_metadata(), required=True)
        return await self._once.answer(Call.of(asking.account_id, key, request), kind, work)


class AccessApi(AccessServiceServicer):
    """The table of keys and accounts."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    async def GetAccessTable(
        self, request: access.GetAccessTableRequest, _context: Context
    ) -> access.GetAccessTableResponse:
        now = self._clock()
        async with self._database.begin() as connection:
            rows = await store.load_access(connection, request.after_revision, now)
        return wire.access_rows(rows, now)


async def _plan(connection: AsyncConnection, account_id: str, now: datetime) -> billing.PlanStatus:
    held = await changes.account(connection, account_id)
    used = await store.used_periods(connection, [held.id], now)
    return wire.plan_status(held, used.get(held.id), now)

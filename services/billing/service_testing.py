"""What the tests of the running service share: a clock that the test sets, a stand-in for metering, and callers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import grpc.aio
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status
from stratum.billing.v1 import account_pb2, key_pb2
from stratum.billing.v1 import accounts_service_pb2 as accounts
from stratum.billing.v1 import billing_service_pb2 as billing

from services.billing.events import AccountEvents
from services.billing.testing import NOON
from services.shared import principal
from services.shared.database import Database
from services.shared.keyring import Keyring
from services.shared.testing import vouched

OLD_PEPPER, NEW_PEPPER = "0a" * 32, "0b" * 32
PEPPERS = Keyring.parse(f"2:{NEW_PEPPER},1:{OLD_PEPPER}")
BILLING = "stratum.billing.v1.BillingService"
ALL_SCOPES = ("account:read", "keys:write", "markets:read", "signals:read")


class UsageStandIn:
    """Stands in for what metering answers: enough to see that it was asked, and for whom."""

    async def GetUsage(self, _request: object, _context: object) -> billing.GetUsageResponse:
        return billing.GetUsageResponse(usage=await self.summary(principal.partner().account_id, None))

    async def ListUsageLedger(self, _request: object, _context: object) -> billing.ListUsageLedgerResponse:
        return billing.ListUsageLedgerResponse(entries=[billing.LedgerEntry(request_id="one")])

    async def ExportUsageLedger(self, _request: object, _context: object) -> AsyncIterator[HttpBody]:
        for line in (b"request_id\n", b"one\n"):
            yield HttpBody(content_type="text/csv", data=line)

    async def QuoteUsage(self, request: billing.QuoteUsageRequest, _context: object) -> billing.QuoteUsageResponse:
        return billing.QuoteUsageResponse(method=request.path)

    async def summary(self, account_id: str, at: datetime | None) -> billing.UsageSummary:
        end = Timestamp()
        end.FromDatetime(at or NOON)
        return billing.UsageSummary(account_id=account_id, period_end=end)


@dataclass(slots=True)
class Clock:
    """The time, as the test says it is."""

    now: datetime = NOON

    def __call__(self) -> datetime:
        return self.now

    def passes(self, **time: float) -> None:
        """So much later."""
        self.now += timedelta(**time)


@dataclass(frozen=True, slots=True)
class Refused:
    """What a caller was told instead of an answer."""

    code: grpc.StatusCode
    reason: str
    field: str


@dataclass(slots=True)
class Billing:
    """The running service, and who can ask it."""

    database: Database
    clock: Clock
    events: AccountEvents
    operator: Any
    table: Any
    partners: Any

    async def account(self, **given: Any) -> account_pb2.Account:
        """A new account."""
        wanted = {"name": "Sharp & Sons", "email": "odds@sharp.example", "api_access_enabled": True, **given}
        request = accounts.CreateAccountRequest(account=account_pb2.Account(**wanted))
        answer: accounts.CreateAccountResponse = await self.operator.CreateAccount(request)
        return answer.account

    async def key(self, account_id: str, repeat_key: str = "", **given: Any) -> accounts.IssueKeyResponse:
        """A new key with every scope."""
        wanted = {"name": "production", "mode": key_pb2.ApiKey.Mode.LIVE, "scopes": ALL_SCOPES, **given}
        metadata = [("idempotency-key", repeat_key)] if repeat_key else None
        request = accounts.IssueKeyRequest(account_id=account_id, **wanted)
        issued: accounts.IssueKeyResponse = await self.operator.IssueKey(request, metadata=metadata)
        return issued

    async def partner(
        self, method: str, request: Message, account_id: str, repeat_key: str | None = "", test: bool = False
    ) -> Any:
        """A partner's call as the gateway sends it on. Its idempotency key is one of its own; with None it has none."""
        caller = principal.Principal(
            method=f"{BILLING}/{method}",
            expires_at=time.time() + 30.0,
            account_id=account_id,
            key_id="key_of_the_caller",
            scopes=ALL_SCOPES,
            request_id=uuid4().hex,
            test=test,
        )
        metadata = list(vouched(caller).items())
        if repeat_key is not None:
            metadata.append(("idempotency-key", repeat_key or uuid4().hex))
        return await getattr(self.partners, method)(request, metadata=metadata)

    async def report_leak(self, text: str, found_at: str = "", repeat_key: str | None = "any") -> bool:
        """What a stranger is told who reports a key."""
        metadata = [] if repeat_key is None else [("idempotency-key", repeat_key)]
        request = billing.ReportLeakedKeyRequest(key=text, found_at=found_at)
        return bool((await self.partners.ReportLeakedKey(request, metadata=metadata)).revoked)


async def refused(call: Any) -> Refused:
    """How a call is refused; fails when it is not."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    status = rpc_status.from_call(error.value)  # type: ignore[arg-type]  # the aio error has what is asked of it
    assert status is not None
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return Refused(error.value.code(), info.reason, info.metadata.get("field", ""))

"""What an operator does about partners' accounts and keys, over the RPCs that a console would use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from google.protobuf.field_mask_pb2 import FieldMask
from rich.table import Table
from stratum.billing.v1 import accounts_service_pb2 as pb
from stratum.billing.v1.account_pb2 import Account
from stratum.billing.v1.accounts_service_pb2_grpc import AccountsServiceStub
from stratum.billing.v1.billing_service_pb2 import PlanStatus, UsageSummary
from stratum.billing.v1.key_pb2 import ApiKey

from deploy.asking import asked, shown
from services.shared import client, contracts
from services.shared.keyring import Keyring

PAGE_SIZE = 500
CENTS = 100


class Accounts:
    """Billing, as an operator speaks to it. Every method raises AskingError."""

    def __init__(self, address: str, ring: Keyring) -> None:
        """`address` is `host:port`; `ring` holds the secrets with which we vouch for ourselves."""
        self._address = address
        self._channel = client.channel(address, "cli", ring)
        self._billing = AccountsServiceStub(self._channel)

    async def __aenter__(self) -> Accounts:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def create(self, account: Account) -> Account:
        """A new account; what it leaves empty is taken from the plan."""
        answer: pb.CreateAccountResponse = await self._change(
            self._billing.CreateAccount, pb.CreateAccountRequest(account=account)
        )
        return answer.account

    async def update(self, account: Account, fields: Iterable[str]) -> Account:
        """Changes these fields of the account to those given."""
        request = pb.UpdateAccountRequest(account=account, update_mask=FieldMask(paths=list(fields)))
        answer: pb.UpdateAccountResponse = await self._change(self._billing.UpdateAccount, request)
        return answer.account

    async def get(self, account_id: str) -> Account:
        """One account."""
        answer: pb.GetAccountResponse = await self._ask(
            self._billing.GetAccount, pb.GetAccountRequest(account_id=account_id)
        )
        return answer.account

    async def all(self) -> list[Account]:
        """Every account, by id."""
        found: list[Account] = []
        token = ""
        while True:
            request = pb.ListAccountsRequest(page_size=PAGE_SIZE, page_token=token)
            page: pb.ListAccountsResponse = await self._ask(self._billing.ListAccounts, request)
            found.extend(page.accounts)
            token = page.next_page_token
            if not token:
                return found

    async def issue(self, request: pb.IssueKeyRequest) -> pb.IssueKeyResponse:
        """A new key, with its secret."""
        answer: pb.IssueKeyResponse = await self._change(self._billing.IssueKey, request)
        return answer

    async def keys(self, account_id: str) -> list[ApiKey]:
        """An account's keys, newest first."""
        answer: pb.ListKeysResponse = await self._ask(self._billing.ListKeys, pb.ListKeysRequest(account_id=account_id))
        return list(answer.keys)

    async def revoke(self, key_id: str) -> ApiKey:
        """Ends a key."""
        answer: pb.RevokeKeyResponse = await self._change(self._billing.RevokeKey, pb.RevokeKeyRequest(key_id=key_id))
        return answer.key

    async def rotate(self, key_id: str, overlap: str) -> pb.RotateKeyResponse:
        """A key's successor, with its secret; the old one goes on for the overlap: 0s, 1h, 24h, 7d or 30d."""
        request = pb.RotateKeyRequest(key_id=key_id, overlap=overlap)
        answer: pb.RotateKeyResponse = await self._change(self._billing.RotateKey, request)
        return answer

    async def usage(self, account_id: str) -> UsageSummary:
        """What the account has used in the present period."""
        answer: pb.GetUsageSummaryResponse = await self._ask(
            self._billing.GetUsageSummary, pb.GetUsageSummaryRequest(account_id=account_id)
        )
        return answer.usage

    async def plan(self, account_id: str) -> PlanStatus:
        """What the account bought, and how it stands."""
        answer: pb.GetPlanStatusResponse = await self._ask(
            self._billing.GetPlanStatus, pb.GetPlanStatusRequest(account_id=account_id)
        )
        return answer.plan

    async def _change(self, call: Callable[..., Awaitable[Any]], request: object) -> Any:
        # Should the answer be lost, gRPC may ask again, and nothing is done twice.
        return await self._ask(call, request, metadata=(("idempotency-key", uuid4().hex),))

    async def _ask(self, call: Callable[..., Awaitable[Any]], request: object, **more: Any) -> Any:
        return await asked(call, request, "billing", self._address, **more)


@dataclass(frozen=True, slots=True, repr=False)
class Partner:
    """Somebody with an account, for whoever tries the system: a demo, a test, a benchmark."""

    account_id: str
    #: A live key's id and its secret, and a test key's secret.
    key_id: str
    key: str
    test_key: str


async def make_partner(address: str, ring: Keyring, name: str, **account: Any) -> Partner:
    """An account with a live key that may do everything, and a test key. `account` are fields of it that differ from
    the plan. Raises AskingError."""
    async with Accounts(address, ring) as office:
        made = await office.create(Account(name=name, email="partner@example.com", api_access_enabled=True, **account))
        scopes = sorted({method.scope for method in contracts.methods() if method.scope})
        live, test = [
            await office.issue(pb.IssueKeyRequest(account_id=made.id, name=name, mode=mode, scopes=scopes))
            for mode in (ApiKey.Mode.LIVE, ApiKey.Mode.TEST)
        ]
        return Partner(made.id, live.key.id, live.secret, test.secret)


def accounts_table(accounts: Iterable[Account]) -> Table:
    """Accounts, a line each."""
    table = Table(title="accounts", title_justify="left")
    for heading in ("id", "name", "plan", "units a period", "over it, per 1,000", "standing", "access", "class"):
        table.add_column(heading)
    for one in accounts:
        table.add_row(
            one.id,
            one.name,
            one.api_plan_code,
            f"{one.api_usage_soft_limit:,}",
            money(one.api_overage_rate_cents),
            Account.Standing.Value.Name(one.standing),
            "yes" if one.api_access_enabled else "no",
            one.rate_class,
        )
    return table


def keys_table(keys: Iterable[ApiKey]) -> Table:
    """Keys, a line each, without their secrets."""
    table = Table(title="keys", title_justify="left")
    for heading in ("id", "name", "key", "status", "scopes", "from", "expires", "last used"):
        table.add_column(heading)
    for key in keys:
        status = ApiKey.Status.Value.Name(key.status)
        table.add_row(
            key.id,
            key.name,
            key.hint,
            f"{status} ({key.revoked_reason})" if key.revoked_reason else status,
            ", ".join(key.scopes),
            ", ".join(key.allowed_addresses) or "anywhere",
            shown(key.expires_at) if key.HasField("expires_at") else "never",
            shown(key.last_used_at) if key.HasField("last_used_at") else "never",
        )
    return table


def usage_lines(usage: UsageSummary) -> list[str]:
    """A period's usage in sentences."""
    lines = [
        f"period {shown(usage.period_start)} to {shown(usage.period_end)}",
        f"used {usage.used_units:,} of {usage.included_units:,} units; left {usage.remaining_units:,}; "
        f"over {usage.overage_units:,}, which costs {money(usage.overage_cost_cents)}",
    ]
    if usage.HasField("forecast"):
        forecast = usage.forecast
        lines.append(
            f"at its end, if it goes on like this: {forecast.units:,} units, {money(forecast.overage_cost_cents)} over"
        )
    lines += [f"{notice.threshold_percent} % reached at {shown(notice.reached_at)}" for notice in usage.notices]
    return lines


def usage_table(usage: UsageSummary) -> Table:
    """A period's usage by key."""
    table = Table(title="by key", title_justify="left")
    for heading in ("key", "name", "requests", "units"):
        table.add_column(heading, justify="right" if heading in ("requests", "units") else "left")
    for key in usage.keys:
        table.add_row(key.key_id, key.name, f"{key.requests:,}", f"{key.units:,}")
    return table


def plan_lines(plan: PlanStatus) -> Sequence[str]:
    """A plan in sentences."""
    limit = plan.rate_limit
    return (
        f"{plan.api_plan_code}, {plan.rate_class}: {limit.requests:,} requests in {limit.per_seconds} s with each key",
        f"{plan.api_usage_soft_limit:,} units a period, {money(plan.api_overage_rate_cents)} for 1,000 above them",
        f"standing {Account.Standing.Value.Name(plan.standing)}, "
        f"access {'enabled' if plan.api_access_enabled else 'not enabled'}",
    )


def money(cents: int) -> str:
    """Cents as dollars."""
    return f"${cents // CENTS:,}.{cents % CENTS:02}"

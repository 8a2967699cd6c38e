"""What the tests of metering need: accounts with keys, lines, and a plain announcer over the real tables."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection
from stratum.billing.v1.events_pb2 import AccountEvent
from stratum.billing.v1.metering_service_pb2 import RecordUsageRequest, RecordUsageResponse, UsageLine

from services.billing import tables
from services.billing.ledger import Announcer, Ledger
from services.billing.metering import MeteringApi, Sealer, reachable_methods
from services.shared.bus import partition_of
from services.shared.database import Database

#: An ordinary evening, in the middle of an ordinary period.
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
LIST = "stratum.signals.v1.SignalsService/ReadSignals"
STREAM = "stratum.signals.v1.SignalsService/StreamSignals"
UNPAID = "stratum.billing.v1.BillingService/GetUsage"
_ANCHOR = datetime(2026, 1, 1, tzinfo=UTC)


def a_line(request_id: str = "request-1", at: datetime = NOON, **given: Any) -> UsageLine:
    """A served call of `acct-a`; `seconds` is how long it took."""
    seconds = given.pop("seconds", 0.02)
    values = {
        "account_id": "acct-a",
        "key_id": "acct-a-key",
        "method": LIST,
        "path": "/api/v1/intel/signals",
        "status": 200,
        "gateway": "gateway-1",
        **given,
    }
    line = UsageLine(request_id=request_id, duration_milliseconds=round(seconds * 1000), **values)
    line.started_at.FromDatetime(at)
    return line


def lines(number: int, at: datetime = NOON, name: str = "request", **given: Any) -> list[UsageLine]:
    """So many calls, a second apart."""
    return [a_line(f"{name}-{index}", at + timedelta(seconds=index), **given) for index in range(number)]


class PlainAnnouncer:
    """Tells what changes as the tables of billing have it, in the plainest way."""

    def __init__(self) -> None:
        self.commits = 0

    async def changed(self, connection: AsyncConnection, account_ids: Sequence[str]) -> None:
        """Takes the next revision for the accounts."""
        revision = await connection.scalar(
            text("UPDATE billing.access_table SET revision = revision + 1 RETURNING revision")
        )
        await connection.execute(
            text("UPDATE billing.account SET revision = :revision WHERE id = ANY(CAST(:ids AS text[]))"),
            {"revision": revision, "ids": list(account_ids)},
        )

    async def say(self, connection: AsyncConnection, event: AccountEvent) -> None:
        """Puts the event into the outbox."""
        partition = partition_of(event.account_id)
        await connection.execute(text("SELECT pg_advisory_xact_lock(7, 0)"))
        row = {
            "partition": partition,
            "event_id": event.account_id,
            "message_id": event.id,
            "payload": event.SerializeToString(),
        }
        await connection.execute(insert(tables.stage.outbox), row)

    def committed(self) -> None:
        """Counts the times that something is ready to leave."""
        self.commits += 1


class WaitingAnnouncer(PlainAnnouncer):
    """Holds the transaction that says something open, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting, self.let_go = asyncio.Event(), asyncio.Event()

    async def say(self, connection: AsyncConnection, event: AccountEvent) -> None:
        """Puts the event into the outbox, and waits."""
        await super().say(connection, event)
        self.waiting.set()
        await self.let_go.wait()


@dataclass(slots=True)
class Time:
    """A clock that stands until it is set."""

    now: datetime = NOON + timedelta(minutes=1)

    def __call__(self) -> datetime:
        return self.now


class Metering:
    """Counting over one database, at a time of the test's choice. A second one is a second process."""

    def __init__(self, database: Database, time: Time | None = None, announcer: Announcer | None = None) -> None:
        self.database = database
        self.time = time or Time()
        self.ledger = Ledger(database, announcer or PlainAnnouncer(), reachable_methods())
        self.api = MeteringApi(self.ledger, self.time)
        self.sealer = Sealer(self.ledger, self.time)

    async def record(self, batch: Iterable[UsageLine]) -> RecordUsageResponse:
        """One call of RecordUsage."""
        context: Any = None  # the handler has no use for it
        return await self.api.RecordUsage(RecordUsageRequest(lines=batch), context)

    async def rows(self, statement: str, **given: Any) -> list[Any]:
        """What a query gives."""
        async with self.database.begin() as connection:
            return list((await connection.execute(text(statement), given)).all())

    async def scalar(self, statement: str, **given: Any) -> Any:
        """The one value that a query gives."""
        async with self.database.begin() as connection:
            return (await connection.execute(text(statement), given)).scalar_one()

    async def set_clock(self, sealed_until: datetime) -> None:
        """Lets the open hours begin at a moment."""
        await self.rows("UPDATE billing.usage_clock SET sealed_until = :until RETURNING 1", until=sealed_until)

    async def somebody_waits(self) -> bool:
        """Whether a transaction waits for another one's lock."""
        return bool(await self.scalar("SELECT count(*) FROM pg_locks WHERE NOT granted"))

    async def set_limit(self, soft_limit: int, account_id: str = "acct-a") -> None:
        """Changes an account's limit as whoever owns accounts does: for the account, and for the period it is in."""
        given = {"limit": soft_limit, "account_id": account_id, "now": self.time.now}
        async with self.database.begin() as connection:
            await connection.execute(
                text("UPDATE billing.account SET api_usage_soft_limit = :limit WHERE id = :account_id"), given
            )
            await connection.execute(
                text(
                    "UPDATE billing.usage_period SET soft_limit = :limit "
                    "WHERE account_id = :account_id AND period_start <= :now AND period_end > :now"
                ),
                given,
            )

    async def said(self, kind: str) -> list[AccountEvent]:
        """Events of a kind, such as `usage_anomaly`, in the order in which they were said."""
        rows = await self.rows("SELECT payload FROM billing.outbox ORDER BY id")
        events = [AccountEvent.FromString(row.payload) for row in rows]
        return [event for event in events if event.WhichOneof("event") == kind]

    async def sums(self) -> dict[tuple[str, datetime], int]:
        """The units of each account and period, after checking that ledger, periods, days and roll-ups agree."""
        by_period = await self._by_period("usage_ledger", "sum(units), sum(overage_units)")
        assert await self._by_period("usage_period", "sum(used_units), sum(overage_units)") == by_period
        used = {key: both for key, both in by_period.items() if both[0]}
        assert await self._by_period("usage_rollup", "sum(units), sum(overage_units)") == used
        by_day = (
            "SELECT account_id, (started_at AT TIME ZONE 'UTC')::date, key_id, period_start, sum(units), "
            "count(*) FILTER (WHERE part = 0) FROM billing.usage_ledger GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
        )
        days = (
            "SELECT account_id, day, key_id, period_start, units, requests FROM billing.usage_day ORDER BY 1, 2, 3, 4"
        )
        assert await self.rows(by_day) == await self.rows(days)
        by_hour = (
            "SELECT account_id, billed_hour, period_start, sum(units), sum(overage_units), "
            "sum(units) FILTER (WHERE late) FROM billing.usage_ledger WHERE units > 0 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
        )
        rolled_up = (
            "SELECT account_id, hour, period_start, units, overage_units, nullif(late_units, 0) "
            "FROM billing.usage_rollup ORDER BY 1, 2, 3"
        )
        assert await self.rows(by_hour) == await self.rows(rolled_up)
        outside = (
            "SELECT count(*) FROM billing.usage_ledger AS ledger JOIN billing.usage_period AS period "
            "USING (account_id, period_start) WHERE started_at < period_start OR started_at >= period_end"
        )
        assert await self.scalar(outside) == 0
        return {key: units for key, (units, _) in by_period.items()}

    async def _by_period(self, table: str, sums: str) -> dict[tuple[str, datetime], tuple[int, int]]:
        statement = f"SELECT account_id, period_start, {sums} FROM billing.{table} GROUP BY 1, 2"  # noqa: S608 - our tables
        return {(row[0], row[1]): (int(row[2]), int(row[3])) for row in await self.rows(statement)}


async def open_account(
    database: Database,
    account_id: str = "acct-a",
    *,
    soft_limit: int = 1000,
    plan: str = "api_monthly",
    anchor: datetime = _ANCHOR,
) -> None:
    """An account with a live key `<account>-key`, a second one `<account>-other`, and a test key `<account>-test`."""
    async with database.begin() as connection:
        await connection.execute(
            insert(tables.account),
            {
                "id": account_id,
                "name": account_id,
                "email": f"{account_id}@example.com",
                "api_access_enabled": True,
                "api_plan_code": plan,
                "api_usage_soft_limit": soft_limit,
                "api_overage_rate_cents": 100,
                "standing": "GOOD",
                "rate_class": "standard",
                "period_anchor": anchor,
                "created_at": anchor,
                "revision": 0,
            },
        )
        for name, live in (("key", True), ("other", True), ("test", False)):
            key_id = f"{account_id}-{name}"
            await connection.execute(
                insert(tables.api_key),
                {
                    "id": key_id,
                    "account_id": account_id,
                    "lineage": key_id,
                    "name": name,
                    "live": live,
                    "pepper_version": 1,
                    "hash": key_id.encode(),
                    "hint": "",
                    "scopes": [],
                    "allowed_addresses": [],
                    "created_at": anchor,
                    "revision": 0,
                },
            )

"""Reading usage: sums, the ledger line by line, and what a call would cost. Always of the caller's own account."""

# ruff: noqa: N802, ARG002 - gRPC's names of methods are the contract's, and so are their parameters
from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, NamedTuple

from google.api.httpbody_pb2 import HttpBody
from grpc.aio import ServicerContext
from msgspec import Meta
from sqlalchemy import text
from stratum.billing.v1 import billing_service_pb2
from stratum.billing.v1.billing_service_pb2 import (
    DayUsage,
    KeyUsage,
    LedgerEntry,
    UsageForecast,
    UsageNotice,
    UsageSummary,
)
from stratum.common.v1.error_reason_pb2 import ErrorReason

from services.billing import wire
from services.billing.counting import AccountPeriod
from services.billing.forecast import Standing, forecast, pace_begins
from services.billing.ledger import period_at
from services.billing.plans import overage_cost_cents
from services.billing.rating import FURTHEST_AHEAD, STRETCH
from services.shared import contracts, paging, principal
from services.shared.asked import words, wrong
from services.shared.clock import utc_now
from services.shared.database import Database
from services.shared.errors import NotFound
from services.shared.identity import EPOCH

Context = ServicerContext[Any, Any]

#: Rows of the export that are in memory at a time.
EXPORT_ROWS = 1000
#: Which periods may be asked for: none before there was a product, and none that is further ahead than the longest one.
_EARLIEST = datetime(2020, 1, 1, tzinfo=UTC)
_LONGEST_AHEAD = timedelta(days=366)

_ONE_STATE = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
_DAYS = text(
    "SELECT day, used.key_id, coalesce(key.name, '') AS name, requests, units FROM billing.usage_day AS used "
    "LEFT JOIN billing.api_key AS key ON key.id = used.key_id "
    "WHERE used.account_id = :account_id AND day >= :first AND day <= :last AND period_start = :period_start"
)
_NOTICES = text(
    "SELECT threshold_percent, reached_at, used_units, included_units FROM billing.usage_notice "
    "WHERE account_id = :account_id AND period_start = :period_start ORDER BY threshold_percent"
)
_ENTRY = (
    "started_at, request_id, part, key_id, method, path, status, units, overage_units, billed_hour, late "
    "FROM billing.usage_ledger WHERE account_id = :account_id"
)
_EXPORT = text(
    f"SELECT {_ENTRY} AND started_at >= :since AND started_at < :until "
    "AND (started_at, request_id, part) > (:after_started_at, :after_request_id, CAST(:after_part AS smallint)) "
    "ORDER BY started_at, request_id, part LIMIT :rows"
)
#: The columns of the export, by the names of the API.
CSV_COLUMNS = (
    "request_id",
    "part",
    "started_at",
    "key_id",
    "method",
    "path",
    "status",
    "units",
    "overage_units",
    "billed_hour",
    "late",
)


# It comes back from the caller: what PostgreSQL or a time cannot hold is no token of ours.
class _Place(NamedTuple):
    """Where a page of the ledger ended."""

    microseconds: Annotated[int, Meta(ge=0, le=250_000_000_000_000_000)]
    request_id: str
    part: Annotated[int, Meta(ge=0, le=2**15 - 1)]


class UsageApi:
    """The methods of BillingService that read usage, and the summary that operators get as well."""

    def __init__(self, database: Database, clock: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._clock = clock

    async def GetUsage(
        self, request: billing_service_pb2.GetUsageRequest, context: Context
    ) -> billing_service_pb2.GetUsageResponse:
        at = wire.moment("at", request.at) if request.HasField("at") else None
        return billing_service_pb2.GetUsageResponse(usage=await self.summary(principal.partner().account_id, at))

    async def ListUsageLedger(
        self, request: billing_service_pb2.ListUsageLedgerRequest, context: Context
    ) -> billing_service_pb2.ListUsageLedgerResponse:
        account_id = principal.partner().account_id
        size, asked = paging.page_size(request.page_size), _without_page(request, account_id)
        wanted: list[str] = []
        given: dict[str, Any] = {"account_id": account_id, "rows": size + 1}
        if request.HasField("since"):
            wanted.append("started_at >= :since")
            given["since"] = wire.moment("since", request.since)
        if request.HasField("until"):
            wanted.append("started_at < :until")
            given["until"] = wire.moment("until", request.until)
        if request.key_id:
            wanted.append("key_id = ANY(CAST(:key_ids AS text[]))")
            given["key_ids"] = list(words("key_id", request.key_id))
        if request.page_token:
            place = paging.decode(request.page_token, asked, _Place)
            # Said twice: days are told apart by the time alone, and those behind it need not be visited.
            wanted.append("started_at <= :before")
            wanted.append(
                "(started_at, request_id, part) < (:before, :before_request_id, CAST(:before_part AS smallint))"
            )
            given |= {
                "before": EPOCH + timedelta(microseconds=place.microseconds),
                "before_request_id": place.request_id,
                "before_part": place.part,
            }
        statement = text(
            f"SELECT {' AND '.join((_ENTRY, *wanted))} ORDER BY started_at DESC, request_id DESC, part DESC LIMIT :rows"
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(statement, given)).all()
        last = rows[size - 1] if len(rows) > size else None
        return billing_service_pb2.ListUsageLedgerResponse(
            entries=[_entry(row) for row in rows[:size]],
            next_page_token="" if last is None else paging.encode(_place(last), asked),
        )

    async def ExportUsageLedger(
        self, request: billing_service_pb2.ExportUsageLedgerRequest, context: Context
    ) -> AsyncIterator[HttpBody]:
        account_id, now = principal.partner().account_id, self._clock()
        # Without an end of its own an export would go on as long as its reader makes calls.
        until = wire.moment("until", request.until) if request.HasField("until") else now + FURTHEST_AHEAD
        if request.HasField("since"):
            since = wire.moment("since", request.since)
        else:
            async with self._database.begin() as connection:
                since = (await period_at(connection, account_id, now)).start
        await context.send_initial_metadata((("content-disposition", 'attachment; filename="stratum-usage.csv"'),))
        yield HttpBody(content_type="text/csv", data=_csv([CSV_COLUMNS]))
        after = _Place(-1, "", 0)
        while True:
            # A statement a stretch: nothing is held open for a reader who takes his time.
            async with self._database.reading() as connection:
                rows = (
                    await connection.execute(
                        _EXPORT,
                        {
                            "account_id": account_id,
                            "since": max(since, EPOCH + timedelta(microseconds=after.microseconds)),
                            "until": until,
                            "after_started_at": EPOCH + timedelta(microseconds=after.microseconds),
                            "after_request_id": after.request_id,
                            "after_part": after.part,
                            "rows": EXPORT_ROWS,
                        },
                    )
                ).all()
            if rows:
                yield HttpBody(content_type="text/csv", data=_csv([_csv_row(row) for row in rows]))
            if len(rows) < EXPORT_ROWS:
                return
            after = _place(rows[-1])

    async def QuoteUsage(
        self, request: billing_service_pb2.QuoteUsageRequest, context: Context
    ) -> billing_service_pb2.QuoteUsageResponse:
        caller, now = principal.partner(), self._clock()
        path = request.path.partition("?")[0]
        method = contracts.found("GET", path)
        if method is None:
            raise NotFound(ErrorReason.PATH_NOT_FOUND, "no call has this path", path=path[:200])
        async with self._database.begin() as connection:
            period = await period_at(connection, caller.account_id, now)
        billable = method.is_paid
        over = billable and period.used_units >= period.soft_limit
        return billing_service_pb2.QuoteUsageResponse(
            method=method.name,
            billable=billable,
            units=1 if billable else 0,
            stretch_seconds=STRETCH // timedelta(seconds=1) if method.streaming and billable else None,
            remaining_units=_remaining(period),
            overage=over,
            cost_cents=period.overage_rate_cents / 1000 if over else 0.0,
            scope=method.scope,
        )

    async def summary(self, account_id: str, at: datetime | None = None) -> UsageSummary:
        """An account's usage in the period that holds a moment, the present one when none is given. Raises NotFound
        (ACCOUNT_NOT_FOUND), and InvalidArgument for a time that no period is asked of."""
        now = self._clock()
        moment = now if at is None else at
        if not _EARLIEST <= moment <= now + _LONGEST_AHEAD:
            raise wrong("at", "is no time that a period is known of")
        async with self._database.begin() as connection:
            # Everything as of one moment, so that the sums agree.
            await connection.execute(_ONE_STATE)
            period = await period_at(connection, account_id, moment)
            of_period = {"account_id": account_id, "period_start": period.start}
            # The days bound what is read by the table's key.
            days = {"first": period.start.astimezone(UTC).date(), "last": period.end.astimezone(UTC).date()}
            used = (await connection.execute(_DAYS, {**of_period, **days})).all()
            notices = (await connection.execute(_NOTICES, of_period)).all()
        summary = UsageSummary(
            account_id=account_id,
            period_start=wire.timestamp(period.start),
            period_end=wire.timestamp(period.end),
            included_units=period.soft_limit,
            used_units=wire.fitting(period.used_units),
            remaining_units=_remaining(period),
            overage_units=wire.fitting(period.overage_units),
            overage_cost_cents=wire.fitting(overage_cost_cents(period.overage_units, period.overage_rate_cents)),
            counted_at=wire.timestamp(now),
            keys=_by_key(used),
            days=_by_day(used),
            notices=[
                UsageNotice(
                    threshold_percent=row.threshold_percent,
                    reached_at=wire.timestamp(row.reached_at),
                    used_units=wire.fitting(row.used_units),
                    included_units=wire.fitting(row.included_units),
                )
                for row in notices
            ],
        )
        if (coming := _forecast(period, used, now, notices)) is not None:
            summary.forecast.CopyFrom(coming)
        return summary


def _forecast(
    period: AccountPeriod, used: Sequence[Any], now: datetime, notices: Sequence[Any]
) -> UsageForecast | None:
    if not period.start <= now < period.end:
        return None
    since = pace_begins(period.start, now)
    recent = sum(row.units for row in used if row.day >= since.date())
    standing = Standing(period.used_units, period.overage_units, period.soft_limit, period.overage_rate_cents)
    coming = forecast(standing, recent, since, now, period.end)
    reached_at = coming.limit_reached_at
    if period.used_units >= period.soft_limit:
        reached_at = next((row.reached_at for row in notices if row.threshold_percent == 100), None)
    return UsageForecast(
        units=wire.fitting(coming.units),
        overage_units=wire.fitting(coming.overage_units),
        overage_cost_cents=wire.fitting(coming.overage_cost_cents),
        limit_reached_at=None if reached_at is None else wire.timestamp(reached_at),
    )


def _by_key(used: Sequence[Any]) -> list[KeyUsage]:
    sums: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for row in used:
        both = sums[row.key_id, row.name]
        both[0] += row.units
        both[1] += row.requests
    return [
        KeyUsage(key_id=key_id, name=name, units=wire.fitting(units), requests=wire.fitting(requests))
        for (key_id, name), (units, requests) in sorted(sums.items())
    ]


def _by_day(used: Sequence[Any]) -> list[DayUsage]:
    sums: defaultdict[date, list[int]] = defaultdict(lambda: [0, 0])
    for row in used:
        both = sums[row.day]
        both[0] += row.units
        both[1] += row.requests
    return [
        DayUsage(day=day.isoformat(), units=wire.fitting(units), requests=wire.fitting(requests))
        for day, (units, requests) in sorted(sums.items())
    ]


def _entry(row: Any) -> LedgerEntry:
    return LedgerEntry(
        request_id=row.request_id,
        part=row.part,
        started_at=wire.timestamp(row.started_at),
        key_id=row.key_id,
        method=_short(row.method),
        path=row.path,
        status=row.status,
        units=row.units,
        overage_units=row.overage_units,
        billed_hour=wire.timestamp(row.billed_hour),
        late=row.late,
    )


def _csv_row(row: Any) -> tuple[object, ...]:
    return (
        row.request_id,
        row.part,
        _written(row.started_at),
        row.key_id,
        _short(row.method),
        row.path,
        row.status,
        row.units,
        row.overage_units,
        _written(row.billed_hour),
        "true" if row.late else "false",
    )


def _csv(rows: Sequence[Sequence[object]]) -> bytes:
    written = io.StringIO()
    csv.writer(written).writerows(rows)
    return written.getvalue().encode()


def _short(method: str) -> str:
    return method.rpartition("/")[2]


def _place(row: Any) -> _Place:
    return _Place((row.started_at - EPOCH) // timedelta(microseconds=1), row.request_id, row.part)


def _remaining(period: AccountPeriod) -> int:
    return max(0, period.soft_limit - period.used_units)


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _without_page(request: billing_service_pb2.ListUsageLedgerRequest, account_id: str) -> bytes:
    """What a page token is bound to: whose ledger it is, and everything asked but the page itself."""
    asked = billing_service_pb2.ListUsageLedgerRequest()
    asked.CopyFrom(request)
    asked.ClearField("page_size")
    asked.ClearField("page_token")
    return account_id.encode() + b"\0" + asked.SerializeToString(deterministic=True)

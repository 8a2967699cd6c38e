"""A partner reads his own usage: sums, the ledger line by line, the export, and what a call would cost."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from stratum.billing.v1.billing_service_pb2 import (
    ExportUsageLedgerRequest,
    GetUsageRequest,
    ListUsageLedgerRequest,
    QuoteUsageRequest,
    UsageSummary,
)
from stratum.billing.v1.billing_service_pb2_grpc import (
    BillingServiceServicer,
    BillingServiceStub,
    add_BillingServiceServicer_to_server,
)
from stratum.billing.v1.metering_service_pb2 import RecordUsageRequest
from stratum.billing.v1.metering_service_pb2_grpc import MeteringServiceStub, add_MeteringServiceServicer_to_server

from services.billing import usage_api
from services.billing.metering_testing import NOON, STREAM, UNPAID, Metering, a_line, lines, open_account
from services.billing.usage_api import CSV_COLUMNS, UsageApi
from services.shared import paging
from services.shared.principal import Guard
from services.shared.server import Interceptor
from services.shared.testing import RING, as_partner, channel_to

MARCH = datetime(2026, 3, 1, tzinfo=UTC)
APRIL = datetime(2026, 4, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
_SERVICE = "stratum.billing.v1.BillingService/"


class _Served(UsageApi, BillingServiceServicer):
    """The methods that read usage, as a service."""


@dataclass
class Reading:
    """The service, and who counts into its database."""

    metering: Metering
    api: UsageApi
    channel: grpc.aio.Channel

    async def ask(self, method: str, request: Any, account_id: str = "acct-a") -> Any:
        """A partner's call."""
        metadata = as_partner(_SERVICE + method, account_id, f"{account_id}-key")
        return await getattr(BillingServiceStub(self.channel), method)(request, metadata=metadata)

    async def export(self, **given: Any) -> list[dict[str, str]]:
        """The rows of an export."""
        return list(csv.DictReader(io.StringIO(b"".join([data async for data in self.chunks(**given)]).decode())))

    async def chunks(self, account_id: str = "acct-a", **given: Any) -> AsyncIterator[bytes]:
        """An export as it arrives."""
        metadata = as_partner(_SERVICE + "ExportUsageLedger", account_id, f"{account_id}-key")
        call = BillingServiceStub(self.channel).ExportUsageLedger(ExportUsageLedgerRequest(**given), metadata=metadata)
        async for body in call:
            assert body.content_type == "text/csv"
            yield body.data

    async def listed(self, account_id: str = "acct-a", **given: Any) -> list[str]:
        """The ids of all pages."""
        found: list[str] = []
        token = ""
        while True:
            request = ListUsageLedgerRequest(page_token=token, **given)
            answer = await self.ask("ListUsageLedger", request, account_id)
            found += [f"{entry.request_id}/{entry.part}" for entry in answer.entries]
            token = answer.next_page_token
            if not token:
                return found


@pytest.fixture
async def reading(database_for: Any) -> AsyncIterator[Reading]:
    """Two accounts, a limit of 100 each, and the service at noon and a minute."""
    database = await database_for("billing")
    await open_account(database, soft_limit=100)
    await open_account(database, "acct-b", soft_limit=100)
    metering = Metering(database)
    await metering.set_clock(NOON - HOUR)
    api = _Served(database, metering.time)
    server = grpc.aio.server(interceptors=[Interceptor(10.0, Guard(RING))])
    add_BillingServiceServicer_to_server(api, server)
    add_MeteringServiceServicer_to_server(metering.api, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with channel_to(port) as channel:
        yield Reading(metering, api, channel)
    await server.stop(None)


def stamp(moment: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment)
    return made


async def refused(call: Any) -> str:
    """The code and reason of a refusal."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    trailing = dict(error.value.trailing_metadata() or ())
    status = str(trailing.get("grpc-status-details-bin", b""))
    return f"{error.value.code().name} {status}"


async def test_lines_arrive_over_the_wire(reading: Reading) -> None:
    answer = await MeteringServiceStub(reading.channel).RecordUsage(RecordUsageRequest(lines=lines(3)))
    assert answer.recorded == 3


async def test_usage_of_a_period_is_told_by_key_and_day(reading: Reading) -> None:
    yesterday = NOON - timedelta(days=1)
    await reading.metering.record(
        [
            *lines(3),
            *lines(2, yesterday, "y", key_id="acct-a-other"),
            a_line("refused", status=429),
            *lines(9, name="b", account_id="acct-b", key_id="acct-b-key"),
        ]
    )
    usage: UsageSummary = (await reading.ask("GetUsage", GetUsageRequest())).usage
    assert (usage.account_id, usage.used_units, usage.remaining_units, usage.overage_units) == ("acct-a", 5, 95, 0)
    assert [(key.key_id, key.name, key.units, key.requests) for key in usage.keys] == [
        ("acct-a-key", "key", 3, 4),
        ("acct-a-other", "other", 2, 2),
    ]
    assert [(day.day, day.units, day.requests) for day in usage.days] == [("2026-03-09", 2, 2), ("2026-03-10", 3, 4)]
    assert (usage.period_start.ToDatetime(UTC), usage.period_end.ToDatetime(UTC)) == (MARCH, APRIL)


async def test_what_is_above_the_limit_costs_each_beginning_cent(reading: Reading) -> None:
    await reading.metering.record(lines(121))
    usage = (await reading.ask("GetUsage", GetUsageRequest())).usage
    assert (usage.used_units, usage.remaining_units, usage.overage_units, usage.overage_cost_cents) == (121, 0, 21, 3)
    assert [notice.threshold_percent for notice in usage.notices] == [80, 100, 120]
    assert usage.forecast.limit_reached_at.ToDatetime(UTC) == NOON + timedelta(seconds=99)


async def test_nothing_was_used_yet(reading: Reading) -> None:
    usage = (await reading.ask("GetUsage", GetUsageRequest())).usage
    assert (usage.used_units, usage.remaining_units, usage.included_units) == (0, 100, 100)
    assert usage.forecast.units == 0
    assert not usage.days


async def test_the_forecast_takes_the_pace_of_seven_days(reading: Reading) -> None:
    for day in range(9):
        await reading.metering.record(lines(7, NOON - timedelta(days=day), f"d{day}"))
    usage = (await reading.ask("GetUsage", GetUsageRequest())).usage
    # 63 so far; and since the third at midnight 56 in seven and a half days, so in the 21 and a half that are left 161.
    assert usage.forecast.units == 63 + 161
    assert usage.forecast.overage_units == usage.forecast.units - 100
    assert NOON < usage.forecast.limit_reached_at.ToDatetime(UTC) < APRIL


async def test_a_period_that_is_over_has_no_forecast(reading: Reading) -> None:
    await reading.metering.record([a_line("then", MARCH - HOUR), a_line("now")])
    usage = (await reading.ask("GetUsage", GetUsageRequest(at=stamp(MARCH - HOUR)))).usage
    assert usage.used_units == 1
    assert not usage.HasField("forecast")


@pytest.mark.parametrize("at", [datetime(1999, 1, 1, tzinfo=UTC), NOON + timedelta(days=400)])
async def test_a_time_that_no_period_is_known_of_is_refused(reading: Reading, at: datetime) -> None:
    assert "INVALID_ARGUMENT" in await refused(reading.ask("GetUsage", GetUsageRequest(at=stamp(at))))


async def test_a_time_of_no_era_is_refused(reading: Reading) -> None:
    request = GetUsageRequest(at=Timestamp(seconds=10**14))
    assert "INVALID_ARGUMENT" in await refused(reading.ask("GetUsage", request))


async def test_operators_get_the_summary_of_any_account(reading: Reading) -> None:
    await reading.metering.record(lines(3))
    assert (await reading.api.summary("acct-a")).used_units == 3


async def test_an_account_that_does_not_exist_has_no_usage(reading: Reading) -> None:
    assert "ACCOUNT_NOT_FOUND" in await refused(reading.ask("GetUsage", GetUsageRequest(), "nobody"))


async def test_one_of_our_own_services_is_no_partner(reading: Reading) -> None:
    call = BillingServiceStub(reading.channel).GetUsage(GetUsageRequest())
    assert "PRINCIPAL_INVALID" in await refused(call)


async def test_the_ledger_is_listed_newest_first_page_by_page(reading: Reading) -> None:
    await reading.metering.record(lines(7))
    await reading.metering.record(lines(3, name="b", account_id="acct-b", key_id="acct-b-key"))
    assert await reading.listed(page_size=3) == [f"request-{number}/0" for number in reversed(range(7))]


async def test_calls_of_one_moment_are_neither_lost_nor_repeated_between_pages(reading: Reading) -> None:
    await reading.metering.record([a_line(f"r{number}") for number in range(5)])
    await reading.metering.record([a_line("s", NOON - timedelta(minutes=20), method=STREAM, seconds=900)])
    expected = [f"r{number}/0" for number in reversed(range(5))] + ["s/2", "s/1", "s/0"]
    assert await reading.listed(page_size=2) == expected


async def test_new_calls_do_not_disturb_the_pages_behind(reading: Reading) -> None:
    await reading.metering.record(lines(4))
    first = await reading.ask("ListUsageLedger", ListUsageLedgerRequest(page_size=2))
    await reading.metering.record([a_line("newer", NOON + timedelta(seconds=30))])
    request = ListUsageLedgerRequest(page_size=2, page_token=first.next_page_token)
    second = await reading.ask("ListUsageLedger", request)
    assert [entry.request_id for entry in second.entries] == ["request-1", "request-0"]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"since": stamp(NOON + timedelta(seconds=2))}, ["request-3/0", "request-2/0"]),
        ({"until": stamp(NOON + timedelta(seconds=2))}, ["request-1/0", "request-0/0", "early/0"]),
        ({"key_id": ["acct-a-other"]}, ["early/0"]),
        ({"key_id": ["acct-b-key"]}, []),
        ({"since": stamp(NOON), "until": stamp(NOON)}, []),
    ],
)
async def test_each_filter_of_the_ledger_lets_through_what_it_names(
    reading: Reading, given: dict[str, Any], found: list[str]
) -> None:
    await reading.metering.record([*lines(4), a_line("early", NOON - timedelta(days=1), key_id="acct-a-other")])
    assert await reading.listed(**given) == found


async def test_a_page_token_is_good_for_its_own_filters_and_account(reading: Reading) -> None:
    await reading.metering.record(lines(4))
    token = (await reading.ask("ListUsageLedger", ListUsageLedgerRequest(page_size=2))).next_page_token
    other = ListUsageLedgerRequest(page_token=token, key_id=["acct-a-key"])
    assert "INVALID_PAGE_TOKEN" in await refused(reading.ask("ListUsageLedger", other))
    assert "INVALID_PAGE_TOKEN" in await refused(
        reading.ask("ListUsageLedger", ListUsageLedgerRequest(page_token=token), "acct-b")
    )


@pytest.mark.parametrize("place", [(10**30, "a", 0), (-1, "a", 0), (10**9, "\0", 0), (10**9, "a", 99_999)])
async def test_a_page_token_for_a_place_that_cannot_be_is_not_ours(reading: Reading, place: Any) -> None:
    request = ListUsageLedgerRequest(page_token=paging.encode(place, b"acct-a\0"))
    assert "INVALID_PAGE_TOKEN" in await refused(reading.ask("ListUsageLedger", request))


async def test_an_entry_says_what_was_called_and_what_it_counted(reading: Reading) -> None:
    await reading.metering.record([a_line("unpaid", method=UNPAID, path="/api/v1/usage")])
    (entry,) = (await reading.ask("ListUsageLedger", ListUsageLedgerRequest())).entries
    assert (entry.method, entry.path, entry.status, entry.units) == ("GetUsage", "/api/v1/usage", 200, 0)
    assert entry.billed_hour.ToDatetime(UTC) == NOON
    assert not entry.late


async def test_the_export_is_one_table_oldest_first(reading: Reading) -> None:
    await reading.metering.record([*lines(3), a_line("comma", NOON - HOUR, path='/a,"b"')])
    rows = await reading.export()
    assert list(rows[0]) == list(CSV_COLUMNS)
    assert [row["request_id"] for row in rows] == ["comma", "request-0", "request-1", "request-2"]
    assert rows[0]["path"] == '/a,"b"'
    assert rows[1]["started_at"] == "2026-03-10T12:00:00.000Z"
    assert rows[1]["method"] == "ReadSignals"


async def test_the_export_begins_with_the_period_unless_told_otherwise(reading: Reading) -> None:
    await reading.metering.record([a_line("before", MARCH - HOUR), a_line("in", NOON)])
    assert [row["request_id"] for row in await reading.export()] == ["in"]
    assert [row["request_id"] for row in await reading.export(since=stamp(MARCH - 2 * HOUR))] == ["before", "in"]
    assert await reading.export(until=stamp(NOON)) == []


async def test_the_export_is_read_in_pieces_and_loses_none(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_api, "EXPORT_ROWS", 2)
    await reading.metering.record([a_line(f"r{number}") for number in range(6)])
    chunks = [data async for data in reading.chunks()]
    assert [data.count(b"\n") for data in chunks] == [1, 2, 2, 2]
    assert [row["request_id"] for row in await reading.export()] == [f"r{number}" for number in range(6)]


async def test_the_export_holds_nobody_elses_calls(reading: Reading) -> None:
    await reading.metering.record(lines(3))
    assert await reading.export(account_id="acct-b") == []


async def test_the_ledgers_rows_add_up_to_what_usage_says(reading: Reading) -> None:
    await reading.metering.record([*lines(130), a_line("refused", status=500)])
    usage = (await reading.ask("GetUsage", GetUsageRequest())).usage
    rows = await reading.export()
    assert sum(int(row["units"]) for row in rows) == usage.used_units == sum(day.units for day in usage.days)
    assert sum(int(row["overage_units"]) for row in rows) == usage.overage_units == 30
    assert len(rows) == sum(key.requests for key in usage.keys)


@pytest.mark.parametrize(
    ("path", "method", "billable", "stretch", "scope"),
    [
        ("/api/v1/intel/signals", "ReadSignals", True, 0, "signals:read"),
        ("/api/v1/intel/signals?tier=HIGH&min_score=3", "ReadSignals", True, 0, "signals:read"),
        ("/api/v1/intel/signals/abc", "GetSignal", True, 0, "signals:read"),
        ("/api/v1/intel/signals:watch", "StreamSignals", True, 300, "signals:read"),
        ("/api/v1/usage", "GetUsage", False, 0, "account:read"),
    ],
)
async def test_a_quote_says_what_a_call_counts(
    reading: Reading, path: str, method: str, billable: bool, stretch: int, scope: str
) -> None:
    quote = await reading.ask("QuoteUsage", QuoteUsageRequest(path=path))
    assert (quote.method, quote.billable, quote.units) == (method, billable, int(billable))
    assert (quote.HasField("stretch_seconds"), quote.stretch_seconds) == (stretch > 0, stretch)
    assert (quote.remaining_units, quote.overage, quote.cost_cents, quote.scope) == (100, False, 0.0, scope)


async def test_a_quote_above_the_limit_says_what_it_costs(reading: Reading) -> None:
    await reading.metering.record(lines(100))
    quote = await reading.ask("QuoteUsage", QuoteUsageRequest(path="/api/v1/intel/signals"))
    assert (quote.remaining_units, quote.overage, quote.cost_cents) == (0, True, 0.1)
    free = await reading.ask("QuoteUsage", QuoteUsageRequest(path="/api/v1/usage"))
    assert (free.overage, free.cost_cents) == (False, 0.0)


@pytest.mark.parametrize("path", ["", "/", "/api/v1/nothing", "/api/v1/intel/signals/a/b", "api/v1/usage"])
async def test_a_path_that_leads_nowhere_has_no_price(reading: Reading, path: str) -> None:
    assert "PATH_NOT_FOUND" in await refused(reading.ask("QuoteUsage", QuoteUsageRequest(path=path)))

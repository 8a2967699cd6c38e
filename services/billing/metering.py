"""Counting as a service: batches of the gateways' lines in, and hours that are closed as time goes by."""

# ruff: noqa: N802, ARG002 - gRPC's names of methods are the contract's, and so are their parameters
from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from grpc.aio import ServicerContext
from prometheus_client import Counter, Gauge
from sqlalchemy.exc import SQLAlchemyError
from stratum.billing.v1 import metering_service_pb2
from stratum.billing.v1.metering_service_pb2 import UsageLine
from stratum.billing.v1.metering_service_pb2_grpc import MeteringServiceServicer
from stratum.common.v1.error_reason_pb2 import ErrorReason

from services.billing.ledger import HOUR, Ledger, LineToCount, Recorded, SealedHour
from services.billing.rating import Line, MethodKind
from services.shared import contracts
from services.shared.clock import utc_now
from services.shared.errors import InvalidArgument
from services.shared.logging import logger

log = logger(__name__)

Context = ServicerContext[Any, Any]
Clock = Callable[[], datetime]

LARGEST_BATCH = 1000
#: How long after its end an hour stays open for lines that are still on their way.
GRACE = timedelta(minutes=10)
SEAL_EVERY_SECONDS = 60.0
#: An hour that is closed so long after its time is one in which we were away: what is missing in it was not counted
#: yet, and says nothing of the accounts.
AWAY = timedelta(minutes=30)

lines_total = Counter("stratum_metering_lines_total", "Lines by what became of them.", ["result"])
unrated_total = Counter("stratum_metering_unrated_total", "Lines that could not be counted, by the reason.", ["reason"])
units_total = Counter("stratum_metering_units_total", "Units counted.")
notices_total = Counter("stratum_metering_notices_total", "Thresholds said, by percent of the limit.", ["threshold"])
anomalies_total = Counter("stratum_metering_anomalies_total", "Hours unlike their account's past.", ["kind"])
sealed_hours_total = Counter("stratum_metering_sealed_hours_total", "Hours closed by this process.")
sealed_until_seconds = Gauge("stratum_metering_sealed_until_seconds", "Where the open hours begin, in Unix time.")
seal_failures_total = Counter("stratum_metering_seal_failures_total", "Times that closing hours failed.", ["error"])


def reachable_methods() -> dict[str, MethodKind]:
    """Every method that is reached through the gateway, by its full name, as rating wants it."""
    return {
        method.full_name: MethodKind(paid=method.is_paid, streaming=method.streaming)
        for method in contracts.methods()
        if method.verb
    }


class MeteringApi(MeteringServiceServicer):
    """Takes the gateways' lines."""

    def __init__(self, ledger: Ledger, clock: Clock = utc_now) -> None:
        self._ledger = ledger
        self._clock = clock

    async def RecordUsage(
        self, request: metering_service_pb2.RecordUsageRequest, context: Context
    ) -> metering_service_pb2.RecordUsageResponse:
        if len(request.lines) > LARGEST_BATCH:
            raise InvalidArgument(
                ErrorReason.INVALID_ARGUMENT, f"at most {LARGEST_BATCH} lines, not {len(request.lines)}", field="lines"
            )
        batch = [LineToCount(_line(line), line.SerializeToString()) for line in request.lines]
        recorded = await self._ledger.record(batch, self._clock())
        _tell(recorded)
        return metering_service_pb2.RecordUsageResponse(
            recorded=recorded.recorded,
            repeated=recorded.repeated,
            conflicting=len(recorded.conflicting),
            unrated=len(recorded.unrated),
        )


class Sealer:
    """Closes hours. Several may run: each hour is closed by one of them."""

    def __init__(self, ledger: Ledger, clock: Clock = utc_now, every_seconds: float = SEAL_EVERY_SECONDS) -> None:
        self._ledger = ledger
        self._clock = clock
        self._every_seconds = every_seconds

    async def run(self) -> None:
        """Closes what is due, each minute, for ever. A failure is logged, and the next minute tries again.

        The first minute is left to the usage readers: after an outage they bring what they have kept, and those hours
        that are due then are closed with it.
        """
        while True:
            await asyncio.sleep(self._every_seconds)
            try:
                await self.seal_due()
            except (SQLAlchemyError, OSError) as error:
                seal_failures_total.labels(type(error).__name__).inc()
                log.warning("hours could not be closed", error=type(error).__name__, exc_info=error)

    async def seal_due(self) -> list[SealedHour]:
        """Closes, the oldest first, every hour that ended at least ten minutes ago; those that this call has closed."""
        sealed: list[SealedHour] = []
        while True:
            now, hour = self._clock(), await self._ledger.sealed_until()
            sealed_until_seconds.set(hour.timestamp())
            due_at = hour + HOUR + GRACE
            if now < due_at:
                return sealed
            closed = await self._ledger.seal(hour, now, silences=now - due_at < AWAY)
            if closed is not None:
                sealed.append(closed)
                _tell_sealed(closed)


def _line(line: UsageLine) -> Line:
    return Line(
        request_id=line.request_id,
        started_at=_moment(line),
        duration_milliseconds=line.duration_milliseconds,
        account_id=line.account_id,
        key_id=line.key_id,
        method=line.method,
        path=line.path,
        status=line.status,
        test=line.test,
        gateway=line.gateway,
    )


def _moment(line: UsageLine) -> datetime | None:
    if not line.HasField("started_at"):
        return None
    try:
        return line.started_at.ToDatetime(UTC)
    except (OverflowError, ValueError):
        return None


def _tell(recorded: Recorded) -> None:
    lines_total.labels("recorded").inc(recorded.recorded)
    lines_total.labels("repeated").inc(recorded.repeated)
    lines_total.labels("conflicting").inc(len(recorded.conflicting))
    lines_total.labels("unrated").inc(len(recorded.unrated))
    units_total.inc(recorded.units)
    for _, percent in recorded.notices:
        notices_total.labels(str(percent)).inc()
    _tell_conflicts(recorded.conflicting)
    reasons = Tally(reason for reason, _ in recorded.unrated)
    for reason, number in reasons.items():
        unrated_total.labels(str(reason)).inc(number)
    if reasons:
        _, first = recorded.unrated[0]
        log.warning(
            "lines that cannot be counted",
            reasons={str(reason): number for reason, number in reasons.items()},
            first_request_id=first.line.request_id,
            account_id=first.line.account_id,
        )


def _tell_conflicts(conflicting: Sequence[Line]) -> None:
    if conflicting:
        first = conflicting[0]
        log.warning(
            "lines that contradict the ledger; what it has stays",
            lines=len(conflicting),
            first_request_id=first.request_id,
            account_id=first.account_id,
            rpc=first.method,
            status=first.status,
        )


def _tell_sealed(closed: SealedHour) -> None:
    sealed_hours_total.inc()
    sealed_until_seconds.set((closed.hour + HOUR).timestamp())
    for found in closed.anomalies.values():
        anomalies_total.labels(str(found.kind)).inc()
    log.info(
        "an hour is closed",
        hour=closed.hour.isoformat(),
        rollups=closed.rollups,
        anomalies={account_id: str(found.kind) for account_id, found in closed.anomalies.items()},
    )

"""How each poll went: a row, a log line and metrics a cycle. Ingest's share of the KPIs in docs/ops-kpis.md.

A cycle is one turn of one sport: the sport's call and those for single events that follow it. It is told of when all of
it has been published, so its row stands behind everything that it counts; of a process that dies in the middle there is
no row, while `polls` has what was kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime

import prometheus_client
from sqlalchemy.exc import SQLAlchemyError

from services.ingest import store
from services.ingest.changes import Poll
from services.ingest.provider import Quota
from services.ingest.store import CycleRow, PollRow
from services.shared import tracing
from services.shared.clock import utc_now
from services.shared.cycles import cycle_id
from services.shared.database import Database
from services.shared.logging import logger

log = logger(__name__)

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0)

cycles_total = prometheus_client.Counter(
    "stratum_ingest_cycles_total", "Poll cycles, and whether anything went wrong in them.", ["sport_key", "degraded"]
)
cycle_seconds = prometheus_client.Histogram(
    "stratum_ingest_cycle_seconds",
    "From the first call to the last message's publishing.",
    ["sport_key"],
    buckets=_SECONDS,
)
degraded_total = prometheus_client.Counter(
    "stratum_ingest_degraded_total", "Poll cycles in which something went wrong, by what.", ["sport_key", "reason"]
)
snapshots_total = prometheus_client.Counter(
    "stratum_ingest_snapshots_inserted_total", "Prices kept because they were new or had changed.", ["sport_key"]
)
events_processed = prometheus_client.Gauge("stratum_ingest_events", "Events in the newest answer.", ["sport_key"])
requests_used_total = prometheus_client.Counter(
    "stratum_ingest_requests_used_total", "Credits by which the provider's own count of the key rose."
)
requests_remaining = prometheus_client.Gauge("stratum_ingest_requests_remaining", "Credits left, as last told.")
requests_limit = prometheus_client.Gauge("stratum_ingest_requests_limit", "Credits of the whole month, as last told.")


@dataclass(slots=True)
class _Cycle:
    sport_key: str
    started_at: datetime
    begun: float
    observed_at: datetime | None = None
    observed_until: datetime | None = None
    interval: float = 0.0
    calls: int = 0
    last: int | None = None
    used_delta: int | None = None
    events: int = 0
    quotes: int = 0
    changes: int = 0
    snapshots: int = 0
    reasons: list[str] = field(default_factory=list)

    def seen(self, poll: Poll) -> None:
        self.observed_at = self.observed_at or poll.observed_at
        self.observed_until = poll.observed_at
        self.interval = poll.expected_interval_seconds

    def went_wrong(self, reason: str) -> None:
        if reason not in self.reasons:
            self.reasons.append(reason)


class Cycles:
    """The cycles of one poller. What a recorder keeps or notes is told to it, and belongs to the sport's open cycle."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._open: dict[str, _Cycle] = {}
        #: The provider's count of the key's credits, of whatever sport; the rise since then is this cycle's.
        self._quota = Quota()

    @asynccontextmanager
    async def cycle(self, sport_key: str) -> AsyncIterator[None]:
        """One turn of a sport; also the beginning of a trace, if it is to be followed."""
        cycle = self._open[sport_key] = _Cycle(sport_key, utc_now(), time.perf_counter())
        with tracing.trace("poll", sport_key=sport_key):
            try:
                yield
            except asyncio.CancelledError:
                raise
            except Exception as error:
                cycle.went_wrong(getattr(error, "kind", type(error).__name__))
                await self._close(cycle)
                raise
            else:
                await self._close(cycle)
            finally:
                self._open.pop(sport_key, None)

    def kept(self, poll: Poll, quota: Quota, row: PollRow) -> None:
        """An answer was kept."""
        cycle = self._open.get(poll.sport_key)
        self._spent(cycle, quota)
        if cycle is not None:
            cycle.seen(poll)
            # The sport's own answer shows all its events; those for single ones show some of them again.
            cycle.events = max(cycle.events, row.events)
            cycle.quotes += row.quotes
            cycle.changes += row.changes
            cycle.snapshots += row.snapshots

    def failed(self, poll: Poll, kind: str, quota: Quota | None = None) -> None:
        """A call gave nothing that could be kept."""
        cycle = self._open.get(poll.sport_key)
        self._spent(cycle, quota or Quota())
        if cycle is not None:
            cycle.seen(poll)
            cycle.went_wrong(kind)

    def _spent(self, cycle: _Cycle | None, quota: Quota) -> None:
        before, self._quota = (
            self._quota,
            Quota(
                remaining=self._quota.remaining if quota.remaining is None else quota.remaining,
                used=self._quota.used if quota.used is None else quota.used,
            ),
        )
        rise = quota.last
        if quota.used is not None and before.used is not None:
            # A count that fell began anew with the month.
            rise = quota.used - before.used if quota.used >= before.used else quota.used
        if rise is not None:
            requests_used_total.inc(max(0, rise))
        if cycle is None:
            return
        cycle.calls += 1
        if quota.last is not None:
            cycle.last = (cycle.last or 0) + quota.last
        if rise is not None:
            cycle.used_delta = (cycle.used_delta or 0) + rise

    async def _close(self, cycle: _Cycle) -> None:
        if cycle.observed_at is None or cycle.observed_until is None:
            return
        remaining, used = self._quota.remaining, self._quota.used
        row = CycleRow(
            sport_key=cycle.sport_key,
            observed_at=cycle.observed_at,
            observed_until=cycle.observed_until,
            started_at=cycle.started_at,
            completed_at=utc_now(),
            duration_ms=round((time.perf_counter() - cycle.begun) * 1000),
            target_interval_seconds=cycle.interval,
            calls=cycle.calls,
            requests_last=cycle.last,
            requests_used_delta=cycle.used_delta,
            requests_remaining=remaining,
            requests_limit=None if remaining is None or used is None else remaining + used,
            events_processed=cycle.events,
            quotes_seen=cycle.quotes,
            quotes_changed=cycle.changes,
            snapshots_inserted=cycle.snapshots,
            degraded=bool(cycle.reasons),
            reasons=cycle.reasons,
        )
        _measure(row)
        log.info("cycle", cycle_id=cycle_id(row.sport_key, row.observed_at), **_shown(row))
        try:
            async with self._database.begin() as connection:
                await store.write_cycle(connection, row)
        except SQLAlchemyError as error:
            # What it counts is kept; polling goes on without this row, and finds out by itself what is wrong.
            log.warning("a cycle's row could not be written", error=type(error).__name__)


def _measure(row: CycleRow) -> None:
    cycles_total.labels(row.sport_key, str(row.degraded).lower()).inc()
    cycle_seconds.labels(row.sport_key).observe(row.duration_ms / 1000)
    for reason in row.reasons:
        degraded_total.labels(row.sport_key, reason).inc()
    snapshots_total.labels(row.sport_key).inc(row.snapshots_inserted)
    events_processed.labels(row.sport_key).set(row.events_processed)
    if row.requests_remaining is not None:
        requests_remaining.set(row.requests_remaining)
    if row.requests_limit is not None:
        requests_limit.set(row.requests_limit)


def _shown(row: CycleRow) -> dict[str, object]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(row).items()}

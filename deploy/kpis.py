"""The KPIs of the last poll cycles, put together from what each service counted of them. See docs/ops-kpis.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from rich import box
from rich.table import Table

from deploy.installation import Rows
from services.shared.cycles import cycle_id

#: Why there is no number of alerts: not nought, but nobody to send one.
NO_ALERTS = "there is no alerts service yet"
#: The services behind ingest, in the order of the pipeline.
STAGES = ("consensus", "signals")


@dataclass(frozen=True, slots=True)
class StageShare:
    """What one service behind ingest made of a cycle, as far as it has come."""

    messages: int
    counts: Mapping[str, int]
    last_at: datetime


@dataclass(frozen=True, slots=True)
class CycleKpis:
    """One cycle. None is not known: the provider said nothing, or the service has not come to it."""

    cycle_id: str
    sport_key: str
    started_at: datetime
    completed_at: datetime
    duration_ms: int
    requests_used_delta: int | None
    requests_last: int | None
    requests_remaining: int | None
    requests_limit: int | None
    events_processed: int
    snapshots_inserted: int
    consensus_points_written: int | None
    signals_created_total: int | None
    signals_created_by_type: Mapping[str, int]
    alerts_sent: int | None
    alerts_failed: int | None
    degraded: bool
    reasons: Sequence[str]
    #: From the first call to the last row of signals; None before that.
    settled_ms: int | None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(self).items()
        }


def together(row: Mapping[str, Any], shares: Mapping[str, StageShare | None]) -> CycleKpis:
    """One cycle's row of ingest, with what the others counted of it."""
    consensus, signals = (shares.get(stage) for stage in STAGES)
    counts = {} if signals is None else signals.counts
    by_type = {
        name.partition(".")[2]: count
        for name, count in sorted(counts.items())
        if name.startswith("signals_created_by_type.")
    }
    settled = None if signals is None else round((signals.last_at - row["started_at"]).total_seconds() * 1000)
    return CycleKpis(
        cycle_id=cycle_id(row["sport_key"], row["observed_at"]),
        **{
            name: row[name]
            for name in (
                "sport_key",
                "started_at",
                "completed_at",
                "duration_ms",
                "requests_used_delta",
                "requests_last",
                "requests_remaining",
                "requests_limit",
                "events_processed",
                "snapshots_inserted",
                "degraded",
                "reasons",
            )
        },
        consensus_points_written=None if consensus is None else consensus.counts.get("consensus_points_written", 0),
        signals_created_total=None if signals is None else signals.counts.get("signals_created_total", 0),
        signals_created_by_type=by_type,
        alerts_sent=None,
        alerts_failed=None,
        settled_ms=settled,
        notes={
            "alerts": NO_ALERTS,
            "calls": row["calls"],
            "quotes_seen": row["quotes_seen"],
            "quotes_changed": row["quotes_changed"],
            "target_interval_seconds": row["target_interval_seconds"],
        },
    )


def last_cycles(rows: Rows, count: int, sport_key: str = "") -> list[CycleKpis]:
    """The last cycles, newest first."""
    cycles = rows.of(
        "SELECT * FROM ingest.cycles WHERE %s::text IN ('', sport_key) ORDER BY completed_at DESC LIMIT %s",
        sport_key,
        count,
    )
    if not cycles:
        return []
    span = (min(row["observed_at"] for row in cycles), max(row["observed_until"] for row in cycles))
    counted = {
        "consensus": rows.of("SELECT * FROM consensus.cycles WHERE observed_at BETWEEN %s AND %s", *span),
        "signals": rows.of("SELECT * FROM signals.cycles WHERE observed_at BETWEEN %s AND %s", *span),
    }
    return [together(row, {stage: _share(row, counted[stage]) for stage in STAGES}) for row in cycles]


def _share(cycle: Mapping[str, Any], counted: Iterable[Mapping[str, Any]]) -> StageShare | None:
    """A cycle's part of a stage's rows: of every worker, and of every answer from its first to its last."""
    mine = [
        row
        for row in counted
        if row["sport_key"] == cycle["sport_key"]
        and cycle["observed_at"] <= row["observed_at"] <= cycle["observed_until"]
    ]
    if not mine:
        return None
    counts: Counter[str] = Counter()
    for row in mine:
        counts.update(row["counts"])
    return StageShare(sum(row["messages"] for row in mine), counts, max(row["last_at"] for row in mine))


def as_table(cycles: Sequence[CycleKpis]) -> Table:
    """The same for a terminal."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), caption=f"alerts: none, for {NO_ALERTS}", caption_justify="left")
    table.add_column("cycle", no_wrap=True)
    for heading in ("ms", "settled", "events", "snapshots", "points", "signals", "used", "last", "left of", "limit"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("by type, and what went wrong")
    for cycle in cycles:
        by_type = ", ".join(f"{name} {count}" for name, count in cycle.signals_created_by_type.items())
        wrong = f"[red]{', '.join(cycle.reasons)}[/]" if cycle.degraded else ""
        numbers = (
            cycle.duration_ms,
            cycle.settled_ms,
            cycle.events_processed,
            cycle.snapshots_inserted,
            cycle.consensus_points_written,
            cycle.signals_created_total,
            cycle.requests_used_delta,
            cycle.requests_last,
            cycle.requests_remaining,
            cycle.requests_limit,
        )
        shown = ("–" if number is None else f"{number:,}" for number in numbers)
        table.add_row(cycle.cycle_id, *shown, " ".join(filter(None, (by_type, wrong))))
    return table

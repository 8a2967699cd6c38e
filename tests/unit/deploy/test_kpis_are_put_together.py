"""A cycle's numbers come from three services; what one has not told yet is not known, and never nought."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console

from deploy.kpis import StageShare, as_table, together

START = datetime(2026, 1, 15, 18, 0, tzinfo=UTC)
ROW: dict[str, Any] = {
    "sport_key": "basketball_nba",
    "observed_at": START,
    "observed_until": START,
    "started_at": START,
    "completed_at": START + timedelta(seconds=1),
    "duration_ms": 1000,
    "target_interval_seconds": 60.0,
    "calls": 1,
    "requests_last": 3,
    "requests_used_delta": 6,
    "requests_remaining": 19_000,
    "requests_limit": 20_000,
    "events_processed": 9,
    "quotes_seen": 240,
    "quotes_changed": 12,
    "snapshots_inserted": 24,
    "degraded": True,
    "reasons": ["rate_limited"],
}
CONSENSUS = StageShare(9, {"consensus_points_written": 5}, START + timedelta(seconds=1.2))
SIGNALS = StageShare(
    9,
    {"signals_created_total": 3, "signals_created_by_type.MOVE": 2, "signals_created_by_type.STEAM": 1},
    START + timedelta(seconds=1.5),
)


def test_the_shares_of_all_services_are_one_cycle() -> None:
    cycle = together(ROW, {"consensus": CONSENSUS, "signals": SIGNALS})
    assert cycle.cycle_id == "basketball_nba@2026-01-15T18:00:00.000Z"
    assert (cycle.consensus_points_written, cycle.signals_created_total, cycle.settled_ms) == (5, 3, 1500)
    assert cycle.signals_created_by_type == {"MOVE": 2, "STEAM": 1}
    assert json.loads(json.dumps(cycle.shown()))["started_at"] == "2026-01-15T18:00:00+00:00"


def test_what_was_not_told_is_not_known() -> None:
    cycle = together({**ROW, "requests_last": None}, {"consensus": CONSENSUS, "signals": None})
    assert (cycle.requests_last, cycle.signals_created_total, cycle.settled_ms) == (None, None, None)
    assert (cycle.alerts_sent, cycle.alerts_failed) == (None, None)
    assert "no alerts service" in cycle.notes["alerts"]


def test_the_table_shows_what_went_wrong() -> None:
    console = Console(width=180)
    with console.capture() as shown:
        console.print(as_table([together(ROW, {"consensus": CONSENSUS, "signals": None})]))
    assert "rate_limited" in shown.get()
    assert "–" in shown.get()

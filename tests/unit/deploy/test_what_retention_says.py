"""What retention says of a run, for a terminal and for a log."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from io import StringIO

from rich.console import Console

from deploy.retention import Done, as_fields, as_table
from services.shared.keeping import Report

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DUE = datetime(2026, 3, 2, tzinfo=UTC)
SNAPSHOTS = Report("consensus.consensus_snapshots", 400.0, 4, 1, 1_234_567, 2**29, DUE)
IN_USE = Report("ingest.odds_snapshots", 0.0, left=["the table was in use, so 2 days stay"])


def shown(done: Done) -> str:
    console = Console(file=StringIO(), width=80)
    console.print(as_table(done))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_line_a_table_fits_into_eighty_columns() -> None:
    (line,) = [line for line in shown(Done(NOW, False, [SNAPSHOTS], [])).splitlines() if "consensus" in line]
    assert line.split() == [
        "consensus.consensus_snapshots",
        "400",
        "d",
        "4",
        "1",
        "1,234,567",
        "512",
        "MB",
        "2026-03-02",
    ]


def test_a_dry_run_says_that_it_is_one() -> None:
    assert "would be done" in shown(Done(NOW, True, [SNAPSHOTS], []))
    assert "would be done" not in shown(Done(NOW, False, [SNAPSHOTS], []))


def test_what_is_left_and_what_another_run_does_is_said_in_sentences() -> None:
    assert Done(NOW, False, [SNAPSHOTS, IN_USE], ["signals"]).sentences() == [
        "another run is at work on signals: nothing was done there",
        "left to the next run: ingest.odds_snapshots: the table was in use, so 2 days stay",
    ]


def test_the_log_has_every_number_and_is_json() -> None:
    fields = json.loads(json.dumps(as_fields(Done(NOW, False, [SNAPSHOTS], []))))
    (table,) = fields["tables"]
    assert (table["rows_removed"], table["bytes_freed"], table["next_due"]) == (1_234_567, 2**29, DUE.isoformat())

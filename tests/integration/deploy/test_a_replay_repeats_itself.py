"""A recorded series through the real services gives the same bytes again, whoever is killed meanwhile."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.shared.testing import recorded_data

STRATUM = [sys.executable, "-m", "deploy.cli"]
#: Answers of an evening of the series, among them starts of games: enough for signals, few enough to wait for.
ANSWERS = slice(60, 100)
DEADLINE_SECONDS = 280.0


@pytest.fixture
def evening(tmp_path: Path) -> Path:
    """Some answers of the WNBA series as a recording of their own; the archives stay where they are."""
    series = recorded_data("wnba_15m")
    folder = tmp_path / "evening"
    folder.mkdir()
    head, *lines = (series / "INDEX.tsv").read_text().splitlines()
    (folder / "INDEX.tsv").write_text("\n".join([head, *lines[ANSWERS]]) + "\n")
    for archive in {line.split("\t")[1] for line in lines[ANSWERS]}:
        (folder / archive).symlink_to(series / archive)
    return folder


def replayed(folder: Path, out: Path, *options: str, **settings: str) -> tuple[bytes, dict[str, object]]:
    summary = out.with_suffix(".json")
    done = subprocess.run(
        [*STRATUM, "replay", str(folder), "--out", str(out), "--summary", str(summary), *options],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **settings},
        timeout=DEADLINE_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out.read_bytes(), json.loads(summary.read_text())


@pytest.mark.timeout(600)
def test_killing_every_process_once_and_keeping_each_answer_by_itself_changes_no_byte(
    evening: Path, tmp_path: Path
) -> None:
    calm, told = replayed(evening, tmp_path / "calm.jsonl")
    stormy, told_again = replayed(evening, tmp_path / "stormy.jsonl", "--kill", INGEST_BACKFILL_BATCH="1")

    assert told["profile"] == "sampled-15m"
    assert told["responses"] == 40
    assert told["signals"] == len(calm.splitlines()) > 0
    assert told_again["killed"] == ["ingest", "consensus", "signals", "nats", "postgres"]
    assert stormy == calm
    for counted in ("quotes", "changes", "snapshots", "consensus_rows", "suppressed_by_reason", "rejected_by_reason"):
        assert told_again[counted] == told[counted]

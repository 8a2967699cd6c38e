"""A recorded series through the real services gives the same bytes again, whoever is killed meanwhile."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from services.shared.testing import recorded_data

STRATUM = [sys.executable, "-m", "deploy.cli"]
#: Answers of the beginning of a series: enough for every kind of signal that its cadence allows.
ANSWERS = 100
DEADLINE_SECONDS = 280.0


@pytest.fixture
def beginning(tmp_path: Path) -> Path:
    """The first answers of the NBA series, as a recording of their own; the archives stay where they are."""
    series = recorded_data("nba_2h")
    folder = tmp_path / "beginning"
    folder.mkdir()
    lines = (series / "INDEX.tsv").read_text().splitlines()[: ANSWERS + 1]
    (folder / "INDEX.tsv").write_text("\n".join(lines) + "\n")
    for archive in {line.split("\t")[1] for line in lines[1:]}:
        (folder / archive).symlink_to(series / archive)
    return folder


def replayed(folder: Path, out: Path, *options: str) -> tuple[bytes, dict[str, object]]:
    summary = out.with_suffix(".json")
    done = subprocess.run(
        [*STRATUM, "replay", str(folder), "--out", str(out), "--summary", str(summary), *options],
        check=False,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out.read_bytes(), json.loads(summary.read_text())


@pytest.mark.timeout(600)
def test_killing_every_process_once_changes_no_byte(beginning: Path, tmp_path: Path) -> None:
    calm, told = replayed(beginning, tmp_path / "calm.jsonl")
    stormy, told_again = replayed(beginning, tmp_path / "stormy.jsonl", "--kill")

    assert told["profile"] == "sampled-2h"
    assert told["responses"] == ANSWERS
    assert told["signals"] == len(calm.splitlines()) > 0
    assert told_again["killed"] == ["ingest", "consensus", "signals", "nats", "postgres"]
    assert stormy == calm
    for counted in ("quotes", "changes", "snapshots", "consensus_rows", "suppressed_by_reason", "rejected_by_reason"):
        assert told_again[counted] == told[counted]

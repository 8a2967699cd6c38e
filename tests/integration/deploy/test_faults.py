"""A few faults of every kind, as `make faults` injects them by the hundred, change no row."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.shared.testing import recorded_data
from tests.faults import schedule
from tests.faults.__main__ import printed, slice_of
from tests.faults.run import Laboratory

#: An evening of games, close enough together that most messages are no keyframes.
ANSWERS, SQUEEZE = slice(100, 140), 40.0
SEED = 3


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that PostgreSQL, which runs as a user of its own, can enter."""
    with tempfile.TemporaryDirectory(prefix="stratum-faults-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.timeout(600)
async def test_every_kind_of_fault_happens_and_no_row_is_lost_doubled_or_different(folder: Path) -> None:
    series = recorded_data("nba_2h")
    with slice_of(series, folder / "recording", ANSWERS, SQUEEZE) as recording:
        laboratory = Laboratory(recording, folder, print, stream_bytes=300_000, longest_pause_seconds=0.3)
        undisturbed = await laboratory.undisturbed()
        outcome = await laboratory.disturbed(SEED, schedule.SHORT, undisturbed)
    assert outcome.differences == [], printed(outcome)
    assert outcome.missing == [], printed(outcome)
    assert outcome.compared["signals.signal"] > 0
    assert outcome.compared["consensus.consensus_snapshots"] > 0

"""What the recorder has saved can be read, whatever ended it, and the next run goes on behind it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deploy.record import INDEX, RecordingError, Series
from deploy.recording import open_recording

EVENING = datetime(2026, 1, 15, 23, 59, 0, tzinfo=UTC)
SPORT = "basketball_nba"


def a_body(number: int) -> bytes:
    return json.dumps([{"id": str(number), "sport_key": SPORT}]).encode()


def saved(folder: Path, *numbers: int) -> Series:
    """A recorder that has saved these minutes and was then killed."""
    series = Series(folder, SPORT)
    for number in numbers:
        assert series.add(EVENING + timedelta(minutes=number), a_body(number))
    return series


def read(folder: Path) -> list[bytes]:
    with open_recording(folder) as recording:
        return [body for _, body in recording.bodies()]


def test_an_answer_can_be_read_as_soon_as_it_is_saved(tmp_path: Path) -> None:
    saved(tmp_path, 0, 1, 2)
    assert read(tmp_path) == [a_body(0), a_body(1), a_body(2)]


def test_packing_makes_an_archive_a_day_and_changes_no_answer(tmp_path: Path) -> None:
    saved(tmp_path, 0, 1, 2).pack()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        INDEX,
        f"{SPORT}_2026-01-15.tar.xz",
        f"{SPORT}_2026-01-16.tar.xz",
    ]
    assert read(tmp_path) == [a_body(0), a_body(1), a_body(2)]


def test_a_day_that_goes_on_is_left_as_it_is(tmp_path: Path) -> None:
    saved(tmp_path, 0, 1, 2).pack(but_of="2026-01-16")
    assert len(list(tmp_path.glob("*.json.gz"))) == 2
    assert read(tmp_path) == [a_body(0), a_body(1), a_body(2)]


def test_the_next_run_goes_on_and_adds_an_archive_of_the_same_day(tmp_path: Path) -> None:
    saved(tmp_path, 1).pack()
    again = saved(tmp_path, 2)
    assert len(again) == 2
    again.pack()
    assert (tmp_path / f"{SPORT}_2026-01-16_2.tar.xz").exists()
    assert read(tmp_path) == [a_body(1), a_body(2)]


def test_a_time_that_is_there_is_kept_as_it_was(tmp_path: Path) -> None:
    series = saved(tmp_path, 1)
    assert not series.add(EVENING + timedelta(minutes=1, milliseconds=400), a_body(9))
    assert read(tmp_path) == [a_body(1)]


def test_a_line_that_a_crash_cut_off_costs_its_own_answer_alone(tmp_path: Path) -> None:
    saved(tmp_path, 0, 1)
    index = tmp_path / INDEX
    index.write_text(index.read_text() + "2026-01-16T00:")
    saved(tmp_path, 2)
    assert read(tmp_path) == [a_body(0), a_body(1), a_body(2)]


def test_an_archive_of_which_no_index_knows_yet_is_no_harm(tmp_path: Path) -> None:
    series = saved(tmp_path, 1)
    (tmp_path / f"{SPORT}_2026-01-16.tar.xz").write_bytes(b"as far as it came")
    series.pack()
    assert read(tmp_path) == [a_body(1)]


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(RecordingError, match="other files"):
        Series(tmp_path, SPORT)


def test_another_sport_needs_another_folder(tmp_path: Path) -> None:
    saved(tmp_path, 1).pack()
    with pytest.raises(RecordingError, match="another sport"):
        Series(tmp_path, "basketball_wnba")

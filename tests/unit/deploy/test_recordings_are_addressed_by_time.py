"""A recording answers like the historical endpoint, byte for byte and from either shape."""

import gzip
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deploy.recording import Answer, Recording, UnreadableRecordingError, open_recording, read_moment

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
BODY = b'[{"id": "a", "sport_key": "basketball_nba", "price": %d, "odd": NaN}]'


def a_series(folder: Path, archives: Mapping[str, Mapping[str, bytes]], index: list[tuple[str, str, str]]) -> Path:
    for name, members in archives.items():
        with tarfile.open(folder / name, "w:xz") as archive:
            for member, body in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(body)
                archive.addfile(info, io.BytesIO(body))
    rows = ["utc\tarchive\tmember", *("\t".join(row) for row in index)]
    (folder / "INDEX.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return a_series(
        tmp_path,
        {"one.tar.xz": {"1.json": BODY % 1, "2.json": BODY % 2}, "two.tar.xz": {"3.json": BODY % 3}},
        [
            ("2026-01-02T12:00:00Z", "one.tar.xz", "1.json"),
            ("2026-01-02T12:15:00Z", "one.tar.xz", "2.json"),
            ("2026-01-02T12:45:00Z", "two.tar.xz", "3.json"),
        ],
    )


@pytest.fixture
def series(folder: Path) -> Iterator[Recording]:
    with open_recording(folder) as recording:
        yield recording


def test_the_newest_answer_at_or_before_the_moment_is_given_with_its_neighbours(series: Recording) -> None:
    answer = series.at(NOON + timedelta(minutes=44))

    assert answer is not None
    assert answer.timestamp == NOON + timedelta(minutes=15)
    assert answer.previous_timestamp == NOON
    assert answer.next_timestamp == NOON + timedelta(minutes=45)
    assert answer.data == BODY % 2


def test_a_moment_that_was_recorded_gives_that_answer(series: Recording) -> None:
    answer = series.at(NOON)

    assert answer is not None
    assert (answer.previous_timestamp, answer.timestamp) == (None, NOON)


def test_before_the_first_answer_there_is_none(series: Recording) -> None:
    assert series.at(NOON - timedelta(seconds=1)) is None


def test_after_the_last_answer_it_stays_and_names_no_next(series: Recording) -> None:
    answer = series.at(NOON + timedelta(days=9))

    assert answer is not None
    assert answer.data == BODY % 3
    assert answer.next_timestamp is None


def test_the_envelope_holds_the_recorded_bytes_as_they_were(series: Recording) -> None:
    answer = series.at(NOON)

    assert answer is not None
    assert answer.envelope() == (
        b'{"timestamp":"2026-01-02T12:00:00Z","previous_timestamp":null,"next_timestamp":"2026-01-02T12:15:00Z",'
        b'"data":' + BODY % 1 + b"}"
    )


@pytest.mark.parametrize("body", [b"<html>502 Bad Gateway</html>", b'[{"id": "cut of', b""])
def test_what_is_no_json_is_given_as_text_so_that_the_walk_can_go_on(body: bytes) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    envelope = json.loads(Answer(moment, None, moment, body).envelope())
    assert envelope["data"] == body.decode()


def test_going_back_after_a_crash_gives_the_same_bytes(series: Recording) -> None:
    first = [body for _, body in series.bodies()]

    assert [body for _, body in series.bodies()] == first


def test_the_sport_and_the_median_gap_come_from_the_data(series: Recording) -> None:
    assert series.sport_key == "basketball_nba"
    assert series.median_gap_seconds == 22.5 * 60
    assert len(series) == 3


def test_an_archive_that_is_missing_is_named(folder: Path) -> None:
    (folder / "two.tar.xz").unlink()

    with pytest.raises(UnreadableRecordingError, match=r"two\.tar\.xz"):
        open_recording(folder)


def test_an_index_without_its_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "INDEX.tsv").write_text("time\tfile\n")

    with pytest.raises(UnreadableRecordingError, match="utc, archive and member"):
        open_recording(tmp_path)


def test_a_folder_without_a_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableRecordingError, match="neither"):
        open_recording(tmp_path)


def test_answers_of_the_historical_endpoint_are_a_recording_too(tmp_path: Path) -> None:
    for day in (3, 2):
        envelope = {
            "timestamp": f"2026-01-0{day}T12:00:00Z",
            "previous_timestamp": None,
            "next_timestamp": None,
            "data": [{"id": "a", "sport_key": "basketball_nba", "day": day}],
        }
        (tmp_path / f"day_{day}.json.gz").write_bytes(gzip.compress(json.dumps(envelope).encode()))

    with open_recording(tmp_path) as recording:
        answer = recording.at(NOON)

    assert answer is not None
    assert answer.next_timestamp == NOON + timedelta(days=1)
    assert json.loads(answer.envelope())["data"] == [{"id": "a", "sport_key": "basketball_nba", "day": 2}]


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="zone"):
        read_moment("2026-01-02T12:00:00")

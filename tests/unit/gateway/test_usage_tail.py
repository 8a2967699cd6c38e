"""The log's files: what is complete is read once, whatever happens to names and sizes meanwhile."""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.usage import tail
from gateway.usage.offset import Position
from gateway.usage.tail import Logs, complete_lines

lines_of_bytes = st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b" ")), max_size=20)


def read_on(logs: Logs) -> list[bytes]:
    """Everything that is complete now, with the offset moved behind it."""
    found: list[bytes] = []
    for file in logs.look():
        while lines := complete_lines(file.read(), tail.READ_BYTES, file.ended):
            found += lines
            file.move_to(file.offset + sum(map(len, lines)))
    return found


@given(content=lines_of_bytes, torn=st.binary(max_size=10), cuts=st.lists(st.integers(0, 700)))
def test_any_chunking_of_appended_bytes_gives_the_same_lines(tmp_path_factory, content, torn, cuts):
    folder = tmp_path_factory.mktemp("log")
    whole = b"".join(line + b"\n" for line in content) + torn.replace(b"\n", b" ")
    places = [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]
    logs = Logs(folder, "access.jsonl", ())
    found = []
    for begin, end in pairwise(places):
        with (folder / "access.jsonl").open("ab") as file:
            file.write(whole[begin:end])
        found += read_on(logs)
    logs.close()
    assert found == [line + b"\n" for line in content]


@given(content=lines_of_bytes, cuts=st.lists(st.integers(0, 700)), longest=st.integers(1, 40))
def test_too_long_lines_come_in_the_same_pieces_however_they_arrive(tmp_path_factory, content, cuts, longest):
    whole = b"".join(line + b"\n" for line in content)

    def pieces(places: list[int]) -> list[bytes]:
        found, offset = [], 0
        for end in places:
            while lines := complete_lines(whole[offset : min(end, offset + longest)], longest):
                found += lines
                offset += sum(map(len, lines))
        return found

    assert pieces([*sorted(cut for cut in cuts if cut < len(whole)), len(whole)]) == pieces([len(whole)])
    assert b"".join(pieces([len(whole)])) == whole[: len(b"".join(pieces([len(whole)])))]


@given(content=lines_of_bytes, restarts=st.sets(st.integers(0, 20)))
def test_a_reader_that_begins_anew_goes_on_where_the_last_one_stored(tmp_path_factory, content, restarts):
    folder = tmp_path_factory.mktemp("log")
    logs, found = Logs(folder, "access.jsonl", ()), []
    for number, line in enumerate(content):
        if number in restarts:
            positions = logs.positions()
            logs.close()
            logs = Logs(folder, "access.jsonl", positions, missed=lambda: pytest.fail("nothing is missing"))
        with (folder / "access.jsonl").open("ab") as file:
            file.write(line + b"\n")
        found += read_on(logs)
    logs.close()
    assert found == [line + b"\n" for line in content]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.jsonl"


@pytest.fixture
def open_logs() -> Iterator[Callable[..., Logs]]:
    """The logs of a path, read from the positions given, and let go of with the test."""
    opened: list[Logs] = []

    def open_them(path: Path, positions: Sequence[Position], **given: Any) -> Logs:
        opened.append(Logs(path.parent, path.name, positions, **given))
        return opened[-1]

    yield open_them
    for logs in opened:
        logs.close()


def test_a_torn_last_line_waits(path, open_logs):
    logs = open_logs(path, ())
    path.write_bytes(b"one\ntw")
    assert read_on(logs) == [b"one\n"]
    with path.open("ab") as file:
        file.write(b"o\n")
    assert read_on(logs) == [b"two\n"]


def test_of_a_file_that_has_ended_the_torn_line_is_read():
    assert complete_lines(b"one\ntw", 100, ended=True) == [b"one\n", b"tw"]


def test_a_renamed_file_is_read_on_before_the_new_one(path, open_logs):
    logs = open_logs(path, ())
    path.write_bytes(b"one\n")
    assert read_on(logs) == [b"one\n"]
    with path.open("ab") as old:
        path.rename(path.with_name("access.20261126T052036.123456Z.jsonl"))
        path.write_bytes(b"three\n")
        old.write(b"two\n")
        old.flush()
        os.utime(old.fileno(), (1, 1))
    assert read_on(logs) == [b"two\n", b"three\n"]


def test_what_logrotate_renames_is_read_on_as_well(path, open_logs):
    logs = open_logs(path, ())
    path.write_bytes(b"one\ntwo\n")
    path.rename(path.with_name("access.jsonl.1"))
    path.write_bytes(b"three\n")
    assert sorted(read_on(logs)) == [b"one\n", b"three\n", b"two\n"]


def test_a_file_that_loses_its_name_is_read_to_its_end(path, open_logs):
    logs = open_logs(path, ())
    path.write_bytes(b"one\n")
    assert read_on(logs) == [b"one\n"]
    with path.open("ab") as old:
        old.write(b"two\n")
        path.unlink()
    assert read_on(logs) == [b"two\n"]


def test_a_truncated_file_is_read_from_its_beginning(path, open_logs):
    logs = open_logs(path, ())
    path.write_bytes(b"one\ntwo\n")
    assert len(read_on(logs)) == 2
    os.truncate(path, 0)
    path.write_bytes(b"new\n")
    assert read_on(logs) == [b"new\n"]


def test_a_truncated_file_that_grew_again_is_recognised_by_its_first_bytes(path, open_logs):
    logs = open_logs(path, ())
    path.write_bytes(b"one\ntwo\n")
    assert len(read_on(logs)) == 2
    path.write_bytes(b"new\nnewer\nnewest\n")
    assert read_on(logs) == [b"new\n", b"newer\n", b"newest\n"]


def test_an_inode_that_another_file_has_now_is_not_mistaken(path, open_logs):
    first = open_logs(path, ())
    path.write_bytes(b"one\ntwo\n")
    read_on(first)
    (position,) = first.positions()
    missed = []
    # The same number, and longer than what was read: only the first bytes say that it is another file.
    path.write_bytes(b"else\nother\nlast\n")
    assert os.stat(path).st_ino == position.inode
    second = open_logs(path, [position], missed=lambda: missed.append(1))
    assert read_on(second) == [b"else\n", b"other\n", b"last\n"]
    assert missed == [1]


def test_a_log_that_is_gone_and_was_not_read_to_its_end_is_told(path, open_logs):
    path.write_bytes(b"one\n")
    missed = []
    gone = Position("access.20261126T052036.123456Z.jsonl", 4, 100, 4, "00", finished=False)
    logs = open_logs(path, [gone], missed=lambda: missed.append(1))
    assert read_on(logs) == [b"one\n"]
    assert missed == [1]
    assert [position.name for position in logs.positions()] == ["access.jsonl"]


def test_a_log_that_was_being_removed_when_the_reader_died_is_not_missed(path, open_logs):
    path.write_bytes(b"one\n")
    gone = Position("access.20261126T052036.123456Z.jsonl", 4, 100, 4, "00", finished=True)
    logs = open_logs(path, [gone], missed=lambda: pytest.fail("it was read to its end"))
    assert read_on(logs) == [b"one\n"]


def test_files_of_others_in_the_folder_are_left_alone(path, open_logs):
    for name in ("envoy.log", "access.jsonl.gz", "accessory.jsonl", "usage.unreadable.jsonl"):
        path.with_name(name).write_bytes(b"no\n")
    path.with_name("access.elsewhere.jsonl").symlink_to("/etc/hostname")
    assert read_on(open_logs(path, ())) == []


def test_memory_is_bounded_by_what_is_read_at_once(path, open_logs):
    path.write_bytes(b"x" * (tail.READ_BYTES + 10))
    logs = open_logs(path, ())
    (file,) = logs.look()
    assert len(file.read()) == tail.READ_BYTES
    assert [len(line) for line in read_on(logs)] == [tail.READ_BYTES]

"""Where the reading stands: on disk whole or not at all, and only ever our own."""

import errno
import os
from contextlib import closing

import pytest

from gateway.usage.offset import OffsetFile, OffsetFileError, Position


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "usage.offset"


def position(offset=100, name="access.jsonl"):
    return Position(name, 7, offset, 100, "ab" * 32)


def opened(path, gateway="g1", log="/log/access.jsonl"):
    return closing(OffsetFile.open(path, gateway, log))


def positions_in(path):
    with opened(path) as file:
        return file.positions


def test_what_was_stored_last_is_there_again(path):
    assert positions_in(path) == ()
    with opened(path) as file:
        for offset in range(100, 600, 100):
            file.store([position(offset)])
    assert positions_in(path) == (position(500),)


def test_a_store_that_was_cut_off_leaves_the_one_before(path):
    with opened(path) as file:
        file.store([position(100)])
        file.store([position(200)])
    with path.open("r+b") as damaged:
        damaged.seek(60)  # in the first place, into which the second store went
        damaged.write(b"\0" * 40)
    assert positions_in(path) == (position(100),)


def test_a_store_that_fails_leaves_the_one_before_and_can_be_repeated(path, monkeypatch):
    def full(descriptor, data, offset):
        raise OSError(errno.ENOSPC, "no space left on device")

    with opened(path) as file:
        file.store([position(100)])
        with monkeypatch.context() as broken:
            broken.setattr(os, "pwrite", full)
            with pytest.raises(OSError, match="no space"):
                file.store([position(200)])
        assert file.positions == (position(100),)
        file.store([position(300)])
    assert positions_in(path) == (position(300),)


def test_a_store_that_gets_only_half_through_leaves_the_one_before(path, monkeypatch):
    written = os.pwrite

    with opened(path) as file:
        file.store([position(100)])
        with monkeypatch.context() as broken:
            broken.setattr(os, "pwrite", lambda descriptor, data, at: written(descriptor, data[:150], at))
            with pytest.raises(OSError, match="not written whole"):
                file.store([position(200)])
    assert positions_in(path) == (position(100),)


def test_what_is_no_offset_file_is_refused_and_left_as_it_was(path):
    path.parent.mkdir()
    path.write_bytes(b"root:x:0:0\n")
    with pytest.raises(OffsetFileError, match=r"usage\.offset is no offset file of the usage reader"):
        opened(path)
    assert path.read_bytes() == b"root:x:0:0\n"


def test_the_offset_of_another_gateway_is_refused(path):
    assert positions_in(path) == ()
    with pytest.raises(OffsetFileError, match=r"of the gateway g1, and this is .* of g2\. Give each gateway"):
        opened(path, "g2")


def test_the_offset_of_another_log_is_refused(path):
    assert positions_in(path) == ()
    with pytest.raises(OffsetFileError, match=r"is of the log /log/access\.jsonl .* this is /else/access\.jsonl"):
        opened(path, log="/else/access.jsonl")


def test_two_readers_do_not_work_at_once(path):
    with opened(path), pytest.raises(OffsetFileError, match="another reader is at work"):
        opened(path)
    assert positions_in(path) == ()


def test_more_logs_than_can_be_noted_are_an_error_and_not_a_broken_file(path):
    with opened(path) as file:
        file.store([position(100)])
        with pytest.raises(OSError, match="too many logs"):
            file.store([position(name=f"access.{number}.jsonl") for number in range(1000)])
    assert positions_in(path) == (position(100),)

"""The last table on disk."""

import pytest

from gateway.authz import copy
from gateway.authz.copy import NoCopyError
from gateway.testing import PEPPERS, Table
from services.shared.access import AccessTable
from services.shared.keyring import Keyring

NOW = 1_800_000_000.0
HOUR = 3600.0


@pytest.fixture
def table():
    table = Table()
    table.account("acct")
    return table


@pytest.fixture
def path(tmp_path, table):
    place = tmp_path / "kept" / "table"
    table.key("key", "acct")
    copy.write(place, table.answer(0), NOW, PEPPERS)
    return place


def test_it_gives_the_table_and_when_it_was_confirmed(path, table):
    found, confirmed_at = copy.read(path, PEPPERS, NOW + HOUR)
    assert (found, confirmed_at) == (table.answer(0), NOW)


def test_the_table_that_is_read_is_the_one_that_was_written(path, table):
    found = AccessTable()
    found.apply(copy.read(path, PEPPERS, NOW)[0])
    assert found.snapshot() == table.answer(0)


def test_only_its_owner_may_read_it(path):
    assert path.stat().st_mode & 0o777 == 0o600


def test_no_secret_is_in_it(tmp_path, table):
    secret = table.key("another", "acct")
    copy.write(tmp_path / "table", table.answer(0), NOW, PEPPERS)
    assert secret.encode() not in (tmp_path / "table").read_bytes()
    assert secret[13:-6].encode() not in (tmp_path / "table").read_bytes()


def test_a_new_one_takes_the_place_of_the_old_one_and_leaves_nothing_behind(path, table):
    table.key("another", "acct")
    copy.write(path, table.answer(0), NOW + 1, PEPPERS)
    assert copy.read(path, PEPPERS, NOW + 1) == (table.answer(0), NOW + 1)
    assert [one.name for one in path.parent.iterdir()] == ["table"]


def test_a_copy_that_cannot_be_written_leaves_the_old_one(path, table, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(copy.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        copy.write(path, Table().answer(0), NOW + 1, PEPPERS)
    assert copy.read(path, PEPPERS, NOW)[0] == table.answer(0)
    assert [one.name for one in path.parent.iterdir()] == ["table"]


@pytest.mark.parametrize(
    ("age", "good"), [(0.0, True), (23.9 * HOUR, True), (24.1 * HOUR, False), (-30.0, True), (-2 * HOUR, False)]
)
def test_it_is_good_for_a_day(path, age, good):
    if good:
        copy.read(path, PEPPERS, NOW + age)
        return
    with pytest.raises(NoCopyError, match="hours old"):
        copy.read(path, PEPPERS, NOW + age)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:40],
        lambda data: data[:0],
        lambda data: data.replace(b"key", b"kez"),
        lambda data: data.replace(b"1800000000", b"1800009999"),
        lambda data: b"\x00" + data,
    ],
)
def test_one_that_was_damaged_or_altered_is_not_used(path, damage):
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(NoCopyError):
        copy.read(path, PEPPERS, NOW)


def test_one_that_was_made_with_another_pepper_is_not_used(path):
    with pytest.raises(NoCopyError, match="peppers"):
        copy.read(path, Keyring.parse(f"1:{'6c' * 32}"), NOW)


def test_where_there_is_none_it_says_so(tmp_path):
    with pytest.raises(NoCopyError, match="cannot be read"):
        copy.read(tmp_path / "nothing", PEPPERS, NOW)

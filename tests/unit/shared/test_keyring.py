"""Secrets with versions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.shared.keyring import Keyring, generated

OLD, NEW = "11" * 32, "22" * 32


def test_what_the_newest_secret_signed_is_recognised() -> None:
    ring = Keyring.parse(f"2:{NEW},1:{OLD}")
    version, mac = ring.sign(b"data")
    assert version == 2
    assert ring.signs(b"data", version, mac)


def test_what_an_older_secret_signed_is_recognised_while_the_ring_holds_it() -> None:
    version, mac = Keyring.parse(f"1:{OLD}").sign(b"data")
    assert Keyring.parse(f"2:{NEW},1:{OLD}").signs(b"data", version, mac)
    assert not Keyring.parse(f"2:{NEW}").signs(b"data", version, mac)


@given(st.binary(), st.binary())
def test_other_data_is_not_what_was_signed(data: bytes, other: bytes) -> None:
    ring = Keyring.parse(f"1:{OLD}")
    version, mac = ring.sign(data)
    assert ring.signs(other, version, mac) == (data == other)


def test_a_lookup_hash_is_made_under_every_version_the_newest_first() -> None:
    ring = Keyring.parse(f"2:{NEW},1:{OLD}")
    hashes = ring.every(b"key")
    assert [version for version, _ in hashes] == [2, 1]
    assert hashes[0] == ring.sign(b"key")


@pytest.mark.parametrize(
    "written", ["1", f"1:{'11' * 31}", f"one:{OLD}", f"1:{OLD},1:{NEW}", f"1:{OLD}1", "1:" + "zz" * 32]
)
def test_what_is_no_ring_is_refused_without_showing_it(written: str) -> None:
    with pytest.raises(ValueError, match=r"entry|version") as refused:
        Keyring.parse(written)
    assert OLD not in str(refused.value)


def test_an_empty_ring_signs_nothing() -> None:
    assert not Keyring.parse("")
    with pytest.raises(LookupError):
        Keyring.parse("").sign(b"data")


def test_a_ring_does_not_show_its_secrets() -> None:
    assert OLD not in repr(Keyring.parse(f"1:{OLD}"))


def test_a_generated_ring_can_be_read_and_is_another_each_time() -> None:
    assert Keyring.parse(generated()).newest == 1
    assert generated() != generated()

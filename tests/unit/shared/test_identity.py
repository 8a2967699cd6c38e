"""Ids that name what they stand for."""

import base64
import hashlib
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from services.shared.identity import configuration_hash, hashed_id, milliseconds, snapshot_id

MOMENT = datetime(2026, 1, 15, 18, 0, 0, 123456, tzinfo=UTC)


def test_milliseconds_are_counted_from_1970_and_cut():
    assert milliseconds(datetime(1970, 1, 1, tzinfo=UTC)) == 0
    assert milliseconds(MOMENT) == 1768500000123


def test_a_moment_has_the_same_milliseconds_in_every_zone():
    assert milliseconds(MOMENT.astimezone(timezone(timedelta(hours=-5)))) == milliseconds(MOMENT)


@given(st.integers(0, 7 * 10**12), st.integers(0, 999))
def test_milliseconds_are_exact(count, microseconds):
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=count, microseconds=microseconds)
    assert milliseconds(moment) == count


def test_an_id_is_the_first_twenty_bytes_of_the_length_prefixed_fields():
    prefixed = b"\x00\x00\x00\x02ab\x00\x00\x00\x00\x00\x00\x00\x02\xcf\x83"
    expected = base64.b32encode(hashlib.sha256(prefixed).digest()[:20]).decode().lower()
    assert hashed_id("ab", "", "σ") == expected
    assert len(expected) == 32


@given(st.lists(st.text(), max_size=5), st.lists(st.text(), max_size=5))
def test_different_fields_make_different_ids(one, other):
    assert (hashed_id(*one) == hashed_id(*other)) == (one == other)


def test_a_snapshot_is_named_by_event_book_market_player_outcome_and_time():
    fields = ["event", "pinnacle", "spreads", "", "home"]
    assert snapshot_id(*fields, MOMENT) == hashed_id(*fields, "1768500000123")
    assert snapshot_id(*fields, MOMENT + timedelta(milliseconds=1)) != snapshot_id(*fields, MOMENT)


def test_a_configuration_is_named_by_its_content_whatever_the_order():
    assert configuration_hash({"a": 1, "b": {"c": 2.5, "d": "σ"}}) == configuration_hash(
        {"b": {"d": "σ", "c": 2.5}, "a": 1}
    )
    assert configuration_hash({"a": 1}) != configuration_hash({"a": 2})
    assert len(configuration_hash({})) == 16

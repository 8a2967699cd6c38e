"""Page tokens."""

from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stratum.common.v1.error_reason_pb2 import ErrorReason

from services.shared import paging
from services.shared.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Position:
    name: str
    score: float
    observed_at: datetime | None = None


positions = st.builds(
    Position,
    st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    st.floats(allow_nan=False, allow_infinity=False),
    st.none() | st.datetimes(timezones=st.just(UTC)),
)


@given(positions, st.binary())
def test_a_token_gives_its_position_back(position, filters):
    token = paging.encode(position, filters)
    assert paging.decode(token, filters, Position) == position


@given(positions)
def test_a_token_needs_no_escaping_in_an_address(position):
    assert set(paging.encode(position, b"")) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def refused(token: str, filters: bytes = b"") -> str:
    with pytest.raises(InvalidArgument) as refusal:
        paging.decode(token, filters, Position)
    assert refusal.value.reason == ErrorReason.INVALID_PAGE_TOKEN
    return refusal.value.message


def test_a_position_that_no_text_of_the_database_can_be_is_none_of_ours():
    assert "not one of ours" in refused(paging.encode(Position("a\0b", 1.0), b""))
    backslash = Position("\\u0000", 1.0)
    assert paging.decode(paging.encode(backslash, b""), b"", Position) == backslash


def test_a_token_is_good_for_its_own_filters_only():
    assert "other filters" in refused(paging.encode(Position("a", 1.0), b"one"), b"other")


@pytest.mark.parametrize(
    "token",
    [
        "!",
        "a",
        "YWJj",
        "é",
        urlsafe_b64encode(b"[]").decode(),
        urlsafe_b64encode(b'["digest"]').decode(),
        urlsafe_b64encode(b'["digest", {"name": 1}]').decode(),
        urlsafe_b64encode(b"[" * 5000).decode(),
        paging.encode({"name": "a"}, b""),
        paging.encode(Position("a", 1.0), b"") + "!!",
    ],
)
def test_what_is_no_token_of_ours_is_refused(token):
    refused(token)


@given(st.text())
def test_no_text_breaks_it(text):
    refused(text)


@pytest.mark.parametrize(("asked", "given_"), [(0, 50), (1, 1), (500, 500)])
def test_the_size_of_a_page(asked, given_):
    assert paging.page_size(asked) == given_


@pytest.mark.parametrize("asked", [-1, 501])
def test_a_page_has_one_to_five_hundred_rows(asked):
    with pytest.raises(InvalidArgument) as refusal:
        paging.page_size(asked)
    assert refusal.value.metadata == {"field": "page_size"}

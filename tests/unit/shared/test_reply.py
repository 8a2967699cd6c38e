"""Entity tags: what names an answer, and whether a caller has it already."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.shared import reply

TAG = reply.weak(b"an answer")


@pytest.mark.parametrize(
    "if_none_match",
    [TAG, f'W/"older", {TAG}', f'{TAG},W/"older"', TAG.removeprefix("W/"), "*", " * ", f'"a,b" , {TAG}'],
)
def test_a_caller_who_names_the_tag_has_the_answer(if_none_match: str) -> None:
    assert reply.has(if_none_match, TAG)


@pytest.mark.parametrize("if_none_match", ["", 'W/"older"', TAG.replace('"', ""), '""', "W/", TAG[:-2] + '"', '"*"'])
def test_a_caller_who_names_another_tag_has_not(if_none_match: str) -> None:
    assert not reply.has(if_none_match, TAG)


@given(st.text(max_size=100))
def test_any_header_is_read(if_none_match: str) -> None:
    assert reply.has(if_none_match, TAG) == (if_none_match.strip() == "*" or TAG[2:] in if_none_match)


@given(st.binary(), st.binary())
def test_what_differs_has_another_tag(one: bytes, other: bytes) -> None:
    assert (reply.weak(one) == reply.weak(other)) == (one == other)


def test_outside_of_a_call_nothing_is_said() -> None:
    reply.say("x-data-age", "1.0")
    reply.tag(TAG)
    assert reply.current.get() is None

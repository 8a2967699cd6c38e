"""How a body is decoded: leniently, and quickly where it is strict."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.ingest.provider import UnreadableBody, _decoded

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def lenient(body: bytes) -> Any:
    """What the standard library makes of a body; None for what it refuses."""
    try:
        return [json.loads(body)]
    except (ValueError, RecursionError):
        return None


def decoded(body: bytes) -> Any:
    """What ingest makes of a body; None for what it refuses."""
    given = _decoded("/odds", body)
    return None if isinstance(given, UnreadableBody) else [given]


@given(VALUES, st.booleans())
def test_a_body_is_decoded_as_the_standard_library_does(value: object, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert repr(decoded(body)) == repr(lenient(body))


@given(st.text('{}[]",:0123456789.-+eE \\ud8NaINfity').map(str.encode) | st.binary())
@example(b"9" * 5000)
@example(b"1e400")
@example(b'{"a":1,"a":2}')
@example(b'"\\ud800"')
@example("[1]".encode("utf-16"))
@example(b"\xef\xbb\xbf[1]")
def test_what_is_hardly_json_is_decoded_or_refused_as_the_standard_library_does(body: bytes) -> None:
    assert repr(decoded(body)) == repr(lenient(body))


@pytest.mark.parametrize("body", [b"", b"[1", b"[" * 100_000, b"<html>"])
def test_a_body_that_is_no_json_is_refused(body: bytes) -> None:
    assert decoded(body) is None

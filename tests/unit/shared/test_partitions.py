"""Events and partitions: the same everywhere, for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.shared.bus import MARKETS, is_token, partition_of


@pytest.mark.parametrize(("event_id", "partition"), [("", 5), ("a", 12), ("foobar", 8)])
def test_partitions_are_those_of_the_published_hash(event_id: str, partition: int):
    # FNV-1a's own test vectors: 811c9dc5, e40c292c, bf9cf968.
    assert partition_of(event_id) == partition


@given(st.text())
def test_every_event_has_one_of_sixteen_partitions(event_id: str):
    assert partition_of(event_id) in range(16)


@pytest.mark.parametrize("event_id", ["", "a.b", "a b", "*", ">", "a\n", "\x00"])
def test_what_cannot_be_a_word_of_a_subject_is_no_event_id(event_id: str):
    assert not is_token(event_id)


def test_a_hash_is_an_event_id():
    assert is_token("d3b07384d113edec49eaa6238ad5ff00")


def test_a_stream_stores_by_partition_what_is_published_by_event():
    configuration = MARKETS.configuration()
    assert configuration.subjects == ["markets.*"]
    assert MARKETS.subject("abc") == "markets.abc"
    assert configuration.subject_transform is not None
    assert configuration.subject_transform.dest == "markets.{{partition(16,1)}}.{{wildcard(1)}}"

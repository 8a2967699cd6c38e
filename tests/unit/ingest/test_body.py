"""How an odds body is decoded: by its documented shape where it has it, and read alike where it has not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.body import EventBody, decode, plain
from services.ingest.normalize import Memory, normalize
from services.ingest.testing import SPORT, a_book, a_market, an_event, an_outcome, moneyline, spreads

SOUND = an_event(a_book("draftkings", spreads(-5.5), moneyline()), a_book("betmgm", spreads(-5.0)))


def test_events_of_the_documented_shape_keep_their_outcomes_as_bytes() -> None:
    (event,) = decode(json.dumps([SOUND]).encode())
    assert isinstance(event, EventBody)
    assert plain(event.bookmakers[0].markets[0].outcomes) == SOUND["bookmakers"][0]["markets"][0]["outcomes"]


def test_the_past_comes_in_its_envelope() -> None:
    page = decode(json.dumps({"timestamp": "t", "next_timestamp": None, "data": [SOUND]}).encode())
    assert (page["timestamp"], page["next_timestamp"]) == ("t", None)
    assert isinstance(page["data"][0], EventBody)


def test_one_event_of_another_shape_leaves_the_others_as_they_are() -> None:
    odd = {**SOUND, "id": "odd", "commence_time": 1768500000}
    first, second = decode(json.dumps([odd, SOUND]).encode())
    assert first == odd
    assert isinstance(second, EventBody)


@pytest.mark.parametrize("body", [b"", b"[1", b"<html>", b'[{"id": "\xff"}]'])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises((json.JSONDecodeError, UnicodeDecodeError)):
        decode(body)


VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, 1, 150, -110, 1.91, "", "h2h", "2026-01-15T18:00:00Z", [], {}, [{"price": 2}]]
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container of a body with each name or number of what it holds."""
    if isinstance(value, dict):
        return [(value, name) for name in value] + [place for held in value.values() for place in places(held)]
    if isinstance(value, list):
        return [(value, number) for number in range(len(value))] + [place for held in value for place in places(held)]
    return []


@given(st.data())
def test_a_body_spoiled_anywhere_is_read_as_its_plain_values_are(data: st.DataObject) -> None:
    lay = a_market("h2h_lay", an_outcome("Lakers", 1.9), an_outcome("Celtics", 2.0))
    events = [SOUND, an_event(a_book("nobody_knows", moneyline()), a_book("betmgm", lay, spreads(-1)), event_id="b")]
    memory = Memory()
    for _ in range(4):
        body = json.dumps(events).encode()
        assert normalize(decode(body), SPORT, memory) == normalize(json.loads(body), SPORT)
        events = json.loads(body)
        container, place = data.draw(st.sampled_from(places(events)))
        if data.draw(st.booleans()):
            container[place] = data.draw(VALUES)
        elif isinstance(container, dict):
            container[data.draw(st.sampled_from(["price", "outcomes", "markets", "bookmakers", "link", "key"]))] = (
                data.draw(VALUES)
            )
        else:
            container.append(container[place])

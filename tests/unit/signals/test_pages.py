"""Pages as they are sent: their bytes, their tags, and how long they are remembered."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.json_format import MessageToDict
from stratum.signals.v1.signals_service_pb2 import ListSignalsResponse

from services.signals import wire
from services.signals.feed import Place
from services.signals.feed_testing import a_signal
from services.signals.pages import Pages, RenderedPage, rendered

HERE = Place(certainty=0, position=7, trimmed_position=0)


def payloads(*names: str) -> list[bytes]:
    """Signals as they are stored, whose cursors are their names."""
    stored = []
    for name in names:
        signal = wire.signal(a_signal(name))
        signal.cursor = name
        stored.append(wire.serialized(signal))
    return stored


def a_page(*names: str, token: str = "") -> RenderedPage:
    return rendered(payloads(*names), token)


def shown(response: ListSignalsResponse) -> Any:
    return MessageToDict(response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def test_a_page_says_what_the_typed_answer_says() -> None:
    signals = [wire.signal(a_signal(name)) for name in ("one", "two")]
    typed = ListSignalsResponse(signals=signals, next_page_token="further")
    page = rendered([wire.serialized(signal) for signal in signals], "further")
    assert json.loads(page.body.data) == shown(typed)
    assert page.body.content_type == "application/json"


def test_an_empty_page_has_both_fields() -> None:
    assert a_page().body.data == b'{"signals":[],"next_page_token":""}'


def test_the_same_signals_have_the_same_tag_however_far_the_feed_went() -> None:
    assert a_page("one", "two", token="of position 7").etag == a_page("one", "two", token="of position 8").etag


def test_other_signals_another_order_and_an_end_have_another_tag() -> None:
    pages = [
        a_page("one", "two", token="further"),
        a_page("one", "two"),
        a_page("two", "one"),
        a_page("one"),
        a_page("onetwo"),
        a_page(),
    ]
    assert len({page.etag for page in pages}) == len(pages)


def test_what_is_printed_of_a_signal_otherwise_has_another_tag_though_its_cursor_is_the_same() -> None:
    signal = wire.signal(a_signal("one"))
    signal.cursor = "3-17"
    before = rendered([wire.serialized(signal)], "").etag
    basic = rendered([wire.serialized(wire.basic_view(signal))], "").etag
    signal.published_at.FromSeconds(signal.published_at.seconds + 60)  # as a database gives it again that was restored
    after = rendered([wire.serialized(signal)], "").etag
    assert len({before, basic, after}) == 3


def test_a_page_is_remembered_while_the_feed_stands_still() -> None:
    pages, page = Pages(), a_page("one")
    assert pages.get(b"asked", HERE) is None
    pages.keep(b"asked", page, HERE, HERE.position)
    assert pages.get(b"asked", HERE) is page
    assert pages.get(b"asked otherwise", HERE) is None


def test_no_page_outlives_a_move_a_retention_or_a_doubt() -> None:
    for elsewhere in (HERE._replace(position=8), HERE._replace(trimmed_position=1), HERE._replace(certainty=1)):
        pages = Pages()
        pages.get(b"asked", HERE)
        pages.keep(b"asked", a_page("one"), HERE, HERE.position)
        assert pages.get(b"asked", elsewhere) is None
        assert pages.get(b"asked", HERE) is None


def test_nothing_is_given_while_nobody_knows_where_the_feed_stands() -> None:
    pages = Pages()
    pages.get(b"asked", HERE)
    pages.keep(b"asked", a_page("one"), HERE, HERE.position)
    assert pages.get(b"asked", None) is None


def test_a_page_that_shows_another_place_is_not_kept() -> None:
    pages = Pages()
    pages.get(b"asked", HERE)
    pages.keep(b"asked", a_page("one"), HERE, HERE.position + 1)
    pages.keep(b"empty", a_page(), HERE, None)
    assert pages.get(b"asked", HERE) is None
    assert pages.get(b"empty", HERE) is None


def test_a_page_that_was_asked_for_before_the_feed_moved_is_not_kept() -> None:
    trimmed = HERE._replace(trimmed_position=1)
    pages = Pages()
    pages.get(b"asked", HERE)
    pages.get(b"asked by another meanwhile", trimmed)
    pages.keep(b"asked", a_page("taken by retention"), HERE, HERE.position)
    assert pages.get(b"asked", trimmed) is None
    pages.keep(b"asked", a_page("of nobody knows where"), None, HERE.position)
    assert pages.get(b"asked", trimmed) is None


def test_the_oldest_page_makes_room() -> None:
    page = a_page("one")
    pages = Pages(most_bytes=2 * len(page.body.data) + 2)
    pages.get(b"a", HERE)
    for asked in (b"a", b"b", b"c"):
        pages.keep(asked, page, HERE, HERE.position)
    assert [pages.get(asked, HERE) is page for asked in (b"a", b"b", b"c")] == [False, True, True]


def test_a_page_that_is_larger_than_the_room_is_not_kept() -> None:
    pages = Pages(most_bytes=10)
    pages.get(b"a", HERE)
    pages.keep(b"a", a_page("one"), HERE, HERE.position)
    assert pages.get(b"a", HERE) is None

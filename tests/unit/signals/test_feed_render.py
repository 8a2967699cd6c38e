"""The one renderer: the bytes that the gateway would print."""

from __future__ import annotations

import json

import pytest
from google.protobuf.json_format import MessageToDict, Parse
from hypothesis import given
from hypothesis import strategies as st
from stratum.signals.v1.signal_pb2 import Signal

from services.signals import render, wire
from services.signals.feed_testing import NOON, a_signal


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (-5.0, "-5"),
        (-5.5, "-5.5"),
        (0.0, "0"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1.9090909090909092, "1.9090909090909092"),
        (0.000001, "1e-06"),
        (220.25, "220.25"),
        (123456789.0, "123456789"),
    ],
)
def test_a_number_is_printed_as_protobuf_prints_it(value, shown):
    assert render.number(value) == shown


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_printed_number_reads_back_as_itself(value):
    assert float(render.number(value)) == value


@given(st.decimals(min_value=-1000, max_value=1000, places=6).map(float))
def test_a_stored_number_is_printed_as_short_as_it_can_be(value):
    assert len(render.number(value)) <= len(repr(value))


def test_absent_fields_are_absent_and_plain_ones_are_always_there():
    shown = render.fields(Signal(id="one"))
    assert "velocity" not in shown
    assert "book" not in shown
    assert "observed_at" not in shown
    assert (shown["strength"], shown["player"], shown["also"], shown["meta"]) == (0, "", [], {})
    assert shown["tier"] == "UNSPECIFIED"


def test_the_line_says_what_protobufs_own_json_says():
    signal = wire.signal(a_signal("one", meta={"mass": "0.04"}, velocity=None))
    expected = MessageToDict(signal, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    assert json.loads(render.printed(signal.SerializeToString()).json) == expected


def test_the_line_can_be_read_back_into_the_same_signal():
    signal = wire.signal(a_signal("one"))
    assert Parse(render.printed(signal.SerializeToString()).json, Signal()) == signal


def test_the_line_has_no_line_break_whatever_a_team_is_called():
    payload = wire.signal(a_signal("one", home_team="Boston\nCeltics\r\u2028")).SerializeToString()
    assert b"\n" not in render.printed(payload).json
    assert b"\r" not in render.printed(payload).json


@pytest.mark.parametrize("name", ["<b>", "\x7f", "soft\u00adhyphen", "\u2028", "\ufeff", "\U0001d173", "Curaçao", "🏀"])
def test_what_a_script_might_take_for_something_else_is_escaped_and_reads_back(name):
    line = render.printed(wire.signal(a_signal("one", home_team=name)).SerializeToString()).json
    assert json.loads(line)["home_team"] == name
    assert (name.encode() in line) == (name in ("Curaçao", "🏀"))


def test_the_entries_of_a_map_stand_as_they_are_stored():
    signal = wire.signal(a_signal("one", meta={"b": "1", "a": "2", "ab": "3", "": "4"}))
    stored = wire.serialized(signal)
    shown = list(json.loads(render.printed(stored).json)["meta"])
    assert shown == sorted(shown, key=lambda name: stored.index(b"\n%c%s\x12" % (len(name), name.encode())))


def test_times_are_printed_in_utc_with_as_many_digits_as_needed():
    signal = wire.signal(a_signal("one"))
    assert render.fields(signal)["observed_at"] == "2026-01-05T12:00:00Z"
    signal.observed_at.nanos = 250_000_000
    assert render.fields(signal)["observed_at"] == "2026-01-05T12:00:00.250Z"


def test_a_replay_line_leaves_out_what_differs_between_equal_runs():
    one, other = wire.signal(a_signal("one")), wire.signal(a_signal("one"))
    one.published_at.FromDatetime(NOON)
    one.cursor = "0123456789abcdef-7"
    assert render.replay_line(one) == render.replay_line(other)
    assert set(json.loads(render.replay_line(one))) == {f.name for f in Signal.DESCRIPTOR.fields} - {
        "published_at",
        "cursor",
        "book",
        "acceleration",
    }


def test_the_keys_of_a_replay_line_are_sorted():
    line = json.loads(render.replay_line(wire.signal(a_signal("one", meta={"b": "2", "a": "1"}))))
    assert list(line) == sorted(line)
    assert list(line["meta"]) == ["a", "b"]


def test_replay_lines_go_by_completing_observation_then_id():
    later = wire.signal(a_signal("a", observed_at=NOON.replace(hour=13)))
    b, c = wire.signal(a_signal("b")), wire.signal(a_signal("c"))
    lines = [json.loads(line)["id"] for line in render.replay_lines([later, c, b])]
    assert lines == ["b", "c", "a"]


def test_a_value_newer_than_this_code_is_printed_as_its_number():
    signal = Signal.FromString(b"\x58\x63")
    assert render.fields(signal)["signal_type"] == 99

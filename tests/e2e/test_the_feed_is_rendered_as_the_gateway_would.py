"""The one renderer against the transcoder itself: what the feed sends as bytes is what Envoy would have printed."""

import struct
from random import Random
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from stratum.signals.v1.signal_pb2 import Signal

from services.signals import render

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIGNALS = 200
# What JSON has to escape, what some writers escape although they need not, and letters of one to four bytes.
LETTERS = [*map(chr, range(0x20)), *"\"\\/<>&='`{}[]\x7f\x80\xa0é€\u2028\u2029\ufeff\ufffd\U0001f3c0", *"abc 019"]


async def test_a_signal_is_rendered_byte_by_byte_as_the_gateway_prints_it(caller, stand_ins):
    draw = Random(17)
    stand_ins.signals = {f"drawn-{number}": a_drawn_signal(draw) for number in range(SIGNALS)}
    for name, signal in stand_ins.signals.items():
        async with caller.get(f"/api/v1/intel/signals/{name}") as answer:
            printed = await answer.read()
        rendered = render.printed(signal.SerializeToString())
        assert printed.startswith(b'{"signal":' + rendered.json + b","), signal
        assert rendered.cursor.decode() == signal.cursor


def a_drawn_signal(draw: Random) -> Signal:
    """A signal whose every field is left out, or has a value that is hard to print."""
    signal = Signal()
    _draw(signal, draw)
    signal.observed_at.FromNanoseconds(draw.choice((0, 1_767_614_400_000_000_000, 1_767_614_400_250_000_001)))
    return signal


def _draw(message: Any, draw: Random) -> None:
    for field in message.DESCRIPTOR.fields:
        if draw.random() < 0.3:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for _ in range(draw.randrange(4)):
                getattr(message, field.name)[_text(draw)] = _text(draw)
        elif field.message_type is not None and field.message_type.full_name == "google.protobuf.Timestamp":
            getattr(message, field.name).FromNanoseconds(draw.randrange(1, 4_000_000_000_000_000_000))
        elif field.message_type is not None:
            inner = getattr(message, field.name)
            for one in [inner.add() for _ in range(draw.randrange(4))] if field.is_repeated else [inner]:
                _draw(one, draw)
        elif field.is_repeated:
            getattr(message, field.name).extend(_value(field, draw) for _ in range(draw.randrange(4)))
        else:
            setattr(message, field.name, _value(field, draw))


def _value(field: Any, draw: Random) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return _text(draw)
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return _number(draw)
        case FieldDescriptor.CPPTYPE_BOOL:
            return draw.random() < 0.5
        case FieldDescriptor.CPPTYPE_ENUM:
            return draw.choice([*(value.number for value in field.enum_type.values), 99])
        case _:
            return draw.randrange(-(2**31), 2**31)


def _text(draw: Random) -> str:
    return "".join(draw.choices(LETTERS, k=draw.randrange(8)))


def _number(draw: Random) -> float:
    (anything,) = struct.unpack("<d", draw.randbytes(8))
    usual = (0.0, -0.0, -5.5, 1.9090909090909092, 1e-7, 1e21, 123456789012345680.0, round(draw.uniform(-99, 99), 6))
    return draw.choice((*usual, anything if abs(anything) < 1e308 else 0.1))

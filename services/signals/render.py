"""The one renderer: a signal as JSON, exactly as the gateway's transcoder would print it.

Feed, stream, webhook and replay file show the same bytes for the same number. Fields keep their proto names, absent
fields are absent, fields that cannot be absent are always there, enums are bare names, times are RFC 3339.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from stratum.signals.v1.signal_pb2 import Signal

#: Columns that a repeated run may fill differently; docs/determinism.md names and explains them.
NOT_DETERMINED = frozenset({"published_at", "cursor"})

_DOUBLES = frozenset({FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT})


def number(value: float) -> str:
    """A double as protobuf's C++ JSON writer prints it: 15 significant digits where they give the value back, else 17.

    Integral values carry no `.0`: −5.5 is `-5.5`, −5.0 is `-5`.
    """
    short = f"{value:.15g}"
    return short if float(short) == value else f"{value:.17g}"


def fields(message: Message) -> dict[str, Any]:
    """The message's fields by proto name, ready for `msgspec.json.encode`."""
    shown: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if _is_map(field):
            shown[field.name] = dict(sorted(value.items()))
        elif field.is_repeated:
            shown[field.name] = [_shown(field, item) for item in value]
        elif not field.has_presence or message.HasField(field.name):
            shown[field.name] = _shown(field, value)
    return shown


@lru_cache(maxsize=2048)
def cursor_and_json(payload: bytes) -> tuple[bytes, bytes]:
    """A serialized `Signal`: its cursor, and one line of JSON. Remembered: every open stream asks for the same."""
    signal = Signal.FromString(payload)
    return signal.cursor.encode(), msgspec.json.encode(fields(signal))


def replay_line(signal: Signal) -> bytes:
    """One line of a replay file: the FULL view without `NOT_DETERMINED`, keys sorted, so that equal runs give equal
    bytes."""
    shown = {name: value for name, value in fields(signal).items() if name not in NOT_DETERMINED}
    return msgspec.json.encode(shown, order="sorted")


def replay_lines(signals: Iterable[Signal]) -> list[bytes]:
    """The lines of a replay file in their order: by completing observation, then by id."""
    ordered = sorted(signals, key=lambda signal: (signal.observed_at.ToNanoseconds(), signal.id))
    return [replay_line(signal) for signal in ordered]


def _is_map(field: Any) -> bool:  # Any: the stubs name two classes for one descriptor
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _shown(field: Any, value: Any) -> Any:
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return value if named is None else named.name  # a value newer than this code is printed as its number
    if field.cpp_type in _DOUBLES:
        return msgspec.Raw(number(value).encode())
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    return fields(value) if isinstance(value, Message) else value

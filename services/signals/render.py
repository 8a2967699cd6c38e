"""The one renderer: a signal as JSON, exactly as the gateway's transcoder would print it.

Feed, stream, webhook and replay file show the same bytes for the same number. Fields keep their proto names, absent
fields are absent, fields that cannot be absent are always there, enums are bare names, times are RFC 3339.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from stratum.signals.v1.signal_pb2 import Signal

#: Columns that a repeated run may fill differently; docs/determinism.md names and explains them.
NOT_DETERMINED = frozenset({"published_at", "cursor"})

_DOUBLES = frozenset({FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT})


#: What protobuf's JSON writer escapes beyond what JSON has to: what a script or a reader of text might take for
#: something else. Outside of strings JSON has none of these.
_ESCAPED_TOO = re.compile(
    "[<>\x7f-\x9f\xad\u0600-\u0603\u06dd\u070f\u17b4\u17b5\u200b-\u200f\u2028-\u202e\u2060-\u2064"
    "\u206a-\u206f\ufeff\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f]"
)


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
            shown[field.name] = dict(sorted(value.items(), key=_as_serialized))
        elif field.is_repeated:
            shown[field.name] = [_shown(field, item) for item in value]
        elif not field.has_presence or message.HasField(field.name):
            shown[field.name] = _shown(field, value)
    return shown


class Printed(NamedTuple):
    """A signal as it is sent."""

    cursor: bytes
    #: One line.
    json: bytes
    #: Of that line: what an answer's tag is made of.
    digest: bytes


@lru_cache(maxsize=4096)
def printed(payload: bytes) -> Printed:
    """A serialized `Signal` as it is sent. Remembered: every open stream asks for the same."""
    signal = Signal.FromString(payload)
    shown = _escaped(msgspec.json.encode(fields(signal)))
    return Printed(signal.cursor.encode(), shown, hashlib.blake2b(shown, digest_size=16).digest())


def replay_line(signal: Signal) -> bytes:
    """One line of a replay file: the FULL view without `NOT_DETERMINED`, keys sorted, so that equal runs give equal
    bytes."""
    shown = {name: value for name, value in fields(signal).items() if name not in NOT_DETERMINED}
    return _escaped(msgspec.json.encode(shown, order="sorted"))


def replay_lines(signals: Iterable[Signal]) -> list[bytes]:
    """The lines of a replay file in their order: by completing observation, then by id."""
    ordered = sorted(signals, key=lambda signal: (signal.observed_at.ToNanoseconds(), signal.id))
    return [replay_line(signal) for signal in ordered]


def _as_serialized(entry: tuple[str, Any]) -> bytes:
    # Signals are stored with a name that goes on before the one that ends there, and the gateway prints what it finds.
    # No letter's bytes come behind 0xff.
    return entry[0].encode() + b"\xff"


def _escaped(encoded: bytes) -> bytes:
    return _ESCAPED_TOO.sub(_as_utf16, encoded.decode()).encode()


def _as_utf16(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


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

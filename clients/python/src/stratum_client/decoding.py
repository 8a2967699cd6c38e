"""Answers as types, whatever newer servers put into them."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from stratum_client.errors import UnreadableAnswerError

T = TypeVar("T")


def decode(kind: type[T], body: bytes | str, request_id: str | None = None) -> T:
    """The answer. Fields and words that are not known yet are no errors. Raises UnreadableAnswerError."""
    try:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.ValidationError:
            # A gateway older than the service behind it writes a word that it does not know as its number.
            return msgspec.convert(_worded(msgspec.json.decode(body), inspect.type_info(kind)), kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as unreadable:
        raise UnreadableAnswerError(f"{kind.__name__}: {unreadable}", request_id) from unreadable


def _worded(value: Any, kind: inspect.Type) -> Any:
    """The value with texts where numbers stand for words."""
    match kind:
        case inspect.EnumType() if isinstance(value, int):
            return str(value)
        case inspect.UnionType(types) if value is not None:
            return _worded(value, next(one for one in types if not isinstance(one, inspect.NoneType)))
        case inspect.VarTupleType(item) if isinstance(value, list):
            return [_worded(one, item) for one in value]
        case inspect.StructType() if isinstance(value, dict):
            kinds = {field.encode_name: field.type for field in kind.fields}
            return {name: _worded(one, kinds[name]) if name in kinds else one for name, one in value.items()}
        case _:
            return value

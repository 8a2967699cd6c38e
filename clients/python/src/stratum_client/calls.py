"""A call before it is sent: what it asks, as a request over HTTP. Nothing here does any I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Generic, TypeAlias, TypeVar
from urllib.parse import quote, urlencode
from uuid import uuid4

import msgspec

T = TypeVar("T")

#: One value, or several: what is asked for has one of them.
OneOrMany: TypeAlias = T | Iterable[T]


@dataclass(frozen=True, slots=True)
class Request:
    """What goes out. It may be sent again as it is."""

    verb: str
    #: The path with its query.
    target: str
    headers: Mapping[str, str]
    body: bytes | None = None

    def with_headers(self, **more: str) -> Request:
        """The same with more headers; `_` in a name stands for `-`."""
        added = {name.replace("_", "-"): value for name, value in more.items()}
        return replace(self, headers={**self.headers, **added})


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One operation with its arguments, and the type of its answer."""

    verb: str
    path: str
    answer: type[T]
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    #: Of a call that changes something.
    idempotency_key: str | None = None

    def with_query(self, **more: Any) -> Call[T]:
        """The same call with other values for some parameters."""
        return replace(self, query={**self.query, **more})

    def request(self) -> Request:
        """The request. Raises ValueError for a time without a zone."""
        pairs = [(name, _text(one)) for name, value in self.query.items() for one in _each(value)]
        # A space is %20: the gateway takes a plus for a plus.
        target = f"{self.path}?{urlencode(pairs, quote_via=quote)}" if pairs else self.path
        if self.verb == "GET":
            return Request("GET", target, {"accept": "*/*" if self.answer is bytes else "application/json"})
        # The same key for every repetition: whatever arrived twice is done once.
        headers = {
            "accept": "application/json",
            "content-type": "application/json",
            "idempotency-key": self.idempotency_key or str(uuid4()),
        }
        said = {name: value for name, value in (self.body or {}).items() if value is not None}
        return Request(self.verb, target, headers, msgspec.json.encode(said))


def segment(text: str) -> str:
    """A value as one segment of a path. Raises ValueError for one that would make another path of it."""
    if not text or text.strip(".") == "" or "/" in text:
        raise ValueError(f"not an id: {text!r}")
    return quote(text, safe="")


def _each(value: Any) -> Iterable[Any]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str | int | float | datetime) else value


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"a time needs a zone: {value!r}")
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)

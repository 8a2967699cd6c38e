"""The provider's odds bodies in the shape it documents, decoded in one pass. Pure.

A market's outcomes stay the bytes they came as: most of them came before, and bytes are compared faster than read. What
is not of this shape, an event or a whole body, is decoded to plain values instead, and `normalize` reads both alike.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType


class MarketBody(msgspec.Struct, gc=False):
    """One market of a book."""

    key: str
    outcomes: msgspec.Raw
    last_update: str | None = None
    link: str | None = None
    # Outcomes are counted wherever they hang; where these do not belong, the event is not of the documented shape.
    price: UnsetType = UNSET
    markets: UnsetType = UNSET
    bookmakers: UnsetType = UNSET


class BookBody(msgspec.Struct, gc=False):
    """One bookmaker of an event."""

    key: str
    markets: list[MarketBody]
    title: Any = None
    last_update: str | None = None
    link: str | None = None
    price: UnsetType = UNSET
    outcomes: UnsetType = UNSET
    bookmakers: UnsetType = UNSET


class EventBody(msgspec.Struct, gc=False):
    """One event with its odds."""

    id: str
    home_team: str
    away_team: str
    bookmakers: list[BookBody]
    sport_key: str | None = None
    commence_time: str | None = None
    price: UnsetType = UNSET
    outcomes: UnsetType = UNSET
    markets: UnsetType = UNSET


class _Envelope(msgspec.Struct):
    """What the historical endpoints put around a body."""

    data: list[EventBody]
    timestamp: Any = None
    previous_timestamp: Any = None
    next_timestamp: Any = None


_events = msgspec.json.Decoder(list[EventBody])
_envelope = msgspec.json.Decoder(_Envelope)
_pieces = msgspec.json.Decoder(list[msgspec.Raw])
_event = msgspec.json.Decoder(EventBody)


def decode(body: bytes) -> Any:
    """A body of the provider: its events in the documented shape as `EventBody`, everything else as plain values.

    Raises ValueError or RecursionError for what is no JSON, bare NaN excepted.
    """
    with suppress(msgspec.MsgspecError, ValueError, RecursionError):
        if not body.isascii():
            body.decode()  # what nobody reads must be text too
        return _of_documented_shape(body)
    return plain(body)


def _of_documented_shape(body: bytes) -> Any:
    with suppress(msgspec.ValidationError):
        return _events.decode(body)
    with suppress(msgspec.ValidationError):
        page = _envelope.decode(body)
        return {name: getattr(page, name) for name in page.__struct_fields__}
    return [_documented_or_plain(event) for event in _pieces.decode(body)]


def _documented_or_plain(event: msgspec.Raw) -> Any:
    with suppress(msgspec.ValidationError):
        return _event.decode(event)
    return plain(event)


def plain(body: bytes | msgspec.Raw) -> Any:
    """JSON as plain values, bare NaN included. Raises ValueError or RecursionError for what is none."""
    # The strict reader gives what the lenient one does, in a fraction of the time, or refuses.
    with suppress(msgspec.MsgspecError, ValueError, RecursionError):
        return msgspec.json.decode(body)
    return json.loads(bytes(body))

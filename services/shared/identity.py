"""Ids that name what they stand for: hashes, so that a second write is the same row. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def milliseconds(moment: datetime) -> int:
    """Whole milliseconds since 1970, exact: no float in between."""
    delta = moment - EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000


def hashed_id(*fields: str) -> str:
    """First 20 bytes, base32, lower case, of SHA-256 over the fields, each behind its length in 4 bytes, big-endian."""
    digested = "".join([_LENGTHS[len(text)] + text if len(text) < 128 else "é" for text in fields])
    # Short ASCII is its own encoding, lengths and all; anything else goes the long way round.
    data = digested.encode() if digested.isascii() else b"".join([_with_length(text.encode()) for text in fields])
    number = int.from_bytes(hashlib.sha256(data).digest()[:20], "big")
    # The standard library's b32encode takes longer than all the rest; ten bits are two digits.
    return "".join([_DIGIT_PAIRS[number >> shift & 0x3FF] for shift in _SHIFTS])


def _with_length(encoded: bytes) -> bytes:
    return len(encoded).to_bytes(4, "big") + encoded


_LENGTHS = tuple("\0\0\0" + chr(length) for length in range(128))
_DIGITS = "abcdefghijklmnopqrstuvwxyz234567"
_DIGIT_PAIRS = tuple(first + second for first in _DIGITS for second in _DIGITS)
_SHIFTS = tuple(range(150, -1, -10))


def snapshot_id(event_id: str, book: str, market: str, player: str, outcome: str, observed_at: datetime) -> str:
    """The id of one outcome's price as first seen at a time. `outcome` is lower case: home, away, draw, over, under."""
    return hashed_id(event_id, book, market, player, outcome, str(milliseconds(observed_at)))


def configuration_hash(configuration: Mapping[str, Any]) -> str:
    """The first 16 hex digits of SHA-256 over the configuration as JSON with sorted keys."""
    canonical = json.dumps(configuration, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]

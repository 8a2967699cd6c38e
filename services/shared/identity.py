"""Ids that name what they stand for: hashes, so that a second write is the same row. Pure."""

from __future__ import annotations

import hashlib
import json
from base64 import b32encode
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def milliseconds(moment: datetime) -> int:
    """Whole milliseconds since 1970, exact: no float in between."""
    delta = moment - EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000


def hashed_id(*fields: str) -> str:
    """First 20 bytes, base32, lower case, of SHA-256 over the fields, each behind its length in 4 bytes, big-endian."""
    digest = hashlib.sha256(b"".join([_behind_its_length(text) for text in fields])).digest()
    return b32encode(digest[:20]).decode().lower()


# Ids of one poll are made of the same few events, books, markets and moments.
@lru_cache(1 << 14)
def _behind_its_length(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(4, "big") + encoded


def snapshot_id(event_id: str, book: str, market: str, player: str, outcome: str, observed_at: datetime) -> str:
    """The id of one outcome's price as first seen at a time. `outcome` is lower case: home, away, draw, over, under."""
    return hashed_id(event_id, book, market, player, outcome, str(milliseconds(observed_at)))


def configuration_hash(configuration: Mapping[str, Any]) -> str:
    """The first 16 hex digits of SHA-256 over the configuration as JSON with sorted keys."""
    canonical = json.dumps(configuration, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]

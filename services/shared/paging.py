"""Page tokens: where a list goes on, bound to the filters it was asked with, and opaque to the caller."""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode, urlsafe_b64encode
from typing import TypeVar

import msgspec
from stratum.common.v1.error_reason_pb2 import ErrorReason

from services.shared.errors import InvalidArgument

T = TypeVar("T")

DEFAULT_PAGE_SIZE = 50
LARGEST_PAGE_SIZE = 500
#: The character that PostgreSQL's text cannot hold, as JSON has it.
_NO_TEXT = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class _Token(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    digest: str
    position: msgspec.Raw


def page_size(asked: int) -> int:
    """Rows on a page: 50 when not asked (0), else what was asked, from 1 to 500. Raises InvalidArgument."""
    if not 0 <= asked <= LARGEST_PAGE_SIZE:
        raise InvalidArgument(
            ErrorReason.INVALID_ARGUMENT, f"page_size is from 1 to {LARGEST_PAGE_SIZE}, not {asked}", field="page_size"
        )
    return asked or DEFAULT_PAGE_SIZE


def encode(position: object, filters: bytes) -> str:
    """A token that names a position in a list. `filters` is any stable rendering of everything else that was asked,
    such as the request's serialized bytes without its page fields: the token is good for the same filters only."""
    token = _Token(digest=_digest(filters), position=msgspec.Raw(msgspec.json.encode(position)))
    return urlsafe_b64encode(msgspec.json.encode(token)).decode().rstrip("=")


def decode(token: str, filters: bytes, into: type[T]) -> T:
    """The position a token names. Raises InvalidArgument (INVALID_PAGE_TOKEN) for one that is not ours, or was made for
    other filters."""
    try:
        padded = token.encode("ascii") + b"=" * (-len(token) % 4)
        read = msgspec.json.decode(b64decode(padded, altchars=b"-_", validate=True), type=_Token)
        if _NO_TEXT.search(bytes(read.position)):
            raise ValueError("a position of ours holds what PostgreSQL's text can hold")
        position = msgspec.json.decode(read.position, type=into)
    except (ValueError, msgspec.DecodeError) as unreadable:
        raise InvalidArgument(ErrorReason.INVALID_PAGE_TOKEN, "page_token is not one of ours") from unreadable
    if read.digest != _digest(filters):
        raise InvalidArgument(ErrorReason.INVALID_PAGE_TOKEN, "page_token belongs to other filters")
    return position


def _digest(filters: bytes) -> str:
    return hashlib.sha256(filters).hexdigest()[:16]

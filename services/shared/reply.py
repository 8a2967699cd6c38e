"""What an answer says beside its message: headers, and the tag by which a caller asks whether it has changed.

A handler says it with `say` and `tag`; the interceptor in `server.py` sends it. Every answer to a keyed GET that is no
stream gets a weak entity tag: the handler's own, where it knows what determines the answer, else one made of the bytes.
When the caller has named that tag in `if-none-match`, an empty message goes out beside `x-stratum-not-modified`, of
which the gateway makes a 304.
"""

from __future__ import annotations

import hashlib
import re
from contextvars import ContextVar

IF_NONE_MATCH = "if-none-match"
ETAG = "etag"
#: Said to the gateway, which takes it away: the caller has this answer already.
NOT_MODIFIED = "x-stratum-not-modified"
_DIGEST_BYTES = 12
_OPAQUE = re.compile(r'(?:W/)?"([^"]*)"')


class Reply:
    """What is said beside one call's message."""

    __slots__ = ("etag", "headers")

    def __init__(self) -> None:
        self.headers: list[tuple[str, str]] = []
        self.etag = ""


#: The call under way; None outside one, as in a test that calls a handler by itself.
current: ContextVar[Reply | None] = ContextVar("reply", default=None)


def say(name: str, value: str) -> None:
    """A header of the answer, its name in small letters."""
    if (reply := current.get()) is not None:
        reply.headers.append((name, value))


def tag(etag: str) -> None:
    """Names the answer by what determines it, as `weak` writes it, so that its bytes need not be looked at."""
    if (reply := current.get()) is not None:
        reply.etag = etag


def weak(determined_by: bytes) -> str:
    """The entity tag of whatever these bytes determine. Weak: the gateway may compress the answer."""
    return f'W/"{hashlib.blake2b(determined_by, digest_size=_DIGEST_BYTES).hexdigest()}"'


def has(if_none_match: str, etag: str) -> bool:
    """Whether a caller who sends this header has the answer with this tag. Weak and strong tags compare alike."""
    if if_none_match.strip() == "*":
        return True
    return etag.removeprefix("W/").strip('"') in _OPAQUE.findall(if_none_match)

"""How fast a key may call: a bucket that holds a number of requests and fills evenly, in exact whole numbers.

The generic cell rate algorithm keeps one number for a bucket: when it will be full. A request moves that moment on by
the time in which one request flows back; it is let through unless the moment would lie further ahead than a whole
bucket takes. So whatever happens in between, in any time of t nanoseconds no more than `requests + t / step` pass.
Pure: the clock's reading comes in as an argument.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

NANOSECONDS = 1_000_000_000
Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Limit:
    """`requests` each `per_seconds`, both above 0."""

    requests: int
    per_seconds: int
    #: Nanoseconds in which one request flows back, rounded up: rounding never lets more through.
    step: int = field(init=False)
    #: Nanoseconds in which an empty bucket fills.
    whole: int = field(init=False)
    #: What is the same in every answer: X-RateLimit-Limit and RateLimit-Policy.
    headers: tuple[tuple[bytes, bytes], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        step = -(-self.per_seconds * NANOSECONDS // self.requests)
        object.__setattr__(self, "step", step)
        object.__setattr__(self, "whole", step * self.requests)
        policy = b'"default";q=%d;w=%d' % (self.requests, self.per_seconds)
        said = ((b"x-ratelimit-limit", b"%d" % self.requests), (b"ratelimit-policy", policy))
        object.__setattr__(self, "headers", said)


@lru_cache(maxsize=1024)
def limit_of(requests: int, per_seconds: int) -> Limit:
    """The limit of these numbers: few accounts have numbers of their own."""
    return Limit(requests, per_seconds)


class Taken(NamedTuple):
    """What became of a request."""

    allowed: bool
    #: When the bucket will be full, in nanoseconds since 1970: what is kept of it.
    full_at: int
    #: Requests that could follow at once.
    remaining: int
    #: Whole seconds, rounded up, until the bucket is full.
    reset_seconds: int
    #: Whole seconds, at least 1, after which a refused request may be repeated; 0 for an allowed one.
    retry_after_seconds: int


def take(limit: Limit, full_at: int, now: int) -> Taken:
    """Takes one request out of a bucket that will be full at `full_at`; a refused one takes nothing.

    A moment further ahead than an empty bucket takes can only come from a clock that was set back, or from a larger
    limit that was lowered: it counts as empty.
    """
    step, whole = limit.step, limit.whole
    before = full_at - now
    if before < 0:
        before = 0
    elif before > whole:
        before = whole
    after = before + step
    if after <= whole:
        return Taken(True, now + after, (whole - after) // step, -(-after // NANOSECONDS), 0)
    return Taken(False, now + before, 0, -(-before // NANOSECONDS), max(1, -(-(after - whole) // NANOSECONDS)))


def headers_of(limit: Limit, taken: Taken) -> Headers:
    """What an answer says of its key's limit: whole numbers, and the same in the form that the IETF is drafting."""
    headers: Headers = [
        *limit.headers,
        (b"x-ratelimit-remaining", b"%d" % taken.remaining),
        (b"x-ratelimit-reset", b"%d" % taken.reset_seconds),
        (b"ratelimit", b'"default";r=%d;t=%d' % (taken.remaining, taken.reset_seconds)),
    ]
    if not taken.allowed:
        headers.append((b"retry-after", b"%d" % taken.retry_after_seconds))
    return headers

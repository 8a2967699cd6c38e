"""Series short enough to draw. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

LONGEST_SERIES = 500


def thinned(points: Sequence[T], most: int = LONGEST_SERIES) -> list[T]:
    """At most `most` (2 or more) of the points, evenly spread, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    stride = (len(points) - 1) / (most - 1)
    return [points[round(index * stride)] for index in range(most)]

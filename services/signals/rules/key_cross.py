"""KEY_CROSS: a spread that passes, leaves or comes to stand on a margin by which games are often decided.

It is a MOVE of full-game spreads, and replaces it, when the probability mass between from and to is at least 0.03: the
sum of P(k) over the signed key numbers strictly between them, and half of P(k) for each end that stands on one. P(k) is
the share of games decided by exactly k when the line stands near it, from a versioned table by sport; NBA_KEY_NUMBERS
says which margins count. An end that stands on no half point (a median between two books) is first taken inward to one.
A sport whose margins nobody has measured has no KEY_CROSS. Window, anchor and all else are MOVE's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from services.shared.odds import canonical


def mass_crossed(before: float, after: float, shares: Mapping[int, float]) -> float:
    """Share of games that the move changes sides of; a number that the line leaves or lands on counts half."""
    start, end = _inward(before, after), _inward(after, before)
    if (end - start) * (after - before) < 0:
        return 0.0  # both ends lie between the same two half points
    return canonical(
        math.fsum(share * _passage(start, end, sign * margin) for margin, share in shares.items() for sign in (1, -1))
    )


def numbers_crossed(before: float, after: float, shares: Mapping[int, float]) -> tuple[int, ...]:
    """The signed key numbers that the move passes, leaves or lands on, in the order of the move."""
    start, end = _inward(before, after), _inward(after, before)
    touched = [sign * margin for margin in shares for sign in (1, -1) if _passage(start, end, sign * margin) > 0]
    return tuple(sorted(touched, reverse=after < before))


def _inward(end: float, other: float) -> float:
    return (math.ceil(end * 2.0) if other > end else math.floor(end * 2.0)) / 2.0


def _passage(start: float, end: float, margin: int) -> float:
    if min(start, end) < margin < max(start, end):
        return 1.0
    return 0.5 * (start == margin) + 0.5 * (end == margin)

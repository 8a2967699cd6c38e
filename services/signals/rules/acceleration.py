"""Acceleration: whether a move gathered pace in the second half of its window."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from services.shared.odds import MarketKind, canonical
from services.signals.model import MarketState, Sight, Stand
from services.signals.rules.window import OwnChange, Panel, value_of


def acceleration(
    panel: Panel,
    market: MarketState,
    kind: MarketKind,
    sights: Sequence[Sight],
    moved: Callable[[Panel], float],
) -> float | None:
    """Velocity of the window's second half minus the first's, per minute, in the direction in which `moved` counts.

    The halves meet at the newest observation that is not past the middle. None where a half is shorter than the
    sampling, or where no observation lies inside the first.
    """
    window = panel.window
    half = (window.end - window.start) / 2
    middle = max(
        (sight.observed_at for sight in sights if window.start < sight.observed_at <= window.start + half), default=None
    )
    if middle is None or half.total_seconds() < sights[-1].expected_interval_seconds:
        return None
    stands = {book.book: book.stands for book in market.books}
    first: list[OwnChange] = []
    second: list[OwnChange] = []
    for member in panel.changed:
        # A book that was gone at the middle stands where it was last seen.
        seen = [stand for stand in stands[member.book] if stand.since <= middle]
        between = seen[-1] if seen else member.start
        first.append(_between(member, kind, member.start, between))
        second.append(_between(member, kind, between, member.end))
    before = moved(Panel(window, panel.steady, first)) / ((middle - window.start).total_seconds() / 60.0)
    after = moved(Panel(window, panel.steady, second)) / ((window.end - middle).total_seconds() / 60.0)
    return canonical(after - before)


def _between(member: OwnChange, kind: MarketKind, start: Stand, end: Stand) -> OwnChange:
    from_value = value_of(kind, start.quote)
    to_value = value_of(kind, end.quote)
    from_value = member.from_value if from_value is None else from_value
    to_value = member.to_value if to_value is None else to_value
    return replace(
        member, start=start, end=end, from_value=from_value, to_value=to_value, delta=canonical(to_value - from_value)
    )

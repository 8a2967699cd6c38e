"""What the four rules of movement share: why one is held back, and how one that is not becomes a candidate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from services.shared.odds import MarketKind, canonical
from services.signals.model import Direction, MarketState, Reason, SignalType
from services.signals.rules.acceleration import acceleration
from services.signals.rules.candidate import Candidate, Held, Verdict, Words
from services.signals.rules.score import magnitude_part, moved_part, speed_part, strength
from services.signals.rules.window import Moment, Movers, Panel, direction_of


def timing_reason(panel: Panel, movers: Movers, moment: Moment) -> Reason | None:
    """Why nothing can be said about when the move happened; None when something can."""
    if panel.window.stale:
        return Reason.STALE_FEED
    limit = moment.settings.elapsed_share * panel.window.seconds
    if movers.books and movers.elapsed_seconds > limit:
        return Reason.SPARSE_SAMPLING
    return None


def hidden_by_sampling(panel: Panel) -> Reason:
    """Why a trigger that only books with vague changes meet is held back."""
    return Reason.STALE_FEED if panel.window.stale else Reason.SPARSE_SAMPLING


def held(market: MarketState, signal_type: SignalType, direction: Direction, reason: Reason) -> Verdict:
    """The verdict that a movement met its trigger and is held back."""
    return Verdict(held=(Held(market.key, signal_type, direction, "", reason),))


def candidate(
    market: MarketState,
    kind: MarketKind,
    moment: Moment,
    panel: Panel,
    movers: Movers,
    signal_type: SignalType,
    from_value: float,
    delta: float,
    threshold: float,
    measure: Callable[[Panel], float],
    steps: tuple[str, ...],
    meta: Mapping[str, str],
    key_mass: float = 0.0,
) -> Candidate:
    """A movement as a candidate; `measure` gives the rule's own delta of any stretch of the panel."""
    moved, standing = len(movers.clusters), panel.size
    elapsed = movers.elapsed_seconds
    sign = 1.0 if delta > 0 else -1.0
    return Candidate(
        key=market.key,
        signal_type=signal_type,
        direction=direction_of(kind, delta),
        from_value=from_value,
        to_value=canonical(from_value + delta),
        delta=delta,
        threshold=threshold,
        strength=strength(
            magnitude_part(delta, threshold),
            speed_part(elapsed, panel.window.seconds),
            moved_part(moved, standing),
            key_mass,
        ),
        velocity=canonical(abs(delta) / (elapsed / 60.0)),
        breadth=moved / standing,
        dispersion=market.consensus.dispersion,
        words=lambda: Words((*opening_steps(panel), *steps, elapsed_step(panel, movers, moment)), meta),
        acceleration=lambda: acceleration(panel, market, kind, moment.sights, lambda part: sign * measure(part)),
        panel=panel,
        movers=movers,
        elapsed_seconds=canonical(elapsed),
    )


def opening_steps(panel: Panel) -> tuple[str, ...]:
    """The window and the panel, in words."""
    window = panel.window
    books = [member.book for cluster in panel.clusters for member in cluster.members]
    steps = [
        f"The window of {number(window.seconds / 60.0)} minutes runs from the observation at {clock(window.start)} "
        f"to the one at {clock(window.end)}.",
        f"{panel.size} clusters stood at both its ends: {', '.join(sorted(books))}.",
    ]
    if panel.left:
        names = ", ".join(sorted(member.book for member in panel.left))
        steps.append(f"Left out, because it is not known closely enough when they changed: {names}.")
    return tuple(steps)


def elapsed_step(panel: Panel, movers: Movers, moment: Moment) -> str:
    """How long the move can have taken, in words."""
    limit = moment.settings.elapsed_share * panel.window.seconds
    return (
        f"The movers changed within {number(movers.elapsed_seconds)} s at the most; the limit is {number(limit)} s. "
        f"{len(movers.clusters)} of {panel.size} clusters moved that way, {movers.against} against."
    )


def number(value: float) -> str:
    """A number as a sentence shows it."""
    return f"{value:.6g}"


def clock(moment: datetime) -> str:
    """A time as a sentence shows it: UTC, to the second."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"

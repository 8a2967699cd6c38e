"""Strength and composite: how much activity a signal stands for, in parts that add up.

Strength is a whole number from 1 to 100: magnitude (25 for each threshold, at most 50), speed (30 for an instant move,
0 for one as long as its window), books (20 for the whole panel), for a key crossing up to 10 for the mass crossed, and
a clamp that takes off what exceeds 100. For a dislocation the others' agreement takes the place of speed.

The composite, 1 to 100 with one decimal, is a ranking heuristic and no probability of winning: 0.45 × strength,
velocity (at most 15), timing (at most 15), breadth (at most 15) and agreement of the books (at most 10). Where the
start or the dispersion is unknown it is the strength itself. From 75 it is HIGH, from 55 MEDIUM, below LOW.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from services.shared.odds import canonical
from services.signals.model import ScoreComponent, ScorePart, ScoreSource, Tier, TimeBucket, Value
from services.signals.rules.settings import RuleSettings

TIMING: Mapping[TimeBucket, float] = {
    TimeBucket.PRETIP: 15.0,
    TimeBucket.LATE: 13.0,
    TimeBucket.MID: 11.0,
    TimeBucket.OPEN: 8.0,
    TimeBucket.INPLAY: 6.0,
    TimeBucket.UNKNOWN: 0.0,
}
#: The most that each part of the strength can be. The first that is not 0 and has room carries the rounding to a whole
#: number; magnitude comes last, because it is the part that a reader checks by hand.
STRENGTH_CAPS: Mapping[str, int] = {"speed": 30, "books": 20, "key_mass": 10, "magnitude": 50}
SHOWN_PARTS = ("magnitude", "speed", "books", "key_mass")


class Strength(Value, frozen=True):
    """A strength and the parts that add up to it."""

    points: int
    parts: tuple[ScorePart, ...]


class Composite(Value, frozen=True):
    """A composite score and the parts that add up to it."""

    score: float
    source: ScoreSource
    components: tuple[ScoreComponent, ...]


def magnitude_part(delta: float, threshold: float) -> float:
    """25 for each threshold that the move is long, at most 50."""
    return min(50.0, 25.0 * abs(delta) / threshold)


def speed_part(elapsed_seconds: float, window_seconds: float) -> float:
    """30 for an instant move, 0 for one that took its whole window."""
    return 30.0 * max(0.0, window_seconds - elapsed_seconds) / window_seconds


def others_agreement_part(dispersion: float | None, threshold: float) -> float:
    """30 when the others quote as one, less the wider they are spread; 0 when nobody knows."""
    return 0.0 if dispersion is None else 30.0 / (1.0 + 2.5 * dispersion / threshold)


def moved_part(clusters_moved: int, clusters_in_panel: int) -> float:
    """20 when the whole panel moved."""
    return min(20.0, 20.0 * clusters_moved / clusters_in_panel)


def others_part(others: int) -> float:
    """2 for each other cluster, at most 20."""
    return min(20.0, 2.0 * others)


def key_mass_part(mass: float) -> float:
    """10 for a tenth of all games crossed, at most 10."""
    return min(10.0, 100.0 * mass)


def strength(magnitude: float, speed: float, books: float, key_mass: float = 0.0) -> Strength:
    """min(100, the sum rounded half up), with parts of one decimal that add up to it exactly."""
    exact = {"magnitude": magnitude, "speed": speed, "books": books, "key_mass": key_mass}
    whole = math.floor(canonical(0.5 + math.fsum(exact.values())))
    tenths = {name: _tenths(points) for name, points in exact.items()}
    missing = whole * 10 - sum(tenths.values())
    for name in sorted(STRENGTH_CAPS, key=lambda part: tenths[part] == 0):
        carried = max(-tenths[name], min(STRENGTH_CAPS[name] * 10 - tenths[name], missing))
        tenths[name] += carried
        missing -= carried
    parts = [ScorePart(name, tenths[name] / 10.0) for name in SHOWN_PARTS]
    return Strength(min(100, whole), (*parts, ScorePart("clamp", float(min(0, 100 - whole)))))


def composite(
    strength: Strength,
    velocity: float | None,
    breadth: float,
    dispersion: float | None,
    bucket: TimeBucket,
    threshold: float,
    move_threshold: float,
) -> Composite:
    """The ranking score. `threshold` is the one the strength was scored by, `move_threshold` MOVE's in this market."""
    if bucket is TimeBucket.UNKNOWN or dispersion is None:
        source = ScoreSource.STRENGTH_FALLBACK
        tenths = {"strength": strength.points * 10, "velocity": 0, "timing": 0, "breadth": 0, "agreement": 0}
    else:
        source = ScoreSource.COMPOSITE
        speed = 0.0 if velocity is None else min(15.0, 15.0 * velocity / (threshold / 5.0))
        tenths = {
            "strength": _tenths(0.45 * strength.points),
            "velocity": _tenths(speed),
            "timing": _tenths(TIMING[bucket]),
            "breadth": _tenths(15.0 * min(1.0, breadth)),
            "agreement": _tenths(10.0 * math.exp(-dispersion / move_threshold)),
        }
    components = tuple(
        ScoreComponent(name, points / 10.0, strength.parts if name == "strength" else ())
        for name, points in tenths.items()
    )
    return Composite(sum(tenths.values()) / 10.0, source, components)


def tier_of(score: float, settings: RuleSettings) -> Tier:
    """The tier of a composite score."""
    if score >= settings.tier_high:
        return Tier.HIGH
    return Tier.MEDIUM if score >= settings.tier_medium else Tier.LOW


def time_bucket(minutes_to_tip: float | None) -> TimeBucket:
    """How far away the start is; unknown when there is no readable start."""
    if minutes_to_tip is None:
        return TimeBucket.UNKNOWN
    if minutes_to_tip >= 360:
        return TimeBucket.OPEN
    if minutes_to_tip >= 120:
        return TimeBucket.MID
    if minutes_to_tip >= 30:
        return TimeBucket.LATE
    return TimeBucket.PRETIP if minutes_to_tip > 0 else TimeBucket.INPLAY


def _tenths(points: float) -> int:
    # Rounded to six decimals first, so that 34.65 is not 34.6499… and a half goes up everywhere.
    return math.floor(canonical(points * 10.0) + 0.5)

"""Strength, composite and tiers: parts that add up, and the boundaries."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.signals.model import ScoreComponent, ScorePart, ScoreSource, Tier, TimeBucket
from services.signals.rules import RuleSettings
from services.signals.rules.score import (
    STRENGTH_CAPS,
    composite,
    key_mass_part,
    magnitude_part,
    moved_part,
    others_agreement_part,
    others_part,
    speed_part,
    strength,
    tier_of,
    time_bucket,
)


def tenths(parts: tuple[ScoreComponent | ScorePart, ...]) -> int:
    """The sum in whole tenths; raises where a part has more than one decimal."""
    for part in parts:
        assert part.points == round(part.points, 1)
    return sum(round(part.points * 10) for part in parts)


@pytest.mark.parametrize(
    ("delta", "threshold", "points"), [(0.5, 0.5, 25.0), (-1.0, 0.5, 50.0), (3.0, 0.5, 50.0), (0.006, 0.015, 10.0)]
)
def test_magnitude_is_25_for_a_threshold_and_at_most_50(delta: float, threshold: float, points: float) -> None:
    assert magnitude_part(delta, threshold) == pytest.approx(points)


@pytest.mark.parametrize(("elapsed", "points"), [(0.0, 30.0), (300.0, 15.0), (600.0, 0.0), (660.0, 0.0)])
def test_speed_is_30_for_an_instant_and_nothing_for_a_window(elapsed: float, points: float) -> None:
    assert speed_part(elapsed, 600.0) == points


def test_books_are_20_for_a_whole_panel() -> None:
    assert moved_part(5, 5) == 20.0
    assert moved_part(4, 8) == 10.0
    assert others_part(5) == 10.0
    assert others_part(12) == 20.0


def test_others_that_quote_as_one_agree_fully() -> None:
    assert others_agreement_part(0.0, 1.0) == 30.0
    assert others_agreement_part(0.4, 1.0) == 15.0
    assert others_agreement_part(None, 1.0) == 0.0


def test_what_exceeds_100_is_shown_as_a_clamp() -> None:
    full = strength(50.0, 30.0, 20.0, key_mass_part(0.0908))

    assert full.points == 100
    assert full.parts[-1] == ScorePart("clamp", -9.0)
    assert tenths(full.parts) == 1000


def test_a_half_is_rounded_up() -> None:
    assert strength(37.5, 20.0, 5.0).points == 63


parts_of_strength = st.tuples(st.floats(1.0, 50.0), st.floats(0.0, 30.0), st.floats(0.0, 20.0), st.floats(0.0, 10.0))


@given(parts_of_strength)
def test_the_parts_of_a_strength_add_up_to_it(parts: tuple[float, float, float, float]) -> None:
    found = strength(*parts)

    assert 1 <= found.points <= 100
    assert tenths(found.parts) == found.points * 10
    assert found.points == min(100, math.floor(0.5 + round(math.fsum(parts), 6)))


@given(parts_of_strength)
def test_no_part_of_a_strength_exceeds_its_bounds_or_strays_from_its_formula(
    parts: tuple[float, float, float, float],
) -> None:
    shown = {part.name: part.points for part in strength(*parts).parts}

    for name, exact in zip(("magnitude", "speed", "books", "key_mass"), parts, strict=True):
        assert 0.0 <= shown[name] <= STRENGTH_CAPS[name]
        assert abs(shown[name] - exact) <= 0.75
    assert shown["clamp"] <= 0.0


def test_a_composite_is_the_sum_the_page_gives() -> None:
    """0.45 × 77, half of the full velocity, MID, a whole panel, and books a threshold apart."""
    found = composite(strength(50.0, 7.0, 20.0), 0.05, 1.0, 0.5, TimeBucket.MID, 0.5, 0.5)

    assert [(part.name, part.points) for part in found.components] == [
        ("strength", 34.7),
        ("velocity", 7.5),
        ("timing", 11.0),
        ("breadth", 15.0),
        ("agreement", 3.7),
    ]
    assert found.score == 71.9
    assert found.source is ScoreSource.COMPOSITE


@given(
    parts_of_strength,
    st.none() | st.floats(0.0, 5.0),
    st.floats(0.0, 1.5),
    st.floats(0.0, 3.0),
    st.sampled_from([TimeBucket.OPEN, TimeBucket.MID, TimeBucket.LATE, TimeBucket.PRETIP]),
)
def test_the_parts_of_a_composite_add_up_to_it(
    parts: tuple[float, float, float, float],
    velocity: float | None,
    breadth: float,
    dispersion: float,
    bucket: TimeBucket,
) -> None:
    found = composite(strength(*parts), velocity, breadth, dispersion, bucket, 0.5, 0.5)

    assert tenths(found.components) == round(found.score * 10)
    assert 1.0 <= found.score <= 100.0


@pytest.mark.parametrize(
    ("bucket", "dispersion"), [(TimeBucket.UNKNOWN, 0.1), (TimeBucket.MID, None), (TimeBucket.UNKNOWN, None)]
)
def test_without_a_start_or_dispersion_the_strength_is_the_score(bucket: TimeBucket, dispersion: float | None) -> None:
    found = composite(strength(50.0, 7.2, 20.0), 0.2, 1.0, dispersion, bucket, 0.5, 0.5)

    assert found.score == 77.0
    assert found.source is ScoreSource.STRENGTH_FALLBACK
    assert tenths(found.components) == 770


@pytest.mark.parametrize(
    ("score", "tier"),
    [
        (100.0, Tier.HIGH),
        (75.0, Tier.HIGH),
        (74.9, Tier.MEDIUM),
        (55.0, Tier.MEDIUM),
        (54.9, Tier.LOW),
        (1.0, Tier.LOW),
    ],
)
def test_tiers_begin_at_55_and_75(score: float, tier: Tier) -> None:
    assert tier_of(score, RuleSettings()) is tier


@pytest.mark.parametrize(
    ("minutes_to_tip", "bucket"),
    [
        (360.0, TimeBucket.OPEN),
        (359.999, TimeBucket.MID),
        (120.0, TimeBucket.MID),
        (119.999, TimeBucket.LATE),
        (30.0, TimeBucket.LATE),
        (29.999, TimeBucket.PRETIP),
        (0.001, TimeBucket.PRETIP),
        (0.0, TimeBucket.INPLAY),
        (-5.0, TimeBucket.INPLAY),
        (None, TimeBucket.UNKNOWN),
    ],
)
def test_time_buckets_begin_where_the_page_says(minutes_to_tip: float | None, bucket: TimeBucket) -> None:
    assert time_bucket(minutes_to_tip) is bucket


def test_two_thresholds_fast_and_broad_is_high() -> None:
    whole = strength(magnitude_part(1.0, 0.5), speed_part(120.0, 600.0), moved_part(6, 6))

    assert tier_of(composite(whole, 0.5, 1.0, 0.3, TimeBucket.OPEN, 0.5, 0.5).score, RuleSettings()) is Tier.HIGH

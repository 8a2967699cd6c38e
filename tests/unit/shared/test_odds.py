"""The arithmetic of prices, against values worked out by hand and properties that must always hold."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.shared.odds import (
    MarketKind,
    MarketModel,
    american_from_decimal,
    canonical,
    decimal_from_american,
    fair_line,
    fair_probabilities,
    implied_mean,
    logit,
    market_kind,
    median,
    probability_at,
    weighted_median,
)

probabilities = st.floats(0.02, 0.98).map(canonical)
decimal_prices = st.floats(1.01, 100.0)


@pytest.mark.parametrize(
    ("american", "decimal"),
    [(-110, 1 + 100 / 110), (100, 2.0), (-100, 2.0), (150, 2.5), (-200, 1.5), (-104, 1 + 100 / 104), (103, 2.03)],
)
def test_american_prices_in_decimal(american, decimal):
    assert decimal_from_american(american) == pytest.approx(decimal, abs=1e-12)


@pytest.mark.parametrize("american", [-99.9, -1, 0, 1, 99.9])
def test_no_american_price_lies_between_minus_and_plus_one_hundred(american):
    with pytest.raises(ValueError, match="no American price"):
        decimal_from_american(american)


@given(st.one_of(st.integers(-20000, -101), st.integers(100, 20000)))
def test_an_american_price_survives_the_way_to_decimal_and_back(american):
    assert american_from_decimal(decimal_from_american(american)) == american


@given(st.floats(1.0001, 1000.0))
def test_no_rendering_lies_between_minus_and_plus_one_hundred(decimal):
    assert abs(american_from_decimal(decimal)) >= 100


@pytest.mark.parametrize(
    ("prices", "fair"),
    [
        # −110 / −110: both 110/210 = 11/21, booksum 22/21.
        ((21 / 11, 21 / 11), (0.5, 0.5)),
        # −150 / +130: 3/5 and 10/23, booksum 119/115; 69/119 and 50/119.
        ((1 + 100 / 150, 2.3), (69 / 119, 50 / 119)),
        # A booksum under one (an arbitrage) is scaled up the same way: 10/21 and 10/21.
        ((2.1, 2.1), (0.5, 0.5)),
        # Three ways, 2.0 / 4.0 / 5.0: 1/2 + 1/4 + 1/5 = 19/20.
        ((2.0, 4.0, 5.0), (10 / 19, 5 / 19, 4 / 19)),
    ],
)
def test_the_vig_is_removed_in_proportion(prices, fair):
    assert fair_probabilities(prices) == pytest.approx(fair, abs=5e-7)


@given(st.lists(decimal_prices, min_size=2, max_size=3))
def test_fair_probabilities_are_a_distribution_in_the_order_of_the_prices(prices):
    fair = fair_probabilities(prices)
    assert math.fsum(fair) == pytest.approx(1.0, abs=2e-6)
    assert all(0 <= share <= 1 for share in fair)
    for one, other, price, another in zip(fair, fair[1:], prices, prices[1:], strict=False):
        assert (one >= other) if price <= another else (one <= other)


@pytest.mark.parametrize(
    ("kind", "line", "probability", "sigma", "mean"),
    [
        (MarketKind.SPREAD, -5.5, 0.5, 12.3, 5.5),
        (MarketKind.TOTAL, 224.5, 0.5, 18.0, 224.5),
        # One standard deviation: Φ(1) = 0.841345.
        (MarketKind.SPREAD, 3.0, 0.841345, 12.3, 9.3),
        (MarketKind.TOTAL, 220.0, 0.158655, 18.0, 202.0),
        (MarketKind.H2H, None, 0.75, None, math.log(3)),
    ],
)
def test_the_implied_mean_by_hand(kind, line, probability, sigma, mean):
    assert implied_mean(kind, line, probability, sigma) == pytest.approx(mean, abs=1e-4)


def test_without_a_scale_points_have_no_mean_and_probabilities_still_have():
    assert implied_mean(MarketKind.SPREAD, -3.0, 0.5, None) is None
    assert probability_at(MarketKind.TOTAL, 220.0, 219.5, None) is None
    assert implied_mean(MarketKind.H2H, None, 0.5, None) == 0.0


@given(st.sampled_from(MarketKind), st.integers(-120, 120), probabilities)
def test_reading_the_mean_at_the_same_line_gives_the_probability_back(kind, quarters, probability):
    line = None if kind is MarketKind.H2H else quarters / 4
    mean = implied_mean(kind, line, probability, 12.3)
    assert mean is not None
    assert probability_at(kind, mean, line, 12.3) == pytest.approx(probability, abs=1.1e-6)


@given(st.sampled_from([MarketKind.SPREAD, MarketKind.TOTAL]), st.integers(-120, 120), probabilities)
def test_both_sides_are_worth_the_same_at_the_fair_line(kind, quarters, probability):
    mean = implied_mean(kind, quarters / 4, probability, 12.3)
    assert mean is not None
    assert probability_at(kind, mean, fair_line(kind, mean), 12.3) == 0.5


def test_a_moneyline_has_no_fair_line():
    assert fair_line(MarketKind.H2H, 0.4) is None


@given(st.integers(-40, 40), probabilities)
def test_the_mirrored_spread_has_the_mirrored_mean(quarters, probability):
    one = implied_mean(MarketKind.SPREAD, quarters / 4, probability, 12.3)
    other = implied_mean(MarketKind.SPREAD, -quarters / 4, canonical(1 - probability), 12.3)
    assert one is not None
    assert other is not None
    assert one == pytest.approx(-other, abs=2e-6)


@pytest.mark.parametrize("certainty", [0.0, 1.0])
def test_a_certainty_is_held_off_the_ends(certainty):
    assert math.isfinite(logit(certainty))
    mean = implied_mean(MarketKind.SPREAD, -3.0, certainty, 12.3)
    assert mean is not None
    assert math.isfinite(mean)


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e9, max_value=1e9))
def test_canonical_is_settled_and_never_a_negative_zero(value):
    once = canonical(value)
    assert canonical(once) == once
    assert math.copysign(1.0, once) == 1.0 or once < 0


@pytest.mark.parametrize(
    ("values", "middle"), [([3.0], 3.0), ([2.0, 1.0], 1.5), ([3.0, 1.0, 2.0], 2.0), ([-5.5, -5.5, -6.5, -6.5], -6.0)]
)
def test_the_median_takes_the_middle_or_the_mean_of_the_middle_two(values, middle):
    assert median(values) == middle


@pytest.mark.parametrize("of_nothing", [median, weighted_median])
def test_nothing_has_no_median(of_nothing):
    with pytest.raises(ValueError, match="median of nothing"):
        of_nothing([])


@pytest.mark.parametrize(
    ("weighted", "middle"),
    [
        ([(5.0, 1.0)], 5.0),
        ([(1.0, 1.0), (2.0, 1.0)], 1.5),
        ([(1.0, 1.0), (2.0, 1.0), (9.0, 1.0)], 2.0),
        ([(1.0, 3.0), (2.0, 1.0), (9.0, 1.0)], 1.0),
        # Exactly half at 2: the mean with the next.
        ([(1.0, 1.0), (2.0, 1.0), (3.0, 1.0), (9.0, 1.0)], 2.5),
        # A cluster of three at a third each is one vote: 1/3 + 1/3 + 1/3 of 2, exactly half.
        ([(1.0, 1 / 3), (1.0, 1 / 3), (1.0, 1 / 3), (4.0, 1.0)], 2.5),
        ([(4.0, 1.0), (7.0, 1 / 3), (7.0, 1 / 3), (7.0, 1 / 3)], 5.5),
        # Equal values on both sides of the half.
        ([(2.0, 1.0), (2.0, 1.0), (2.0, 1.0), (8.0, 1.0)], 2.0),
    ],
)
def test_the_weighted_median_by_hand(weighted, middle):
    assert weighted_median(weighted) == middle


@given(st.lists(st.integers(-100, 100).map(lambda tenths: tenths / 4), min_size=1, max_size=12))
def test_with_equal_weights_it_is_the_median(values):
    assert weighted_median([(value, 0.7) for value in values]) == median(values)


weights = st.lists(
    st.tuples(st.integers(-40, 40).map(float), st.sampled_from([Fraction(1), Fraction(1, 2), Fraction(1, 3)])),
    min_size=1,
    max_size=12,
)


def exact_weighted_median(weighted: list[tuple[float, Fraction]]) -> float:
    ordered = sorted(weighted)
    half, passed = sum((weight for _, weight in ordered), Fraction(0)) / 2, Fraction(0)
    for index, (value, weight) in enumerate(ordered):
        passed += weight
        if passed == half:
            return (value + ordered[index + 1][0]) / 2
        if passed > half:
            return value
    raise AssertionError("more than half of the weight lies somewhere")


@given(weights, st.randoms(use_true_random=False))
def test_thirds_and_halves_count_exactly_in_any_order(weighted, shuffle):
    expected = exact_weighted_median(weighted)
    shuffle.shuffle(weighted)
    assert weighted_median([(value, float(weight)) for value, weight in weighted]) == expected


@given(weights)
def test_the_mirrored_weights_have_the_mirrored_median(weighted):
    as_floats = [(value, float(weight)) for value, weight in weighted]
    assert weighted_median([(-value, weight) for value, weight in as_floats]) == -weighted_median(as_floats)


@pytest.mark.parametrize(
    ("market", "kind"),
    [
        ("h2h", MarketKind.H2H),
        ("h2h_q1", MarketKind.H2H),
        ("spreads", MarketKind.SPREAD),
        ("spreads_h1", MarketKind.SPREAD),
        ("totals", MarketKind.TOTAL),
        ("player_points", MarketKind.TOTAL),
        ("h2h_lay", None),
        ("outrights", None),
        ("outrights_lay", None),
        ("alternate_spreads", None),
        ("player_points_alternate", None),
        ("team_totals", None),
        ("", None),
    ],
)
def test_which_markets_are_read_and_how(market, kind):
    assert market_kind(market) is kind


def test_books_of_one_feed_share_a_cluster_and_every_other_book_is_its_own():
    model = MarketModel()
    assert {model.cluster_of(book) for book in ("betonlineag", "lowvig", "betus")} == {"betonlineag"}
    assert model.cluster_of("pinnacle") == "pinnacle"


@pytest.mark.parametrize(
    ("sport", "market", "sigma"),
    [
        ("basketball_nba", "spreads", 12.3),
        ("basketball_nba", "totals", 18.0),
        ("basketball_nba", "h2h", None),
        ("basketball_nba", "spreads_q1", None),
        ("basketball_nba", "player_points", None),
        ("a_sport_that_nobody_measured", "spreads", None),
    ],
)
def test_only_full_games_of_a_measured_sport_have_a_scale(sport, market, sigma):
    assert MarketModel().sigma_of(sport, market) == sigma

"""Many books, one market."""

import math
import random
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from services.consensus.model import Consensus, PricedMarket, Quote
from services.consensus.pricing import PricingRules, price_market
from services.consensus.testing import NBA, a_market, a_quote, mirrored
from services.shared.odds import MarketModel, decimal_from_american, implied_mean, market_kind

RULES = PricingRules()
WITHOUT_SCALE = "basketball_wnba_without_scale"
SEVEN = ("betmgm", "betrivers", "bovada", "caesars", "draftkings", "fanduel", "pinnacle")


def priced(
    quotes: Mapping[str, Quote],
    market: str = "spreads",
    sport: str = NBA,
    dead: Mapping[str, str] | None = None,
    in_play: bool = False,
    rules: PricingRules = RULES,
) -> PricedMarket:
    return price_market(market, sport, quotes, dead or {}, in_play, rules)


def consensus_of(quotes: Mapping[str, Quote], market: str = "spreads", sport: str = NBA) -> Consensus:
    return priced(quotes, market, sport).consensus


def moneylines(*american: tuple[int, int]) -> dict[str, Quote]:
    return {
        book: a_quote(book, None, decimal_from_american(home), decimal_from_american(away), market="h2h")
        for book, (home, away) in zip(SEVEN, american, strict=False)
    }


lines = st.integers(-60, 60).map(lambda quarters: quarters / 4)
prices = st.floats(1.5, 3.0).map(lambda price: round(price, 4))
books = st.sampled_from([*SEVEN, "betonlineag", "lowvig", "betus"])


@st.composite
def spreads(draw: st.DrawFn) -> dict[str, Quote]:
    return {
        book: a_quote(book, draw(lines), draw(prices), draw(prices))
        for book in draw(st.lists(books, min_size=1, max_size=10, unique=True))
    }


def test_the_consensus_line_is_the_median_of_the_lines():
    consensus = consensus_of(a_market(betmgm=-5.5, caesars=-5.5, draftkings=-6.0, fanduel=-6.5, pinnacle=-7.0))
    assert consensus.consensus_line == -6.0


def test_an_even_number_of_lines_takes_the_mean_of_the_middle_two():
    consensus = consensus_of(a_market(betmgm=-5.5, caesars=-5.5, draftkings=-6.5, fanduel=-6.5))
    assert consensus.consensus_line == -6.0


def test_even_prices_on_one_line_make_it_the_fair_line_at_one_half():
    consensus = consensus_of(a_market(betmgm=-6.0, caesars=-6.0, draftkings=-6.0, fanduel=-6.0))
    assert (consensus.fair_line, consensus.fair_probability, consensus.consensus_price) == (-6.0, 0.5, 2.0)
    assert (consensus.dispersion, consensus.dispersion_mad) == (0.0, 0.0)
    assert (consensus.books, consensus.clusters, consensus.note) == (4, 4, "")


def test_the_vig_is_removed_multiplicatively_and_the_method_is_named():
    # −120 / +100: 6/11 and 1/2 make a booksum of 23/22; 12/23 is left.
    consensus = consensus_of(moneylines(*[(-120, 100)] * 4), "h2h")
    assert consensus.fair_probability == pytest.approx(12 / 23, abs=1e-6)
    assert consensus.consensus_price == pytest.approx(23 / 12, abs=1e-5)
    assert consensus.devig_method == "multiplicative"


def test_books_on_different_lines_meet_on_the_common_scale():
    # Home −5.5 at 1.80/2.02 and home −6.5 at 2.02/1.80 are nearly the same opinion: 5.5 + 12.3·Φ⁻¹(0.5288) = 6.39 and
    # 6.5 + 12.3·Φ⁻¹(0.4712) = 5.61. Half of the weight stands on each side, so the fair line is the middle: −6.
    quotes = {
        "betmgm": a_quote("betmgm", -5.5, 1.80, 2.02),
        "caesars": a_quote("caesars", -5.5, 1.80, 2.02),
        "draftkings": a_quote("draftkings", -6.5, 2.02, 1.80),
        "fanduel": a_quote("fanduel", -6.5, 2.02, 1.80),
    }
    market = priced(quotes)
    assert market.standings["betmgm"].implied_mean == pytest.approx(6.388, abs=1e-3)
    assert market.standings["fanduel"].implied_mean == pytest.approx(5.612, abs=1e-3)
    assert market.consensus.consensus_line == -6.0
    assert market.consensus.fair_line == pytest.approx(-6.0, abs=1e-6)
    assert market.consensus.fair_probability == pytest.approx(0.5, abs=1e-6)


def test_the_fair_probability_speaks_of_the_consensus_line():
    # Three of five stand on −6 at even prices, so the mean is 6 there too; at the consensus line home is even.
    quotes = a_market(betmgm=-6.0, caesars=-6.0, draftkings=-6.0, fanduel=-7.0, pinnacle=-7.0)
    quotes["pinnacle"] = a_quote("pinnacle", -7.0, 1.70, 2.25)
    consensus = consensus_of(quotes)
    assert (consensus.consensus_line, consensus.fair_line, consensus.fair_probability) == (-6.0, -6.0, 0.5)


def test_totals_are_mapped_over_the_line():
    consensus = consensus_of(a_market("totals", betmgm=224.5, caesars=225.5, draftkings=225.5, fanduel=226.5), "totals")
    assert (consensus.consensus_line, consensus.fair_line, consensus.fair_probability) == (225.5, 225.5, 0.5)


def test_dispersion_is_the_population_standard_deviation_of_the_lines():
    consensus = consensus_of(a_market(betmgm=-5.0, caesars=-5.0, draftkings=-7.0, fanduel=-7.0))
    assert (consensus.dispersion, consensus.dispersion_mad) == (1.0, 1.0)


def test_dispersion_of_a_moneyline_is_that_of_the_probabilities():
    quotes = moneylines((-110, -110), (-110, -110), (-120, 100), (-120, 100))
    consensus = consensus_of(quotes, "h2h")
    assert consensus.dispersion == pytest.approx((12 / 23 - 0.5) / 2, abs=1e-6)
    assert consensus.consensus_line is None
    assert consensus.fair_line is None


def test_american_odds_around_even_money_give_a_sane_consensus():
    # Averaged as American numbers these six would make +0.33, a price that does not exist.
    quotes = moneylines((-104, -116), (-102, -118), (-101, -119), (102, -122), (103, -123), (104, -124))
    consensus = consensus_of(quotes, "h2h")
    assert consensus.fair_probability == pytest.approx(0.476, abs=0.005)
    assert consensus.consensus_price == pytest.approx(2.10, abs=0.02)
    assert consensus.dispersion is not None
    assert consensus.dispersion < 0.01


def test_three_way_prices_share_the_vig_among_three_outcomes():
    quotes = {book: a_quote(book, None, 2.0, 4.0, draw=5.0, market="h2h") for book in SEVEN[:4]}
    # 1/2 + 1/4 + 1/5 = 0.95: home 10/19.
    assert consensus_of(quotes, "h2h").fair_probability == pytest.approx(10 / 19, abs=1e-6)


def test_a_cluster_votes_once():
    quotes = a_market(betonlineag=-8.0, lowvig=-8.0, betus=-8.0, draftkings=-6.0, fanduel=-6.0, pinnacle=-6.0)
    consensus = consensus_of(quotes)
    assert (consensus.consensus_line, consensus.fair_line) == (-6.0, -6.0)
    assert (consensus.books, consensus.clusters) == (6, 4)
    assert dict(consensus.weights)["lowvig"] == pytest.approx(1 / 3, abs=1e-6)
    assert dict(consensus.weights)["pinnacle"] == 1.0


def test_more_members_of_a_cluster_change_nothing():
    three = a_market(betonlineag=-8.0, draftkings=-6.0, fanduel=-6.5, pinnacle=-7.0)
    five = a_market(betonlineag=-8.0, lowvig=-8.0, betus=-8.0, draftkings=-6.0, fanduel=-6.5, pinnacle=-7.0)
    one, many = consensus_of(three), consensus_of(five)
    assert replace(many, books=4, weights=one.weights) == one


def test_sharper_books_weigh_more_in_the_fair_line():
    rules = PricingRules(MarketModel(sharpness={"pinnacle": 4.0}))
    quotes = a_market(draftkings=-6.0, fanduel=-6.0, betmgm=-6.0, pinnacle=-7.0)
    market = priced(quotes, rules=rules)
    assert (market.consensus.consensus_line, market.consensus.fair_line) == (-6.0, -7.0)


def test_fewer_than_four_clusters_are_no_consensus():
    quotes = a_market(betonlineag=-6.0, lowvig=-6.0, betus=-6.0, draftkings=-6.0, fanduel=-6.0)
    consensus = consensus_of(quotes)
    assert (consensus.note, consensus.books, consensus.clusters) == ("too_few_books", 5, 3)
    assert consensus.consensus_line is None
    assert consensus.fair_probability is None
    assert consensus.dispersion is None
    assert not consensus.exists


def test_a_book_is_compared_with_the_books_outside_its_cluster():
    quotes = a_market(betonlineag=-8.0, lowvig=-9.0, draftkings=-6.0, fanduel=-6.0, pinnacle=-7.0, betmgm=-5.0)
    others = priced(quotes).standings["lowvig"].others
    assert others is not None
    assert (others.clusters, others.consensus_line, others.fair_line) == (4, -6.0, -6.0)
    assert others.dispersion == pytest.approx(math.sqrt(0.5), abs=1e-6)


def test_an_outlier_does_not_move_its_own_benchmark():
    near = priced(a_market(draftkings=-6.0, fanduel=-6.0, betmgm=-6.5, pinnacle=-7.0, bovada=-5.5))
    far = priced(a_market(draftkings=-6.0, fanduel=-6.0, betmgm=-6.5, pinnacle=-7.0, bovada=-4.0))
    assert near.standings["bovada"].others is not None
    assert near.standings["bovada"].others.fair_line == far.standings["bovada"].others.fair_line


def test_the_others_probability_is_the_one_at_their_own_consensus_line():
    quotes = a_market(draftkings=-6.0, fanduel=-6.0, betmgm=-6.0, pinnacle=-7.0, bovada=-4.5)
    quotes["pinnacle"] = a_quote("pinnacle", -7.0, 2.02, 1.80)
    standing = priced(quotes).standings["bovada"]
    assert standing.fair_probability == 0.5
    assert standing.others is not None
    assert (standing.others.consensus_line, standing.others.fair_line) == (-6.0, -6.0)
    assert standing.others.fair_probability == 0.5


def test_a_lone_cluster_has_nobody_to_be_compared_with():
    assert priced(a_market(betonlineag=-6.0, lowvig=-6.0)).standings["lowvig"].others is None


def test_a_palpable_error_is_implausible_and_counts_for_nothing():
    quotes = a_market("totals", betmgm=164.0, caesars=163.5, draftkings=164.0, fanduel=164.5, bovada=3.0)
    market = priced(quotes, "totals")
    assert market.standings["bovada"].excluded == "implausible"
    assert market.consensus.excluded == (("bovada", "implausible"),)
    assert (market.consensus.consensus_line, market.consensus.clusters) == (164.0, 4)
    assert market.consensus.dispersion == pytest.approx(0.353553)
    assert "bovada" not in dict(market.consensus.weights)


def test_a_palpable_error_is_seen_without_a_scale_by_its_raw_line():
    quotes = a_market("totals", betmgm=164.0, caesars=163.5, draftkings=164.0, fanduel=164.5, bovada=3.0)
    assert priced(quotes, "totals", WITHOUT_SCALE).standings["bovada"].excluded == "implausible"


@pytest.mark.parametrize(
    ("market", "others", "just_below", "at"),
    [
        ("spreads", -6.0, -2.25, -2.0),  # 4 × 1.0
        ("totals", 220.0, 227.75, 228.0),  # 4 × 2.0
    ],
)
def test_implausible_begins_at_four_dislocation_thresholds(market, others, just_below, at):
    def reason(line: float) -> str:
        quotes = a_market(market, betmgm=others, caesars=others, draftkings=others, fanduel=others, bovada=line)
        return priced(quotes, market).standings["bovada"].excluded

    assert (reason(just_below), reason(at)) == ("", "implausible")


def test_a_moneyline_is_implausible_at_twelve_hundredths():
    def reason(home: float) -> str:
        quotes = {book: a_quote(book, None, 2.0, 2.0, market="h2h") for book in SEVEN[:4]}
        quotes["pinnacle"] = a_quote("pinnacle", None, 1 / home, 1 / (1 - home), market="h2h")
        return priced(quotes, "h2h").standings["pinnacle"].excluded

    assert (reason(0.619), reason(0.62)) == ("", "implausible")


def test_a_price_that_contradicts_its_line_is_implausible_too():
    quotes = a_market(betmgm=-6.0, caesars=-6.0, draftkings=-6.0, fanduel=-6.0)
    quotes["bovada"] = a_quote("bovada", -6.0, 1.25, 4.0)
    assert priced(quotes).standings["bovada"].excluded == "implausible"


def test_two_others_are_too_few_to_call_anybody_implausible():
    market = priced(a_market(betmgm=-6.0, caesars=-6.0, bovada=60.0))
    assert not any(standing.excluded for standing in market.standings.values())


@pytest.mark.parametrize("errors", [(3.0, 3.0), (3.0, 400.0), (3.0, 400.0, 900.0)])
def test_several_palpable_errors_do_not_exclude_the_good_ones(errors):
    quotes = a_market("totals", betmgm=164.0, caesars=163.5, draftkings=164.0, fanduel=164.5)
    wrong = dict(zip(("bovada", "pinnacle", "betrivers"), errors, strict=False))
    market = priced({**quotes, **a_market("totals", **wrong)}, "totals")
    assert {book for book, standing in market.standings.items() if standing.excluded} == set(wrong)
    assert market.consensus.consensus_line == 164.0


def test_a_market_split_into_halves_excludes_nobody():
    quotes = a_market(
        "totals", betmgm=210.0, caesars=210.0, draftkings=210.0, fanduel=222.0, bovada=222.0, pinnacle=222.0
    )
    assert not any(standing.excluded for standing in priced(quotes, "totals").standings.values())


def test_one_wrong_member_does_not_take_its_cluster_along():
    quotes = a_market(betonlineag=-6.0, lowvig=60.0, betus=-6.0, betmgm=-6.0, caesars=-6.0, fanduel=-6.0)
    market = priced(quotes)
    assert [book for book, standing in market.standings.items() if standing.excluded] == ["lowvig"]
    assert dict(market.consensus.weights)["betus"] == 0.5


def test_a_dead_quote_counts_for_nothing_and_is_listed_with_its_reason():
    quotes = a_market(betmgm=-6.0, caesars=-6.0, draftkings=-6.0, fanduel=-6.0, bovada=-9.0)
    market = priced(quotes, dead={"bovada": "stale"})
    assert market.consensus.excluded == (("bovada", "stale"),)
    assert market.consensus.dispersion == 0.0
    assert market.standings["bovada"].excluded == "stale"


def test_dead_quotes_condemn_nobody():
    quotes = a_market(betmgm=-6.0, caesars=-6.0, draftkings=6.0, fanduel=6.0, bovada=6.0)
    market = priced(quotes, dead=dict.fromkeys(("draftkings", "fanduel", "bovada"), "pre_tip_quote"), in_play=True)
    assert market.standings["betmgm"].excluded == ""
    assert market.consensus.in_play


def test_without_a_scale_prices_are_compared_on_one_line_only():
    quotes = a_market(betmgm=-6.0, caesars=-6.0, draftkings=-6.0, fanduel=-6.0, bovada=-7.0)
    quotes["bovada"] = a_quote("bovada", -7.0, 1.5, 2.8)
    market = priced(quotes, sport=WITHOUT_SCALE)
    assert market.consensus.note == "no_sigma"
    assert (market.consensus.consensus_line, market.consensus.fair_probability) == (-6.0, 0.5)
    assert market.consensus.fair_line is None
    assert market.consensus.excluded == (("bovada", "other_line"),)
    assert market.consensus.clusters == 5
    # Its line still counts, so it is not left out of the market.
    assert market.standings["bovada"].excluded == ""
    assert market.consensus.dispersion == pytest.approx(0.4)


def test_without_a_scale_too_few_on_the_consensus_line_make_no_price():
    quotes = a_market(betmgm=-6.0, caesars=-6.0, draftkings=-6.0, fanduel=-5.0, bovada=-7.0)
    consensus = consensus_of(quotes, sport=WITHOUT_SCALE)
    assert consensus.consensus_line == -6.0
    assert consensus.fair_probability is None
    assert consensus.consensus_price is None
    assert consensus.weights == ()


def test_without_a_scale_the_others_have_a_price_where_enough_of_them_share_a_line():
    quotes = a_market(betmgm=-6.0, caesars=-6.0, draftkings=-6.0, fanduel=-6.0, bovada=-5.0)
    market = priced(quotes, sport=WITHOUT_SCALE)
    alone, among = market.standings["bovada"].others, market.standings["betmgm"].others
    assert alone is not None
    assert among is not None
    assert (alone.consensus_line, alone.fair_probability, alone.fair_line) == (-6.0, 0.5, None)
    assert (among.consensus_line, among.fair_probability, among.fair_line) == (-6.0, None, None)


def test_props_and_parts_of_games_have_no_scale():
    quotes = {book: a_quote(book, 24.5, market="player_points") for book in SEVEN[:4]}
    assert consensus_of(quotes, "player_points").note == "no_sigma"
    quotes = {book: a_quote(book, -1.5, market="spreads_q1") for book in SEVEN[:4]}
    assert consensus_of(quotes, "spreads_q1").note == "no_sigma"


@given(spreads(), st.randoms(use_true_random=False))
def test_permuting_books_changes_nothing(quotes, shuffle: random.Random):
    names = list(quotes)
    shuffle.shuffle(names)
    assert priced({name: quotes[name] for name in names}) == priced(quotes)


@given(spreads())
def test_the_mirrored_market_has_the_mirrored_consensus(quotes):
    one, other = priced(quotes), priced(mirrored(quotes))
    assert [book for book, _ in one.consensus.excluded] == [book for book, _ in other.consensus.excluded]
    for left, right in [
        (one.consensus.consensus_line, other.consensus.consensus_line),
        (one.consensus.fair_line, other.consensus.fair_line),
    ]:
        assert (left is None) == (right is None)
        assert left is None or left == pytest.approx(-right, abs=1e-4)
    if one.consensus.fair_probability is not None:
        assert one.consensus.fair_probability == pytest.approx(1 - other.consensus.fair_probability, abs=1e-5)
    assert one.consensus.dispersion == pytest.approx(other.consensus.dispersion, abs=1e-6)
    assert one.consensus.clusters == other.consensus.clusters


@given(spreads())
def test_the_consensus_lies_among_the_books(quotes):
    market = priced(quotes)
    consensus = market.consensus
    if not consensus.exists:
        return
    counted = [quotes[book] for book, standing in market.standings.items() if not standing.excluded]
    assert min(quote.line for quote in counted) <= consensus.consensus_line <= max(quote.line for quote in counted)
    means = [market.standings[quote.book].implied_mean for quote in counted]
    assert min(means) <= -consensus.fair_line <= max(means)
    assert 0 < consensus.fair_probability < 1


@given(spreads())
def test_a_books_comparison_never_depends_on_its_own_cluster(quotes):
    whole = priced(quotes)
    for standing in whole.standings.values():
        cluster = standing.cluster
        without = {name: quote for name, quote in quotes.items() if whole.standings[name].cluster != cluster}
        # Plausibility is judged with everybody present; where it condemns somebody the comparison may differ.
        if any(held.excluded for held in whole.standings.values()) or not without:
            continue
        rest = priced(without)
        if any(held.excluded for held in rest.standings.values()):
            continue
        assert standing.others is not None
        assert standing.others.clusters == rest.consensus.clusters
        if rest.consensus.exists:
            assert standing.others.fair_line == rest.consensus.fair_line
            assert standing.others.dispersion == rest.consensus.dispersion
            assert standing.others.consensus_line == rest.consensus.consensus_line
            assert standing.others.fair_probability == rest.consensus.fair_probability


@given(spreads())
def test_each_implied_mean_is_the_books_line_moved_by_its_price(quotes):
    kind = market_kind("spreads")
    assert kind is not None
    for book, standing in priced(quotes).standings.items():
        line = quotes[book].line
        assert standing.implied_mean == implied_mean(kind, line, standing.fair_probability, 12.3)

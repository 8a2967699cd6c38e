"""KEY_CROSS: the mass of key numbers between two lines, and when it takes a move's place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.signals.model import Coverage, SignalType
from services.signals.rules import RuleSettings
from services.signals.rules.key_cross import mass_crossed, numbers_crossed
from services.signals.testing import SPREADS, TOTALS, MarketKey, a_board, minutes, steady, tell

SHARES = RuleSettings().key_numbers("basketball_nba")
FIVE = ("betmgm", "caesars", "draftkings", "fanduel", "pinnacle")
halves = st.integers(-60, 60).map(lambda number: number / 2)


@pytest.mark.parametrize(
    ("before", "after", "mass"),
    [
        (-5.5, -6.5, 0.0370),  # over the 6
        (-6.0, -6.5, 0.0185),  # off the 6: half of it
        (-6.5, -7.0, 0.0234),  # onto the 7: half of it
        (-6.0, -7.0, 0.0419),  # off the one, onto the other
        (-6.5, -8.5, 0.0908),  # over 7 and 8
        (-5.75, -6.5, 0.0185),  # −5.75 stands on no half and is taken inward to −6
        (-5.5, -6.75, 0.0370),  # −6.75 is taken inward to −6.5
        (-5.75, -6.25, 0.0370),  # both ends are taken inward to −6
        (1.5, -1.5, 0.0),  # 1 is no key number
        (2.5, -2.5, 0.0634),  # the 2 on either side of zero
        (-8.5, -9.5, 0.0),  # nor is 9
        (5.5, 6.5, 0.0370),  # the away team by 6
        (-5.6, -5.9, 0.0),  # between the same two halves
    ],
)
def test_mass_is_what_lies_between_and_half_of_what_an_end_stands_on(before: float, after: float, mass: float) -> None:
    assert mass_crossed(before, after, SHARES) == pytest.approx(mass, abs=1e-9)


@given(halves, halves)
def test_mass_is_the_same_there_and_back_and_mirrored(before: float, after: float) -> None:
    there = mass_crossed(before, after, SHARES)

    assert mass_crossed(after, before, SHARES) == there
    assert mass_crossed(-before, -after, SHARES) == there


@given(halves, halves, halves)
def test_masses_of_two_legs_add_up_to_that_of_the_way(one: float, two: float, three: float) -> None:
    low, middle, high = sorted((one, two, three))
    legs = mass_crossed(low, middle, SHARES) + mass_crossed(middle, high, SHARES)

    # A leg of no length that stands on a key number would count it whole; it is no move.
    if low < middle < high:
        assert legs == pytest.approx(mass_crossed(low, high, SHARES))


def test_numbers_are_named_in_the_order_of_the_move() -> None:
    assert numbers_crossed(-5.5, -8.0, SHARES) == (-6, -7, -8)
    assert numbers_crossed(-8.0, -5.5, SHARES) == (-8, -7, -6)


def moved(
    before: float, after: float, market: MarketKey = SPREADS, sport_key: str = "basketball_nba"
) -> list[SignalType]:
    """Which of MOVE and KEY_CROSS is told when five books go from one line to another."""
    asked = Coverage((market.market,))
    boards = steady(a_board(market, sport_key=sport_key, asked=asked, **dict.fromkeys(FIVE, before)), 16)
    told = tell([*boards, boards[-1].later(minutes(1), market, **dict.fromkeys(FIVE, after))])
    return [one.signal_type for one in told.signals if one.signal_type in (SignalType.MOVE, SignalType.KEY_CROSS)]


def test_a_crossing_takes_the_place_of_the_move() -> None:
    assert moved(-5.5, -6.5) == [SignalType.KEY_CROSS]


def test_half_a_key_number_is_still_a_move() -> None:
    assert moved(-6.0, -6.5) == [SignalType.MOVE]


def test_totals_have_no_key_numbers() -> None:
    assert moved(6.0, 9.0, TOTALS) == [SignalType.MOVE]


def test_a_quarter_has_no_key_numbers() -> None:
    assert moved(-5.5, -6.5, MarketKey("spreads_q1")) == [SignalType.MOVE]


def test_a_sport_without_measured_margins_has_no_key_numbers() -> None:
    assert moved(-5.5, -6.5, sport_key="basketball_none") == [SignalType.MOVE]


def test_the_mass_adds_to_the_strength() -> None:
    boards = steady(a_board(**dict.fromkeys(FIVE, -5.5)), 16)
    told = tell([*boards, boards[-1].later(minutes(1), **dict.fromkeys(FIVE, -6.5))])
    (crossing,) = told.of(SignalType.KEY_CROSS)
    parts = {part.name: part.points for part in crossing.components[0].parts}

    assert parts["key_mass"] == 3.7
    assert crossing.meta["key_numbers"] == "-6"

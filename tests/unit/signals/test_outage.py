"""What an outage of the feed does to signals: nothing is concluded from quotes that died in it.

A quote outlives its last poll by max(3 × interval, 180 s). What an outage of which length means for which rule is in
docs/decisions/0008-what-a-stale-feed-is.md.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.signals.model import Reason, SignalType
from services.signals.testing import H2H, SPREADS, TOTALS, Board, Told, a_board, minutes, steady, tell

SIX = dict.fromkeys(("draftkings", "fanduel", "betmgm", "bovada", "betrivers", "fanatics"), -5.5)
#: The longest window is that of totals, 15 minutes; a change in it may be known to 1.1 of it.
LONGER_THAN_ANY_WINDOW = 17


def outage_of(length: int, polls_after: int = 20, **jumps: float) -> tuple[list[Board], Board]:
    """A steady market, an outage of so many minutes, and steady polls again; and the first board after it."""
    boards = steady(a_board(**SIX), 20)
    first = boards[-1].later(minutes(length), **(jumps or dict.fromkeys(SIX, -6.5)))
    return [*boards, *steady(first, polls_after)], first


def at_the_first(told: Told, first: Board) -> dict[SignalType, Reason]:
    """Why what would have been a signal at the first observation after the outage was held back."""
    return {row.signal_type: row.reason for row in told.log if row.first_seen_at == first.observed_at}


@pytest.mark.parametrize(
    ("length", "signals", "reasons"),
    [
        # As close together as the rule asks for, and every quote alive at both ends: a move, as fast as it says.
        (3, {SignalType.KEY_CROSS, SignalType.MULTIBOOK_SYNC, SignalType.STEAM}, {}),
        (5, {SignalType.KEY_CROSS, SignalType.MULTIBOOK_SYNC}, {SignalType.STEAM: Reason.SPARSE_SAMPLING}),
        (
            7,
            {SignalType.KEY_CROSS},
            {SignalType.STEAM: Reason.STALE_FEED, SignalType.MULTIBOOK_SYNC: Reason.SPARSE_SAMPLING},
        ),
        (
            11,
            {SignalType.KEY_CROSS},
            {SignalType.STEAM: Reason.STALE_FEED, SignalType.MULTIBOOK_SYNC: Reason.STALE_FEED},
        ),
        (
            12,
            set(),
            {
                SignalType.STEAM: Reason.STALE_FEED,
                SignalType.MULTIBOOK_SYNC: Reason.STALE_FEED,
                SignalType.KEY_CROSS: Reason.SPARSE_SAMPLING,
            },
        ),
        (
            13,
            set(),
            dict.fromkeys((SignalType.STEAM, SignalType.MULTIBOOK_SYNC, SignalType.KEY_CROSS), Reason.STALE_FEED),
        ),
    ],
)
def test_a_rule_tells_of_a_move_across_an_outage_only_while_its_window_reaches_over_it(
    length: int, signals: set[SignalType], reasons: dict[SignalType, Reason]
) -> None:
    boards, first = outage_of(length)
    told = tell(boards)
    assert {signal.signal_type for signal in told.signals} == signals
    assert at_the_first(told, first) == reasons
    for signal in told.signals:
        assert signal.elapsed_seconds == 60.0 * length


def test_a_suppression_lasts_as_long_as_a_window_would_begin_in_the_outage() -> None:
    boards, first = outage_of(40)
    spans = {row.signal_type: row for row in tell(boards).log}
    assert {row.reason for row in spans.values()} == {Reason.STALE_FEED}
    assert {row.first_seen_at for row in spans.values()} == {first.observed_at}
    # A window begins at 0.9 of its length: 9, 4.5 and 2.7 minutes back.
    assert {kind: row.count for kind, row in spans.items()} == {
        SignalType.KEY_CROSS: 9,
        SignalType.MULTIBOOK_SYNC: 5,
        SignalType.STEAM: 3,
    }
    assert spans[SignalType.KEY_CROSS].last_seen_at == first.observed_at + minutes(8)


def test_what_moves_after_an_outage_is_told_as_soon_as_a_window_has_passed() -> None:
    boards, first = outage_of(40, polls_after=10)
    later = boards[-1].later(minutes(1), **dict.fromkeys(SIX, -7.5))
    (move,) = tell([*boards, later]).of(SignalType.KEY_CROSS)
    assert (move.from_value, move.to_value, move.observed_at) == (-6.5, -7.5, first.observed_at + minutes(11))


@given(
    st.integers(LONGER_THAN_ANY_WINDOW, 600),
    st.dictionaries(st.sampled_from(sorted(SIX)), st.sampled_from([-9.5, -7.5, -6.5, -4.5, 3.5]), max_size=6),
    st.dictionaries(st.sampled_from(sorted(SIX)), st.sampled_from([208.5, 218.5, 224.5]), max_size=6),
    st.dictionaries(st.sampled_from(sorted(SIX)), st.sampled_from([(1.4, 3.0), (2.6, 1.5)]), max_size=6),
)
def test_the_first_observation_after_a_long_outage_is_never_a_signal_whatever_it_shows(
    length: int, lines: dict[str, float], sums: dict[str, float], prices: dict[str, tuple[float, float]]
) -> None:
    board = a_board(starts_in=minutes(900), **SIX)
    board = board.with_market(TOTALS, **dict.fromkeys(SIX, 220.5)).with_market(H2H, **dict.fromkeys(SIX, (1.91, 1.91)))
    first = steady(board, 20)[-1]
    boards = [*steady(board, 20), first.later_in(minutes(length), {SPREADS: lines, TOTALS: sums, H2H: prices})]
    assert tell(boards).signals == ()

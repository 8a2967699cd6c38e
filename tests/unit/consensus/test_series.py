"""Series short enough to draw."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.consensus.series import thinned


@given(st.integers(0, 500))
def test_a_short_series_stays_whole(length):
    assert thinned(range(length)) == list(range(length))


@given(st.integers(2, 50), st.integers(0, 2000))
def test_a_long_one_keeps_its_ends_and_is_spread_evenly(most, extra):
    length = most + 1 + extra
    kept = thinned(range(length), most)
    assert len(kept) == most
    assert (kept[0], kept[-1]) == (0, length - 1)
    steps = {later - one for one, later in pairwise(kept)}
    assert min(steps) >= 1
    assert max(steps) - min(steps) <= 1

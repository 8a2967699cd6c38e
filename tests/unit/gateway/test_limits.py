"""How fast a key may call: never faster than it says, whatever happens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.authz.limits import NANOSECONDS, Limit, headers_of, limit_of, take

LIMITS = st.builds(Limit, st.integers(1, 10_000), st.integers(1, 86_400))
STANDARD = Limit(300, 60)
NOW = 1_800_000_000 * NANOSECONDS
#: Nanoseconds between two requests, many of them at the same moment.
PAUSES = st.lists(st.one_of(st.just(0), st.integers(0, 10**6), st.integers(0, 10**12)), min_size=1, max_size=200)


def calls(limit, pauses):
    """What becomes of calls at these distances from one another, with the moment of each."""
    now, full_at = NOW, 0
    for pause in pauses:
        now += pause
        taken = take(limit, full_at, now)
        full_at = taken.full_at
        yield now, taken


@given(LIMITS, PAUSES)
def test_in_no_stretch_of_time_more_pass_than_the_bucket_holds_and_what_flows_into_it(limit, pauses):
    passed = [now for now, taken in calls(limit, pauses) if taken.allowed]
    for first, begun in enumerate(passed):
        for last in range(first, len(passed)):
            assert last - first + 1 <= limit.requests + (passed[last] - begun) // limit.step


@given(LIMITS)
def test_a_full_bucket_holds_exactly_as_many_as_the_limit_says(limit):
    full_at = 0
    for number in range(min(limit.requests, 500)):
        taken = take(limit, full_at, NOW)
        assert (taken.allowed, taken.remaining) == (True, limit.requests - number - 1)
        full_at = taken.full_at
    empty = NOW + limit.whole
    assert not take(limit, empty, NOW).allowed


@given(LIMITS, PAUSES)
def test_a_refused_call_takes_nothing(limit, pauses):
    before = 0
    for now, taken in calls(limit, pauses):
        if not taken.allowed:
            assert taken.full_at == max(before, now)
        before = taken.full_at


@given(LIMITS, PAUSES)
def test_a_refused_call_passes_after_the_seconds_that_it_was_told(limit, pauses):
    for now, taken in calls(limit, pauses):
        if not taken.allowed:
            assert take(limit, taken.full_at, now + taken.retry_after_seconds * NANOSECONDS).allowed


@given(LIMITS, st.integers(0, 10**13), st.integers(0, 10**13))
def test_who_waits_longer_has_no_less(limit, drained, waited):
    one, other = take(limit, NOW + drained, NOW), take(limit, NOW + drained, NOW + waited)
    assert other.remaining >= one.remaining
    assert other.allowed >= one.allowed


@given(LIMITS, st.integers(0, 10**13), st.integers(0, 10**13))
def test_an_emptier_bucket_gives_no_more(limit, one, other):
    emptier, fuller = take(limit, NOW + max(one, other), NOW), take(limit, NOW + min(one, other), NOW)
    assert emptier.allowed <= fuller.allowed
    assert emptier.remaining <= fuller.remaining


@given(LIMITS, PAUSES)
def test_what_is_said_is_whole_and_within_what_can_be(limit, pauses):
    for _, taken in calls(limit, pauses):
        assert all(type(number) is int for number in taken[1:])
        assert 0 <= taken.remaining < limit.requests
        assert 0 <= taken.reset_seconds <= -(-limit.whole // NANOSECONDS)
        assert (taken.retry_after_seconds == 0) == taken.allowed


@given(LIMITS, st.integers(0, 10**18))
def test_a_clock_that_is_set_back_shuts_nobody_out_for_longer_than_a_bucket_takes(limit, ahead):
    taken = take(limit, NOW + ahead, NOW)
    assert taken.full_at <= NOW + limit.whole
    assert take(limit, NOW + ahead, NOW + ahead + 1).allowed


@given(LIMITS)
def test_rounding_lets_nothing_more_through(limit):
    assert limit.step * limit.requests >= limit.per_seconds * NANOSECONDS
    assert (limit.step - 1) * limit.requests < limit.per_seconds * NANOSECONDS


@pytest.mark.parametrize(("requests", "step"), [(300, 200_000_000), (1200, 50_000_000), (6000, 10_000_000)])
def test_the_rate_classes_have_whole_steps(requests, step):
    assert Limit(requests, 60).step == step


def test_an_answer_says_its_limit_in_both_forms():
    assert headers_of(STANDARD, take(STANDARD, 0, NOW)) == [
        (b"x-ratelimit-limit", b"300"),
        (b"ratelimit-policy", b'"default";q=300;w=60'),
        (b"x-ratelimit-remaining", b"299"),
        (b"x-ratelimit-reset", b"1"),
        (b"ratelimit", b'"default";r=299;t=1'),
    ]


def test_a_refusal_says_when_to_come_again():
    refused = take(STANDARD, NOW + STANDARD.whole, NOW)
    assert (b"retry-after", b"1") in headers_of(STANDARD, refused)


def test_the_same_numbers_are_the_same_limit():
    assert limit_of(300, 60) is limit_of(300, 60)

"""Buckets that two servers know of."""

import msgspec
import pytest

from gateway.authz import buckets as module
from gateway.authz.buckets import Buckets, Telling
from gateway.authz.limits import NANOSECONDS, Limit

LIMIT = Limit(10, 10)
NOW = 1_800_000_000 * NANOSECONDS


class Clock:
    """A clock that a test moves."""

    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now

    def pass_seconds(self, seconds):
        self.now += int(seconds * NANOSECONDS)


@pytest.fixture
def clock():
    return Clock()


def used(buckets, lineage, times):
    return [buckets.take(lineage, LIMIT).allowed for _ in range(times)]


def test_each_lineage_has_a_bucket_of_its_own(clock):
    buckets = Buckets(clock)
    assert used(buckets, "one", 11) == [True] * 10 + [False]
    assert used(buckets, "other", 1) == [True]


def test_what_another_server_took_is_taken_here_too(clock):
    active, standby = Buckets(clock), Buckets(clock)
    used(active, "one", 10)
    standby.hear(active.own())
    assert used(standby, "one", 1) == [False]


@pytest.mark.parametrize("here_first", [True, False])
def test_of_what_two_servers_know_the_emptier_bucket_counts(clock, here_first):
    here, there = Buckets(clock), Buckets(clock)
    used(here, "one", 3 if here_first else 9)
    used(there, "one", 9 if here_first else 3)
    here.hear(there.own())
    assert used(here, "one", 2) == [True, False]


def test_a_bucket_that_a_wrong_clock_emptied_fills_again(clock):
    buckets = Buckets(clock)
    clock.pass_seconds(3600)
    used(buckets, "one", 1)
    clock.pass_seconds(-3600)
    assert used(buckets, "one", 1) == [False]
    clock.pass_seconds(5)
    assert used(buckets, "one", 6) == [True] * 5 + [False]


def test_a_bucket_that_nobody_can_have_emptied_is_not_heard_of(clock):
    buckets = Buckets(clock)
    buckets.hear({"one": 2**63 - 1})
    assert (len(buckets), used(buckets, "one", 1)) == (0, [True])


def test_hearing_the_same_twice_changes_nothing(clock):
    here, there = Buckets(clock), Buckets(clock)
    used(there, "one", 5)
    for _ in range(2):
        here.hear(there.own())
    assert used(here, "one", 6) == [True] * 5 + [False]


def test_a_full_bucket_is_forgotten_and_not_told_of(clock):
    buckets = Buckets(clock)
    used(buckets, "one", 2)
    clock.pass_seconds(2)
    buckets.forget_full()
    assert (len(buckets), buckets.own()) == (0, {})


def test_only_what_was_taken_here_is_told(clock):
    buckets = Buckets(clock)
    buckets.hear({"theirs": NOW + NANOSECONDS})
    used(buckets, "ours", 1)
    assert set(buckets.own()) == {"ours"}


def test_who_asks_is_told_of_the_emptiest_first(clock):
    buckets = Buckets(clock)
    for lineage, times in (("a", 1), ("b", 9), ("c", 5)):
        used(buckets, lineage, times)
    assert list(buckets.emptiest(2)) == ["b", "c"]


def test_what_is_heard_of_full_buckets_is_not_kept(clock):
    buckets = Buckets(clock)
    buckets.hear({"old": NOW - 1})
    assert len(buckets) == 0


def test_no_more_lineages_are_heard_of_than_are_kept(clock, monkeypatch):
    monkeypatch.setattr(module, "AT_MOST", 2)
    buckets = Buckets(clock)
    buckets.hear(dict.fromkeys("abc", NOW + NANOSECONDS))
    assert len(buckets) == 2


class Air:
    """A bus of which only what is said is kept."""

    is_connected = True

    def __init__(self):
        self.said = []

    async def say(self, _subject, payload):
        self.said.append(payload)


async def test_many_buckets_are_told_in_several_messages(clock, monkeypatch):
    monkeypatch.setattr(module, "IN_ONE_MESSAGE", 2)
    air, buckets = Air(), Buckets(clock)
    for name in "abcde":
        used(buckets, name, 1)
    await Telling(buckets, air).tell()
    parts = [msgspec.msgpack.decode(payload)[1] for payload in air.said]
    assert [len(part) for part in parts] == [2, 2, 1]
    assert {name for part in parts for name in part} == set("abcde")


async def test_what_one_says_oneself_is_not_heard(clock):
    air, buckets = Air(), Buckets(clock)
    telling = Telling(buckets, air)
    used(buckets, "one", 1)
    await telling.tell()
    clock.pass_seconds(-5)
    before = buckets.own()
    telling._take(air.said[0])
    assert buckets.own() == before

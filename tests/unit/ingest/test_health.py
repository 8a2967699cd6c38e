"""What is made of a feed: one word, and the reasons for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.changes import Coverage, EventState, Poll, observe_poll
from services.ingest.health import (
    BookHealth,
    Judgement,
    ReasonKind,
    SportHealth,
    Status,
    changed_books,
    changed_share,
    judge,
    observe_books,
    stale_after_seconds,
)
from services.ingest.normalize import normalize
from services.ingest.testing import SPORT, START, TIP, a_book, an_event, minutes, spreads

MARKETS = ("h2h", "spreads", "totals")


def a_poll(moment: datetime, *events: dict[str, Any], asked: tuple[str, ...] = ()) -> Poll:
    return Poll(SPORT, moment, 60.0, Coverage(MARKETS, asked), normalize(list(events)))


def game(
    moment: datetime, *books: str, starts: datetime = TIP, name: str = "game", line: float = -5.5
) -> dict[str, Any]:
    """An event that these books quote, read at this moment."""
    return an_event(
        *(a_book(book, spreads(line, last_update=moment)) for book in books), event_id=name, commence_time=starts
    )


def watched(polls: Iterable[Poll]) -> tuple[BookHealth, ...]:
    """What is known of the books after some polls."""
    books: tuple[BookHealth, ...] = ()
    states: dict[str, EventState] = {}
    for poll in polls:
        steps = list(observe_poll(states, poll))
        states |= {step.state.event_id: step.state for step in steps}
        books = observe_books(books, poll, sum((changed_books(step.observation) for step in steps), Counter()))
    return books


def a_feed(books: tuple[BookHealth, ...] = (), **given: Any) -> SportHealth:
    """A feed whose newest poll succeeded just now."""
    at = books[0].observed_at if books else START
    feed = SportHealth(SPORT, at, at, 1.0, 60.0, 0, "", 99, books=books)
    return replace(feed, **given)


def judged(feed: SportHealth, after: timedelta = timedelta(0)) -> Judgement:
    assert feed.polled_at is not None
    return judge(feed, True, feed.polled_at + after)


def kinds(judgement: Judgement) -> list[tuple[ReasonKind, str]]:
    return [(reason.kind, reason.book) for reason in judgement.reasons]


def test_a_feed_whose_polls_are_answered_and_whose_books_are_read_is_ok() -> None:
    books = watched([a_poll(START, game(START, "draftkings", "fanduel"))])
    assert judged(a_feed(books)) == Judgement(Status.OK, event_now=START, age_seconds=0.0)


@pytest.mark.parametrize(
    ("interval", "age", "status"),
    [
        (60.0, 120.0, Status.OK),
        (60.0, 121.0, Status.LATE),
        (60.0, 180.0, Status.LATE),
        (60.0, 181.0, Status.STALE),
        (10.0, 21.0, Status.LATE),
        (10.0, 180.0, Status.LATE),
        (10.0, 181.0, Status.STALE),
        (900.0, 1801.0, Status.LATE),
        (900.0, 2701.0, Status.STALE),
    ],
)
def test_a_feed_without_polls_is_late_first_and_stale_when_its_quotes_are_dead(
    interval: float, age: float, status: Status
) -> None:
    judgement = judged(a_feed(expected_interval_seconds=interval), timedelta(seconds=age))
    assert judgement.status is status
    assert kinds(judgement) == ([] if status is Status.OK else [(ReasonKind.POLL_OVERDUE, "")])


def test_ages_are_in_the_providers_time() -> None:
    judgement = judged(a_feed(clock_rate=40.0), timedelta(seconds=4))
    assert (judgement.status, judgement.age_seconds, judgement.event_now) == (
        Status.LATE,
        160.0,
        START + minutes(160 / 60),
    )


@pytest.mark.parametrize("kind", ["out_of_credits", "key_refused", "unavailable", "a_kind_of_tomorrow"])
def test_a_failed_poll_shows_its_kind_while_the_prices_are_still_fresh(kind: str) -> None:
    judgement = judged(a_feed(consecutive_failures=2, last_failure=kind), timedelta(seconds=60))
    assert judgement.status is Status.DEGRADED
    assert [(reason.kind, reason.detail) for reason in judgement.reasons] == [(ReasonKind.POLL_FAILED, kind)]


def test_a_feed_that_was_never_answered_is_stale_and_says_so() -> None:
    never = judge(SportHealth(SPORT, None, None, 1.0, 60.0, 3, "key_refused", None), True, START)
    assert never.status is Status.STALE
    assert kinds(never) == [(ReasonKind.NEVER_POLLED, ""), (ReasonKind.POLL_FAILED, "")]


@pytest.mark.parametrize(("polled", "rate"), [(False, 1.0), (True, 0.0)])
def test_what_nobody_polls_is_idle_however_old_it_is(polled: bool, rate: float) -> None:
    judgement = judge(a_feed(clock_rate=rate), polled, START + timedelta(days=3))
    assert (judgement.status, judgement.reasons) == (Status.IDLE, ())


def test_a_book_that_leaves_a_game_which_others_go_on_quoting_is_missing_and_named() -> None:
    books = watched(
        [
            a_poll(START, game(START, "draftkings", "fanduel")),
            a_poll(START + minutes(1), game(START + minutes(1), "draftkings")),
        ]
    )
    judgement = judged(a_feed(books))
    assert (judgement.status, judgement.missing) == (Status.DEGRADED, {"fanduel"})
    assert kinds(judgement) == [(ReasonKind.BOOK_MISSING, "fanduel")]


def test_a_book_that_comes_back_is_missed_no_longer() -> None:
    moments = [START, START + minutes(1), START + minutes(2)]
    present = [("draftkings", "fanduel"), ("draftkings",), ("draftkings", "fanduel")]
    books = watched(a_poll(at, game(at, *names)) for at, names in zip(moments, present, strict=True))
    assert judged(a_feed(books)).status is Status.OK


@pytest.mark.parametrize(
    "later",
    [
        # Its game has begun: in play books take their quotes down.
        game(TIP + minutes(1), "draftkings"),
        # Nobody quotes its game any more; another, earlier one goes on.
        game(START + minutes(1), "draftkings", starts=START + minutes(30), name="earlier"),
        # Nobody quotes anything.
        game(START + minutes(1)),
    ],
    ids=["in play", "called off", "nothing"],
)
def test_a_book_is_not_missed_where_nobody_could_quote(later: dict[str, Any]) -> None:
    moment = TIP + minutes(1) if later["bookmakers"] and later["id"] == "game" else START + minutes(1)
    if later["id"] == "earlier":
        moment = START + minutes(45)
    books = watched([a_poll(START, game(START, "draftkings", "fanduel")), a_poll(moment, later)])
    assert judged(a_feed(books)).missing == set()


def test_a_book_that_was_asked_for_by_name_is_missing_from_the_first_poll_on() -> None:
    books = watched([a_poll(START, game(START, "draftkings"), asked=("draftkings", "fanduel"))])
    (reason,) = judged(a_feed(books)).reasons
    assert (reason.kind, reason.book) == (ReasonKind.BOOK_MISSING, "fanduel")
    assert "asked for by name" in reason.detail


def test_a_book_is_forgotten_after_a_day() -> None:
    later = START + timedelta(hours=24)
    books = watched(
        [
            a_poll(START, game(START, "draftkings", "fanduel", starts=later + TIP.resolution)),
            a_poll(later, game(later, "draftkings")),
        ]
    )
    assert [book.book for book in books] == ["draftkings"]


@pytest.mark.parametrize(("age", "not_read"), [(minutes(15), set()), (minutes(16), {"bovada"})])
def test_a_book_whose_readings_stand_still_while_polls_go_on_is_named(age: timedelta, not_read: set[str]) -> None:
    event = an_event(
        a_book("draftkings", spreads(-5.5, last_update=START)), a_book("bovada", spreads(-5.5, last_update=START - age))
    )
    judgement = judged(a_feed(watched([a_poll(START, event)])))
    assert judgement.not_read == not_read
    assert judgement.status is (Status.DEGRADED if not_read else Status.OK)


def test_a_feed_of_which_the_provider_reads_no_book_any_more_is_stale() -> None:
    books = watched([a_poll(START, game(START - minutes(16), "draftkings", "bovada"))])
    judgement = judged(a_feed(books))
    assert judgement.status is Status.STALE
    assert judgement.not_read == {"draftkings", "bovada"}


def test_old_readings_of_games_in_play_are_nobodys_fault() -> None:
    event = game(START - minutes(90), "bovada", starts=START - minutes(30))
    assert judged(a_feed(watched([a_poll(START, event)]))).status is Status.OK


def test_the_share_of_changed_quotes_counts_changes_and_not_arrivals() -> None:
    moments = [START, START + minutes(1), START + minutes(2)]
    lines = [-5.5, -6.5, -6.5]
    books = watched(a_poll(at, game(at, "draftkings", line=line)) for at, line in zip(moments, lines, strict=True))
    (book,) = books
    # One change in three polls, the older two faded a little: 2^-0.1 / (2^-0.2 + 2^-0.1 + 1).
    assert changed_share(books) == pytest.approx(2**-0.1 / (2**-0.2 + 2**-0.1 + 1), abs=1e-5)
    assert book.recent_changes == pytest.approx(2**-0.1, abs=1e-5)


def test_without_quotes_there_is_no_share() -> None:
    assert changed_share([]) is None


@given(st.floats(1.0, 1e5), st.floats(0.0, 1e6))
def test_a_feed_never_becomes_better_by_waiting(interval: float, age: float) -> None:
    order = [Status.OK, Status.LATE, Status.STALE]
    feed = a_feed(expected_interval_seconds=interval)
    sooner, later = judged(feed, timedelta(seconds=age / 2)), judged(feed, timedelta(seconds=age))
    assert order.index(sooner.status) <= order.index(later.status)
    assert (later.status is Status.STALE) == (
        later.age_seconds is not None and later.age_seconds > stale_after_seconds(interval)
    )

"""Who counts as a bookmaker at a moment: the code's table and, from their times on, what operators decided."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.bookmakers import (
    KNOWN,
    Books,
    Decision,
    DecisionRefused,
    books_at,
    decide_admission,
    decide_withdrawal,
    effective_from,
)
from services.ingest.normalize import Rejection, normalize
from services.ingest.testing import START, a_book, an_event, minutes, moneyline, spreads


def decided(*changes: tuple[str, str, datetime]) -> list[Decision]:
    """A log: of each change the key, the key it is kept under afterwards, and from when."""
    log: list[Decision] = []
    for book, after, moment in changes:
        before = books_at(log).admitted.get(book, "")
        log.append(Decision(len(log) + 1, book, before, after, moment, "somebody", "because", START))
    return log


def test_a_book_counts_from_its_moment_on_and_no_earlier() -> None:
    log = decided(("newbook", "newbook", START))
    assert books_at(log, START - timedelta(milliseconds=1)).canonical("newbook") is None
    assert books_at(log, START).canonical("newbook") == "newbook"
    assert books_at(log, START).revision == 1


def test_a_withdrawn_book_is_quarantined_again() -> None:
    log = decided(("newbook", "newbook", START), ("newbook", "", START + minutes(5)))
    assert books_at(log, START + minutes(4)).canonical("newbook") == "newbook"
    assert books_at(log, START + minutes(5)) == Books(revision=2)


def test_another_name_of_a_known_book_leads_to_it() -> None:
    books = books_at(decided(("draftkings_nj", "draftkings", START)))
    assert books.canonical("draftkings_nj") == "draftkings"
    assert books.canonical("draftkings") == "draftkings"


@pytest.mark.parametrize(
    ("book", "known_as", "why"),
    [
        ("draftkings", "", "in the table"),
        ("barstool", "", "in the table"),
        ("newbook", "nobody_knows", "admit that one first"),
        ("newbook", "barstool", "its present key is espnbet"),
        ("admitted", "", "admitted already"),
        ("another", "alias", "its present key is admitted"),
        ("admitted", "fanduel", "withdraw that first"),
    ],
)
def test_an_admission_that_makes_no_sense_is_refused_with_what_to_do(book: str, known_as: str, why: str) -> None:
    log = decided(("admitted", "admitted", START), ("alias", "admitted", START))
    with pytest.raises(DecisionRefused, match=why):
        decide_admission(log, book, known_as)


@pytest.mark.parametrize(
    ("book", "why"),
    [
        ("draftkings", "code's own table"),
        ("stranger", "nobody has admitted it"),
        ("admitted", "alias is kept under it"),
    ],
)
def test_a_withdrawal_that_makes_no_sense_is_refused_with_what_to_do(book: str, why: str) -> None:
    log = decided(("admitted", "admitted", START), ("alias", "admitted", START))
    with pytest.raises(DecisionRefused, match=why):
        decide_withdrawal(log, book)


def test_what_changes_is_said_as_before_and_after() -> None:
    log = decided(("newbook", "newbook", START))
    assert decide_admission([], "newbook", "") == ("", "newbook")
    assert decide_admission(log, "newbook", "fanduel") == ("newbook", "fanduel")
    assert decide_withdrawal(log, "newbook") == ("newbook", "")


def test_a_decision_takes_effect_behind_what_was_observed_and_never_before_the_last_one() -> None:
    log = decided(("newbook", "newbook", START + minutes(10)))
    assert effective_from([], None, None, START) == START
    assert effective_from([], None, START, START + minutes(1)) == START + timedelta(milliseconds=1)
    assert effective_from(log, None, START, START) == START + minutes(10)
    assert effective_from([], START - minutes(90), START, START) == START - minutes(90)
    with pytest.raises(DecisionRefused, match="order in which they are made"):
        effective_from(log, START, START, START)


KEYS = st.sampled_from(["newbook", "other", "third"])


@given(st.lists(st.tuples(KEYS, st.booleans(), st.integers(0, 3)), max_size=12), st.integers(0, 40))
def test_later_decisions_never_change_the_books_of_an_earlier_time(
    changes: Sequence[tuple[str, bool, int]], at: int
) -> None:
    times = [START + minutes(sum(wait for _, _, wait in changes[: number + 1])) for number in range(len(changes))]
    log = decided(
        *((book, book if admit else "", moment) for (book, admit, _), moment in zip(changes, times, strict=True))
    )
    moment = START + minutes(at)
    in_force = [decision for decision in log if decision.effective_from <= moment]
    assert books_at(log, moment) == books_at(in_force, moment) == books_at(in_force)


def test_an_admitted_book_is_read_and_one_that_is_not_says_what_it_quotes() -> None:
    body = [an_event(a_book("newbook", spreads(-5.5), moneyline()), a_book("draftkings", spreads(-5.5)))]
    before = normalize(body)
    after = normalize(body, books=books_at(decided(("newbook", "newbook", START))))
    assert [(book.book, book.quotes, book.markets) for book in before.quarantined] == [
        ("newbook", 2, {"spreads", "h2h"})
    ]
    assert before.rejected == {Rejection.UNKNOWN_BOOK: 4}
    assert [quote.book for quote in after.events[0].quotes] == ["newbook", "draftkings", "newbook"]
    assert (after.quarantined, after.rejected, after.books_revision) == ((), {}, 1)


def test_a_book_under_another_name_gives_way_to_itself() -> None:
    body = [an_event(a_book("draftkings_nj", spreads(-3.5)), a_book("draftkings", spreads(-5.5)))]
    seen = normalize(body, books=books_at(decided(("draftkings_nj", "draftkings", START))))
    assert [(quote.book, quote.line) for quote in seen.events[0].quotes] == [("draftkings", -5.5)]
    assert seen.rejected == {Rejection.RENAMED_BOOK_TWICE: 2}


def test_without_decisions_the_table_alone_decides() -> None:
    assert books_at([]) == KNOWN
    assert KNOWN.canonical("draftkings") == "draftkings"
    assert KNOWN.canonical("newbook") is None

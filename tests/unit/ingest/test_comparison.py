"""What an operator is told of a book in quarantine: how far it stands from the others, and whom it repeats."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from services.ingest.bookmakers import Books
from services.ingest.comparison import Comparison, compare
from services.ingest.normalize import normalize
from services.ingest.testing import START, a_book, an_event, moneyline, spreads, totals

OTHERS = [a_book(book, spreads(-5.5), totals(220.5), moneyline()) for book in ("draftkings", "fanduel", "betmgm")]


def compared(*books: dict[str, Any], commence_time: Any = START + timedelta(hours=6)) -> Comparison:
    """The stranger against these books."""
    body = [an_event(*books, commence_time=commence_time)]
    seen = normalize(body, books=Books(admitted={"stranger": "stranger"}))
    (found,) = compare(seen, frozenset({"stranger"}), START)
    return found


def test_a_book_is_told_by_its_distance_from_the_middle_of_the_others() -> None:
    found = compared(*OTHERS, a_book("stranger", spreads(-6.5), totals(218.0), moneyline(1.9, 1.9)))
    assert (found.compared_quotes, found.spread_points, found.total_points) == (3, 1.0, 2.5)
    # Without the vig 1.8 and 2.1 are 53.8 %, and 1.9 each way is 50 %.
    assert found.h2h_probability == 0.038462
    assert (found.closest_book, found.closest_share) == ("", None)


def test_a_book_that_repeats_another_is_told_whom() -> None:
    others = [*OTHERS[:2], a_book("betmgm", spreads(-5.0, 1.95, 1.87), totals(221.0))]
    found = compared(*others, a_book("stranger", spreads(-5.0, 1.95, 1.87), totals(220.5)))
    assert (found.closest_book, found.closest_share) == ("betmgm", 0.5)


def test_where_too_few_others_quote_nothing_is_compared() -> None:
    found = compared(*OTHERS[:2], a_book("stranger", spreads(-6.5)))
    assert found == Comparison("stranger", START, 0, None, None, None, "", None)


def test_games_in_play_are_not_compared() -> None:
    found = compared(*OTHERS, a_book("stranger", spreads(-6.5)), commence_time=START)
    assert found.compared_quotes == 0

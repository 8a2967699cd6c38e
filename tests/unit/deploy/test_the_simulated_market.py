"""The simulated market is a function of seed and time, and looks like the recorded ones."""

import statistics
from datetime import datetime, timedelta

import pytest

from deploy.simulator.books import BOOKS
from deploy.simulator.calibration import HOURS, OPENED_AT, RECORDED, simulated
from deploy.simulator.market import TYPED_TOTAL, GameBoard, Market, Quote

Minutes = list[tuple[datetime, list[GameBoard]]]


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def quotes(board: list[GameBoard]) -> dict[tuple[str, str, str], Quote]:
    return {
        (game.id, book.book.key, quote.market): quote for game in board for book in game.books for quote in book.quotes
    }


@pytest.fixture(scope="module")
def market() -> Market:
    """One market for every test that only looks: to draw a game costs more than to look at it."""
    return Market(1, OPENED_AT)


@pytest.fixture(scope="module")
def two_hours(market: Market) -> Minutes:
    """Every minute of the first half hour, every third one behind it."""
    moments = [OPENED_AT + minutes(n) for n in (*range(30), *range(30, 121, 3))]
    return [(at, market.board(at)) for at in moments]


def test_the_same_seed_and_moment_give_the_same_board_whatever_was_asked_before(two_hours: Minutes) -> None:
    at, asked_after_many = two_hours[40]

    assert Market(1, OPENED_AT).board(at) == asked_after_many


def test_another_seed_is_another_market(two_hours: Minutes) -> None:
    at, board = two_hours[0]

    assert Market(2, OPENED_AT).board(at) != board


def test_ten_to_fifteen_games_wait_for_their_start_and_some_are_being_played(two_hours: Minutes) -> None:
    at, board = two_hours[0]

    assert 10 <= sum(game.commence_time > at for game in board) <= 15
    assert any(game.commence_time <= at for game in board)


def test_no_team_plays_itself_and_ids_are_those_of_the_provider(two_hours: Minutes) -> None:
    for game in two_hours[0][1]:
        assert game.home_team != game.away_team
        assert len(game.id) == 32
        assert int(game.id, 16) >= 0


def test_within_two_hours_a_game_starts_one_opens_one_start_moves_and_a_book_vanishes_and_returns(
    two_hours: Minutes,
) -> None:
    first, last = two_hours[0][1], two_hours[-1][1]
    starts = {game.id: game.commence_time for game in first}
    books = [{(game.id, book.book.key) for game in board for book in game.books} for _, board in two_hours]
    returned = {
        key for n in range(1, len(books)) for key in books[n - 1] - books[n] if any(key in later for later in books[n:])
    }

    assert any(OPENED_AT < start <= two_hours[-1][0] for start in starts.values())
    assert {game.id for game in last} - starts.keys()
    assert any(
        starts.get(game.id, game.commence_time) != game.commence_time for _, board in two_hours for game in board
    )
    assert returned


def test_a_total_is_sometimes_typed_as_three(market: Market) -> None:
    games = [market.game(number) for number in range(30)]
    mistakes = [
        game.listed_at + timedelta(seconds=statistics.mean(timeline.typo.bounds))
        for game in games
        for timeline in game.books
        if timeline.typo.bounds
    ]

    assert mistakes
    assert any(quote.line == TYPED_TOTAL for at in mistakes[:3] for quote in quotes(market.board(at)).values())


def test_news_moves_the_line_of_most_books_within_three_minutes_in_the_first_half_hour(
    two_hours: Minutes,
) -> None:
    most = 0
    for (_, earlier), (_, later) in zip(two_hours[:27], two_hours[3:30], strict=True):
        before, after = quotes(earlier), quotes(later)
        moved: dict[tuple[str, str], set[str]] = {}
        for game, book, market in before.keys() & after.keys():
            if market != "h2h" and before[game, book, market].line != after[game, book, market].line:
                moved.setdefault((game, market), set()).add(book)
        waiting = {game.id for game in later if game.commence_time > two_hours[29][0]}
        most = max([most, *(len(books) for (game, _), books in moved.items() if game in waiting)])

    assert most >= 6


def test_a_quote_is_never_older_than_its_books_reading_interval_allows(
    two_hours: Minutes,
) -> None:
    for at, board in two_hours[::10]:
        for game in board:
            for book in game.books:
                assert timedelta(0) <= at - book.last_update <= timedelta(seconds=1.2 * book.book.read_interval + 1)


def test_last_update_never_goes_back(two_hours: Minutes) -> None:
    newest: dict[tuple[str, str], datetime] = {}
    for _, board in two_hours:
        for game in board:
            for book in game.books:
                key = (game.id, book.book.key)
                assert book.last_update >= newest.get(key, book.last_update)
                newest[key] = book.last_update


def test_books_of_one_feed_stand_on_the_same_line(two_hours: Minutes) -> None:
    same = total = 0
    for _, board in two_hours[::5]:
        shown = quotes(board)
        for (game, book, market), quote in shown.items():
            twin = shown.get((game, "lowvig", market))
            if book == "betonlineag" and twin is not None and twin.line != TYPED_TOTAL != quote.line:
                total += 1
                same += twin.line == quote.line

    assert total > 100
    assert same / total > 0.97


def test_every_american_price_exists(two_hours: Minutes) -> None:
    for _, board in two_hours[::20]:
        assert all(abs(price) >= 100 for quote in quotes(board).values() for price in (quote.price, quote.price_other))


def test_a_game_is_scored_from_its_start_and_completed_at_its_end(market: Market) -> None:
    game = market.game(0)

    assert game.score(game.begins_at - minutes(1)).points is None
    assert game.score(game.begins_at + minutes(60)).points is not None
    ended = game.score(game.ends_at)
    assert ended.completed
    assert ended.points == game.final
    assert game.final[0] != game.final[1]


def test_only_books_of_the_table_quote(two_hours: Minutes) -> None:
    known = {book.key for book in BOOKS}

    assert {book for _, book, _ in quotes(two_hours[50][1])} == known


@pytest.mark.parametrize("series", sorted(RECORDED))
def test_every_figure_is_within_a_factor_of_two_of_the_recorded_one(market: Market, series: str) -> None:
    theirs = RECORDED[series]
    ours = simulated(market, theirs.gap_seconds, HOURS[series]).named()

    for name, value in theirs.named().items():
        assert 0.5 <= ours[name] / value <= 2.0, f"{name}: {ours[name]} against {value}"


def test_at_its_own_cadence_it_changes_no_faster_than_twice_the_recorded_rate(market: Market) -> None:
    ours = simulated(market, 60.0, 0.5)

    assert ours.changes_a_minute <= 2.0 * RECORDED["wnba_15m"].changes_a_minute

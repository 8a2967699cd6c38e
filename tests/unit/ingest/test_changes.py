"""What changed between two sights of an event, what is told of it, and what is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.changes import (
    Coverage,
    EventState,
    HeldQuote,
    Observation,
    Poll,
    Step,
    is_believable,
    observe_poll,
)
from services.ingest.normalize import QuoteKey, normalize
from services.ingest.store import StateRows, state_from
from services.ingest.testing import (
    SPORT,
    START,
    TIP,
    a_book,
    an_event,
    minutes,
    moneyline,
    spreads,
    totals,
)

ASKED = Coverage(("h2h", "spreads", "totals"))


def a_poll(body: object, at: datetime = START, asked: Coverage = ASKED, keyframes: Sequence[str] = ()) -> Poll:
    """A successful poll that was answered with a body."""
    return Poll(SPORT, at, 60.0, asked, normalize(body), frozenset(keyframes))


class Feed:
    """An event's polls one after the other, with what each led to."""

    def __init__(self) -> None:
        self.states: dict[str, EventState] = {}
        self.steps: list[Step] = []

    def polled(self, *books: dict[str, Any], at: datetime, **more: Any) -> Step:
        """The next poll of the one event, with these books."""
        return self.answered([an_event(*books, commence_time=more.pop("commence_time", TIP))], at, **more)

    def answered(self, body: list[Any], at: datetime, **more: Any) -> Step:
        """The next poll, answered with a body."""
        (step,) = observe_poll(self.states, a_poll(body, at, **more))
        self.states[step.state.event_id] = step.state
        self.steps.append(step)
        return step


def book_at(line: float, price: float = 1.91, read_at: datetime = START) -> dict[str, Any]:
    """DraftKings with a spread at a line."""
    return a_book("draftkings", spreads(line, home=price, last_update=read_at))


def test_the_first_message_of_an_event_carries_everything_and_no_interval() -> None:
    step = Feed().polled(a_book("draftkings", spreads(-5.5), totals(220)), at=START)
    observation = step.observation
    assert (observation.revision, observation.previous_revision, observation.keyframe) == (1, 0, True)
    assert [quote.key[0] for quote in observation.changes] == ["spreads", "totals"]
    assert all(
        quote.changed_after is quote.changed_by is quote.previous_seen_at is None for quote in observation.changes
    )
    assert len(step.snapshots) == 4


def test_an_unchanged_answer_says_only_that_the_event_was_seen() -> None:
    feed = Feed()
    feed.polled(book_at(-5.5), at=START)
    step = feed.polled(book_at(-5.5), at=START + minutes(1))
    observation = step.observation
    assert (observation.changes, observation.removed, observation.reads) == ((), (), ())
    assert (observation.revision, observation.previous_revision, observation.observed_at) == (2, 1, START + minutes(1))
    assert (step.snapshots, step.disappearances, step.changed) == ((), (), 0)


def test_a_reading_alone_is_no_change_and_is_not_told() -> None:
    feed = Feed()
    feed.polled(book_at(-5.5), at=START)
    step = feed.polled(book_at(-5.5, read_at=START + minutes(1)), at=START + minutes(1))
    assert (step.observation.changes, step.observation.reads) == ((), ())


def test_a_change_lies_between_the_last_reading_of_the_old_and_the_first_of_the_new_value() -> None:
    feed = Feed()
    feed.polled(book_at(-5.5, read_at=START - minutes(3)), at=START)
    feed.polled(book_at(-5.5, read_at=START + minutes(0.5)), at=START + minutes(1))
    (quote,) = feed.polled(book_at(-6.5, read_at=START + minutes(1.75)), at=START + minutes(2)).observation.changes
    assert (quote.changed_after, quote.changed_by) == (START + minutes(0.5), START + minutes(1.75))
    assert (quote.observed_at, quote.previous_seen_at) == (START + minutes(2), START + minutes(1))


def test_a_change_is_never_later_than_the_observation() -> None:
    feed = Feed()
    feed.polled(book_at(-5.5), at=START)
    (quote,) = feed.polled(book_at(-6.5, read_at=START + minutes(9)), at=START + minutes(1)).observation.changes
    assert quote.changed_by == START + minutes(1)


@pytest.mark.parametrize("reading", [START, START - minutes(1)])
def test_readings_that_contradict_themselves_leave_the_sights(reading: datetime) -> None:
    feed = Feed()
    feed.polled(book_at(-5.5, read_at=START), at=START + minutes(1))
    (quote,) = feed.polled(book_at(-6.5, read_at=reading), at=START + minutes(2)).observation.changes
    assert (quote.changed_after, quote.changed_by) == (START + minutes(1), START + minutes(2))


def test_without_readings_a_change_lies_between_two_sights() -> None:
    feed = Feed()
    undated = [{**book_at(line), "markets": [{**spreads(line), "last_update": None}]} for line in (-5.5, -6.5)]
    feed.polled(undated[0], at=START)
    (quote,) = feed.polled(undated[1], at=START + minutes(1)).observation.changes
    assert (quote.changed_after, quote.changed_by) == (START, START + minutes(1))


def test_a_price_that_changes_on_one_side_leaves_the_other_sides_snapshot() -> None:
    feed = Feed()
    feed.polled(book_at(-5.5, price=1.91), at=START)
    step = feed.polled(book_at(-5.5, price=1.87), at=START + minutes(1))
    (quote,) = step.observation.changes
    assert quote.since == (START + minutes(1), START)
    assert [(snapshot.outcome, snapshot.price) for snapshot in step.snapshots] == [("home", 1.87)]


def test_a_line_that_moves_makes_a_snapshot_of_each_side_at_its_own_point() -> None:
    feed = Feed()
    feed.polled(book_at(-5.5), at=START)
    step = feed.polled(book_at(-6.5), at=START + minutes(1))
    assert [(snapshot.outcome, snapshot.line) for snapshot in step.snapshots] == [("home", -6.5), ("away", 6.5)]


def test_a_quote_that_was_asked_for_and_did_not_come_is_removed() -> None:
    feed = Feed()
    feed.polled(book_at(-5.5), a_book("betmgm", spreads(-5.5)), at=START)
    step = feed.polled(a_book("betmgm", spreads(-5.5)), at=START + minutes(1))
    assert step.observation.removed == (("spreads", "", "draftkings"),)
    (row,) = step.disappearances
    assert (row.book, row.last_seen_at, row.observed_at) == ("draftkings", START, START + minutes(1))


@pytest.mark.parametrize("asked", [Coverage(("h2h",)), Coverage(("spreads",), ("betmgm",))])
def test_a_quote_that_was_not_asked_for_stays(asked: Coverage) -> None:
    feed = Feed()
    feed.polled(book_at(-5.5), at=START)
    assert feed.polled(at=START + minutes(1), asked=asked).observation.removed == ()


@pytest.mark.parametrize("line", [-5.5, -6.5])
def test_a_quote_that_comes_back_changed_between_its_sights(line: float) -> None:
    feed = Feed()
    feed.polled(book_at(-5.5, read_at=START), at=START + minutes(1))
    feed.polled(at=START + minutes(2))
    step = feed.polled(book_at(line, read_at=START + minutes(3.5)), at=START + minutes(4))
    (quote,) = step.observation.changes
    assert (quote.changed_after, quote.changed_by) == (START + minutes(1), START + minutes(4))
    assert (quote.previous_seen_at, quote.observed_at) == (START + minutes(1), START + minutes(4))
    assert [snapshot.observed_at for snapshot in step.snapshots] == [START + minutes(4)] * 2


def test_a_quote_that_was_gone_for_a_day_is_new_when_it_returns() -> None:
    feed = Feed()
    feed.polled(book_at(-5.5), at=START)
    feed.polled(at=START + minutes(1))
    feed.polled(at=START + timedelta(hours=24))
    (quote,) = feed.polled(book_at(-5.5), at=START + timedelta(hours=24, minutes=1)).observation.changes
    assert (quote.changed_after, quote.previous_seen_at) == (None, None)


def test_an_event_that_vanishes_loses_everything_once_and_is_silent_until_it_returns() -> None:
    feed = Feed()
    feed.polled(book_at(-5.5), at=START)
    gone = feed.answered([], START + minutes(1))
    assert gone.observation.removed == (("spreads", "", "draftkings"),)
    assert list(observe_poll(feed.states, a_poll([], START + minutes(2)))) == []
    back = feed.polled(book_at(-5.5), at=START + minutes(3)).observation
    assert (back.revision, [quote.previous_seen_at for quote in back.changes]) == (3, [START])


def test_an_event_that_is_there_and_cannot_be_read_is_neither_seen_nor_gone() -> None:
    feed = Feed()
    feed.polled(book_at(-5.5), at=START)
    broken = [{**an_event(), "home_team": None}]
    assert list(observe_poll(feed.states, a_poll(broken, START + minutes(1)))) == []


def test_another_sports_events_do_not_vanish() -> None:
    feed = Feed()
    feed.polled(book_at(-5.5), at=START)
    poll = dataclasses.replace(a_poll([], START + minutes(1)), sport_key="basketball_wnba")
    assert list(observe_poll(feed.states, poll)) == []


def test_time_that_does_not_go_forward_is_not_observed() -> None:
    feed = Feed()
    feed.polled(book_at(-5.5), at=START)
    assert list(observe_poll(feed.states, a_poll([an_event(book_at(-6.5))], START))) == []


@pytest.mark.parametrize(("passed", "keyframe"), [(9.99, False), (10, True), (25, True)])
def test_a_keyframe_comes_when_ten_minutes_have_passed(passed: float, keyframe: bool) -> None:
    feed = Feed()
    feed.polled(book_at(-5.5), at=START)
    assert feed.polled(book_at(-5.5), at=START + minutes(passed)).observation.keyframe is keyframe


def test_a_keyframe_comes_when_it_is_asked_for() -> None:
    feed = Feed()
    feed.polled(book_at(-5.5), at=START)
    observation = feed.polled(book_at(-5.5), at=START + minutes(1), keyframes=["game"]).observation
    assert observation.keyframe
    assert [quote.observed_at for quote in observation.changes] == [START]


def test_a_keyframe_of_an_event_that_is_gone_carries_nothing() -> None:
    feed = Feed()
    feed.polled(book_at(-5.5), at=START)
    feed.answered([], START + minutes(1))
    observation = feed.answered([], START + minutes(2), keyframes=["game"]).observation
    assert (observation.keyframe, observation.changes) == (True, ())


def test_readings_of_the_others_in_a_changed_market_are_told() -> None:
    feed = Feed()
    feed.polled(book_at(-5.5), a_book("betmgm", spreads(-5.5), totals(220)), at=START)
    later = START + minutes(0.75)
    step = feed.polled(
        book_at(-6.5, read_at=later),
        a_book("betmgm", spreads(-5.5, last_update=later), totals(220, last_update=later)),
        at=START + minutes(1),
    )
    (read,) = step.observation.reads
    assert (read.books, read.market, read.ages_seconds) == (("betmgm",), "spreads", (15.0,))


def test_a_reading_that_passes_the_start_is_told() -> None:
    feed = Feed()
    feed.polled(book_at(-5.5, read_at=TIP - minutes(2)), at=TIP - minutes(1))
    feed.polled(book_at(-5.5, read_at=TIP - minutes(0.5)), at=TIP)
    (read,) = feed.polled(book_at(-5.5, read_at=TIP + minutes(0.5)), at=TIP + minutes(1)).observation.reads
    assert read.ages_seconds == (30.0,)


def test_a_start_that_moves_in_between_two_readings_has_the_newest_told() -> None:
    feed = Feed()
    feed.polled(book_at(-5.5, read_at=TIP - minutes(9)), at=TIP - minutes(8))
    quiet = feed.polled(book_at(-5.5, read_at=TIP - minutes(7)), at=TIP - minutes(6)).observation
    moved = feed.polled(
        book_at(-5.5, read_at=TIP - minutes(6)), at=TIP - minutes(5), commence_time=TIP - minutes(8)
    ).observation
    assert (quiet.reads, [read.ages_seconds for read in moved.reads]) == ((), [(60.0,)])


def test_a_new_link_or_limit_is_told_without_a_snapshot_and_without_a_new_time() -> None:
    feed = Feed()
    feed.polled(book_at(-5.5), at=START)
    linked = book_at(-5.5)
    linked["markets"][0]["outcomes"][0]["bet_limit"] = 250
    step = feed.polled(linked, at=START + minutes(1))
    (quote,) = step.observation.changes
    assert (quote.offer.outcomes[0].limit, quote.observed_at, step.snapshots, step.changed) == (250.0, START, (), 0)


def test_teams_that_swap_sides_are_observed_anew() -> None:
    feed = Feed()
    feed.polled(book_at(-5.5), at=START)
    swapped = {**an_event(book_at(-5.5)), "home_team": "Celtics", "away_team": "Lakers"}
    observation = feed.answered([swapped], START + minutes(1)).observation
    (quote,) = observation.changes
    assert (observation.keyframe, quote.offer.line, quote.changed_after) == (True, 5.5, None)


@pytest.mark.parametrize(
    ("commence_time", "believable"),
    [
        (START + timedelta(hours=47), False),
        (START + timedelta(hours=50), True),
        (START - minutes(1), True),
        (None, True),
    ],
)
def test_an_empty_answer_is_not_believed_while_a_game_is_due(commence_time: datetime | None, believable: bool) -> None:
    feed = Feed()
    feed.polled(book_at(-5.5), at=START - minutes(5), commence_time=commence_time)
    assert is_believable(feed.states.values(), a_poll([], START)) is believable


def test_an_empty_answer_after_an_empty_one_is_believed() -> None:
    feed = Feed()
    feed.polled(book_at(-5.5), at=START - minutes(5))
    feed.answered([], START - minutes(4))
    assert is_believable(feed.states.values(), a_poll([], START))


@pytest.mark.parametrize("body", [{"message": "Usage quota has been reached."}, "<html>502</html>", None, [None]])
def test_what_holds_nothing_that_can_be_read_is_no_answer_even_when_no_game_is_due(body: object) -> None:
    poll = dataclasses.replace(a_poll([], START), seen=normalize(body, SPORT))
    assert not is_believable([], poll)


#: What a consumer holds of each quote: the quote, and its reading.
Held = dict[QuoteKey, tuple[HeldQuote, datetime | None]]


def follow(board: Held, observation: Observation) -> Held:
    """What a consumer holds after a message, if it takes keyframes whole."""
    told = {
        quote.key: (quote, reading) for quote, reading in zip(observation.changes, observation.readings, strict=True)
    }
    if observation.keyframe:
        return told
    kept = {key: quote for key, quote in board.items() if key not in observation.removed}
    for reads in observation.reads:
        for book, age_seconds in zip(reads.books, reads.ages_seconds, strict=True):
            key = (reads.market, reads.player, book)
            kept[key] = (kept[key][0], observation.observed_at - timedelta(seconds=age_seconds))
    return kept | told


LINES = st.sampled_from([-5.5, -6.0, -6.5])
PRICES = st.sampled_from([1.87, 1.91, 1.95])
BOARDS = st.lists(
    st.one_of(
        st.none(),
        st.dictionaries(
            st.sampled_from(["draftkings", "betmgm", "fanduel"]),
            st.tuples(st.none() | LINES, st.none() | PRICES, st.integers(0, 4)),
            max_size=3,
        ),
    ),
    min_size=1,
    max_size=12,
)


def body_of(board: dict[str, tuple[float | None, float | None, int]] | None, at: datetime) -> list[Any]:
    """An answer with these books; None is an answer without the event."""
    if board is None:
        return []
    books = []
    for key, (line, price, age) in board.items():
        read_at = at - minutes(age)
        markets = [] if line is None else [spreads(line, last_update=read_at)]
        books.append(a_book(key, *markets, *([] if price is None else [moneyline(price, last_update=read_at)])))
    return [an_event(*books, commence_time=START + minutes(6))]


def run(boards: Sequence[Any], keyframes_at: frozenset[int] = frozenset()) -> list[Step]:
    """The steps of a series of polls a minute apart, with keyframes asked for at some of them."""
    states: dict[str, EventState] = {}
    steps = []
    for number, board in enumerate(boards):
        at = START + minutes(number)
        poll = a_poll(body_of(board, at), at, keyframes=["game"] if number in keyframes_at else [])
        for step in observe_poll(states, poll):
            states[step.state.event_id] = step.state
            steps.append(step)
    return steps


@given(BOARDS)
def test_a_follower_always_holds_what_a_keyframe_would_tell(boards: list[Any]) -> None:
    board: Held = {}
    for step in run(boards):
        board = follow(board, step.observation)
        assert board == dict(zip(step.state.keys, zip(step.state.quotes, step.state.told, strict=True), strict=True))


@given(BOARDS, st.frozensets(st.integers(0, 11)))
def test_keyframes_change_neither_rows_nor_times(boards: list[Any], keyframes_at: frozenset[int]) -> None:
    rows = [(s.snapshots, s.disappearances) for s in run(boards) if s.snapshots or s.disappearances]
    assert [
        (s.snapshots, s.disappearances) for s in run(boards, keyframes_at) if s.snapshots or s.disappearances
    ] == rows


@given(BOARDS)
def test_revisions_count_the_messages_and_intervals_point_forward(boards: list[Any]) -> None:
    steps = run(boards)
    assert [step.observation.revision for step in steps] == list(range(1, len(steps) + 1))
    for step in steps:
        for quote in (*step.state.quotes, *(gone.quote for gone in step.state.absent)):
            assert (quote.changed_after is None) == (quote.changed_by is None) == (quote.previous_seen_at is None)
            if quote.changed_after is not None and quote.changed_by is not None:
                assert quote.changed_after < quote.changed_by <= quote.observed_at


@given(BOARDS)
def test_an_answer_repeated_at_once_changes_nothing(boards: list[Any]) -> None:
    states: dict[str, EventState] = {}
    for number, board in enumerate(boards):
        at = START + minutes(2 * number)
        for again in (False, True):
            for step in observe_poll(states, a_poll(body_of(board, at), at + minutes(again))):
                states[step.state.event_id] = step.state
                assert not again or (step.changed, step.snapshots, step.disappearances) == (0, (), ())


@given(BOARDS)
def test_a_states_row_says_all_that_the_state_does(boards: list[Any]) -> None:
    rows = StateRows()
    for step in run(boards):
        assert state_from(rows.row(step.state)) == step.state

"""One event's board, folded from its observations."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.consensus.board import BoardRules, Step, step
from services.consensus.events import ConsensusFold
from services.consensus.model import Consensus, ConsensusRow, EventState, Observation
from services.consensus.pricing import PricingRules
from services.consensus.testing import H2H, NOW, SPREADS, START, TOTALS, Feed
from services.shared.odds import MarketModel

RULES = BoardRules()
FOUR = {"betmgm": -6.0, "caesars": -6.0, "draftkings": -6.5, "fanduel": -6.5}
FIVE = {**FOUR, "pinnacle": -6.0}


def folded(observations: Iterable[Observation], rules: BoardRules = RULES) -> list[Step]:
    state, steps = EventState(), []
    for seen in observations:
        steps.append(step(state, seen, rules))
        state = steps[-1].state
    return steps


def rows_of(steps: Sequence[Step]) -> list[ConsensusRow]:
    return [row for done in steps for row in done.consensus_rows]


def consensus_after(done: Step) -> Consensus:
    priced = done.state.markets[SPREADS].priced
    assert priced is not None
    return priced.consensus


def a_feed(lines: dict[str, float] | None = None, **options: object) -> Feed:
    feed = Feed(**options)
    feed.board(SPREADS, FIVE if lines is None else lines)
    return feed


def test_the_first_observation_says_what_the_market_thinks():
    feed = a_feed()
    (done,) = folded([feed.observe()])
    (row,) = done.consensus_rows
    assert (row.consensus.consensus_line, row.observed_at, row.heartbeat) == (-6.0, NOW, False)
    assert (done.published, done.keyframe, done.state.revision) == ((SPREADS,), True, 1)


def test_an_unchanged_observation_publishes_no_market_and_writes_no_row():
    feed = a_feed()
    _, again = folded([feed.observe(), feed.observe()])
    assert (again.published, again.removed, again.consensus_rows, again.quote_points) == ((), (), (), ())
    assert not again.keyframe
    assert again.state.revision == 2


def test_only_the_market_that_changed_is_published():
    feed = a_feed()
    feed.board(TOTALS, dict.fromkeys(FIVE, 220.5))
    first = feed.observe()
    feed.quote(TOTALS, "pinnacle", 221.5)
    _, done = folded([first, feed.observe()])
    assert done.published == (TOTALS,)
    assert [point.book for point in done.quote_points] == ["pinnacle"]


def test_a_steady_market_keeps_its_consensus_for_ever():
    feed = a_feed(commence_time=NOW + timedelta(days=3))
    steps = folded([feed.observe() for _ in range(24 * 60)])
    rows = rows_of(steps)
    assert {row.consensus for row in rows} == {rows[0].consensus}
    assert [row.heartbeat for row in rows] == [False] + [True] * (len(rows) - 1)
    assert {later.observed_at - row.observed_at for row, later in pairwise(rows)} == {timedelta(minutes=10)}


def test_a_heartbeat_counts_from_the_last_row_whatever_caused_it():
    feed = a_feed()
    seen = [feed.observe(), feed.observe(540)]
    feed.quote(SPREADS, "pinnacle", -7.0)
    seen += [feed.observe(30), feed.observe(570), feed.observe(30)]
    rows = rows_of(folded(seen))
    assert [(row.heartbeat, (row.observed_at - NOW).total_seconds()) for row in rows] == [
        (False, 0),
        (False, 570),
        (True, 1170),
    ]


def test_a_poll_that_did_not_ask_for_a_market_cannot_call_it_steady():
    feed = a_feed(interval_seconds=300)
    seen = [feed.observe(), feed.observe(700, asked=["totals"])]
    assert [row.heartbeat for row in rows_of(folded(seen))] == [False]


def test_a_change_that_moves_no_published_number_of_the_consensus_writes_no_row():
    feed = a_feed()
    first = feed.observe()
    feed.quote(SPREADS, "pinnacle", -6.0, price=1.87, other=1.87)
    _, done = folded([first, feed.observe()])
    assert done.published == (SPREADS,)
    assert done.consensus_rows == ()
    assert [point.price for point in done.quote_points] == [1.87]


def test_no_consensus_is_said_once():
    feed = a_feed({"betmgm": -6.0, "caesars": -6.0, "draftkings": -6.0})
    seen = [feed.observe() for _ in range(30)]
    feed.quote(SPREADS, "caesars", -7.0)
    seen.append(feed.observe())
    feed.drop(SPREADS, "caesars")
    seen.append(feed.observe())
    steps = folded(seen)
    assert [row.consensus.note for row in rows_of(steps)] == ["too_few_books"]
    assert consensus_after(steps[-1]).clusters == 2


def test_no_consensus_is_said_again_after_there_was_one():
    feed = a_feed(FOUR)
    seen = [feed.observe()]
    feed.drop(SPREADS, "fanduel")
    seen += [feed.observe(), feed.observe()]
    feed.quote(SPREADS, "fanduel", -6.5)
    seen.append(feed.observe())
    feed.drop(SPREADS, "betmgm")
    seen += [feed.observe(), feed.observe()]
    assert [row.consensus.note for row in rows_of(folded(seen))] == ["", "too_few_books", "", "too_few_books"]


def test_a_market_that_everybody_leaves_is_removed_and_its_end_said_once():
    feed = a_feed()
    seen = [feed.observe()]
    for book in FIVE:
        feed.drop(SPREADS, book)
    seen += [feed.observe(), feed.observe(), feed.observe(keyframe=True)]
    _, gone, *after = folded(seen)
    assert (gone.removed, gone.published) == ((SPREADS,), ())
    assert [(row.consensus.note, row.consensus.books) for row in gone.consensus_rows] == [("too_few_books", 0)]
    assert all(point.price is None for point in gone.quote_points)
    assert [done.removed + done.published + done.consensus_rows for done in after] == [(), ()]


def test_a_market_that_returns_with_too_few_is_not_said_again():
    feed = a_feed()
    seen = [feed.observe()]
    for book in FIVE:
        feed.drop(SPREADS, book)
    seen.append(feed.observe())
    feed.quote(SPREADS, "betmgm", -6.0)
    seen.append(feed.observe())
    *_, back = folded(seen)
    assert back.published == (SPREADS,)
    assert back.consensus_rows == ()


def test_a_removed_book_leaves_and_the_chart_says_so():
    feed = a_feed()
    first = feed.observe()
    feed.drop(SPREADS, "pinnacle")
    _, done = folded([first, feed.observe()])
    assert consensus_after(done).books == 4
    assert [(point.book, point.price) for point in done.quote_points] == [("pinnacle", None)]


def test_a_failed_poll_kills_nobody():
    # No message at all for an hour, then the next poll finds everything as it was.
    feed = a_feed()
    _, done = folded([feed.observe(), feed.observe(3600)])
    assert done.state.markets[SPREADS].dead == {}


def test_a_quote_is_stale_once_its_last_covering_poll_is_too_old():
    feed = a_feed(interval_seconds=60)
    seen = [feed.observe(), feed.observe(180, asked=["totals"]), feed.observe(1, asked=["totals"])]
    _, alive, stale = folded(seen)
    assert alive.published == ()
    assert stale.published == (SPREADS,)
    assert [row.consensus.note for row in stale.consensus_rows] == ["too_few_books"]
    assert dict(stale.consensus_rows[0].consensus.excluded) == dict.fromkeys(FIVE, "stale")


def test_three_intervals_are_allowed_where_they_are_longer_than_three_minutes():
    feed = a_feed(interval_seconds=300)
    seen = [feed.observe(), feed.observe(900, asked=["totals"]), feed.observe(1, asked=["totals"])]
    assert [bool(done.state.markets[SPREADS].dead) for done in folded(seen)] == [False, False, True]


def test_a_stale_quote_lives_again_when_a_poll_covers_it():
    feed = a_feed(interval_seconds=60)
    seen = [feed.observe(), feed.observe(600, asked=["totals"]), feed.observe()]
    *_, back = folded(seen)
    assert back.published == (SPREADS,)
    assert [row.consensus.note for row in back.consensus_rows] == [""]


def test_books_that_a_poll_did_not_ask_for_do_not_live_by_it():
    feed = a_feed(interval_seconds=60)
    first = feed.observe()
    feed.books = ("betmgm", "caesars", "draftkings", "fanduel")
    _, done = folded([first, feed.observe(181)])
    assert done.state.markets[SPREADS].dead == {"pinnacle": "stale"}


def test_in_play_a_quote_read_before_the_start_is_dead():
    feed = a_feed(commence_time=NOW + timedelta(seconds=90))
    seen = [feed.observe(), feed.observe(), feed.observe(unread={"pinnacle", "betmgm"})]
    _, before, after = folded(seen)
    assert before.published == ()
    assert after.published == (SPREADS,)
    assert after.state.markets[SPREADS].dead == dict.fromkeys(("betmgm", "pinnacle"), "pre_tip_quote")
    assert [(row.consensus.in_play, row.consensus.note) for row in after.consensus_rows] == [(True, "too_few_books")]


def test_the_start_makes_every_market_in_play():
    feed = a_feed(commence_time=NOW + timedelta(seconds=30))
    _, done = folded([feed.observe(), feed.observe()])
    assert [row.consensus.in_play for row in done.consensus_rows] == [True]
    assert done.game.in_play


def test_a_start_that_moves_into_the_future_makes_it_pre_game_again():
    feed = a_feed(commence_time=NOW - timedelta(seconds=10))
    seen = [feed.observe(unread=FIVE)]
    feed.commence_time = NOW + timedelta(hours=2)
    seen.append(feed.observe(unread=FIVE))
    first, done = folded(seen)
    assert first.consensus_rows[0].consensus.note == "too_few_books"
    assert not done.consensus_rows[0].consensus.in_play
    assert done.consensus_rows[0].consensus.exists


def test_without_a_readable_start_a_game_is_before_it():
    feed = a_feed(commence_time=None)
    (done,) = folded([feed.observe()])
    assert not done.consensus_rows[0].consensus.in_play


def test_a_new_configuration_prices_everything_anew_at_the_next_observation():
    feed = a_feed(FOUR)
    first, second = feed.observe(), feed.observe()
    before = step(EventState(), first, replace(RULES, config_hash="one"))
    stricter = BoardRules(PricingRules(MarketModel(consensus_min_books=5)), config_hash="two")
    after = step(before.state, second, stricter)
    assert [row.consensus.note for row in after.consensus_rows] == ["too_few_books"]
    assert after.state.config_hash == "two"


def test_the_game_lists_what_is_quoted_now():
    feed = a_feed()
    feed.board(TOTALS, {"betmgm": 220.5, "bovada": 220.5})
    (done,) = folded([feed.observe()])
    assert (done.game.markets, done.game.books, done.game.commence_time) == (("spreads", "totals"), 6, START)


BOOKS = ("betmgm", "betonlineag", "bovada", "draftkings", "fanduel", "lowvig", "pinnacle")
changes = st.lists(
    st.tuples(
        st.sampled_from([SPREADS, TOTALS, H2H]),
        st.sampled_from(BOOKS),
        st.one_of(st.none(), st.integers(-12, -4)),
    ),
    max_size=6,
)
polls = st.lists(
    st.tuples(changes, st.booleans(), st.sampled_from([20.0, 60.0, 400.0, 1000.0])), min_size=2, max_size=25
)


def played(feed: Feed, script: list, keyframes: bool) -> list[Observation]:
    observations = []
    for moves, keyframe, after_seconds in script:
        for key, book, value in moves:
            if value is None:
                feed.quotes.pop((key, book), None)
            elif key == H2H:
                feed.quote(key, book, None, price=1.5 - value / 20)
            else:
                feed.quote(key, book, float(value) if key == SPREADS else 220.0 + value)
        first = not observations
        observations.append(feed.observe(after_seconds, keyframe=first or (keyframe and keyframes)))
    return observations


@given(polls)
def test_results_do_not_depend_on_whether_a_message_is_a_keyframe(script):
    plain = folded(played(Feed(commence_time=NOW + timedelta(minutes=40)), script, keyframes=False))
    whole = folded(played(Feed(commence_time=NOW + timedelta(minutes=40)), script, keyframes=True))
    assert rows_of(plain) == rows_of(whole)
    assert [done.quote_points for done in plain] == [done.quote_points for done in whole]
    assert [done.removed for done in plain] == [done.removed for done in whole]
    assert [done.game for done in plain] == [done.game for done in whole]
    for one, other in zip(plain, whole, strict=True):
        assert set(one.published) <= set(other.published)
        assert {key: market.priced for key, market in one.state.markets.items()} == {
            key: market.priced for key, market in other.state.markets.items()
        }


@given(polls)
def test_dropping_the_state_from_memory_before_every_message_changes_nothing(script):
    fold = ConsensusFold(RULES)
    kept, dropped = EventState(), EventState()
    for seen in played(Feed(), script, keyframes=True):
        one = fold.step(kept, seen)
        other = fold.step(fold.load(fold.dump(dropped)), seen)
        assert (one.rows, one.outgoing) == (other.rows, other.outgoing)
        kept, dropped = one.state, other.state


@given(polls)
def test_a_step_leaves_the_state_it_was_given_as_it_was(script):
    fold = ConsensusFold(RULES)
    state = EventState()
    for seen in played(Feed(), script, keyframes=True):
        before = fold.dump(state)
        following = fold.step(state, seen).state
        assert fold.dump(state) == before
        state = following


@pytest.mark.parametrize("keyframe", [False, True])
def test_a_reading_alone_changes_no_market(keyframe):
    feed = a_feed()
    first = feed.observe()
    _, done = folded([first, feed.observe(keyframe=keyframe)])
    assert done.consensus_rows == ()
    assert done.published == ((SPREADS,) if keyframe else ())


def test_readings_travel_with_the_market_that_changed():
    feed = a_feed()
    first = feed.observe()
    feed.quote(SPREADS, "pinnacle", -7.0)
    _, done = folded([first, feed.observe()])
    assert {quote.last_update for quote in done.state.markets[SPREADS].quotes.values()} == {
        feed.now - timedelta(seconds=20)
    }

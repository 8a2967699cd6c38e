"""What holds for every series of boards: order, mirrors, keyframes, restarts, bounds."""

from __future__ import annotations

import random
import timeit
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.signals import wire
from services.signals.model import DetectedSignal, Direction, EventState, MarketUpdate, Observation
from services.signals.rules import RuleSettings, observe
from services.signals.testing import H2H, SPREADS, TOTALS, Board, MarketKey, Offer, a_board, minutes, steady, tell

BOOKS = ("betmgm", "betonlineag", "bovada", "caesars", "draftkings", "fanduel", "lowvig", "pinnacle")
MIRRORED = {
    Direction.TOWARD_HOME: Direction.TOWARD_AWAY,
    Direction.TOWARD_AWAY: Direction.TOWARD_HOME,
    Direction.OVER: Direction.OVER,
    Direction.UNDER: Direction.UNDER,
}
#: Windows cut short, so that short series have much to say.
QUICK = RuleSettings(move_window_minutes=4.0, move_window_minutes_total=5.0)


def offer(rng: random.Random, market: MarketKey, centre: float) -> Offer:
    prices = (round(1.91 + rng.choice((-0.06, 0.0, 0.0, 0.05)), 2), 1.91)
    if market == H2H:
        home = min(0.9, max(0.1, 0.5 - centre / 30.0 + rng.choice((-0.03, -0.008, 0.0, 0.0, 0.01))))
        return Offer(None, round(1 / (1.04 * home), 3), round(1 / (1.04 * (1 - home)), 3))
    base = centre if market == SPREADS else 220.0 + 2.0 * centre
    return Offer(base + rng.choice((-1.5, -0.5, 0.0, 0.0, 0.0, 0.5, 1.0)), *prices)


@st.composite
def series(draw: st.DrawFn, longest: int = 16) -> list[Board]:
    """A restless event: lines that drift and jump, books that come and go, now and then an error or an outage."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    starts_in = draw(st.sampled_from([minutes(12), timedelta(hours=3), None]))
    centre = rng.choice((-7.0, -5.5, 0.0, 3.5))
    first = {(market, book): offer(rng, market, centre) for market in (SPREADS, TOTALS, H2H) for book in BOOKS}
    board = a_board(starts_in=starts_in, reads=draw(st.booleans()))
    boards = [replace(board, _sightings={}, _views={}).next(board.observed_at, first)]
    for _ in range(draw(st.integers(4, longest))):
        offers = dict(boards[-1].offers)
        if rng.random() < 0.3:
            centre += rng.choice((-1.0, -0.5, 0.5, 1.0))
        for market in (SPREADS, TOTALS, H2H):
            for book in BOOKS:
                luck = rng.random()
                if luck < 0.25:
                    offers[market, book] = offer(rng, market, centre)
                elif luck < 0.28:
                    offers.pop((market, book), None)
                elif luck < 0.29 and market != H2H:
                    offers[market, book] = Offer(3.0)
        wait = minutes(rng.choice((1, 1, 1, 1, 2, 9)))
        boards.append(boards[-1].next(boards[-1].observed_at + wait, offers))
    return boards


def mirrored(boards: list[Board]) -> list[Board]:
    """The same event seen from the other end: home and away have changed places."""
    first = boards[0]
    empty = replace(first, _sightings={}, _views={})
    mirror = [empty.next(first.observed_at, _mirrored(first, first))]
    for board in boards[1:]:
        mirror.append(mirror[-1].next(board.observed_at, _mirrored(board, first)))
    return mirror


def _mirrored(board: Board, first: Board) -> dict[tuple[MarketKey, str], Offer]:
    offers = {}
    for (market, book), one in board.offers.items():
        if market == TOTALS:
            offers[market, book] = one
        else:
            line = None if one.line is None else -one.line
            offers[market, book] = Offer(line, one.price_other, one.price)
    return offers


def said(boards: list[Board]) -> tuple[DetectedSignal, ...]:
    return tell(boards, QUICK).signals


def facts(signal: DetectedSignal, direction: Callable[[Direction], Direction]) -> tuple[object, ...]:
    return (
        signal.observed_at,
        signal.market,
        signal.signal_type,
        direction(signal.direction),
        signal.book,
        signal.strength,
        signal.clusters_moved,
        signal.elapsed_seconds,
        tuple(sorted(holding.book for holding in signal.books_holding)),
    )


@given(series())
@settings(max_examples=15, deadline=None)
def test_the_mirrored_event_gives_the_mirrored_signals_and_no_others(boards: list[Board]) -> None:
    there = said(boards)
    back = said(mirrored(boards))

    assert sorted(map(str, (facts(one, MIRRORED.__getitem__) for one in there))) == sorted(
        map(str, (facts(one, lambda same: same) for one in back))
    )


@given(series(), st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_permuting_books_and_markets_changes_nothing(boards: list[Board], rng: random.Random) -> None:
    def shuffled(observation: Observation) -> Observation:
        markets = [permuted(update) for update in observation.markets]
        rng.shuffle(markets)
        return msgspec.structs.replace(observation, markets=tuple(markets), removed=observation.removed[::-1])

    def permuted(update: MarketUpdate) -> MarketUpdate:
        order = rng.sample(range(len(update.books)), len(update.books))
        return msgspec.structs.replace(
            update,
            books=tuple(update.books[index] for index in order),
            changed=tuple(rng.sample(update.changed, len(update.changed))),
            read_ages=tuple(update.read_ages[index] for index in order),
            others_of=tuple(update.others_of[index] for index in order),
        )

    there = tell(boards, QUICK)
    assert tell([shuffled(board.observation) for board in boards], QUICK) == there


@given(series())
@settings(max_examples=15, deadline=None)
def test_writing_the_state_down_before_every_observation_changes_nothing(boards: list[Board]) -> None:
    assert tell(boards, QUICK, reloading=True) == tell(boards, QUICK)


@given(series(), st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_whether_a_message_is_a_keyframe_changes_nothing(boards: list[Board], rng: random.Random) -> None:
    there = tell(boards, QUICK)
    framed = tell([board.as_keyframe() if rng.random() < 0.5 else board for board in boards], QUICK)

    assert framed.signals == there.signals
    assert framed.log == there.log


@given(series())
@settings(max_examples=15, deadline=None)
def test_nothing_is_said_at_or_after_the_start(boards: list[Board]) -> None:
    for signal in said(boards):
        assert signal.commence_time is None or signal.observed_at < signal.commence_time


@given(series())
@settings(max_examples=25, deadline=None)
def test_every_signal_is_consistent_with_itself(boards: list[Board]) -> None:
    told = tell(boards, QUICK)

    assert len({signal.id for signal in told.signals}) == len(told.signals)
    for signal in told.signals:
        assert 1 <= signal.strength <= 100
        assert 1.0 <= signal.composite_score <= 100.0
        assert round(10 * signal.composite_score) == sum(round(10 * part.points) for part in signal.components)
        parts = signal.components[0].parts
        assert [part.name for part in parts] == ["magnitude", "speed", "books", "key_mass", "clamp"]
        assert sum(round(10 * part.points) for part in parts) == 10 * signal.strength
        assert signal.from_value is not None
        assert signal.to_value is not None
        assert signal.to_value - signal.from_value == pytest.approx(signal.delta, abs=2e-6)
        assert signal.snapshot_ids == tuple(sorted(set(signal.snapshot_ids)))
        assert len(signal.snapshot_ids) > 0
        if signal.elapsed_seconds is not None and signal.window_seconds is not None:
            assert signal.elapsed_seconds <= 1.1 * signal.window_seconds
            sign = 1 if signal.delta > 0 else -1
            assert all((book.to_value - book.from_value) * sign > 0 for book in signal.books_moved)
            assert not {book.book for book in signal.books_moved} & {one.book for one in signal.books_holding}
            assert signal.clusters_moved <= signal.clusters_in_panel


@given(series())
@settings(max_examples=6, deadline=None)
def test_a_steady_market_ends_up_silent(boards: list[Board]) -> None:
    """Whatever happened before: an hour and a half of silence later nothing moves, and nothing is left in windows."""
    calm = steady(boards[-1].later(minutes(1)), 90)
    before = len(said(boards))
    told = tell([*boards, *calm], QUICK)

    late = [signal for signal in told.signals[before:] if signal.observed_at > calm[6].observed_at]
    assert {signal.signal_type for signal in late} <= {"DISLOCATION"}
    assert all(len(book.stands) <= 40 for market in told.state.markets for book in market.books)


def test_the_state_of_an_event_does_not_grow_with_its_length() -> None:
    rng = random.Random(7)
    boards = [a_board(starts_in=timedelta(days=9), **dict.fromkeys(BOOKS, -5.5))]
    sizes = []
    state: EventState | None = observe(None, boards[0].observation, RuleSettings())[0]
    for poll in range(300):
        changes = {book: -5.5 + rng.choice((-0.5, 0.0, 0.5)) for book in rng.sample(BOOKS, 2)}
        boards = [boards[-1].later(minutes(1), **changes)]
        state, _, _ = observe(state, boards[-1].observation, RuleSettings())
        if poll > 60:
            sizes.append(len(wire.dump_state(state)))

    assert max(sizes[-100:]) < 1.3 * max(sizes[:100])
    assert state is not None
    assert len(state.sights) <= 17


def test_an_unchanged_observation_costs_a_small_part_of_a_changed_one() -> None:
    """Three markets of ten books: most polls change nothing, and must not rescan everything."""
    names = [f"book{number}" for number in range(10)]
    board = a_board(starts_in=timedelta(days=1), **dict.fromkeys(names, -5.5))
    board = board.with_market(TOTALS, **dict.fromkeys(names, 220.0)).with_market(H2H, **dict.fromkeys(names, 0.5))
    boards = steady(board, 20)
    state = tell(boards).state
    calm = boards[-1].later(minutes(1)).observation
    busy = (
        boards[-1]
        .later_in(minutes(1), {SPREADS: {names[0]: -6.0}, TOTALS: {names[1]: 221.0}, H2H: {names[2]: 0.51}})
        .observation
    )
    configuration = RuleSettings()

    calm_seconds = min(timeit.repeat(lambda: observe(state, calm, configuration), number=50, repeat=5))
    busy_seconds = min(timeit.repeat(lambda: observe(state, busy, configuration), number=50, repeat=5))

    assert calm_seconds < 0.25 * busy_seconds


def test_a_market_that_is_gone_is_forgotten_when_nothing_can_ask_for_it_any_more() -> None:
    boards = steady(a_board(**dict.fromkeys(BOOKS, -5.5)).with_market(TOTALS, **dict.fromkeys(BOOKS, 220.0)), 16)
    gone = boards[-1].later(minutes(1), **dict.fromkeys(BOOKS, None))
    soon = tell([*boards, gone])
    later = tell([*boards, gone, *steady(gone.later(minutes(1)), 20)])

    assert [market.key for market in soon.state.markets] == [SPREADS, TOTALS]
    assert [market.key for market in later.state.markets] == [TOTALS]

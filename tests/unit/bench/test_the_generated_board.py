"""The benchmarks' board: what it says can be read whole, and exactly what it promises changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from services.ingest.changes import Coverage, Poll, observe_poll
from services.ingest.normalize import Memory, Seen, normalize
from tests.bench.board import BOOKS, MARKETS, SPORT, Board, Response, Uniform
from tests.bench.recorded import LikeRecorded

START = datetime(2026, 1, 10, 12, tzinfo=UTC)
CADENCE = timedelta(seconds=60)


def read(response: Response) -> Seen:
    return normalize(msgspec.json.decode(response.plain()), SPORT)


def test_every_quote_of_the_board_can_be_read():
    seen = read(Board(4).response(START, 0))
    assert not seen.rejected
    assert [len(event.quotes) for event in seen.events] == [len(MARKETS) * len(BOOKS)] * 4


def test_the_same_seed_gives_the_same_bytes():
    first, second = ([*Board(3, seed=7).cycles(START, CADENCE, 3)] for _ in range(2))
    assert [response.plain() for response in first] == [response.plain() for response in second]


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_ingest_finds_exactly_the_share_of_changes_that_was_asked_for(share):
    board = Board(20, pattern=Uniform(share))
    states, memory = {}, Memory()
    found = []
    for response in [board.response(START, board.quotes), *board.cycles(START + CADENCE, CADENCE, 3)]:
        seen = normalize(msgspec.json.decode(response.plain()), SPORT, memory)
        steps = list(observe_poll(states, Poll(SPORT, response.at, 60.0, Coverage(MARKETS), seen)))
        states |= {step.state.event_id: step.state for step in steps}
        found.append((sum(step.changed for step in steps), response.changes))
    assert found == [(board.quotes, board.quotes), *[(round(share * board.quotes),) * 2] * 3]


def test_the_opening_shows_each_event_once_and_calls_none_gone():
    board = Board(25)
    states = {}
    keyframes = []
    for response in board.opening(START, CADENCE, waves=10):
        steps = list(observe_poll(states, Poll(SPORT, response.at, 60.0, Coverage(MARKETS), read(response))))
        states |= {step.state.event_id: step.state for step in steps}
        assert not any(step.state.gone for step in steps)
        assert response.changes == sum(step.changed for step in steps)
        keyframes.append(sum(step.observation.keyframe for step in steps))
    assert keyframes == [3] * 5 + [2] * 5


def test_books_that_move_together_stand_at_the_new_line():
    board = Board(1)
    before, _ = read(board.response(START, 0)), board.move(0, "spreads", 1.0, range(5))
    after = read(board.response(START, 5))
    moved = {
        new.book: new.line - old.line
        for old, new in zip(before.events[0].quotes, after.events[0].quotes, strict=True)
        if new.market == "spreads" and new.line != old.line
    }
    assert moved == dict.fromkeys(BOOKS[:5], 1.0)


def test_changes_like_recorded_come_in_the_recorded_clumps_and_to_the_share_asked_for():
    # In half of the recorded moments nothing changed, in the other half a tenth of one market's books.
    pattern = LikeRecorded(moments=((0.0, 0.0, 0.0), (0.0, 0.1, 0.0)), share=0.01)
    board = Board(3000, pattern=pattern)
    changed = board.change() / board.quotes
    assert changed == pytest.approx(0.01, rel=0.1)
    assert {market for _, market, _ in pattern.places(board, board._chance)} == {1}

"""The rules on recorded real prices: what holds for every signal that comes out."""

from __future__ import annotations

import csv
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from services.shared.odds import MarketKind, decimal_from_american, market_kind
from services.shared.testing import recorded_data
from services.signals.model import MarketKey, Observation, SignalType
from services.signals.rules import RuleSettings
from services.signals.testing import Board, Offer, a_board, tell

#: Responses of the slice: enough for several evenings, little enough for a unit test.
RESPONSES = 160


@pytest.fixture(name="events", scope="module")
def _events() -> dict[str, list[Board]]:
    """Boards by event, from the first days of the 15-minute series; what cannot be read is passed over."""
    boards: dict[str, list[Board]] = {}
    for observed_at, body in responses(recorded_data("wnba_15m")):
        for event in body:
            offers = offers_of(event)
            start = datetime.fromisoformat(event["commence_time"])
            known = boards.setdefault(event["id"], [])
            if known:
                board = known[-1].next(observed_at, offers).starting(start)
            else:
                # The NBA's scale: what is tested are the rules, and a sport without a scale would show fewer of them.
                empty = a_board(at=observed_at, every=timedelta(minutes=15), sport_key="basketball_nba")
                board = empty.next(observed_at, offers).starting(start)
            known.append(board)
    return boards


def responses(folder: Path) -> Iterator[tuple[datetime, list[dict[str, Any]]]]:
    with (folder / "INDEX.tsv").open() as lines:
        index = list(csv.DictReader(lines, delimiter="\t"))[:RESPONSES]
    for archive, members in groupby(index, key=lambda row: row["archive"]):
        with tarfile.open(folder / archive) as tar:
            for row in members:
                member = tar.extractfile(row["member"])
                assert member is not None
                yield datetime.fromisoformat(row["utc"]), json.load(member)


def offers_of(event: dict[str, Any]) -> dict[tuple[MarketKey, str], Offer]:
    offers = {}
    for book in event["bookmakers"]:
        for market in book["markets"]:
            kind = market_kind(market["key"])
            home = {"Over", event["home_team"]}
            outcomes = sorted(market["outcomes"], key=lambda outcome: outcome["name"] not in home)
            if kind is None or len(outcomes) != 2:
                continue
            line = None if kind is MarketKind.H2H else outcomes[0]["point"]
            prices = [decimal_from_american(outcome["price"]) for outcome in outcomes]
            offers[MarketKey(market["key"]), book["key"]] = Offer(line, prices[0], prices[1])
    return offers


def test_real_prices_give_signals_of_the_types_that_a_quarter_of_an_hour_can_show(
    events: dict[str, list[Board]],
) -> None:
    counted: Counter[SignalType] = Counter()
    for boards in events.values():
        counted.update(signal.signal_type for signal in tell(boards, RuleSettings(profile="sampled-15m")).signals)

    assert counted[SignalType.MOVE] > 0
    assert counted[SignalType.MULTIBOOK_SYNC] > 0
    assert counted[SignalType.DISLOCATION] > 0


def test_every_signal_on_real_prices_can_be_checked_against_the_boards(events: dict[str, list[Board]]) -> None:
    for boards in events.values():
        at = {board.observed_at: board for board in boards}
        for signal in tell(boards, RuleSettings(profile="sampled-15m")).signals:
            board = at[signal.observed_at]
            assert board.commence_time is not None
            assert signal.observed_at < board.commence_time
            assert 1 <= signal.strength <= 100
            assert round(10 * signal.composite_score) == sum(round(10 * part.points) for part in signal.components)
            key = MarketKey(signal.market)
            for move in signal.books_moved:
                quoted = board.offers[key, move.book]
                assert signal.market == "h2h" or move.to_value == quoted.line
            for holding in signal.books_holding:
                quoted = board.offers[key, holding.book]
                assert {holding.price, holding.price_other} == {quoted.price, quoted.price_other}


def test_real_events_survive_being_written_down_and_told_by_keyframes(events: dict[str, list[Board]]) -> None:
    settings = RuleSettings(profile="sampled-15m")
    for boards in list(events.values())[:4]:
        told = tell(boards, settings)
        framed: list[Board | Observation] = [
            board.as_keyframe() if number % 3 == 0 else board for number, board in enumerate(boards)
        ]
        assert tell(framed, settings, reloading=True).signals == told.signals


def test_a_quarter_of_an_hour_is_too_sparse_for_the_live_profile(events: dict[str, list[Board]]) -> None:
    steam = [signal for boards in events.values() for signal in tell(boards).of(SignalType.STEAM)]

    assert steam == []

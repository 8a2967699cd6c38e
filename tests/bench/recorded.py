"""How changes are spread in a recorded series, and a board that changes in the same clumps.

In a real market a price does not change alone: most events rest, and where one moves, several of its markets and books
do. What is kept of each event between two recorded responses is the share of its books that changed in each market. A
board then takes such shares from real moments, thinned out or repeated to the share of all quotes that is asked for. In
which direction the books moved is not kept.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

import msgspec

from deploy.recording import open_recording
from services.ingest.normalize import Quote, SeenEvent, normalize
from tests.bench.board import MARKETS, Board, Place

#: Two days at a cadence of 15 minutes.
RESPONSES = 192
#: Two responses further apart than this say nothing of a cadence.
LONGEST_GAP = timedelta(minutes=20)

#: Of one event: in each market, the share of its books that changed.
Shares = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LikeRecorded:
    """Quotes change together as they did in a recording."""

    moments: tuple[Shares, ...]
    share: float = 0.05

    def places(self, board: Board, chance: random.Random) -> Iterator[Place]:
        """For each event a moment of the recording, or rest: `share` of all quotes on average."""
        mean = sum(map(sum, self.moments)) / len(self.moments) / len(MARKETS)
        for event in range(board.events):
            shares = self._moment(chance, self.share / mean)
            for market, share in enumerate(shares):
                # Rounded up as often as it takes for the mean to hold.
                for book in chance.sample(range(board.books), int(share * board.books + chance.random())):
                    yield event, market, book

    def _moment(self, chance: random.Random, times: float) -> Shares:
        """One moment with this probability, else rest; above 1, the busiest of several."""
        draws = int(times + chance.random())
        return max((chance.choice(self.moments) for _ in range(draws)), key=sum, default=())

    def __str__(self) -> str:
        changed = [shares for shares in self.moments if any(shares)]
        markets = [share for shares in changed for share in shares if share]
        return (
            f"{self.share:.0%} of the quotes, as in the recording (where {len(changed) / len(self.moments):.0%} of the "
            f"events changed at all; of these {len(markets) / len(changed) / len(MARKETS):.0%} of the markets, and of "
            f"these {sum(markets) / len(markets):.0%} of the books)"
        )


def like_recorded(folder: Path, share: float = 0.05) -> LikeRecorded:
    """The pattern of a recording's first two days."""
    moments: list[Shares] = []
    before: tuple[datetime, dict[str, SeenEvent]] | None = None
    with open_recording(folder) as recording:
        for at, body in islice(recording.bodies(), RESPONSES):
            events = {event.event_id: event for event in normalize(msgspec.json.decode(body)).events}
            if before is not None and at - before[0] <= LONGEST_GAP:
                for event_id in sorted(events.keys() & before[1].keys()):
                    start = events[event_id].commence_time
                    if start is not None and at < start:
                        moments.append(_shares(before[1][event_id], events[event_id]))
            before = at, events
    return LikeRecorded(tuple(moments), share)


def _shares(before: SeenEvent, after: SeenEvent) -> Shares:
    shares = []
    for market in MARKETS:
        old = {quote.book: _value(quote) for quote in before.quotes if quote.market == market}
        new = {quote.book: _value(quote) for quote in after.quotes if quote.market == market}
        both = old.keys() & new.keys()
        shares.append(sum(old[book] != new[book] for book in both) / len(both) if both else 0.0)
    return tuple(shares)


def _value(quote: Quote) -> tuple[float | None, tuple[float, ...]]:
    return quote.line, tuple(outcome.price for outcome in quote.outcomes)

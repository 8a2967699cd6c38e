"""How near the simulated market comes to recorded ones: one way to measure both, and what the recordings gave.

Everything is measured on pre-game quotes within `HORIZON` of their start, of consecutive answers that lie no more than
1.5 median gaps apart, so that an outage of the recorder is not taken for a quiet market. A sampled series hides what
changes twice between two samples; therefore the simulated market is sampled at the recording's own gap before the two
are compared.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from deploy.recording import Recording, read_moment
from deploy.simulator.market import MARKETS, Market
from deploy.simulator.server import Asked, odds_shown
from services.shared.odds import decimal_from_american

HORIZON = timedelta(hours=9)
CHANGES = "changes a minute, of 100 quotes"
BOOKS = "books an event"
OVERROUND = "overround,"
LINES = "changes that move the line"
#: When a simulated market opens that is only looked at.
OPENED_AT = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)

Body = list[dict[str, Any]]
Series = Iterable[tuple[datetime, Body]]


@dataclass(frozen=True, slots=True)
class Figures:
    """What a series looks like."""

    gap_seconds: float
    #: Changed quotes (price or line) a minute, of a hundred quotes.
    changes_a_minute: float
    books_an_event: float
    #: Sum of the implied probabilities minus 1, median by market.
    overround: Mapping[str, float]
    #: Share of the changes on spreads and totals that moved the line.
    line_share: float
    #: Of a thousand quotes, how many were gone in the next answer while their game still waited.
    vanished: float
    #: Median seconds from the provider's reading to the answer.
    age_seconds: float

    def named(self) -> dict[str, float]:
        """What is compared, by the names that a reader is shown."""
        return {
            CHANGES: self.changes_a_minute,
            BOOKS: self.books_an_event,
            **{f"{OVERROUND} {market}": value for market, value in self.overround.items()},
            LINES: self.line_share,
        }


#: What `recorded` gives for the recorded series of these names; a test measures them again where the recordings are.
RECORDED: Mapping[str, Figures] = {
    "wnba_15m": Figures(
        gap_seconds=900.0,
        changes_a_minute=1.128,
        books_an_event=10.92,
        overround={"h2h": 0.0445, "spreads": 0.0476, "totals": 0.0476},
        line_share=0.599,
        vanished=1.41,
        age_seconds=36.0,
    ),
    "nba_2h": Figures(
        gap_seconds=6957.5,
        changes_a_minute=0.508,
        books_an_event=8.95,
        overround={"h2h": 0.0422, "spreads": 0.0471},
        line_share=0.585,
        vanished=2.73,
        age_seconds=31.0,
    ),
}
#: Hours of the simulated market that are looked at beside each recording: enough to settle, quick enough to wait for.
HOURS = {"wnba_15m": 12.0, "nba_2h": 24.0}


@dataclass(frozen=True, slots=True)
class _Seen:
    value: tuple[tuple[str, float, float | None], ...]
    starts_at: datetime
    event_id: str
    market: str
    overround: float
    age: float

    def waits(self, moment: datetime) -> bool:
        return timedelta(0) < self.starts_at - moment <= HORIZON


def measure(series: Series, gap_seconds: float) -> Figures:
    """The figures of a series whose median gap is given."""
    overrounds: dict[str, list[float]] = defaultdict(list)
    ages: list[float] = []
    books: list[int] = []
    counted: Counter[str] = Counter()
    minutes = 0.0
    before: dict[tuple[str, str, str], _Seen] = {}
    at_before: datetime | None = None
    for at, body in series:
        now = {key: seen for key, seen in _quotes(at, body) if seen.waits(at)}
        books += Counter(event_id for event_id, _ in {key[:2] for key in now}).values()
        for key, seen in now.items():
            overrounds[key[2]].append(seen.overround)
            ages.append(seen.age)
        gap = (at - at_before).total_seconds() if at_before else math.inf
        if gap <= 1.5 * gap_seconds:
            for key in now.keys() & before.keys():
                minutes += gap / 60.0
                counted.update(_changed(before[key], now[key]))
            waiting = [key for key, seen in before.items() if seen.waits(at)]
            counted["waiting"] += len(waiting)
            counted["vanished"] += sum(key not in now for key in waiting)
        before, at_before = now, at
    return Figures(
        gap_seconds=gap_seconds,
        changes_a_minute=round(100.0 * counted["changed"] / minutes, 3),
        books_an_event=round(statistics.mean(books), 2),
        overround={market: round(statistics.median(values), 4) for market, values in sorted(overrounds.items())},
        line_share=round(counted["line"] / max(1, counted["points"]), 3),
        vanished=round(1000.0 * counted["vanished"] / max(1, counted["waiting"]), 2),
        age_seconds=round(statistics.median(ages), 1),
    )


def _changed(before: _Seen, now: _Seen) -> list[str]:
    if before.value == now.value:
        return []
    if now.market == "h2h":
        return ["changed"]
    lines_moved = [point for _, _, point in before.value] != [point for _, _, point in now.value]
    return ["changed", "points", "line"] if lines_moved else ["changed", "points"]


def _quotes(at: datetime, body: Body) -> Iterator[tuple[tuple[str, str, str], _Seen]]:
    for event in body:
        starts_at = read_moment(event["commence_time"])
        for book in event["bookmakers"]:
            for market in book["markets"]:
                if market["key"] not in MARKETS or len(market["outcomes"]) != 2:
                    continue
                value = tuple(
                    sorted((outcome["name"], outcome["price"], outcome.get("point")) for outcome in market["outcomes"])
                )
                read = read_moment(market.get("last_update") or book["last_update"])
                overround = math.fsum(1.0 / _decimal(price) for _, price, _ in value) - 1.0
                age = (at - read).total_seconds()
                yield (
                    (event["id"], book["key"], market["key"]),
                    _Seen(value, starts_at, event["id"], market["key"], overround, age),
                )


def _decimal(price: float) -> float:
    return price if abs(price) < 100 else decimal_from_american(price)


def recorded(recording: Recording) -> Figures:
    """The figures of a recording."""
    series = ((at, json.loads(body)) for at, body in recording.bodies())
    return measure(series, recording.median_gap_seconds)


def simulated(market: Market, gap_seconds: float, hours: float) -> Figures:
    """The figures of a simulated market that is asked every `gap_seconds` for so many of its first hours."""
    everything = Asked(
        markets=MARKETS, books=None, region_equivalents=1, american=False, unix=False, extras=frozenset(),
        event_ids=frozenset(), starts_from=None, starts_to=None,
    )  # fmt: skip
    count = math.ceil(hours * 3600 / gap_seconds)
    moments = [market.opened_at + timedelta(seconds=gap_seconds) * n for n in range(count)]
    series = ((at, [odds_shown(game, everything) for game in market.board(at)]) for at in moments)
    return measure(series, gap_seconds)

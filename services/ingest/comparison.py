"""How the prices of a quarantined book compare with those that count: what to know before admitting it. Pure.

A book a few tenths of a point from the others is a market of its own; one that says the same as another one in nearly
every quote has that one's feed, and is better admitted as its other name, or not at all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from services.ingest.normalize import Quote, Seen
from services.shared.odds import MarketKind, canonical, fair_probabilities, market_kind, median

#: With fewer books that count there is no middle to compare with.
FEWEST_BOOKS = 3


@dataclass(frozen=True, slots=True)
class Comparison:
    """One quarantined book against those that count, in one answer, over games that are still to come."""

    book: str
    compared_at: datetime
    #: Quotes that at least `FEWEST_BOOKS` books that count quote too.
    compared_quotes: int
    #: Median distance from the others' median: of lines in points, in h2h of fair probabilities; None without any.
    spread_points: float | None
    total_points: float | None
    h2h_probability: float | None
    #: The book that quotes the same line at the same prices most often, and in what share of them; empty for none.
    closest_book: str
    closest_share: float | None


def compare(seen: Seen, strangers: frozenset[str], observed_at: datetime) -> list[Comparison]:
    """A comparison for each of the strangers, by key. `seen` was read as if they counted."""
    distances: defaultdict[tuple[str, MarketKind], list[float]] = defaultdict(list)
    compared: Counter[str] = Counter()
    same: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for event in seen.events:
        if event.commence_time is None or event.commence_time <= observed_at:
            continue
        by_market: defaultdict[tuple[str, str], list[Quote]] = defaultdict(list)
        for quote in event.quotes:
            by_market[quote.market, quote.player].append(quote)
        for (market, _), quotes in by_market.items():
            kind = market_kind(market)
            counting = [quote for quote in quotes if quote.book not in strangers]
            if kind is None or len(counting) < FEWEST_BOOKS:
                continue
            middle = median([_value(quote) for quote in counting])
            for quote in quotes:
                if quote.book in strangers:
                    compared[quote.book] += 1
                    distances[quote.book, kind].append(abs(_value(quote) - middle))
                    same[quote.book].update(other.book for other in counting if _says_the_same(quote, other))
    return [_comparison(book, observed_at, compared[book], distances, same[book]) for book in sorted(strangers)]


def _comparison(
    book: str,
    observed_at: datetime,
    compared: int,
    distances: Mapping[tuple[str, MarketKind], list[float]],
    same: Counter[str],
) -> Comparison:
    closest = min(same, key=lambda other: (-same[other], other), default="")
    return Comparison(
        book=book,
        compared_at=observed_at,
        compared_quotes=compared,
        spread_points=_middle(distances.get((book, MarketKind.SPREAD), ())),
        total_points=_middle(distances.get((book, MarketKind.TOTAL), ())),
        h2h_probability=_middle(distances.get((book, MarketKind.H2H), ())),
        closest_book=closest,
        closest_share=canonical(same[closest] / compared) if closest else None,
    )


def _value(quote: Quote) -> float:
    """What a quote is compared by: its line, in h2h the fair probability of the home team."""
    return quote.line if quote.line is not None else fair_probabilities([one.price for one in quote.outcomes])[0]


def _says_the_same(quote: Quote, other: Quote) -> bool:
    return quote.line == other.line and _prices(quote) == _prices(other)


def _prices(quote: Quote) -> list[float]:
    return [outcome.price for outcome in quote.outcomes]


def _middle(values: Sequence[float]) -> float | None:
    return canonical(median(values)) if values else None

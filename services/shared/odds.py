"""The arithmetic of prices: renderings, vig removal, the common scale, and the tables that belong to it. Pure.

Methods and measurements: docs/decisions/0002-the-common-scale.md. Everything is computed with the standard library and
rounded by `canonical` before it is compared, stored or sent, so that equal inputs give equal bytes everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from statistics import NormalDist

STANDARD_NORMAL = NormalDist()
DEVIG_METHOD = "multiplicative"
PROBABILITY_EPSILON = 1e-9


class MarketKind(StrEnum):
    """How a market's numbers are to be read."""

    H2H = "h2h"
    SPREAD = "spread"
    TOTAL = "total"


def market_kind(market: str) -> MarketKind | None:
    """The kind of a market key; None for one that Stratum does not read: outrights, lay, alternates."""
    if market.endswith("_lay") or market.startswith("outrights") or "alternate" in market:
        return None
    if market == "h2h" or market.startswith("h2h_"):
        return MarketKind.H2H
    if market == "spreads" or market.startswith("spreads_"):
        return MarketKind.SPREAD
    if market == "totals" or market.startswith(("totals_", "player_")):
        return MarketKind.TOTAL
    return None


@dataclass(frozen=True)  # without slots: the table of clusters is turned around once, and kept
class MarketModel:
    """The tables that turn many books into one market. Part of every configuration hash."""

    version: str = "2026-11"
    #: Standard deviation of (result − line) in points, by sport and kind. Measured; an absent sport has no scale.
    sigma: Mapping[str, Mapping[str, float]] = field(
        default_factory=lambda: {"basketball_nba": {"spread": 12.3, "total": 18.0}}
    )
    #: Books that share one feed vote once: cluster name to members. Every other book is its own cluster.
    clusters: Mapping[str, Sequence[str]] = field(
        default_factory=lambda: {"betonlineag": ("betonlineag", "lowvig", "betus")}
    )
    #: Weight by book; 1.0 for all until measured.
    sharpness: Mapping[str, float] = field(default_factory=dict)
    devig_method: str = DEVIG_METHOD
    consensus_min_books: int = 4

    def sigma_of(self, sport_key: str, market: str) -> float | None:
        """σ of a full-game market in points, or None where none was measured."""
        if market not in ("spreads", "totals"):
            return None  # a quarter or a player scatters differently, and nobody has measured how
        kind = market_kind(market)
        return None if kind is None else self.sigma.get(sport_key, {}).get(kind.value)

    def cluster_of(self, book: str) -> str:
        """The cluster a book votes in: its feed's, or its own."""
        return self.cluster_by_book.get(book, book)

    @cached_property
    def cluster_by_book(self) -> Mapping[str, str]:
        """The cluster of every book that shares one with others."""
        # Backwards, so that of two clusters that name a book the first has it.
        return {book: name for name, members in reversed(list(self.clusters.items())) for book in members}


def canonical(value: float) -> float:
    """Six decimals, and never a negative zero: the form in which a computed number is compared, stored and sent."""
    return round(value, 6) + 0.0


def decimal_from_american(american: float) -> float:
    """Decimal odds of an American price. Raises ValueError between −100 and 100, where there is none."""
    if american >= 100:
        return 1.0 + american / 100.0
    if american <= -100:
        return 1.0 + 100.0 / -american
    raise ValueError(f"no American price lies between -100 and 100: {american}")


def american_from_decimal(price: float) -> int:
    """American odds of a decimal price above 1, rounded; a rendering, never a stored truth."""
    return round((price - 1.0) * 100.0) if price >= 2.0 else -round(100.0 / (price - 1.0))


def fair_probabilities(prices: Sequence[float]) -> tuple[float, ...]:
    """Probabilities with the vig removed multiplicatively: 1/price over the booksum. Prices are decimal, above 1."""
    implied = [1.0 / price for price in prices]
    booksum = math.fsum(implied)
    return tuple([canonical(share / booksum) for share in implied])


def logit(probability: float) -> float:
    """Log odds; the ends are held a billionth off 0 and 1."""
    held = min(1.0 - PROBABILITY_EPSILON, max(PROBABILITY_EPSILON, probability))
    return math.log(held / (1.0 - held))


def implied_mean(kind: MarketKind, line: float | None, probability: float, sigma: float | None) -> float | None:
    """Where a book puts the mean of the result: −line + σ·Φ⁻¹(p) for spreads (home margin), line + σ·Φ⁻¹(p) for totals,
    logit p for h2h. None without a scale."""
    if kind is MarketKind.H2H:
        return canonical(logit(probability))
    if line is None or sigma is None:
        return None
    held = min(1.0 - PROBABILITY_EPSILON, max(PROBABILITY_EPSILON, probability))
    shift = sigma * STANDARD_NORMAL.inv_cdf(held)
    return canonical((-line if kind is MarketKind.SPREAD else line) + shift)


def fair_line(kind: MarketKind, mean: float) -> float | None:
    """The line at which both sides are worth the same, from an implied mean. None for h2h."""
    if kind is MarketKind.H2H:
        return None
    return canonical(-mean if kind is MarketKind.SPREAD else mean)


def probability_at(kind: MarketKind, mean: float, line: float | None, sigma: float | None) -> float | None:
    """The canonical side's probability at a line, given the implied mean: the inverse of `implied_mean`."""
    if kind is MarketKind.H2H:
        return canonical(1.0 / (1.0 + math.exp(-mean)))
    if line is None or sigma is None:
        return None
    distance = mean + line if kind is MarketKind.SPREAD else mean - line
    return canonical(STANDARD_NORMAL.cdf(distance / sigma))


def median(values: Sequence[float]) -> float:
    """The middle value; for an even number the mean of the middle two. Raises ValueError when empty."""
    if not values:
        raise ValueError("the median of nothing")
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2.0


def weighted_median(weighted: Sequence[tuple[float, float]]) -> float:
    """The smallest value whose cumulative weight passes half; the mean with the next at exactly half.

    `weighted` holds (value, weight > 0). Raises ValueError when empty.
    """
    if not weighted:
        raise ValueError("the median of nothing")
    ordered = sorted(weighted)
    half = math.fsum([weight for _, weight in ordered]) / 2.0
    cumulative = 0.0
    for index, (value, weight) in enumerate(ordered):
        cumulative += weight
        # Weights such as 1/3 do not sum exactly; a billionth apart is the same.
        if math.isclose(cumulative, half, rel_tol=1e-9, abs_tol=1e-12) and index + 1 < len(ordered):
            return (value + ordered[index + 1][0]) / 2.0
        if cumulative > half:
            return value
    return ordered[-1][0]

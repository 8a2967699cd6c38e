"""Many books, one market: consensus, fair price, dispersion, and each book against the rest. Pure.

What counts and how often:

- Books that share one feed vote once. Wherever lines or probabilities are counted (consensus line, dispersion, how
  many stand apart) the vote is the cluster's, the median of its members; in the weighted median of implied means every
  book weighs sharpness / members of its cluster, so that the cluster as a whole weighs as one book.
- Freshness is 1 for a quote that is alive; a dead one (`stale`, `pre_tip_quote`) comes in with its reason and counts
  for nothing.
- A quote is implausible when it stands at least `implausible_multiple` dislocation thresholds away from at least
  `implausible_clusters` other clusters, and from more clusters than it stands near to, its own included. Distances are
  taken on the common scale (h2h: in probability; without a scale: between raw lines). The second condition is what
  keeps a few palpable errors, each somewhere else, from condemning the sound books between them; all quotes are judged
  at once, so no order of judging matters.
- Without a scale (no σ for the sport or market) lines still have a median and a dispersion, but prices are compared
  only on one and the same line: the fair probability comes from the books that stand on the consensus line, if those
  alone are enough clusters; the rest are listed as `other_line`.

Every book is compared with all clusters but its own, which taken literally prices a market as often as it has clusters.
Most of these comparisons are the same one: without a cluster on the line −5.5 the lines' median and scatter are those
without any other on −5.5, and the weighted median asks only on which side of the middle the missing one stood. So each
part is worked out once for what it depends on (`_Everybody`), from numbers that are sorted once.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from types import MappingProxyType

from services.consensus.model import (
    IMPLAUSIBLE,
    NO_SIGMA,
    OTHER_LINE,
    TOO_FEW_BOOKS,
    Consensus,
    Others,
    PricedMarket,
    Quote,
    ReducedQuote,
    Standing,
    Value,
    Vote,
)
from services.shared import odds
from services.shared.odds import MarketKind, MarketModel, canonical


@dataclass(frozen=True, slots=True)
class PricingRules:
    """The tables and thresholds behind every number here; all of them are part of the configuration hash."""

    market_model: MarketModel = field(default_factory=MarketModel)
    #: How far a book must stand from the others to be called dislocated: points, points, probability.
    dislocation_threshold: Mapping[MarketKind, float] = field(
        default_factory=lambda: {MarketKind.SPREAD: 1.0, MarketKind.TOTAL: 2.0, MarketKind.H2H: 0.03}
    )
    implausible_multiple: float = 4.0
    implausible_clusters: int = 3


class _Scale(Value, frozen=True):
    """How the numbers of one market are compared."""

    kind: MarketKind
    sigma: float | None

    @property
    def is_common(self) -> bool:
        return self.kind is MarketKind.H2H or self.sigma is not None


def price_market(
    market: str,
    sport_key: str,
    quotes: Mapping[str, Quote],
    dead: Mapping[str, str],
    in_play: bool,
    rules: PricingRules,
    reduced: Mapping[str, Vote] = MappingProxyType({}),
) -> PricedMarket:
    """The consensus of one market and each book's standing, from the quotes by book.

    `dead` names the quotes that no longer count, with the reason. `market` is a key that Stratum reads. `reduced` may
    hold what these very quotes were reduced to by the same rules before; it changes no result.
    """
    kind = _kind(market)
    assert kind is not None, f"the edge lets no {market} through"
    model = rules.market_model
    scale = _Scale(kind, model.sigma_of(sport_key, market))
    clusters = model.cluster_by_book
    alone = {
        name: reduced.get(name) or _reduced(quotes[name], clusters.get(name, name), scale, rules)
        for name in sorted(quotes)
    }
    books = [vote.members[0] for vote in alone.values()]
    implausible = _implausible([book for book in books if book.name not in dead], kind, rules)
    reasons = {**dead, **dict.fromkeys(implausible, IMPLAUSIBLE)}
    votes = _votes([vote for name, vote in alone.items() if name not in reasons], kind, rules)
    everybody = _Everybody(votes, scale, rules)
    others = everybody.without_each({book.cluster for book in books})
    standings = {
        book.name: Standing(book.cluster, book.probability, book.mean, reasons.get(book.name, ""), others[book.cluster])
        for book in books
    }
    return PricedMarket(_consensus(votes, everybody, scale, reasons, in_play, rules), standings, alone)


def nobody_quotes(in_play: bool, rules: PricingRules) -> PricedMarket:
    """A market that every book has left."""
    consensus = Consensus(0, 0, in_play, rules.market_model.devig_method, TOO_FEW_BOOKS)
    return PricedMarket(consensus, {}, {})


_kind = lru_cache(maxsize=1024)(odds.market_kind)


def _reduced(quote: Quote, cluster: str, scale: _Scale, rules: PricingRules) -> Vote:
    """The quote as it is compared, as a voice by itself."""
    probability = odds.fair_probabilities(quote.prices)[0]
    mean = odds.implied_mean(scale.kind, quote.line, probability, scale.sigma)
    if scale.kind is MarketKind.H2H:
        position = probability
    elif mean is not None:
        position = mean
    else:
        position = _line(quote.line)
    book = ReducedQuote(quote.book, cluster, quote.line, probability, mean, position)
    weight = rules.market_model.sharpness.get(quote.book, 1.0)
    value = probability if scale.kind is MarketKind.H2H else _line(quote.line)
    return Vote(cluster, (book,), value, () if mean is None else ((mean, weight, cluster),), (weight,))


def _line(line: float | None) -> float:
    assert line is not None, "the edge lets no spread or total without a line through"
    return line


def _implausible(books: Sequence[ReducedQuote], kind: MarketKind, rules: PricingRules) -> frozenset[str]:
    limit = rules.implausible_multiple * rules.dislocation_threshold[kind]
    places = [book.position for book in books]
    if not places or max(places) - min(places) < limit:
        return frozenset()  # nobody is that far from anybody: nearly always so
    members: dict[str, list[float]] = {}
    for book in books:
        members.setdefault(book.cluster, []).append(book.position)
    positions = {cluster: odds.median(held) for cluster, held in members.items()}

    def stands_apart(book: ReducedQuote) -> bool:
        far = sum(
            canonical(abs(book.position - position)) >= limit
            for cluster, position in positions.items()
            if cluster != book.cluster
        )
        return far >= rules.implausible_clusters and far > len(positions) - far

    return frozenset(book.name for book in books if stands_apart(book))


def _votes(alone: Sequence[Vote], kind: MarketKind, rules: PricingRules) -> list[Vote]:
    """The clusters' voices by name, from those of their members."""
    members: dict[str, list[Vote]] = {}
    for vote in alone:
        members.setdefault(vote.cluster, []).append(vote)
    return [
        held[0] if len(held) == 1 else _together([vote.members[0] for vote in held], kind, rules)
        for _, held in sorted(members.items())
    ]


def _together(members: Sequence[ReducedQuote], kind: MarketKind, rules: PricingRules) -> Vote:
    """The voice of a cluster: the median of its members, who share its weight."""
    cluster = members[0].cluster
    weights = tuple([rules.market_model.sharpness.get(book.name, 1.0) / len(members) for book in members])
    return Vote(
        cluster=cluster,
        members=tuple(members),
        value=odds.median([book.probability if kind is MarketKind.H2H else _line(book.line) for book in members]),
        means=tuple(
            [
                (book.mean, weight, cluster)
                for book, weight in zip(members, weights, strict=True)
                if book.mean is not None
            ]
        ),
        weights=weights,
    )


def _on_line(vote: Vote, line: float | None, kind: MarketKind, rules: PricingRules) -> Vote | None:
    """The cluster's voice if only its members on this line speak; None when there are none."""
    members = [book for book in vote.members if book.line == line]
    if len(members) == len(vote.members):
        return vote
    return _together(members, kind, rules) if members else None


class _Values(Value, frozen=True):
    """What the lines of some clusters (h2h: their probabilities) say together."""

    #: Their median; None for h2h, which has no line.
    line: float | None
    #: Their population standard deviation.
    dispersion: float


def _values(ordered: Sequence[float], kind: MarketKind) -> _Values:
    count = len(ordered)
    middle = math.fsum(ordered) / count
    deviation = math.dist(ordered, [middle] * count) / math.sqrt(count)
    line = None
    if kind is not MarketKind.H2H:
        half = count // 2
        line = canonical(ordered[half] if count % 2 else (ordered[half - 1] + ordered[half]) / 2.0)
    return _Values(line, canonical(deviation))


class _Everybody:
    """The voices of a market, together and without any one cluster."""

    def __init__(self, votes: Sequence[Vote], scale: _Scale, rules: PricingRules) -> None:
        self._votes = votes
        self._scale = scale
        self._rules = rules
        self._value_of = {vote.cluster: vote.value for vote in votes}
        self.ordered = sorted(self._value_of.values())
        self._means = _Means(votes) if scale.is_common and votes else None

    def summary(self) -> tuple[_Values, float | None, float | None, Sequence[Vote]]:
        """Of all voices: their values, the fair line, the probability at the line, and who counts in it."""
        values = _values(self.ordered, self._scale.kind)
        return values, *self._priced(values.line, None)

    def without_each(self, clusters: Iterable[str]) -> dict[str, Others | None]:
        """The comparison for the books of each cluster; None where no other cluster stands in the market."""
        if self._means is None:
            return {cluster: self._on_their_line(cluster) for cluster in clusters}
        kind, sigma = self._scale.kind, self._scale.sigma
        values_of: dict[float | None, _Values] = {}
        means: dict[object, float] = {}
        made: dict[tuple[float | None, object], Others | None] = {}
        found: dict[str, Others | None] = {}
        for cluster, place in self._means.places(clusters).items():
            left_out = self._value_of.get(cluster)
            if (left_out, place) not in made:
                if left_out is not None and len(self.ordered) == 1:
                    made[left_out, place] = None
                    found[cluster] = None
                    continue
                if left_out not in values_of:
                    values_of[left_out] = self._values_without(left_out)
                if place not in means:
                    means[place] = self._means.without(cluster)
                values, mean = values_of[left_out], means[place]
                made[left_out, place] = Others(
                    len(self.ordered) - (left_out is not None),
                    values.line,
                    odds.fair_line(kind, mean),
                    _probability_at(kind, mean, values.line, sigma),
                    values.dispersion,
                )
            found[cluster] = made[left_out, place]
        return found

    def _on_their_line(self, cluster: str) -> Others | None:
        """The comparison without a scale: prices count on one and the same line only."""
        left_out = self._value_of.get(cluster)
        clusters = len(self.ordered) - (left_out is not None)
        if not clusters:
            return None
        values = self._values_without(left_out)
        _, probability, _ = self._priced(values.line, cluster)
        return Others(clusters, values.line, None, probability, values.dispersion)

    def _values_without(self, left_out: float | None) -> _Values:
        if left_out is None:
            return _values(self.ordered, self._scale.kind)
        at = bisect_left(self.ordered, left_out)
        return _values([*self.ordered[:at], *self.ordered[at + 1 :]], self._scale.kind)

    def _priced(self, line: float | None, left_out: str | None) -> tuple[float | None, float | None, Sequence[Vote]]:
        """The fair line, the probability at a line, and the voices that count in it."""
        scale = self._scale
        if self._means is not None:
            mean = self._means.without(left_out)
            probability = _probability_at(scale.kind, mean, line, scale.sigma)
            return odds.fair_line(scale.kind, mean), probability, self._votes
        voices = [vote for vote in self._votes if vote.cluster != left_out]
        counted = [held for vote in voices if (held := _on_line(vote, line, scale.kind, self._rules)) is not None]
        if len(counted) < self._rules.market_model.consensus_min_books:
            return None, None, []
        weighted = [
            (book.probability, weight)
            for vote in counted
            for book, weight in zip(vote.members, vote.weights, strict=True)
        ]
        return None, canonical(odds.weighted_median(weighted)), counted


_probability_at = lru_cache(maxsize=1 << 16)(odds.probability_at)


class _Means:
    """The implied means of a market in order, to take their weighted median with and without a cluster.

    The same number as `odds.weighted_median` of what is left, found in the sums of the whole: leaving out a cluster
    lowers every sum behind each of its members by that member's weight.
    """

    def __init__(self, votes: Sequence[Vote]) -> None:
        held = sorted([mean for vote in votes for mean in vote.means])
        self._means = [mean for mean, _, _ in held]
        self._weights = [weight for _, weight, _ in held]
        self._sums = list(accumulate(self._weights))
        self._places: dict[str, list[int]] = {vote.cluster: [] for vote in votes}
        for place, (_, _, cluster) in enumerate(held):
            self._places[cluster].append(place)

    def places(self, clusters: Iterable[str]) -> dict[str, object]:
        """What the median without each cluster depends on: the same place, the same median.

        Of a book alone it is the weight, and whether it stands before, at, next to or behind the middle.
        """
        found: dict[str, object] = {}
        middles: dict[float, int] = {}
        for cluster in clusters:
            places = self._places.get(cluster)
            if places is None:
                found[cluster] = None
            elif len(places) > 1:
                found[cluster] = cluster
            else:
                (place,) = places
                weight = self._weights[place]
                if weight not in middles:
                    half = (self._sums[-1] - weight) / 2.0
                    middles[weight] = bisect_left(self._sums, half - _slack(half))
                beyond = place - middles[weight]
                found[cluster] = weight, -1 if beyond < 0 else min(beyond, 2)
        return found

    def without(self, cluster: str | None) -> float:
        """The weighted median of all clusters but this one: as `odds.weighted_median`, to the same nine digits."""
        places = [] if cluster is None else self._places.get(cluster, [])
        half = (self._sums[-1] - math.fsum([self._weights[place] for place in places])) / 2.0
        slack = _slack(half)
        at = self._first_to_reach(half - slack, places)
        if self._sums[at] - self._before(at, places) <= half + slack:
            following = at + 1
            while following in places:
                following += 1
            if following < len(self._means):
                return (self._means[at] + self._means[following]) / 2.0
        return self._means[at]

    def _before(self, at: int, places: Sequence[int]) -> float:
        """The weight of the left-out members up to a place."""
        return math.fsum([self._weights[place] for place in places if place <= at])

    def _first_to_reach(self, wanted: float, places: Sequence[int]) -> int:
        """The first place that is not left out whose sum of weights reaches `wanted`."""
        at = bisect_left(self._sums, wanted)
        while at in places or self._sums[at] - self._before(at, places) < wanted:
            at += 1
        return at


def _slack(half: float) -> float:
    # Weights such as 1/3 do not sum exactly; a billionth apart is the same.
    return max(1e-9 * half, 1e-12)


def _consensus(
    votes: Sequence[Vote],
    everybody: _Everybody,
    scale: _Scale,
    reasons: Mapping[str, str],
    in_play: bool,
    rules: PricingRules,
) -> Consensus:
    books = [book for vote in votes for book in vote.members]
    if len(votes) < rules.market_model.consensus_min_books:
        return Consensus(
            books=len(books),
            clusters=len(votes),
            in_play=in_play,
            devig_method=rules.market_model.devig_method,
            note=TOO_FEW_BOOKS,
            excluded=tuple(sorted(reasons.items())),
        )
    values, fair_line, probability, counted = everybody.summary()
    elsewhere = {} if scale.is_common else {book.name: OTHER_LINE for book in books if book.line != values.line}
    center = odds.median(everybody.ordered)
    return Consensus(
        books=len(books),
        clusters=len(votes),
        in_play=in_play,
        devig_method=rules.market_model.devig_method,
        note="" if scale.is_common else NO_SIGMA,
        consensus_line=values.line,
        fair_line=fair_line,
        fair_probability=probability,
        consensus_price=canonical(1.0 / probability) if probability else None,
        dispersion=values.dispersion,
        dispersion_mad=canonical(odds.median([abs(value - center) for value in everybody.ordered])),
        excluded=tuple(sorted({**reasons, **elsewhere}.items())),
        weights=_weights(
            tuple([(vote.cluster, vote.weights) for vote in counted]),
            tuple([book.name for vote in counted for book in vote.members]),
        ),
    )


# Weights change when a book comes or goes: hardly ever.
@lru_cache(maxsize=1 << 14)
def _weights(votes: tuple[tuple[str, tuple[float, ...]], ...], names: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(zip(names, [canonical(weight) for _, weights in votes for weight in weights], strict=True)))

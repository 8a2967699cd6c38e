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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate

from services.consensus.model import (
    IMPLAUSIBLE,
    NO_SIGMA,
    OTHER_LINE,
    TOO_FEW_BOOKS,
    Consensus,
    Others,
    PricedMarket,
    Quote,
    Standing,
    Value,
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


class _Book(Value, frozen=True):
    """One book's quote, reduced to what is compared."""

    name: str
    cluster: str
    line: float | None
    probability: float
    mean: float | None
    #: Where it stands on the scale on which plausibility is judged.
    position: float


class _Vote(Value, frozen=True):
    """One cluster's voice: the medians of its members, and each member's weight."""

    cluster: str
    members: tuple[_Book, ...]
    line: float | None
    probability: float
    weights: tuple[float, ...]

    def value(self, kind: MarketKind) -> float:
        """The number of which a market's dispersion is one: the line, or the probability in h2h."""
        if kind is MarketKind.H2H:
            return self.probability
        assert self.line is not None, "the edge lets no spread or total without a line through"
        return self.line


def price_market(
    market: str,
    sport_key: str,
    quotes: Mapping[str, Quote],
    dead: Mapping[str, str],
    in_play: bool,
    rules: PricingRules,
) -> PricedMarket:
    """The consensus of one market and each book's standing, from the quotes by book.

    `dead` names the quotes that no longer count, with the reason. `market` is a key that Stratum reads.
    """
    kind = _kind(market)
    assert kind is not None, f"the edge lets no {market} through"
    model = rules.market_model
    scale = _Scale(kind, model.sigma_of(sport_key, market))
    clusters = model.cluster_by_book
    books = [
        _reduced(name, clusters.get(name, name), quotes[name].line, quotes[name].prices, kind, scale.sigma)
        for name in sorted(quotes)
    ]
    alive = [book for book in books if book.name not in dead] if dead else books
    implausible = _implausible(alive, kind, rules)
    reasons = {**dead, **dict.fromkeys(implausible, IMPLAUSIBLE)}
    votes = _votes([book for book in alive if book.name not in implausible] if implausible else alive, rules)
    everybody = _Everybody(votes, scale, rules)
    standings = {
        book.name: Standing(
            book.cluster, book.probability, book.mean, reasons.get(book.name, ""), everybody.without(book.cluster)
        )
        for book in books
    }
    return PricedMarket(_consensus(votes, everybody, scale, reasons, in_play, rules), standings)


def nobody_quotes(in_play: bool, rules: PricingRules) -> PricedMarket:
    """A market that every book has left."""
    consensus = Consensus(0, 0, in_play, rules.market_model.devig_method, TOO_FEW_BOOKS)
    return PricedMarket(consensus, {})


_kind = lru_cache(maxsize=1024)(odds.market_kind)


# A quote that did not change is reduced to the same: as many are remembered as a large board has.
@lru_cache(maxsize=1 << 16)
def _reduced(
    name: str, cluster: str, line: float | None, prices: tuple[float, ...], kind: MarketKind, sigma: float | None
) -> _Book:
    probability = odds.fair_probabilities(prices)[0]
    mean = odds.implied_mean(kind, line, probability, sigma)
    if kind is MarketKind.H2H:
        position = probability
    elif mean is not None:
        position = mean
    else:
        assert line is not None, "the edge lets no spread or total without a line through"
        position = line
    return _Book(name, cluster, line, probability, mean, position)


def _implausible(books: Sequence[_Book], kind: MarketKind, rules: PricingRules) -> frozenset[str]:
    limit = rules.implausible_multiple * rules.dislocation_threshold[kind]
    places = [book.position for book in books]
    if not places or max(places) - min(places) < limit:
        return frozenset()  # nobody is that far from anybody: nearly always so
    members: dict[str, list[float]] = {}
    for book in books:
        members.setdefault(book.cluster, []).append(book.position)
    positions = {cluster: odds.median(held) for cluster, held in members.items()}

    def stands_apart(book: _Book) -> bool:
        far = sum(
            canonical(abs(book.position - position)) >= limit
            for cluster, position in positions.items()
            if cluster != book.cluster
        )
        return far >= rules.implausible_clusters and far > len(positions) - far

    return frozenset(book.name for book in books if stands_apart(book))


def _votes(books: Sequence[_Book], rules: PricingRules) -> list[_Vote]:
    members: dict[str, list[_Book]] = {}
    for book in books:
        members.setdefault(book.cluster, []).append(book)
    sharpness = rules.market_model.sharpness
    return [_vote(cluster, members[cluster], sharpness) for cluster in sorted(members)]


@lru_cache(maxsize=1 << 16)
def _lone_vote(only: _Book, weight: float) -> _Vote:
    return _Vote(only.cluster, (only,), only.line, only.probability, (weight,))


def _vote(cluster: str, members: Sequence[_Book], sharpness: Mapping[str, float]) -> _Vote:
    if len(members) == 1:
        return _lone_vote(members[0], sharpness.get(members[0].name, 1.0))
    lines = [book.line for book in members if book.line is not None]
    return _Vote(
        cluster=cluster,
        members=tuple(members),
        line=odds.median(lines) if lines else None,
        probability=odds.median([book.probability for book in members]),
        weights=tuple([sharpness.get(book.name, 1.0) / len(members) for book in members]),
    )


def _on_line(vote: _Vote, line: float | None, rules: PricingRules) -> _Vote | None:
    """The cluster's voice if only its members on this line speak; None when there are none."""
    members = [book for book in vote.members if book.line == line]
    if len(members) == len(vote.members):
        return vote
    return _vote(vote.cluster, members, rules.market_model.sharpness) if members else None


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

    def __init__(self, votes: Sequence[_Vote], scale: _Scale, rules: PricingRules) -> None:
        self._votes = votes
        self._scale = scale
        self._rules = rules
        self._value_of = {vote.cluster: vote.value(scale.kind) for vote in votes}
        self._ordered = sorted(self._value_of.values())
        self._means = _Means(votes) if scale.is_common and votes else None
        #: Comparisons that were made, by what they depend on.
        self._known: dict[object, Others] = {}

    def summary(self) -> tuple[_Values, float | None, float | None, Sequence[_Vote]]:
        """Of all voices: their values, the fair line, the probability at the line, and who counts in it."""
        values = _values(self._ordered, self._scale.kind)
        return values, *self._priced(values.line, None)

    def without(self, cluster: str) -> Others | None:
        """The comparison for a book of this cluster; None when no other cluster stands in the market."""
        left_out = self._value_of.get(cluster)
        # On the common scale nothing else of a cluster matters than its value and its place among the implied means.
        kind = left_out, cluster if self._means is None else self._means.kind_of(cluster)
        if kind not in self._known:
            clusters = len(self._votes) - (left_out is not None)
            if not clusters:
                return None
            self._known[kind] = self._compared(cluster, left_out, clusters)
        return self._known[kind]

    def _compared(self, cluster: str, left_out: float | None, clusters: int) -> Others:
        ordered = self._ordered
        if left_out is not None:
            at = bisect_left(ordered, left_out)
            ordered = [*ordered[:at], *ordered[at + 1 :]]
        values = _values(ordered, self._scale.kind)
        fair_line, probability, _ = self._priced(values.line, cluster)
        return Others(clusters, values.line, fair_line, probability, values.dispersion)

    def _priced(self, line: float | None, left_out: str | None) -> tuple[float | None, float | None, Sequence[_Vote]]:
        """The fair line, the probability at a line, and the voices that count in it."""
        scale = self._scale
        if self._means is not None:
            mean = self._means.without(left_out)
            probability = _probability_at(scale.kind, mean, line, scale.sigma)
            return odds.fair_line(scale.kind, mean), probability, self._votes
        voices = [vote for vote in self._votes if vote.cluster != left_out]
        counted = [held for vote in voices if (held := _on_line(vote, line, self._rules)) is not None]
        if len(counted) < self._rules.market_model.consensus_min_books:
            return None, None, []
        weighted = [pair for vote in counted for pair in zip(vote.members, vote.weights, strict=True)]
        return None, canonical(odds.weighted_median([(book.probability, weight) for book, weight in weighted])), counted


_probability_at = lru_cache(maxsize=1 << 16)(odds.probability_at)


class _Means:
    """The implied means of a market in order, to take their weighted median with and without a cluster.

    The same number as `odds.weighted_median` of what is left, found in the sums of the whole: leaving out a cluster
    lowers every sum behind each of its members by that member's weight.
    """

    def __init__(self, votes: Sequence[_Vote]) -> None:
        held = sorted(
            [
                (book.mean, weight, vote.cluster)
                for vote in votes
                for book, weight in zip(vote.members, vote.weights, strict=True)
                if book.mean is not None
            ]
        )
        self._means = [mean for mean, _, _ in held]
        self._weights = [weight for _, weight, _ in held]
        self._sums = list(accumulate(self._weights))
        self._places: dict[str, list[int]] = {}
        for place, (_, _, cluster) in enumerate(held):
            self._places.setdefault(cluster, []).append(place)
        #: By weight, the place where half is reached without a book of that weight behind it.
        self._middle: dict[float, int] = {}

    def kind_of(self, cluster: str) -> object:
        """What the median without this cluster depends on: the same kind, the same median.

        Of a book alone it is the weight, and whether it stands before, at, next to or behind the middle.
        """
        places = self._places.get(cluster)
        if places is None:
            return None
        if len(places) > 1:
            return cluster
        weight = self._weights[places[0]]
        middle = self._middle.get(weight)
        if middle is None:
            half = (self._sums[-1] - weight) / 2.0
            self._middle[weight] = middle = bisect_left(self._sums, half - _slack(half))
        return weight, max(-1, min(2, places[0] - middle))

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
    votes: Sequence[_Vote],
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
    own = [vote.value(scale.kind) for vote in votes]
    center = odds.median(own)
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
        dispersion_mad=canonical(odds.median([abs(value - center) for value in own])),
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

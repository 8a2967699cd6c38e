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
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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


@dataclass(frozen=True, slots=True)
class _Book:
    """One book's quote, reduced to what is compared."""

    name: str
    cluster: str
    line: float | None
    probability: float
    mean: float | None
    #: Where it stands on the scale on which plausibility is judged.
    position: float


@dataclass(frozen=True, slots=True)
class _Vote:
    """One cluster's voice: the medians of its members, each member's weight, and its implied mean with that weight."""

    cluster: str
    members: tuple[_Book, ...]
    line: float | None
    probability: float
    weighted: tuple[tuple[_Book, float], ...]
    means: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class _Scale:
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
) -> PricedMarket:
    """The consensus of one market and each book's standing, from the quotes by book.

    `dead` names the quotes that no longer count, with the reason. `market` is a key that Stratum reads.
    """
    kind = odds.market_kind(market)
    assert kind is not None, f"the edge lets no {market} through"
    model = rules.market_model
    scale = _Scale(kind, model.sigma_of(sport_key, market))
    books = [_reduced(quotes[name], model.cluster_of(name), scale) for name in sorted(quotes)]
    alive = [book for book in books if book.name not in dead]
    implausible = _implausible(alive, kind, rules)
    reasons = {**dead, **dict.fromkeys(implausible, IMPLAUSIBLE)}
    votes = _votes([book for book in alive if book.name not in implausible], rules)

    seen_from = {cluster: [vote for vote in votes if vote.cluster != cluster] for cluster in {b.cluster for b in books}}
    others = {cluster: _others(rest, scale, rules) for cluster, rest in seen_from.items() if rest}
    standings = {
        book.name: Standing(
            cluster=book.cluster,
            fair_probability=book.probability,
            implied_mean=book.mean,
            excluded=reasons.get(book.name, ""),
            others=others.get(book.cluster),
        )
        for book in books
    }
    return PricedMarket(_consensus(votes, scale, reasons, in_play, rules), standings)


def nobody_quotes(in_play: bool, rules: PricingRules) -> PricedMarket:
    """A market that every book has left."""
    consensus = Consensus(0, 0, in_play, rules.market_model.devig_method, TOO_FEW_BOOKS)
    return PricedMarket(consensus, {})


def _reduced(quote: Quote, cluster: str, scale: _Scale) -> _Book:
    probability = odds.fair_probabilities(quote.prices)[0]
    mean = odds.implied_mean(scale.kind, quote.line, probability, scale.sigma)
    if scale.kind is MarketKind.H2H:
        position = probability
    elif mean is not None:
        position = mean
    else:
        assert quote.line is not None, "the edge lets no spread or total without a line through"
        position = quote.line
    return _Book(quote.book, cluster, quote.line, probability, mean, position)


def _implausible(books: Sequence[_Book], kind: MarketKind, rules: PricingRules) -> frozenset[str]:
    limit = rules.implausible_multiple * rules.dislocation_threshold[kind]
    if not books or max(book.position for book in books) - min(book.position for book in books) < limit:
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
    return [_vote(cluster, held, rules.market_model) for cluster, held in sorted(members.items())]


def _vote(cluster: str, members: Sequence[_Book], model: MarketModel) -> _Vote:
    lines = [book.line for book in members if book.line is not None]
    weighted = tuple([(book, model.sharpness.get(book.name, 1.0) / len(members)) for book in members])
    return _Vote(
        cluster=cluster,
        members=tuple(members),
        line=odds.median(lines) if lines else None,
        probability=odds.median([book.probability for book in members]),
        weighted=weighted,
        means=tuple([(book.mean, weight) for book, weight in weighted if book.mean is not None]),
    )


def _on_line(vote: _Vote, line: float | None, rules: PricingRules) -> _Vote | None:
    """The cluster's voice if only its members on this line speak; None when there are none."""
    members = [book for book in vote.members if book.line == line]
    if len(members) == len(vote.members):
        return vote
    return _vote(vote.cluster, members, rules.market_model) if members else None


@dataclass(frozen=True, slots=True)
class _Summary:
    """What some clusters say together."""

    line: float | None
    mean: float | None
    fair_line: float | None
    #: At `line`.
    probability: float | None
    dispersion: float
    #: Those that count in the probability.
    counted: Sequence[_Vote]


def _summary(votes: Sequence[_Vote], scale: _Scale, rules: PricingRules) -> _Summary:
    values = _values(votes, scale)
    middle = math.fsum(values) / len(values)
    deviation = math.dist(values, [middle] * len(values)) / math.sqrt(len(values))
    line = None if scale.kind is MarketKind.H2H else canonical(odds.median(values))
    if scale.is_common:
        counted = votes
        mean = odds.weighted_median([held for vote in votes for held in vote.means])
        probability = odds.probability_at(scale.kind, mean, line, scale.sigma)
    else:
        counted = [held for vote in votes if (held := _on_line(vote, line, rules)) is not None]
        if len(counted) < rules.market_model.consensus_min_books:
            counted = []
        mean, probability = None, _probability_on_one_line(counted)
    return _Summary(
        line=line,
        mean=mean,
        fair_line=None if mean is None else odds.fair_line(scale.kind, mean),
        probability=probability,
        dispersion=canonical(deviation),
        counted=counted,
    )


def _values(votes: Sequence[_Vote], scale: _Scale) -> list[float]:
    if scale.kind is MarketKind.H2H:
        return [vote.probability for vote in votes]
    return [vote.line for vote in votes if vote.line is not None]


def _probability_on_one_line(votes: Sequence[_Vote]) -> float | None:
    weighted = [(book.probability, weight) for vote in votes for book, weight in vote.weighted]
    return canonical(odds.weighted_median(weighted)) if weighted else None


def _consensus(
    votes: Sequence[_Vote], scale: _Scale, reasons: Mapping[str, str], in_play: bool, rules: PricingRules
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
    summary = _summary(votes, scale, rules)
    elsewhere = {} if scale.is_common else {book.name: OTHER_LINE for book in books if book.line != summary.line}
    values = _values(votes, scale)
    center = odds.median(values)
    return Consensus(
        books=len(books),
        clusters=len(votes),
        in_play=in_play,
        devig_method=rules.market_model.devig_method,
        note="" if scale.is_common else NO_SIGMA,
        consensus_line=summary.line,
        fair_line=summary.fair_line,
        fair_probability=summary.probability,
        consensus_price=canonical(1.0 / summary.probability) if summary.probability else None,
        dispersion=summary.dispersion,
        dispersion_mad=canonical(odds.median([abs(value - center) for value in values])),
        excluded=tuple(sorted({**reasons, **elsewhere}.items())),
        weights=tuple(
            sorted((book.name, canonical(weight)) for vote in summary.counted for book, weight in vote.weighted)
        ),
    )


def _others(votes: Sequence[_Vote], scale: _Scale, rules: PricingRules) -> Others:
    summary = _summary(votes, scale, rules)
    return Others(
        clusters=len(votes),
        consensus_line=summary.line,
        fair_line=summary.fair_line,
        fair_probability=summary.probability,
        dispersion=summary.dispersion,
    )

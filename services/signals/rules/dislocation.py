"""DISLOCATION: one book stands apart from the rest. It makes no claim who is right: the outlier is often first.

Fires before the start, when on the common scale a book stands at least 1.0 (spreads), 2.0 (totals) or 0.03 of fair
probability (h2h) away from at least 5 other clusters, at two consecutive observations in both of which the book and the
comparison exist. `from` is the others' fair line, `to` the book's; the direction names the side that the book offers
better than the others. It is a state, told by episodes: an episode belongs to a cluster and a side, and ends under 0.75
of the threshold, on a change of side, or when the book or the comparison is gone. It gives one signal, and one more
when the distance reaches a higher multiple of the threshold than was told. 900 s must pass from the end of the last
published episode of the same market, cluster and side; at most 6 an event in any 60 minutes. What cooldown or cap holds
back stays due while it is at the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from services.shared.odds import MarketKind, canonical, fair_line, probability_at
from services.signals.model import (
    BookState,
    Direction,
    Episode,
    EpisodeEnd,
    MarketState,
    MarketUpdate,
    Outlier,
    Reason,
    SignalType,
    Value,
)
from services.signals.rules.candidate import NOTHING, Apart, Candidate, Held, Verdict, Words
from services.signals.rules.movement import clock, number
from services.signals.rules.score import magnitude_part, others_agreement_part, others_part, strength
from services.signals.rules.settings import RuleSettings
from services.signals.rules.window import (
    Moment,
    asks_for,
    direction_of,
    is_alive_now,
    names_canonical_side,
)

#: What consensus calls a quote that is far from everybody's; it is never a signal.
IMPLAUSIBLE = "implausible"
_NOT_COMPARED = frozenset({"pre_tip_quote", "stale"})
#: Distances are rounded to six decimals before they are compared, so one that is this much short may yet be enough.
_ROUNDING = 1e-5


class Distance(Value, frozen=True):
    """How far a book stands from the others on the common scale: in fair lines, or fair probabilities for h2h."""

    apart: Apart
    from_value: float
    to_value: float
    delta: float
    #: |delta| in thresholds.
    relative: float
    direction: Direction

    @property
    def name(self) -> str:
        """The book."""
        return self.apart.book.book


def find_outliers(
    update: MarketUpdate, books: Sequence[BookState], kind: MarketKind, settings: RuleSettings
) -> tuple[Outlier, ...]:
    """The books of an update that could have a part in an episode, with the others as they stand now.

    These are the implausible ones and those at least as far away as where episodes end. Nearly always there are none,
    so that nobody needs to remember, or even to read, how each book compares with the others.
    """
    least = settings.dislocation_end_share * settings.dislocation_threshold(kind) - _ROUNDING
    places = (None, *update.others_at)
    left_out = dict(update.excluded)
    found = [
        index
        for index, (here, which) in enumerate(zip(_places(books, kind), update.others_of, strict=True))
        if here is not None and (there := places[which]) is not None and abs(here - there) >= least
    ]
    if left_out:
        compared = [index for index in found if left_out.get(books[index].book) not in _NOT_COMPARED]
        implausible = [index for index, book in enumerate(books) if left_out.get(book.book) == IMPLAUSIBLE]
        found = sorted(index for index in {*compared, *implausible} if update.others_of[index])
    return tuple([Outlier(books[index].book, update.others[update.others_of[index] - 1]) for index in found])


def _places(books: Sequence[BookState], kind: MarketKind) -> list[float | None]:
    """What `_place` says of each book, not yet rounded."""
    if kind is MarketKind.H2H:
        return [book.stands[-1].quote.fair_probability for book in books]
    if kind is MarketKind.SPREAD:
        return [None if book.implied_mean is None else -book.implied_mean for book in books]
    return [book.implied_mean for book in books]


def judge(
    market: MarketState, kind: MarketKind, moment: Moment
) -> tuple[tuple[Episode, ...], tuple[EpisodeEnd, ...], Verdict]:
    """The market's episodes after this observation, the ends to remember, and what is due."""
    if not market.outliers and not market.episodes and not market.episode_ends:
        return (), (), NOTHING
    settings = moment.settings
    threshold = settings.dislocation_threshold(kind)
    running = {} if after_silence(market, moment) else {episode.cluster: episode for episode in market.episodes}
    apart: dict[str, list[Distance]] = {}
    held: list[Held] = []
    for one in _compared(market, moment):
        book = one.book
        if book.excluded == IMPLAUSIBLE:
            side = implausible_side(one, kind)
            if side is not None:
                held.append(Held(market.key, SignalType.DISLOCATION, side, book.book, Reason.IMPLAUSIBLE))
        distance = distance_of(one, kind, threshold)
        if distance is None or distance.relative < settings.dislocation_end_share:
            continue
        if one.others.clusters >= settings.dislocation_min_others:
            apart.setdefault(book.cluster, []).append(distance)
        elif distance.relative >= 1.0 and book.excluded != IMPLAUSIBLE:
            reason = Reason.TOO_FEW_BOOKS
            held.append(Held(market.key, SignalType.DISLOCATION, distance.direction, book.book, reason))

    episodes: list[Episode] = []
    candidates: list[Candidate] = []
    for cluster, distances in sorted(apart.items()):
        before = running.get(cluster)
        episode = _continued(before, distances) or _opened(cluster, distances, moment)
        if episode is None:
            continue
        episodes.append(episode)
        if before is None or before.since != episode.since:
            continue
        due = _strongest([one for one in distances if one.name in before.apart and one.name in episode.apart])
        if due is not None and _multiple(due) > episode.told_multiple:
            candidates.append(_candidate(market, kind, moment, episode, due, threshold))
    kept = {(episode.cluster, episode.since) for episode in episodes}
    ended = [episode for episode in market.episodes if (episode.cluster, episode.since) not in kept]
    return tuple(episodes), ends_after(market, ended, moment), Verdict(tuple(candidates), tuple(held))


def ends_after(market: MarketState, ended: list[Episode], moment: Moment) -> tuple[EpisodeEnd, ...]:
    """The remembered ends with those of published episodes that end now, as long as a cooldown can ask for them."""
    cooldown = moment.settings.dislocation_cooldown_seconds
    ends = {
        (end.cluster, end.direction): end
        for end in market.episode_ends
        if (moment.now - end.ended_at).total_seconds() < cooldown
    }
    for episode in ended:
        if episode.told_multiple > 0:
            ends[episode.cluster, episode.direction] = EpisodeEnd(episode.cluster, episode.direction, moment.now)
    return tuple(end for _, end in sorted(ends.items()))


def is_cooling(market: MarketState, candidate: Candidate, moment: Moment) -> bool:
    """Whether the last published episode of the same cluster and side ended too short ago."""
    assert candidate.apart is not None, "only dislocations have episodes"
    return any(
        end.cluster == candidate.apart.book.cluster
        and end.direction == candidate.direction
        and (moment.now - end.ended_at).total_seconds() < moment.settings.dislocation_cooldown_seconds
        for end in market.episode_ends
    )


def after_silence(market: MarketState, moment: Moment) -> bool:
    """Whether the quotes had died before this observation, because no poll asked for them for too long."""
    asks = (sight for sight in reversed(moment.sights) if asks_for(sight.asked, market.key.market))
    next(asks, None)
    before = next(asks, None)
    if before is None:
        return True
    silence = (moment.now - before.observed_at).total_seconds()
    return silence > moment.settings.alive_seconds(before.expected_interval_seconds)


def distance_of(one: Apart, kind: MarketKind, threshold: float) -> Distance | None:
    """The book against the others on the common scale; None where either is not on it."""
    if one.book.excluded in _NOT_COMPARED:
        return None
    from_value = one.others.fair_probability if kind is MarketKind.H2H else one.others.fair_line
    to_value = _place(one.book, kind)
    if from_value is None or to_value is None:
        return None
    delta = canonical(to_value - from_value)
    relative = canonical(abs(delta) / threshold)
    # Where the book thinks less of a side than the others do, it offers that side better.
    return Distance(one, from_value, to_value, delta, relative, direction_of(kind, -delta))


def implausible_side(one: Apart, kind: MarketKind) -> Direction | None:
    """The side that an implausible quote seems to offer better, by its raw line where there is no scale."""
    distance = distance_of(one, kind, threshold=1.0)
    if distance is not None:
        return distance.direction
    line = one.book.quote.line
    if one.others.consensus_line is None or line is None:
        return None
    return direction_of(kind, one.others.consensus_line - line)


def _place(book: BookState, kind: MarketKind) -> float | None:
    """Where a book stands on the market's scale: its fair line, in h2h its fair probability."""
    if kind is MarketKind.H2H:
        return book.stands[-1].quote.fair_probability
    return None if book.implied_mean is None else fair_line(kind, book.implied_mean)


def _compared(market: MarketState, moment: Moment) -> Iterator[Apart]:
    """The outliers of which the polls still speak."""
    names = [book.book for book in market.books] if market.outliers else []
    for outlier in market.outliers:
        if is_alive_now(moment, market.key, outlier.book):
            index = names.index(outlier.book)
            yield Apart(market.books[index], market.last_update_of(index), outlier.others)


def _continued(before: Episode | None, distances: list[Distance]) -> Episode | None:
    if before is None or not any(distance.direction == before.direction for distance in distances):
        return None
    return replace(before, apart=_at_threshold(distances, before.direction))


def _opened(cluster: str, distances: list[Distance], moment: Moment) -> Episode | None:
    strongest = _strongest([distance for distance in distances if distance.relative >= 1.0], plausible=False)
    if strongest is None:
        return None
    direction = strongest.direction
    return Episode(cluster, direction, moment.now, _at_threshold(distances, direction), told_multiple=0)


def _at_threshold(distances: list[Distance], direction: str) -> tuple[str, ...]:
    return tuple(one.name for one in distances if one.direction == direction and one.relative >= 1.0)


def _strongest(distances: list[Distance], plausible: bool = True) -> Distance | None:
    eligible = [one for one in distances if not (plausible and one.apart.book.excluded == IMPLAUSIBLE)]
    return min(eligible, key=lambda one: (-one.relative, one.name), default=None)


def _multiple(distance: Distance) -> int:
    return math.floor(distance.relative)


def _candidate(
    market: MarketState, kind: MarketKind, moment: Moment, episode: Episode, distance: Distance, threshold: float
) -> Candidate:
    others = distance.apart.others
    return Candidate(
        key=market.key,
        signal_type=SignalType.DISLOCATION,
        direction=distance.direction,
        from_value=distance.from_value,
        to_value=distance.to_value,
        delta=distance.delta,
        threshold=threshold,
        strength=strength(
            magnitude_part(distance.delta, threshold),
            others_agreement_part(others.dispersion, threshold),
            others_part(others.clusters),
        ),
        velocity=None,
        breadth=others.clusters / 10.0,
        dispersion=others.dispersion,
        words=lambda: _words(market, kind, moment, episode, distance, threshold),
        acceleration=lambda: None,
        apart=distance.apart,
        multiple=_multiple(distance),
    )


def _words(
    market: MarketState,
    kind: MarketKind,
    moment: Moment,
    episode: Episode,
    distance: Distance,
    threshold: float,
) -> Words:
    quote, last_update, others = distance.apart.book.quote, distance.apart.last_update, distance.apart.others
    canonical_side = names_canonical_side(distance.direction)
    meta = {
        "line": quote.line,
        "price": quote.price if canonical_side else quote.price_other,
        "price_other": quote.price_other if canonical_side else quote.price,
        "age_seconds": None if last_update is None else (moment.now - last_update).total_seconds(),
        "others_clusters": others.clusters,
        "others_consensus_line": others.consensus_line,
        "others_fair_line": others.fair_line,
        "others_dispersion": others.dispersion,
        "delta_points": None if kind is MarketKind.H2H else distance.delta,
        "delta_probability": _delta_probability(market, kind, moment, distance),
        "multiple": _multiple(distance),
    }
    return Words(
        steps=(
            f"On the common scale {distance.name} stands at {number(distance.to_value)} and {others.clusters} other "
            f"clusters at {number(distance.from_value)}: {number(distance.delta)}, where {number(threshold)} is asked "
            f"for, against at least {moment.settings.dislocation_min_others}.",
            f"It stood there at the observation before, too. The episode began at {clock(episode.since)}, and the "
            f"highest multiple told of it so far is {episode.told_multiple}; this is {_multiple(distance)}.",
        ),
        meta={name: number(value) for name, value in meta.items() if value is not None},
    )


def _delta_probability(market: MarketState, kind: MarketKind, moment: Moment, distance: Distance) -> float | None:
    """The distance as probability of the canonical side, at the book's own line."""
    if kind is MarketKind.H2H:
        return distance.delta
    quote = distance.apart.book.quote
    sigma = moment.settings.model.sigma_of(moment.sport_key, market.key.market)
    mean = -distance.from_value if kind is MarketKind.SPREAD else distance.from_value
    others = probability_at(kind, mean, quote.line, sigma)
    if others is None or quote.fair_probability is None:
        return None
    return canonical(quote.fair_probability - others)

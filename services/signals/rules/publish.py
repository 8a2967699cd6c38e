"""From candidates to signals: who goes first, what cooldown and cap hold back, and the signal in full.

Candidates of one observation are taken strongest first: by strength, then |delta| in thresholds, then by market, book
and direction by name. Cooldown is tested before the cap, so that what is cooling takes nobody's place. A published
signal is never withdrawn. Signals of one event, market, direction and completing observation are one fact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from msgspec.structs import replace

from services.shared.identity import hashed_id, milliseconds, snapshot_id
from services.shared.odds import MarketKind, canonical
from services.signals.model import (
    BookHolding,
    BookMove,
    CappedSignal,
    DetectedSignal,
    EventState,
    ExplainedInput,
    HeldBack,
    LastSaid,
    MarketKey,
    MarketState,
    Reason,
    ScoreComponent,
    ScorePart,
    SignalType,
    Stand,
    Value,
)
from services.signals.rules import dislocation
from services.signals.rules.candidate import Candidate, Held
from services.signals.rules.holding import books_holding
from services.signals.rules.movement import clock, number
from services.signals.rules.score import composite, tier_of, time_bucket
from services.signals.rules.settings import RULES_VERSION
from services.signals.rules.window import NOT_IN_PANEL, Moment, OwnChange, kind_of


class Choice(Value, frozen=True):
    """What of an observation's candidates is published, and what cooldown or cap holds back."""

    chosen: tuple[Candidate, ...]
    held: tuple[Held, ...]
    capped: tuple[CappedSignal, ...]


def choose(
    candidates: Iterable[Candidate],
    markets: Mapping[MarketKey, MarketState],
    capped: Sequence[CappedSignal],
    moment: Moment,
) -> Choice:
    """The strongest first, until the caps are full."""
    chosen: list[Candidate] = []
    held: list[Held] = []
    counted = list(capped)
    caps = {
        SignalType.STEAM: moment.settings.steam_max_per_event,
        SignalType.DISLOCATION: moment.settings.dislocation_max_per_event,
    }
    for candidate in sorted(candidates, key=Candidate.order):
        kind = candidate.signal_type
        reason = None
        if _is_cooling(markets[candidate.key], candidate, moment):
            reason = Reason.COOLDOWN
        elif kind in caps and sum(one.signal_type == kind for one in counted) >= caps[kind]:
            reason = Reason.CAP
        if reason is not None:
            held.append(Held(candidate.key, kind, candidate.direction, candidate.book, reason))
            continue
        chosen.append(candidate)
        if kind in caps:
            counted.append(CappedSignal(kind, moment.now))
    return Choice(tuple(chosen), tuple(held), tuple(counted))


def after_publishing(
    market: MarketState, published: Iterable[Candidate], held_back: tuple[HeldBack, ...], now: datetime
) -> MarketState:
    """The market that remembers what was said and what was held back: anchor, cooldowns, multiples told, spans."""
    if market.held_back != held_back:
        market = replace(market, held_back=held_back)
    for candidate in published:
        if candidate.signal_type in (SignalType.MOVE, SignalType.KEY_CROSS):
            market = replace(market, anchor=now)
        elif candidate.apart is not None:
            cluster = candidate.apart.book.cluster
            episodes = tuple(
                replace(episode, told_multiple=candidate.multiple) if episode.cluster == cluster else episode
                for episode in market.episodes
            )
            market = replace(market, episodes=episodes)
        else:
            name = (str(candidate.signal_type), str(candidate.direction))
            said = {(one.signal_type, one.direction): one for one in market.last_said}
            said[name] = LastSaid(*name, now)
            market = replace(market, last_said=tuple(one for _, one in sorted(said.items())))
    return market


def compose(
    chosen: Sequence[Candidate], markets: Mapping[MarketKey, MarketState], state: EventState, moment: Moment
) -> tuple[DetectedSignal, ...]:
    """The chosen candidates as signals that name each other where they are one fact."""
    config_hash = moment.settings.config_hash
    signals = [_signal(candidate, markets[candidate.key], state, moment, config_hash) for candidate in chosen]
    facts: dict[str, list[str]] = {}
    for signal in signals:
        facts.setdefault(signal.fact_id, []).append(signal.id)
    return tuple(
        replace(signal, also=tuple(sorted(one for one in facts[signal.fact_id] if one != signal.id)))
        for signal in signals
    )


def _is_cooling(market: MarketState, candidate: Candidate, moment: Moment) -> bool:
    if candidate.apart is not None:
        # Within an episode a higher multiple is told without delay; the cooldown runs between episodes.
        told = any(one.cluster == candidate.apart.book.cluster and one.told_multiple > 0 for one in market.episodes)
        return not told and dislocation.is_cooling(market, candidate, moment)
    cooldown = {
        SignalType.MULTIBOOK_SYNC: moment.settings.sync_cooldown_seconds,
        SignalType.STEAM: moment.settings.steam_cooldown_seconds,
    }.get(candidate.signal_type)
    if cooldown is None or candidate.movers is None:
        return False
    name = (candidate.signal_type, candidate.direction)
    said = next((one.published_at for one in market.last_said if (one.signal_type, one.direction) == name), None)
    if said is None:
        return False
    # Windows that a profile has stretched beyond the cooldown could tell the same changes twice.
    news = any(book.seen_at is not None and book.seen_at > said for book in candidate.movers.books)
    return not news or (moment.now - said).total_seconds() < cooldown


class Benchmark(Value, frozen=True):
    """The market that a signal is told against: the consensus, or for a dislocation the others."""

    consensus_line: float | None
    fair_line: float | None
    fair_probability: float | None
    from_price: float | None
    to_price: float | None


def _signal(
    candidate: Candidate, market: MarketState, state: EventState, moment: Moment, config_hash: str
) -> DetectedSignal:
    settings, now, key = moment.settings, moment.now, candidate.key
    kind = kind_of(key.market)
    assert kind is not None, "only markets that can be read have candidates"
    minutes = None if state.commence_time is None else canonical((state.commence_time - now).total_seconds() / 60.0)
    bucket = time_bucket(minutes)
    score = composite(
        candidate.strength,
        candidate.velocity,
        candidate.breadth,
        candidate.dispersion,
        bucket,
        candidate.threshold,
        settings.move_threshold(kind),
    )
    tier = tier_of(score.score, settings)
    where = (state.event_id, key.market, key.player)
    when = (str(candidate.direction), config_hash, str(milliseconds(now)))
    benchmark = _benchmark(candidate, market)
    quotes = _compared(candidate, market, kind, state.event_id)
    words = candidate.words()
    moves = _moves(candidate)
    holding: tuple[BookHolding, ...] = ()
    if candidate.panel is not None:
        since = candidate.panel.window.start
        numbers = (candidate.from_value, candidate.to_value)
        holding = books_holding(market, kind, moment, candidate.direction, *numbers, since)
    return DetectedSignal(
        id=hashed_id(*where, str(candidate.signal_type), candidate.book, *when),
        fact_id=hashed_id("fact", *where, *when),
        also=(),
        sport_key=state.sport_key,
        event_id=state.event_id,
        home_team=state.home_team,
        away_team=state.away_team,
        commence_time=state.commence_time,
        market=key.market,
        player=key.player,
        signal_type=candidate.signal_type,
        direction=candidate.direction,
        book=candidate.book or None,
        from_value=candidate.from_value,
        to_value=candidate.to_value,
        delta=candidate.delta,
        from_price=benchmark.from_price,
        to_price=benchmark.to_price,
        strength=candidate.strength.points,
        velocity=candidate.velocity,
        acceleration=candidate.acceleration(),
        composite_score=score.score,
        score_source=score.source,
        tier=tier,
        components=score.components,
        minutes_to_tip=minutes,
        time_bucket=bucket,
        observed_at=now,
        sampling_seconds=moment.sights[-1].expected_interval_seconds,
        window_seconds=None if candidate.panel is None else candidate.panel.window.seconds,
        elapsed_seconds=candidate.elapsed_seconds,
        clusters_moved=0 if candidate.movers is None else len(candidate.movers.clusters),
        clusters_in_panel=candidate.clusters_in_panel,
        books_moved=moves,
        books_holding=holding,
        consensus_line=benchmark.consensus_line,
        fair_line=benchmark.fair_line,
        fair_probability=benchmark.fair_probability,
        devig_method=market.consensus.devig_method,
        dispersion=candidate.dispersion,
        snapshot_ids=tuple(sorted({one for quote in quotes for one in quote.snapshot_ids})),
        rules_version=RULES_VERSION,
        config_hash=config_hash,
        profile=settings.profile,
        meta=words.meta,
        books=(candidate.book,) if candidate.book else tuple(move.book for move in moves),
        inputs=tuple(quote.as_input() for quote in quotes),
        steps=(
            f"The observation at {clock(now)} was judged before the start, under profile {settings.profile}.",
            *words.steps,
            f"Strength {candidate.strength.points} = {_sum(candidate.strength.parts)}.",
            f"Composite {number(score.score)} = {_sum(score.components)}: {tier}.",
        ),
    )


def _benchmark(candidate: Candidate, market: MarketState) -> Benchmark:
    if candidate.panel is None:
        assert candidate.apart is not None, "what is no movement is a dislocation"
        others = candidate.apart.others
        return Benchmark(
            others.consensus_line,
            others.fair_line,
            others.fair_probability,
            _price(others.fair_probability),
            _price(candidate.apart.book.quote.fair_probability),
        )
    consensus, start = market.consensus, candidate.panel.window.start
    at_start = [stand.consensus_price for stand in market.consensus_prices if stand.since <= start]
    return Benchmark(
        consensus.consensus_line,
        consensus.fair_line,
        consensus.fair_probability,
        at_start[-1] if at_start else None,
        consensus.consensus_price,
    )


def _price(probability: float | None) -> float | None:
    return canonical(1.0 / probability) if probability else None


def _moves(candidate: Candidate) -> tuple[BookMove, ...]:
    if candidate.movers is None:
        return ()
    return tuple(
        BookMove(one.book, one.cluster, one.from_value, one.to_value, one.changed_after, one.changed_by)
        for one in candidate.movers.books
    )


class _Compared(Value, frozen=True):
    """A quote that was compared: one end of a book's window, or a book and those from which it stands apart."""

    book: str
    cluster: str
    role: str
    stand: Stand
    last_update: datetime | None
    #: One an outcome: canonical, other, and the draw where there is one.
    snapshot_ids: tuple[str, ...]

    def as_input(self) -> ExplainedInput:
        """The quote as an explanation lists it."""
        return ExplainedInput(
            snapshot_id=self.snapshot_ids[0],
            book=self.book,
            cluster=self.cluster,
            role=self.role,
            line=self.stand.quote.line,
            price=self.stand.quote.price,
            price_other=self.stand.quote.price_other,
            fair_probability=self.stand.quote.fair_probability,
            observed_at=self.stand.observed_at,
            last_update=self.last_update,
        )


def _compared(candidate: Candidate, market: MarketState, kind: MarketKind, event_id: str) -> list[_Compared]:
    """Every quote behind a candidate: both ends of the window, or the others and the book."""

    def compared(book: str, cluster: str, role: str, stand: Stand, last_update: datetime | None) -> _Compared:
        snapshot_ids = _snapshot_ids(event_id, market.key, kind, book, stand)
        return _Compared(book, cluster, role, stand, last_update, snapshot_ids)

    if candidate.panel is not None:
        # A quote that stands has no last reading of its own: the market keeps those of all books.
        read = {book.book: market.last_update_of(index) for index, book in enumerate(market.books)}
        members = sorted(
            (member for cluster in candidate.panel.clusters for member in cluster.members),
            key=lambda member: member.book,
        )

        def end(member: OwnChange, role: str, stand: Stand) -> _Compared:
            last_update = read[member.book] if stand.until is None else stand.last_update
            return compared(member.book, member.cluster, role, stand, last_update)

        starts = [end(member, "from", member.start) for member in members]
        # Whoever stands still has the same quote, and so the same snapshots, at both ends.
        return starts + [
            replace(start, role="to") if member.end is member.start else end(member, "to", member.end)
            for member, start in zip(members, starts, strict=True)
        ]
    assert candidate.apart is not None, "what is no movement is a dislocation"
    apart, book = candidate.apart, candidate.apart.book
    return [
        *(
            compared(other.book, other.cluster, "from", other.stands[-1], market.last_update_of(index))
            for index, other in enumerate(market.books)
            if other.cluster != book.cluster and other.excluded not in NOT_IN_PANEL
        ),
        compared(book.book, book.cluster, "to", book.stands[-1], apart.last_update),
    ]


def _snapshot_ids(event_id: str, key: MarketKey, kind: MarketKind, book: str, stand: Stand) -> tuple[str, ...]:
    """The snapshots of a quote's outcomes: hashes of what is remembered anyway, so made only to be told."""
    sides: tuple[str, ...] = ("over", "under") if kind is MarketKind.TOTAL else ("home", "away")
    if stand.quote.price_draw is not None:
        sides = (*sides, "draw")
    moments = stand.quote.outcomes_observed_at or (stand.observed_at,) * len(sides)
    return tuple(
        snapshot_id(event_id, book, key.market, key.player, side, moment)
        for side, moment in zip(sides, moments, strict=True)
    )


def _sum(parts: Iterable[ScoreComponent | ScorePart]) -> str:
    return " + ".join(f"{part.name} {number(part.points)}" for part in parts)

"""One event's board, folded from its observations: what every book quotes now, and what the market makes of it. Pure.

A quote lives until it is missing from a poll that asked for it, or until the last such poll is older than
max(3 × its interval, 180 s). An unchanged quote does not age: the polls that cover it keep it alive. In play a quote
that the provider last read before the start is dead.

A market has changed when a quote (its last reading apart) or anything computed from the quotes has. Whether an
observation is a keyframe makes no difference to rows or numbers, only to how much travels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from services.consensus.model import (
    PRE_TIP_QUOTE,
    STALE,
    Consensus,
    ConsensusRow,
    Coverage,
    EventState,
    GameRow,
    MarketKey,
    MarketState,
    Observation,
    Quote,
    QuotePoint,
)
from services.consensus.pricing import PricingRules, nobody_quotes, price_market

SHORTEST_LIFE_SECONDS = 180.0
LIFE_IN_INTERVALS = 3.0


@dataclass(frozen=True, slots=True)
class BoardRules:
    """How markets are priced, and how often an unchanged one is repeated."""

    pricing: PricingRules = field(default_factory=PricingRules)
    heartbeat_seconds: float = 600.0
    #: Names all of these settings; under another name every market is priced anew at its next observation.
    config_hash: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """What one observation made of an event."""

    state: EventState
    keyframe: bool
    #: Changed markets; in a keyframe every market that somebody quotes.
    published: tuple[MarketKey, ...]
    #: Markets that the last book has left at this observation.
    removed: tuple[MarketKey, ...]
    consensus_rows: tuple[ConsensusRow, ...]
    quote_points: tuple[QuotePoint, ...]
    game: GameRow


def step(state: EventState, seen: Observation, rules: BoardRules) -> Step:
    """The event after one observation."""
    coverage = _covered(state.coverage, seen.asked)
    boards = _boards(state, seen)
    settled = state.config_hash == rules.config_hash
    markets: dict[MarketKey, MarketState] = {}
    changed: list[MarketKey] = []
    removed: list[MarketKey] = []
    rows: list[ConsensusRow] = []
    points: list[QuotePoint] = []
    for key in sorted(state.markets.keys() | boards.keys()):
        before = state.markets.get(key)
        quotes = before.quotes if before and key not in boards else boards[key]
        after, is_changed, row = _market(key, before, quotes, coverage, seen, rules, settled)
        if after is None:
            continue
        markets[key] = after
        rows.extend(row)
        if is_changed:
            points.extend(_points(key, before, after, seen))
            (changed if quotes else removed).append(key)
    # The first message of ours is a keyframe whatever came in: nobody downstream has a state to apply less to.
    keyframe = seen.keyframe or state.revision == 0
    quoted = {key: market for key, market in markets.items() if market.quotes}
    return Step(
        state=EventState(state.revision + 1, rules.config_hash, coverage, markets),
        keyframe=keyframe,
        published=tuple(quoted) if keyframe else tuple(changed),
        removed=tuple(removed),
        consensus_rows=tuple(rows),
        quote_points=tuple(points),
        game=_game(seen, quoted),
    )


def _covered(before: Iterable[Coverage], asked: Coverage) -> tuple[Coverage, ...]:
    """The polls that still keep quotes alive: the present one, and older ones that asked for something else."""
    kept = [
        poll
        for poll in before
        if (poll.markets, poll.books) != (asked.markets, asked.books) and not _expired(poll, asked.observed_at)
    ]
    return (*kept, asked)


def _expired(poll: Coverage, now: datetime) -> bool:
    life = max(LIFE_IN_INTERVALS * poll.interval_seconds, SHORTEST_LIFE_SECONDS)
    return now - poll.observed_at > timedelta(seconds=life)


def _boards(state: EventState, seen: Observation) -> dict[MarketKey, dict[str, Quote]]:
    """Quotes by book of every market that this observation touches; the state's own are not altered."""
    boards: dict[MarketKey, dict[str, Quote]] = {}
    if seen.keyframe:
        boards = {key: {} for key in state.markets}
        for key, quote in seen.changes:
            boards.setdefault(key, {})[quote.book] = quote
        return boards

    def board(key: MarketKey) -> dict[str, Quote]:
        if key not in boards:
            before = state.markets.get(key)
            boards[key] = dict(before.quotes) if before else {}
        return boards[key]

    for key, book in seen.removed:
        board(key).pop(book, None)
    for key, quote in seen.changes:
        board(key)[quote.book] = quote
    for key, book, last_update in seen.reads:
        quotes = board(key)
        if book in quotes:
            quotes[book] = quotes[book].read(last_update)
    return boards


def _market(
    key: MarketKey,
    before: MarketState | None,
    quotes: dict[str, Quote],
    coverage: tuple[Coverage, ...],
    seen: Observation,
    rules: BoardRules,
    settled: bool,
) -> tuple[MarketState | None, bool, list[ConsensusRow]]:
    """The market after the observation, whether anything that is published changed, and the row to write, if any."""
    if before is None and not quotes:
        return None, False, []
    dead = _dead(key, quotes, coverage, seen)
    if before is not None and settled and _stands(before, quotes, dead, seen.in_play):
        row = _heartbeat(key, before, seen, rules)
        return replace(before, quotes=quotes, row_at=seen.observed_at if row else before.row_at), False, row
    if quotes:
        priced = price_market(key.market, seen.sport_key, quotes, dead, seen.in_play, rules.pricing)
    else:
        priced = nobody_quotes(seen.in_play, rules.pricing)
    said = before.priced.consensus if before else None
    # That there is no consensus is said once; what its counts are meanwhile is in the messages.
    silent = said is not None and not said.exists and not priced.consensus.exists
    if silent or priced.consensus == said:
        row = _heartbeat(key, before, seen, rules) if before else []
    else:
        row = [_row(key, priced.consensus, seen, rules, heartbeat=False)]
    row_at = seen.observed_at if row or before is None else before.row_at
    return MarketState(quotes, dead, priced, row_at), True, row


def _dead(
    key: MarketKey, quotes: Mapping[str, Quote], coverage: tuple[Coverage, ...], seen: Observation
) -> dict[str, str]:
    dead: dict[str, str] = {}
    if not any(key.market in poll.markets and not poll.books for poll in coverage):
        dead = {book: STALE for book in quotes if not any(poll.covers(key.market, book) for poll in coverage)}
    if seen.in_play and seen.commence_time is not None:
        for book, quote in quotes.items():
            if quote.last_update is not None and quote.last_update < seen.commence_time:
                dead.setdefault(book, PRE_TIP_QUOTE)
    return dead


def _stands(before: MarketState, quotes: Mapping[str, Quote], dead: Mapping[str, str], in_play: bool) -> bool:
    """Whether nothing that is published can have changed."""
    if dead != before.dead or in_play != before.priced.consensus.in_play:
        # An empty market has no consensus to be in play: it is not said again that nobody quotes.
        return not quotes and not before.quotes
    if quotes is before.quotes:
        return True
    return quotes.keys() == before.quotes.keys() and all(
        _same_value(quote, before.quotes[book]) for book, quote in quotes.items()
    )


def _same_value(one: Quote, other: Quote) -> bool:
    """Whether two quotes differ in their last reading at most."""
    return one is other or (
        one.observed_at == other.observed_at
        and one.line == other.line
        and one.outcomes == other.outcomes
        and one.changed_after == other.changed_after
        and one.changed_by == other.changed_by
        and one.previous_seen_at == other.previous_seen_at
    )


def _heartbeat(key: MarketKey, before: MarketState, seen: Observation, rules: BoardRules) -> list[ConsensusRow]:
    consensus = before.priced.consensus
    due = seen.observed_at - before.row_at >= timedelta(seconds=rules.heartbeat_seconds)
    # Only a poll that asked for the market can tell steadiness from silence.
    if not due or not consensus.exists or key.market not in seen.asked.markets:
        return []
    return [_row(key, consensus, seen, rules, heartbeat=True)]


def _row(key: MarketKey, consensus: Consensus, seen: Observation, rules: BoardRules, heartbeat: bool) -> ConsensusRow:
    return ConsensusRow(
        seen.event_id, seen.sport_key, key, seen.observed_at, consensus, heartbeat, config_hash=rules.config_hash
    )


def _points(key: MarketKey, before: MarketState | None, after: MarketState, seen: Observation) -> list[QuotePoint]:
    earlier = before.quotes if before else {}
    points: list[QuotePoint] = []
    for book in sorted(earlier.keys() | after.quotes.keys()):
        quote, old = after.quotes.get(book), earlier.get(book)
        if quote is None:
            points.append(QuotePoint(seen.event_id, key, book, seen.observed_at))
        elif old is None or (quote.line, quote.prices) != (old.line, old.prices):
            points.append(
                QuotePoint(
                    event_id=seen.event_id,
                    key=key,
                    book=book,
                    observed_at=seen.observed_at,
                    line=quote.line,
                    price=quote.outcomes[0].price,
                    price_other=quote.other.price,
                    fair_probability=after.priced.standings[book].fair_probability,
                )
            )
    return points


def _game(seen: Observation, quoted: Mapping[MarketKey, MarketState]) -> GameRow:
    books = {book for market in quoted.values() for book in market.quotes}
    return GameRow(
        event_id=seen.event_id,
        sport_key=seen.sport_key,
        home_team=seen.home_team,
        away_team=seen.away_team,
        commence_time=seen.commence_time,
        observed_at=seen.observed_at,
        in_play=seen.in_play and bool(books),
        markets=tuple(sorted({key.market for key in quoted})),
        books=len(books),
    )

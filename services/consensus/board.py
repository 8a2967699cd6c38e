"""One event's board, folded from its observations: what every book quotes now, and what the market makes of it. Pure.

A quote lives until it is missing from a poll that asked for it, or until the last such poll is older than
max(3 × its interval, 180 s). An unchanged quote does not age: the polls that cover it keep it alive. In play a quote
that the provider last read before the start is dead.

A market has changed when a quote (its last reading apart) or anything computed from the quotes has. Whether an
observation is a keyframe makes no difference to rows or numbers, only to how much travels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    PricedMarket,
    Quote,
    QuotePoint,
    Vote,
)
from services.consensus.pricing import PricingRules, nobody_quotes, price_market

_NOBODY: Mapping[str, Quote] = {}
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
    #: Of each published market the books whose quotes differ from the message before in more than their last reading;
    #: in a keyframe all of them.
    told: Mapping[MarketKey, tuple[str, ...]]
    #: Markets that somebody quotes again, or for the first time; in a keyframe every one that somebody quotes.
    appeared: tuple[MarketKey, ...]
    #: Markets that the last book has left at this observation.
    removed: tuple[MarketKey, ...]
    consensus_rows: tuple[ConsensusRow, ...]
    quote_points: tuple[QuotePoint, ...]
    game: GameRow


def step(state: EventState, seen: Observation, rules: BoardRules) -> Step:
    """The event after one observation."""
    state = priced(state, seen.sport_key, rules)
    coverage = _covered(state.coverage, seen.asked)
    boards, heard = _boards(state, seen)
    settled = state.config_hash == rules.config_hash
    # The first message of ours is a keyframe whatever came in: nobody downstream has a state to apply less to.
    keyframe = seen.keyframe or state.revision == 0
    markets: dict[MarketKey, MarketState] = {}
    changed: list[MarketKey] = []
    removed: list[MarketKey] = []
    appeared: list[MarketKey] = []
    rows: list[ConsensusRow] = []
    points: list[QuotePoint] = []
    told: dict[MarketKey, tuple[str, ...]] = {}
    for key in sorted(state.markets.keys() | boards.keys()):
        before = state.markets.get(key)
        quotes = before.quotes if before and key not in boards else boards[key]
        earlier = before.quotes if before else _NOBODY
        touched = _touched(earlier, quotes, heard.get(key, ()))
        after, is_changed, row = _market(key, before, quotes, touched, coverage, seen, rules, settled)
        if after is None:
            continue
        markets[key] = after
        rows.extend(row)
        if keyframe or not settled:
            told[key] = tuple(sorted(quotes))
        if is_changed:
            told.setdefault(key, tuple([book for book in touched if book in quotes]))
            points.extend(_points(key, earlier, after, touched, seen))
            (changed if quotes else removed).append(key)
        if quotes and (keyframe or not earlier):
            appeared.append(key)
    quoted = {key: market for key, market in markets.items() if market.quotes}
    return Step(
        state=EventState(state.revision + 1, rules.config_hash, coverage, markets),
        keyframe=keyframe,
        published=tuple(quoted) if keyframe else tuple(changed),
        told=told,
        appeared=tuple(appeared),
        removed=tuple(removed),
        consensus_rows=tuple(rows),
        quote_points=tuple(points),
        game=_game(seen, quoted),
    )


def priced(state: EventState, sport_key: str, rules: BoardRules) -> EventState:
    """The same event with every market priced: those of a state that was read back are priced again."""
    if all(market.priced is not None for market in state.markets.values()):
        return state
    return replace(
        state,
        markets={
            key: market
            if market.priced is not None
            else replace(market, priced=_priced(key, market.quotes, market.dead, market.in_play, sport_key, rules))
            for key, market in state.markets.items()
        },
    )


def _priced(
    key: MarketKey,
    quotes: Mapping[str, Quote],
    dead: Mapping[str, str],
    in_play: bool,
    sport_key: str,
    rules: BoardRules,
    reduced: Mapping[str, Vote] | None = None,
) -> PricedMarket:
    if not quotes:
        return nobody_quotes(in_play, rules.pricing)
    return price_market(key.market, sport_key, quotes, dead, in_play, rules.pricing, reduced or {})


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


def _boards(
    state: EventState, seen: Observation
) -> tuple[dict[MarketKey, dict[str, Quote]], dict[MarketKey, list[str]]]:
    """Quotes by book of every market that this observation touches, and the books that it says more of than when they
    were read; the state's own are not altered."""
    boards: dict[MarketKey, dict[str, Quote]] = {}
    heard: dict[MarketKey, list[str]] = {}
    if seen.keyframe:
        boards = {key: {} for key in state.markets}
        for key, quote in seen.changes:
            boards.setdefault(key, {})[quote.book] = quote
        # Whoever is not listed in a keyframe is gone.
        return boards, {
            key: [*quotes, *(state.markets[key].quotes if key in state.markets else ())]
            for key, quotes in boards.items()
        }

    def board(key: MarketKey) -> dict[str, Quote]:
        if key not in boards:
            before = state.markets.get(key)
            boards[key] = dict(before.quotes) if before else {}
        return boards[key]

    for key, book in seen.removed:
        board(key).pop(book, None)
        heard.setdefault(key, []).append(book)
    for key, quote in seen.changes:
        board(key)[quote.book] = quote
        heard.setdefault(key, []).append(quote.book)
    for key, book, last_update in seen.reads:
        quotes = board(key)
        if book in quotes:
            quotes[book] = quotes[book].read(last_update)
    return boards, heard


def _market(
    key: MarketKey,
    before: MarketState | None,
    quotes: dict[str, Quote],
    touched: Sequence[str],
    coverage: tuple[Coverage, ...],
    seen: Observation,
    rules: BoardRules,
    settled: bool,
) -> tuple[MarketState | None, bool, list[ConsensusRow]]:
    """The market after the observation, whether anything that is published changed, and the row to write, if any."""
    if before is None and not quotes:
        return None, False, []
    dead = _dead(key, quotes, coverage, seen)
    nobody = before is not None and not before.quotes and not quotes
    if before is not None and (settled or nobody) and _stands(before, quotes, touched, dead, seen.in_play):
        row = _heartbeat(key, before, seen, rules)
        if not row and quotes is before.quotes:
            return before, False, row
        row_at = seen.observed_at if row else before.row_at
        return MarketState(quotes, dead, before.in_play, row_at, before.changed_at, before.priced), False, row
    reduced: dict[str, Vote] = {}
    if settled and before is not None and before.priced is not None:
        reduced = dict(before.priced.reduced)
        for book in touched:
            reduced.pop(book, None)
    after = _priced(key, quotes, dead, seen.in_play, seen.sport_key, rules, reduced)
    # What other settings said does not count as said: a row shows from when on the new ones hold.
    said = before.priced.consensus if before and before.priced and settled else None
    # That there is no consensus is said once; what its counts are meanwhile is in the messages.
    silent = said is not None and not said.exists and not after.consensus.exists
    if before and (silent or after.consensus == said):
        row = _heartbeat(key, before, seen, rules)
    else:
        row = [_row(key, after.consensus, seen, rules, heartbeat=False)]
    row_at = seen.observed_at if row or before is None else before.row_at
    return MarketState(quotes, dead, seen.in_play, row_at, seen.observed_at, after), True, row


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


def _stands(
    before: MarketState, quotes: Mapping[str, Quote], touched: Sequence[str], dead: Mapping[str, str], in_play: bool
) -> bool:
    """Whether nothing that is published can have changed."""
    if dead != before.dead or in_play != before.in_play:
        # An empty market has no consensus to be in play: it is not said again that nobody quotes.
        return not quotes and not before.quotes
    return not touched


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
    assert before.priced is not None, "a step prices what was read back"
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


def _touched(earlier: Mapping[str, Quote], quotes: Mapping[str, Quote], heard: Iterable[str]) -> list[str]:
    """Of the books that were heard of, those that came, went, or quote otherwise than before, by key."""
    return [
        book
        for book in sorted(set(heard))
        if ((quote := quotes.get(book)) is None) != ((old := earlier.get(book)) is None)
        or (quote is not None and old is not None and not _same_value(quote, old))
    ]


def _points(
    key: MarketKey, earlier: Mapping[str, Quote], after: MarketState, touched: Iterable[str], seen: Observation
) -> list[QuotePoint]:
    points: list[QuotePoint] = []
    for book in touched:
        quote, old = after.quotes.get(book), earlier.get(book)
        if quote is None:
            points.append(QuotePoint(seen.event_id, key, book, seen.observed_at))
        elif old is None or (quote.line, quote.prices) != (old.line, old.prices):
            assert after.priced is not None, "a step prices what it touches"
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

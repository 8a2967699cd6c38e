"""Books that still hold the old number: the better number that a movement leaves behind, and what it still costs.

A book holds it when it is alive and plausible, did not move that way in the window, and stands nearer to `from` than to
`to`. In h2h a book has not moved that has changed by less than 0.006.
"""

from __future__ import annotations

from datetime import datetime

from services.shared.odds import MarketKind, canonical, probability_at
from services.signals.model import (
    Bet,
    BookHolding,
    BookState,
    Direction,
    EventState,
    MarketKey,
    MarketState,
    OldNumber,
    Quote,
    SignalType,
)
from services.signals.rules.settings import RuleSettings
from services.signals.rules.window import NOT_IN_PANEL, Moment, is_alive_now, kind_of, names_canonical_side, value_of


def books_holding(
    market: MarketState,
    kind: MarketKind,
    moment: Moment,
    direction: Direction,
    from_value: float,
    to_value: float,
    since: datetime | None,
) -> tuple[BookHolding, ...]:
    """Who offers the old number at this observation, by book; with `since`, only who did not move that way after it."""
    sign = 1.0 if to_value > from_value else -1.0
    holding: list[BookHolding] = []
    for index, book in enumerate(market.books):
        if book.excluded in NOT_IN_PANEL or not is_alive_now(moment, market.key, book.book):
            continue
        value = value_of(kind, book.quote)
        if value is None or canonical(abs(value - from_value)) >= canonical(abs(value - to_value)):
            continue
        if since is not None and _moved(book, kind, since, sign, moment.settings):
            continue
        holding.append(_holding(index, market, kind, moment, direction))
    return tuple(holding)


def holding_now(state: EventState, old: OldNumber, settings: RuleSettings) -> tuple[BookHolding, ...]:
    """Who offers a signal's old number at the event's newest observation; for a dislocation the book that stands apart,
    while it is nearer to its own number than to the others'. Nobody, once the event is in play.
    """
    key = MarketKey(old.market, old.player)
    kind = kind_of(old.market)
    market = next((market for market in state.markets if market.key == key), None)
    if market is None or kind is None or state.pregame_since is None:
        return ()
    moment = Moment(state.sport_key, state.sights, state.pregame_since, settings)
    direction = Direction(old.direction)
    if old.signal_type != SignalType.DISLOCATION:
        return books_holding(market, kind, moment, direction, old.from_value, old.to_value, since=None)
    return tuple(
        _holding(index, market, kind, moment, direction)
        for index, book in enumerate(market.books)
        if book.book == old.book and is_alive_now(moment, key, book.book) and _stands_apart(book, kind, old)
    )


def _stands_apart(book: BookState, kind: MarketKind, old: OldNumber) -> bool:
    mean, probability = book.implied_mean, book.quote.fair_probability
    if kind is MarketKind.H2H:
        value = probability
    elif mean is None:
        value = None
    else:
        value = -mean if kind is MarketKind.SPREAD else mean
    return value is not None and abs(value - old.to_value) < abs(value - old.from_value)


def _moved(book: BookState, kind: MarketKind, since: datetime, sign: float, settings: RuleSettings) -> bool:
    """Whether the book went the move's way after an observation: from what stood then, or else came first after it."""
    stood = next((stand for stand in book.stands if stand.until is None or stand.until > since), book.stands[-1])
    start, end = value_of(kind, stood.quote), value_of(kind, book.stands[-1].quote)
    if start is None or end is None:
        return False
    change = canonical(sign * (end - start))
    return change > 0 and change >= settings.step(kind)


def _holding(index: int, market: MarketState, kind: MarketKind, moment: Moment, direction: Direction) -> BookHolding:
    book, last_update = market.books[index], market.last_update_of(index)
    quote, bet = book.quote, book.bet or Bet()
    canonical_side = names_canonical_side(direction)
    price, price_other = (quote.price, quote.price_other) if canonical_side else (quote.price_other, quote.price)
    probability = _probability(market, kind, moment, quote, canonical_side)
    return BookHolding(
        book=book.book,
        line=quote.line,
        price=price,
        price_other=price_other,
        last_update=last_update,
        age_seconds=None if last_update is None else (moment.now - last_update).total_seconds(),
        ev_now=None if probability is None else canonical(price * probability - 1.0),
        link=bet.link if canonical_side else bet.link_other,
        limit=bet.limit if canonical_side else bet.limit_other,
    )


def _probability(
    market: MarketState, kind: MarketKind, moment: Moment, quote: Quote, canonical_side: bool
) -> float | None:
    """The consensus probability of a side at the book's line; None where the market gives none."""
    consensus = market.consensus
    sigma = moment.settings.model.sigma_of(moment.sport_key, market.key.market)
    if kind is MarketKind.H2H:
        probability = consensus.fair_probability
        if quote.price_draw is not None and not canonical_side:
            return None  # with a draw the other side is not what remains
    elif consensus.fair_line is not None and sigma is not None:
        mean = -consensus.fair_line if kind is MarketKind.SPREAD else consensus.fair_line
        probability = probability_at(kind, mean, quote.line, sigma)
    else:
        probability = consensus.fair_probability if quote.line == consensus.consensus_line else None
    if probability is None:
        return None
    return probability if canonical_side else 1.0 - probability

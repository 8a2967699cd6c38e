"""What an observation leaves behind: the event's state, bounded by the longest window.

A market is remembered as changed only when something in it other than the books' last readings did: a keyframe lists
unchanged markets too, with fresher readings, and whether a message happens to be one must not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from msgspec.structs import replace

from services.shared.odds import MarketKind, market_kind
from services.signals.model import (
    BookState,
    BookView,
    CappedSignal,
    ConsensusView,
    Coverage,
    EventState,
    MarketKey,
    MarketState,
    MarketView,
    Observation,
    PriceStand,
    Quote,
    Sight,
    Stand,
)
from services.signals.rules.settings import RuleSettings
from services.signals.rules.window import value_of


def remember(
    state: EventState | None, observation: Observation, settings: RuleSettings
) -> tuple[EventState, frozenset[MarketKey]]:
    """The state after an observation, and the markets that it changed. Judges nothing."""
    now = observation.observed_at
    in_play = observation.commence_time is not None and now >= observation.commence_time
    before = () if state is None else state.sights
    sight = Sight(now, observation.expected_interval_seconds, observation.asked)
    longest = timedelta(seconds=settings.window_start_share * settings.longest_window_seconds())
    sights = _sights(before, sight, now - longest)
    pregame_since = None if in_play else now if state is None or state.pregame_since is None else state.pregame_since
    cooled_by = now - timedelta(seconds=settings.longest_cooldown_seconds())
    known = () if state is None else state.markets
    markets, changed = _markets(known, observation, sights[0].observed_at, cooled_by)
    capped: tuple[CappedSignal, ...] = () if state is None else state.capped
    if capped:
        capped = tuple(one for one in capped if now - one.published_at < timedelta(minutes=settings.cap_minutes))
    remembered = EventState(
        event_id=observation.event_id,
        sport_key=observation.sport_key,
        home_team=observation.home_team,
        away_team=observation.away_team,
        commence_time=observation.commence_time,
        sights=sights,
        pregame_since=pregame_since,
        markets=markets,
        capped=capped,
    )
    return remembered, changed


def _sights(before: tuple[Sight, ...], sight: Sight, horizon: datetime) -> tuple[Sight, ...]:
    """The observations that a window may start at: all since the horizon, and of each coverage the newest before it."""
    if len(before) < 2 or before[1].observed_at > horizon:
        return (*before, sight)
    newest: dict[Coverage, Sight] = {}
    recent: list[Sight] = []
    for one in before:
        if one.observed_at <= horizon:
            newest[one.asked] = one
        else:
            recent.append(one)
    return (*sorted(newest.values(), key=lambda one: one.observed_at), *recent, sight)


def _markets(
    before: tuple[MarketState, ...], observation: Observation, horizon: datetime, cooled_by: datetime
) -> tuple[tuple[MarketState, ...], frozenset[MarketKey]]:
    now = observation.observed_at
    views: dict[MarketKey, MarketView | None] = {view.key: view for view in observation.markets}
    views |= dict.fromkeys(observation.removed)
    if observation.keyframe:
        views |= {market.key: None for market in before if market.key not in views}
    known = {market.key: market for market in before}
    changed: set[MarketKey] = set()
    for key, view in views.items():
        market = known.get(key)
        if market is not None and (_is_gone(market) if view is None else _says_the_same(market, view)):
            continue
        if market is None and view is None:
            continue
        known[key] = _updated(market or _new_market(key), view, now, horizon)
        changed.add(key)
    forgotten = [key for key, market in known.items() if _is_gone(market) and _is_past(market, horizon, cooled_by)]
    if not changed and not forgotten:
        return before, frozenset()
    for key in forgotten:
        del known[key]
    return tuple(market for _, market in sorted(known.items())), frozenset(changed)


def _new_market(key: MarketKey) -> MarketState:
    return MarketState(
        key=key,
        consensus=ConsensusView(),
        consensus_prices=(),
        books=(),
        moved_at=None,
        anchor=None,
        episodes=(),
        episode_ends=(),
        last_said=(),
        held_back=(),
    )


def _is_gone(market: MarketState) -> bool:
    return all(book.view is None for book in market.books)


def _is_past(market: MarketState, horizon: datetime, cooled_by: datetime) -> bool:
    """Whether a market that is gone left nothing that a window or a cooldown could still ask for."""
    said = [*(one.published_at for one in market.last_said), *(one.ended_at for one in market.episode_ends)]
    return (
        not market.held_back
        and not market.episodes
        and all(stand.until is not None and stand.until <= horizon for book in market.books for stand in book.stands)
        and all(moment <= cooled_by for moment in said)
    )


def _says_the_same(market: MarketState, view: MarketView) -> bool:
    if market.consensus != view.consensus:
        return False
    present = [book.view for book in market.books if book.view is not None]
    return len(present) == len(view.books) and all(
        map(_same_but_for_reading, present, sorted(view.books, key=_by_book))
    )


def _by_book(view: BookView) -> str:
    return view.book


def _same_but_for_reading(mine: BookView, theirs: BookView) -> bool:
    return (
        mine.book == theirs.book
        and _same_value(mine.quote, theirs.quote)
        and mine.others == theirs.others
        and mine.excluded == theirs.excluded
        and mine.quote.fair_probability == theirs.quote.fair_probability
        and mine.quote.implied_mean == theirs.quote.implied_mean
        and mine.cluster == theirs.cluster
        and mine.link == theirs.link
        and mine.link_other == theirs.link_other
        and mine.limit == theirs.limit
        and mine.limit_other == theirs.limit_other
    )


def _same_value(mine: Quote, theirs: Quote) -> bool:
    return (
        mine.observed_at == theirs.observed_at
        and mine.line == theirs.line
        and mine.price == theirs.price
        and mine.price_other == theirs.price_other
        and mine.price_draw == theirs.price_draw
    )


def _updated(market: MarketState, view: MarketView | None, now: datetime, horizon: datetime) -> MarketState:
    """The market as the view shows it; without one, with every book gone."""
    kind = market_kind(market.key.market)
    books = {book.book: book for book in market.books}
    listed = {} if view is None else {one.book: one for one in view.books}
    moved = False
    for name, one in listed.items():
        book = books.get(name)
        books[name] = _seen(book, one, now, horizon)
        moved = moved or (kind is not None and book is not None and _has_moved(book, books[name], kind))
    for name, book in list(books.items()):
        if name not in listed:
            gone = _gone(book, now, horizon)
            if gone.stands:
                books[name] = gone
            else:
                del books[name]
    consensus = ConsensusView() if view is None else view.consensus
    return replace(
        market,
        consensus=consensus,
        consensus_prices=_prices(market.consensus_prices, consensus.consensus_price, now, horizon),
        books=tuple(book for _, book in sorted(books.items())),
        moved_at=now if moved else market.moved_at,
    )


def _seen(book: BookState | None, view: BookView, now: datetime, horizon: datetime) -> BookState:
    if book is None:
        return BookState(
            view.book, view.cluster, (Stand(view.quote.observed_at, None, view.quote, view.excluded),), view
        )
    last = book.stands[-1]
    if last.until is None and _same_value(last.quote, view.quote):
        if last.excluded == view.excluded:
            stands = (*book.stands[:-1], Stand(last.since, None, view.quote, last.excluded))
        else:
            stands = (*_closed(book.stands, now), Stand(now, None, view.quote, view.excluded))
    else:
        # In the normal flow both times are the same; after a gap the quote may have been first seen in it.
        since = max(view.quote.observed_at, last.since + timedelta(microseconds=1))
        stands = (*_closed(book.stands, since), Stand(since, None, view.quote, view.excluded))
    return BookState(view.book, view.cluster, _pruned(stands, horizon), view)


def _gone(book: BookState, now: datetime, horizon: datetime) -> BookState:
    return BookState(book.book, book.cluster, _pruned(_closed(book.stands, now), horizon), None)


def _closed(stands: tuple[Stand, ...], until: datetime) -> tuple[Stand, ...]:
    last = stands[-1]
    return stands if last.until is not None else (*stands[:-1], Stand(last.since, until, last.quote, last.excluded))


def _pruned(stands: tuple[Stand, ...], horizon: datetime) -> tuple[Stand, ...]:
    if stands[0].until is None or stands[0].until > horizon:
        return stands
    return tuple(stand for stand in stands if stand.until is None or stand.until > horizon)


def _has_moved(before: BookState, after: BookState, kind: MarketKind) -> bool:
    return value_of(kind, before.stands[-1].quote) != value_of(kind, after.stands[-1].quote)


def _prices(
    before: Sequence[PriceStand], price: float | None, now: datetime, horizon: datetime
) -> tuple[PriceStand, ...]:
    if before and before[-1].consensus_price == price:
        return tuple(before)
    kept = [*_newest_before(before, horizon), *(stand for stand in before if stand.since > horizon)]
    return (*kept, PriceStand(now, price))


def _newest_before(stands: Iterable[PriceStand], horizon: datetime) -> list[PriceStand]:
    return [stand for stand in stands if stand.since <= horizon][-1:]

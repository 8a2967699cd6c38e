"""What an observation leaves behind: the event's state, bounded by the longest window.

A market is remembered as changed only when something in it other than the books' last readings did: a keyframe lists
unchanged markets too, with fresher readings, and whether a message happens to be one must not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from msgspec.structs import replace

from services.signals.model import (
    BookState,
    BookView,
    CappedSignal,
    ConsensusView,
    Coverage,
    EventState,
    MarketKey,
    MarketState,
    MarketUpdate,
    Observation,
    PriceStand,
    Sight,
    Stand,
)
from services.signals.rules.dislocation import find_outliers
from services.signals.rules.settings import RuleSettings
from services.signals.rules.window import kind_of, value_of


class IncompleteError(ValueError):
    """An observation tells only what changed, and what it changed is not remembered."""


def remember(
    state: EventState | None, observation: Observation, settings: RuleSettings
) -> tuple[EventState, frozenset[MarketKey]]:
    """The state after an observation, and the markets that it changed. Judges nothing.

    Raises IncompleteError for an observation that tells of changes in something that is not remembered.
    """
    now = observation.observed_at
    in_play = observation.commence_time is not None and now >= observation.commence_time
    before = () if state is None else state.sights
    sight = Sight(now, observation.expected_interval_seconds, observation.asked)
    longest = timedelta(seconds=settings.window_start_share * settings.longest_window_seconds())
    sights = _sights(before, sight, now - longest)
    pregame_since = None if in_play else now if state is None or state.pregame_since is None else state.pregame_since
    known = () if state is None else state.markets
    markets, changed = _markets(known, observation, settings, sights[0].observed_at)
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
    before: tuple[MarketState, ...], observation: Observation, settings: RuleSettings, horizon: datetime
) -> tuple[tuple[MarketState, ...], frozenset[MarketKey]]:
    now = observation.observed_at
    known = {market.key: market for market in before}
    changed: set[MarketKey] = set()
    for update in observation.markets:
        market = known.get(update.key)
        updated = _updated(market or MarketState(update.key), update, now, horizon, settings)
        if updated is not market:
            known[update.key] = updated
            changed.add(update.key)
    for key in _emptied(before, observation):
        market = known.get(key)
        if market is not None and market.books:
            known[key] = _without_books(market, now, horizon)
            changed.add(key)
    cooled_by = now - timedelta(seconds=settings.longest_cooldown_seconds())
    forgotten = [key for key, market in known.items() if not market.books and _is_past(market, horizon, cooled_by)]
    if not changed and not forgotten:
        return before, frozenset()
    for key in forgotten:
        del known[key]
    return tuple(sorted(known.values(), key=_key_of)), frozenset(changed)


def _emptied(before: tuple[MarketState, ...], observation: Observation) -> Iterable[MarketKey]:
    """The markets in which nobody quotes any more. A keyframe need not name them: what it does not list is gone."""
    if not observation.keyframe:
        return observation.removed
    listed = {update.key for update in observation.markets}
    return [*observation.removed, *(market.key for market in before if market.key not in listed)]


def _is_past(market: MarketState, horizon: datetime, cooled_by: datetime) -> bool:
    """Whether a market that is gone left nothing that a window or a cooldown could still ask for."""
    said = [*(one.published_at for one in market.last_said), *(one.ended_at for one in market.episode_ends)]
    return (
        not market.held_back
        and not market.episodes
        and all(stand.until is not None and stand.until <= horizon for book in market.gone for stand in book.stands)
        and all(moment <= cooled_by for moment in said)
    )


def _updated(
    market: MarketState, update: MarketUpdate, now: datetime, horizon: datetime, settings: RuleSettings
) -> MarketState:
    """The market after an update; the very same one where nothing but readings changed.

    Most updates change a few books of many, so whoever is not told of is taken over as he stands. Raises
    IncompleteError for an update that tells too little: it lists a book that is neither known nor told of.
    """
    update = _in_order(update)
    kind = kind_of(update.key.market)
    held = {book.book: book for book in market.books}
    same_books = list(held) == list(update.books)
    is_changed = not same_books
    reasons = dict(update.excluded)
    moved = 0
    for view in update.changed:
        book = held.get(view.book) or next((one for one in market.gone if one.book == view.book), None)
        seen = _seen(book, view, reasons.get(view.book, ""), market)
        if seen is book:
            continue
        held[view.book] = seen
        is_changed = True
        if book is not None and kind is not None and value_of(kind, book.quote) != value_of(kind, seen.quote):
            moved += 1
    if update.excluded != market.excluded:
        is_changed = True
        for name in update.books:
            if name in held and held[name].excluded != reasons.get(name, ""):
                held[name] = _judged_otherwise(held[name], reasons.get(name, ""), now, market)
    try:
        books = [held[name] for name in update.books]
    except KeyError as unknown:
        raise IncompleteError(f"an update of {update.key.market} does not tell what {unknown} quotes") from unknown
    outliers = () if kind is None else find_outliers(update, books, kind, settings)
    if not is_changed and market.consensus == update.consensus and market.outliers == outliers:
        return market
    return replace(
        market,
        consensus=update.consensus,
        consensus_prices=_prices(market.consensus_prices, update.consensus.consensus_price, now, horizon),
        books=tuple([_pruned(book, horizon) if len(book.stands) > 1 else book for book in books]),
        gone=() if same_books and not market.gone else _gone(market, update.books, now, horizon),
        changed_at=now,
        read_ages=update.read_ages,
        excluded=update.excluded,
        outliers=outliers,
        moves=_moves(market.moves, moved, now, horizon),
    )


def _without_books(market: MarketState, now: datetime, horizon: datetime) -> MarketState:
    """The market when nobody quotes it any more."""
    return replace(
        market,
        consensus=ConsensusView(),
        consensus_prices=_prices(market.consensus_prices, None, now, horizon),
        books=(),
        gone=_gone(market, (), now, horizon),
        changed_at=now,
        read_ages=(),
        excluded=(),
        outliers=(),
        moves=_moves(market.moves, 0, now, horizon),
    )


def _in_order(update: MarketUpdate) -> MarketUpdate:
    """The update with its columns by book name, as they come nearly always."""
    names = update.books
    if list(names) == sorted(names):
        return update
    order = sorted(range(len(names)), key=names.__getitem__)
    return replace(
        update,
        books=tuple([names[index] for index in order]),
        read_ages=tuple([update.read_ages[index] for index in order]),
        others_of=tuple([update.others_of[index] for index in order]),
    )


def _seen(book: BookState | None, view: BookView, excluded: str, market: MarketState) -> BookState:
    """A book after it was told of; the very same where it is told of again as it was."""
    shared_cluster = "" if view.cluster == view.book else view.cluster
    if book is None:
        stands: tuple[Stand, ...] = (Stand(view.observed_at, view.quote, excluded),)
    elif book.stands[-1].until is None and _has_same_value(book.stands[-1], view):
        last = book.stands[-1]
        if _tells_the_same(book, view, shared_cluster):
            return book
        stands = (*book.stands[:-1], replace(last, quote=view.quote))
    else:
        # In the normal flow both times are the same; after a gap the quote may have been first seen in it.
        since = max(view.observed_at, book.stands[-1].since + timedelta(microseconds=1))
        first_seen_at = None if since == view.observed_at else view.observed_at
        stands = (*_closed(book, since, market), Stand(since, view.quote, excluded, first_seen_at=first_seen_at))
    return BookState(view.book, shared_cluster, stands, view.implied_mean, view.bet)


def _tells_the_same(book: BookState, view: BookView, shared_cluster: str) -> bool:
    return (
        book.quote.fair_probability == view.quote.fair_probability
        and book.implied_mean == view.implied_mean
        and book.shared_cluster == shared_cluster
        and book.bet == view.bet
    )


def _has_same_value(stand: Stand, view: BookView) -> bool:
    mine, theirs = stand.quote, view.quote
    return (
        stand.observed_at == view.observed_at
        and mine.line == theirs.line
        and mine.price == theirs.price
        and mine.price_other == theirs.price_other
        and mine.price_draw == theirs.price_draw
    )


def _judged_otherwise(book: BookState, excluded: str, now: datetime, market: MarketState) -> BookState:
    """The book when consensus left it out, or took it in again, with the same quote."""
    first_seen_at = book.stands[-1].observed_at
    return replace(
        book,
        stands=(*_closed(book, now, market), Stand(now, book.quote, excluded, first_seen_at=first_seen_at)),
    )


def _gone(market: MarketState, listed: Sequence[str], now: datetime, horizon: datetime) -> tuple[BookState, ...]:
    """The books that do not quote any more, as long as a window can ask for them."""
    left = [
        replace(book, stands=_closed(book, now, market), implied_mean=None, bet=None)
        for book in market.books
        if book.book not in listed
    ]
    gone = [*left, *(book for book in market.gone if book.book not in listed)]
    kept = [_pruned(book, horizon) for book in gone]
    return tuple(sorted((book for book in kept if book.stands), key=_book_of))


def _closed(book: BookState, until: datetime, market: MarketState) -> tuple[Stand, ...]:
    """Its history up to a time at which its newest stand ended; as it is, where that had ended before."""
    last = book.stands[-1]
    if last.until is not None:
        return book.stands
    index = [one.book for one in market.books].index(book.book)
    ended = replace(last, until=until, last_update=market.last_update_of(index))
    return (*book.stands[:-1], ended)


def _pruned(book: BookState, horizon: datetime) -> BookState:
    """The book without what no window reaches, and without how its first quote came about, which nobody asks for."""
    oldest = book.stands[0]
    if oldest.until is None or oldest.until > horizon:
        return book
    stands = [stand for stand in book.stands if stand.until is None or stand.until > horizon]
    if stands:
        stands[0] = replace(
            stands[0], quote=replace(stands[0].quote, changed_after=None, changed_by=None, previous_seen_at=None)
        )
    return replace(book, stands=tuple(stands))


def _moves(before: tuple[datetime, ...], moved: int, now: datetime, horizon: datetime) -> tuple[datetime, ...]:
    if before and before[0] <= horizon:
        before = tuple([moment for moment in before if moment > horizon])
    return (*before, *[now] * moved) if moved else before


def _prices(
    before: tuple[PriceStand, ...], price: float | None, now: datetime, horizon: datetime
) -> tuple[PriceStand, ...]:
    if before and before[-1].consensus_price == price:
        return before
    reached = 0
    while reached + 1 < len(before) and before[reached + 1].since <= horizon:
        reached += 1
    return (*before[reached:], PriceStand(now, price))


def _key_of(market: MarketState) -> MarketKey:
    return market.key


def _book_of(book: BookState) -> str:
    return book.book

"""Makes clean quotes of what the provider sent: any of its shapes in, only values that a rule may trust out. Pure.

Nothing here raises for bad input. What cannot be used is counted under a `Rejection` and skipped: one outcome, one
quote, one book or one event, never the response. Past this edge nobody checks again: a price is decimal and above 1.01,
a line is a multiple of a quarter, a time has a zone, a quote has all its outcomes.

An event that is in the response but cannot be read is reported as unreadable rather than left out, so that nobody takes
it for one that has disappeared.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeGuard

import msgspec

from services.ingest.body import BookBody, EventBody, MarketBody, plain
from services.ingest.bookmakers import KNOWN, Books
from services.shared.identity import EPOCH
from services.shared.odds import MarketKind, canonical, decimal_from_american, market_kind

#: Prices up to this are how books say "not offered" in a field that must hold a number.
PLACEHOLDER_PRICE = 1.01
#: Event ids become part of a subject on the bus, so they may not hold its separators.
EVENT_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
#: Market and book keys, as the provider writes them.
KEY = re.compile(r"[0-9a-z_]{1,64}")

#: What a quote is a quote of: market, player, book.
QuoteKey = tuple[str, str, str]


class Rejection(StrEnum):
    """Why something the provider sent is not used. Counted in outcomes; what holds none counts as one."""

    #: The response, event, book, market or outcome is not of the shape the provider documents.
    MALFORMED = "malformed"
    #: The event has no id that could name it.
    NO_EVENT_ID = "no_event_id"
    #: The event does not name two teams: an outright, or a broken one.
    NO_TEAMS = "no_teams"
    #: The event has no list of bookmakers at all; an empty one is an ordinary answer.
    NO_BOOKMAKERS = "no_bookmakers"
    #: Two events share an id and do not agree.
    DUPLICATE_EVENT = "duplicate_event"
    #: The book is not in the canonical table; it is quarantined.
    UNKNOWN_BOOK = "unknown_book"
    #: A book stands under its old key beside its present one, which wins.
    RENAMED_BOOK_TWICE = "renamed_book_twice"
    #: One book quotes one market twice and the two do not agree.
    DUPLICATE_QUOTE = "duplicate_quote"
    #: Odds for laying a bet, which are not odds for backing it.
    LAY_MARKET = "lay_market"
    #: One of many lines, where the main one is meant.
    ALTERNATE_LINE = "alternate_line"
    #: A market that Stratum does not read: outrights, team totals, …
    UNKNOWN_MARKET = "unknown_market"
    #: A prop that does not say which player.
    MISSING_PLAYER = "missing_player"
    #: A name that is no side of this market.
    UNKNOWN_OUTCOME = "unknown_outcome"
    #: The same side twice at one line.
    DUPLICATE_OUTCOME = "duplicate_outcome"
    #: Null, NaN, `OFF`, or anything else that is no finite number.
    PRICE_NOT_A_NUMBER = "price_not_a_number"
    #: Decimal odds of 1 or less: a bet that cannot win.
    PRICE_NOT_ABOVE_ONE = "price_not_above_one"
    #: Between −100 and 100 in a response in American odds.
    PRICE_NOT_AMERICAN = "price_not_american"
    #: Up to 1.01: the book offers nothing.
    PLACEHOLDER_PRICE = "placeholder_price"
    #: A spread or total without its number.
    MISSING_POINT = "missing_point"
    #: A number of points that no book could settle: not a multiple of 0.25.
    POINT_NOT_A_QUARTER = "point_not_a_quarter"
    #: The sides do not stand on one line.
    NOT_MIRRORED = "not_mirrored"
    #: A side is missing or was rejected, so the vig cannot be removed.
    ONE_SIDED = "one_sided"
    #: A time without a zone, or no time at all. Only the time is dropped; what it belonged to stays, without it.
    UNREADABLE_TIME = "unreadable_time"


class OutcomeQuote(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One side of a book's quote."""

    #: home, away, draw, over or under.
    outcome: str
    #: Decimal odds.
    price: float
    link: str | None = None
    #: The largest stake, in the book's currency.
    limit: float | None = None
    sid: str | None = None


class Offer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a book offers on a whole market: every side, and the canonical side's line."""

    #: What it is a quote of.
    key: QuoteKey
    #: Home's point, or over's; None for h2h.
    line: float | None
    #: The canonical side first.
    outcomes: tuple[OutcomeQuote, ...]


class Quote(msgspec.Struct, frozen=True, gc=False):
    """An offer, and when the provider last read it."""

    book: str
    market: str
    player: str
    line: float | None
    outcomes: tuple[OutcomeQuote, ...]
    #: When the provider last read it at the book, if it said.
    last_update: datetime | None


class SeenEvent(msgspec.Struct, frozen=True, gc=False):
    """One event as one response showed it.

    Its quotes are kept in columns, since from response to response little but the readings differs: an offer that comes
    again is the same object, and so are the keys of an event whose quotes are the same ones.
    """

    event_id: str
    sport_key: str
    home_team: str
    away_team: str
    #: None where the start cannot be read.
    commence_time: datetime | None
    #: What each offer is a quote of; in order.
    keys: tuple[QuoteKey, ...]
    offers: tuple[Offer, ...]
    #: When the provider last read each offer at its book, if it said.
    readings: tuple[datetime | None, ...]

    @property
    def quotes(self) -> tuple[Quote, ...]:
        """The offers with their readings, one by one, in the order of their keys."""
        return tuple([_quote(*given) for given in zip(self.offers, self.readings, strict=True)])


def _quote(offer: Offer, last_update: datetime | None) -> Quote:
    market, player, book = offer.key
    return Quote(book, market, player, offer.line, offer.outcomes, last_update)


@dataclass(frozen=True, slots=True)
class SeenBook:
    """A bookmaker that is not in the canonical table, in one response."""

    book: str
    title: str
    quotes: int
    #: The keys of the markets that it quotes and that Stratum would read.
    markets: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Seen:
    """What one response showed, and what of it could not be used."""

    #: In the order of their ids.
    events: tuple[SeenEvent, ...] = ()
    #: Ids of events that are there and cannot be read: neither observed nor gone.
    unreadable: frozenset[str] = frozenset()
    rejected: Mapping[Rejection, int] = field(default_factory=dict)
    quarantined: tuple[SeenBook, ...] = ()
    #: The revision of the books by which it was read.
    books_revision: int = 0

    @property
    def empty(self) -> bool:
        """True where the response named no event at all."""
        return not self.events and not self.unreadable


class _Read(msgspec.Struct, frozen=True, gc=False):
    """What the outcomes of one market were read as. They alone decide, in an event of one shape."""

    offers: tuple[Offer, ...] = ()
    rejected: Mapping[Rejection, int] = {}
    #: Whether it is a market that Stratum reads, so that its reading counts.
    dated: bool = False
    #: Prices of 100 and more, by amount, and those below.
    far: int = 0
    near: int = 0


#: An offer and its reading.
_Dated = tuple[Offer, datetime | None]
#: All that decides, beside the outcomes, how an event's markets are read.
_Shape = tuple[object, ...]


class _Known(msgspec.Struct, frozen=True, gc=False):
    """An event as it was given and as it was read. All but `shape` is by market, in the order of the response."""

    shape: _Shape
    given: list[msgspec.Raw]
    reads: list[_Read]
    #: What of these markets is not used.
    rejected: Counter[Rejection]
    #: The places of the books that are not used.
    refused: frozenset[int]
    #: Which book each market is of.
    book_of: list[int]
    #: Where each of a market's offers stands in the order of their keys, and which market each of those comes from.
    slots: list[list[int]]
    sources: list[int]
    keys: tuple[QuoteKey, ...]
    offers: tuple[Offer, ...]
    far: int
    near: int


class Memory:
    """The events of the last response: most of their markets come again as they were, dated anew, and are not reread.

    It saves time and changes no result: to be kept between the responses about one sport.
    """

    def __init__(self) -> None:
        self.american = False
        self._events: Mapping[str, _Known] = {}
        self._next: dict[str, _Known] = {}

    def recall(self, event_id: str) -> _Known | None:
        """How the event was given and read in the last response, if it was in it."""
        return self._events.get(event_id)

    def keep(self, event_id: str, known: _Known) -> None:
        """Remembers how an event was read in this response."""
        self._next[event_id] = known

    def turn(self, american: bool) -> None:
        """Ends a response: forgets what was not in it."""
        self.american, self._events, self._next = american, self._next, {}


def normalize(body: object, sport_key: str = "", memory: Memory | None = None, books: Books = KNOWN) -> Seen:
    """What a response of the odds or event-odds endpoint shows, as `body.decode` gives it or in plain values.

    `sport_key` serves events that do not say their own; `books` says which bookmakers count, and under which key.
    """
    given = [body] if _is_object(body) or isinstance(body, EventBody) else body
    if not _is_list(given):
        return Seen(rejected={Rejection.MALFORMED: 1}, books_revision=books.revision)
    memory = memory or Memory()
    opened = [_Opened(item, memory.recall(item.id), books) if isinstance(item, EventBody) else item for item in given]
    american = is_american(opened)
    if american != memory.american:
        opened = [_Opened(item.body, None, books) if isinstance(item, _Opened) else item for item in opened]
    return _Reader(american, sport_key, memory, books).read(opened)


def is_american(events: Sequence[object]) -> bool:
    """Whether a response is in American odds: a property of the whole, since 150 alone may be either.

    American prices never lie between −100 and 100 and decimal ones hardly ever outside, so the greater part decides and
    one garbled price changes nothing.
    """
    far, near = _count_prices(events)
    return far > near


def _count_prices(events: Iterable[object]) -> tuple[int, int]:
    """How many prices of a response are 100 and more, by amount, and how many less."""
    far = near = 0
    for event in events:
        if isinstance(event, _Opened):
            far += event.far
            near += event.near
            continue
        for outcome in _every_outcome(event):
            price = _number(outcome.get("price"))
            if price is not None and abs(price) >= 100:
                far += 1
            elif price is not None:
                near += 1
    return far, near


class _Opened:
    """An event of the documented shape, set against how it was given before: which of its markets have to be read."""

    __slots__ = ("body", "changed", "far", "given", "known", "markets", "near", "shape")

    def __init__(self, body: EventBody, known: _Known | None, counted: Books) -> None:
        self.body = body
        books = body.bookmakers
        self.markets = [market for book in books for market in book.markets]
        self.given = [market.outcomes for market in self.markets]
        self.shape: _Shape = (
            body.home_team,
            body.away_team,
            [book.key for book in books],
            [counted.canonical(book.key) for book in books],
            [book.link for book in books],
            [len(book.markets) for book in books],
            [market.key for market in self.markets],
            [market.link for market in self.markets],
        )
        self.known = known if known is not None and known.shape == self.shape else None
        #: Of the markets that have to be read: the outcomes, and how many of their prices are far from 0 and near it.
        self.changed: dict[int, tuple[object, int, int]] = {}
        self.far = self.near = 0
        before: Sequence[msgspec.Raw | None] = [None] * len(self.given)
        if self.known is not None:
            self.far, self.near, before = self.known.far, self.known.near, self.known.given
        for place, (now, then) in enumerate(zip(self.given, before, strict=True)):
            if now != then:
                outcomes = _opened(now)
                far, near = _count_prices((outcomes,))
                self.changed[place] = outcomes, far, near
                self.far += far
                self.near += near
                if self.known is not None:
                    self.far -= self.known.reads[place].far
                    self.near -= self.known.reads[place].near

    def plain(self) -> dict[str, Any]:
        """The event as the plain values that it is made of."""
        return {
            "id": self.body.id,
            "home_team": self.body.home_team,
            "away_team": self.body.away_team,
            "sport_key": self.body.sport_key,
            "commence_time": self.body.commence_time,
            "bookmakers": [_plain_book(book) for book in self.body.bookmakers],
        }


def _plain_book(book: BookBody) -> dict[str, Any]:
    return {
        "key": book.key,
        "title": book.title,
        "last_update": book.last_update,
        "link": book.link,
        "markets": [
            {
                "key": market.key,
                "last_update": market.last_update,
                "link": market.link,
                "outcomes": _opened(market.outcomes),
            }
            for market in book.markets
        ],
    }


def _opened(outcomes: msgspec.Raw) -> Any:
    """The outcomes as plain values; None, which is no list, where a number in them has thousands of digits."""
    try:
        return plain(outcomes)
    except (ValueError, RecursionError):
        return None


class _Reader:
    """Reads the events of one response, counting what it leaves out."""

    def __init__(self, american: bool, sport_key: str, memory: Memory, books: Books) -> None:
        self._american = american
        self._sport_key = sport_key
        self._memory = memory
        self._books = books
        self._rejected: Counter[Rejection] = Counter()
        self._quarantined: dict[str, SeenBook] = {}

    def read(self, given: Sequence[object]) -> Seen:
        copies: dict[str, list[SeenEvent]] = {}
        unreadable: set[str] = set()
        for item in given:
            event_id, event = self._opened(item) if isinstance(item, _Opened) else self._given(item)
            if event is not None:
                copies.setdefault(event.event_id, []).append(event)
            elif event_id is not None:
                unreadable.add(event_id)
        events = []
        for event_id in sorted(copies):
            first, *others = copies[event_id]
            contradicted = event_id in unreadable or any(other != first for other in others)
            for copy in copies[event_id] if contradicted else others:
                self._rejected[Rejection.DUPLICATE_EVENT] += max(1, sum(len(offer.outcomes) for offer in copy.offers))
            if contradicted:
                unreadable.add(event_id)
            else:
                events.append(first)
        self._memory.turn(self._american)
        return Seen(
            events=tuple(events),
            unreadable=frozenset(unreadable),
            rejected={reason: count for reason, count in sorted(self._rejected.items()) if count},
            quarantined=tuple(self._quarantined[book] for book in sorted(self._quarantined)),
            books_revision=self._books.revision,
        )

    def _opened(self, event: _Opened) -> tuple[str | None, SeenEvent | None]:
        """Reads an event of the documented shape; of what is remembered of it, only what changed."""
        body = event.body
        teams = _teams(body.home_team, body.away_team)
        if teams is None or not _may_be_event_id(body.id):
            return self._given(event.plain())
        known = event.known
        if known is None or event.changed:
            known = self._reread(event, _Names(*teams))
            if known is None:
                return self._given(event.plain())
        self._memory.keep(body.id, known)
        for place in known.refused:
            self._refuse(_plain_book(body.bookmakers[place]))
        self._rejected.update(known.rejected)
        seen = SeenEvent(
            event_id=body.id,
            sport_key=body.sport_key if _is_key(body.sport_key) else self._sport_key,
            home_team=teams[0],
            away_team=teams[1],
            commence_time=self._time(body.commence_time),
            keys=known.keys,
            offers=known.offers,
            readings=self._readings(event, known),
        )
        return body.id, seen

    def _reread(self, event: _Opened, names: _Names) -> _Known | None:
        """The event as it is now known; None where a book contradicts itself, which is judged over all it gave."""
        before, books = event.known, event.body.bookmakers
        if before is None:
            refused = self._refused([book.key for book in books])
            book_of = [number for number, book in enumerate(books) for _ in book.markets]
            reads, given = [_Read()] * len(event.markets), event.given.copy()
        else:
            refused, book_of, reads, given = before.refused, before.book_of, before.reads.copy(), before.given.copy()
        moved = before is None
        offers = [] if before is None else list(before.offers)
        rejected: Counter[Rejection] = Counter() if before is None else before.rejected.copy()
        for place, (outcomes, far, near) in event.changed.items():
            # The bytes as they came belong to the whole response, which would be kept with them.
            given[place] = event.given[place].copy()
            book = None if book_of[place] in refused else books[book_of[place]]
            read = self._read_market(book, event.markets[place], outcomes, far, near, names)
            last, reads[place] = reads[place], read
            if last.rejected or read.rejected:
                rejected.subtract(last.rejected)
                rejected.update(read.rejected)
            moved = moved or [offer.key for offer in read.offers] != [offer.key for offer in last.offers]
            if before is not None and not moved:
                for slot, offer in zip(before.slots[place], read.offers, strict=True):
                    offers[slot] = offer
        if before is None or moved:
            found = sorted(
                [(offer.key, place, nth) for place, read in enumerate(reads) for nth, offer in enumerate(read.offers)]
            )
            keys = tuple([key for key, _, _ in found])
            if len(set(keys)) < len(keys):
                return None
            sources = [place for _, place, _ in found]
            offers = [reads[place].offers[nth] for _, place, nth in found]
            slots: list[list[int]] = [[0] * len(read.offers) for read in reads]
            for slot, (_, place, nth) in enumerate(found):
                slots[place][nth] = slot
        else:
            sources, keys, slots = before.sources, before.keys, before.slots
        return _Known(
            shape=event.shape,
            given=given,
            reads=reads,
            rejected=rejected,
            refused=refused,
            book_of=book_of,
            slots=slots,
            sources=sources,
            keys=keys,
            offers=tuple(offers),
            far=event.far,
            near=event.near,
        )

    def _read_market(
        self, book: BookBody | None, market: MarketBody, outcomes: object, far: int, near: int, names: _Names
    ) -> _Read:
        """A market of the documented shape; `book` is None where the book itself is refused."""
        key = None if book is None else self._books.canonical(book.key)
        if book is None or key is None:
            return _Read(far=far, near=near)
        counted, self._rejected = self._rejected, Counter()
        offers = self._offers(
            key, {"key": market.key, "link": market.link, "outcomes": outcomes}, _link(book.link), names
        )
        rejected, self._rejected = self._rejected, counted
        return _Read(offers or (), rejected, offers is not None, far, near)

    def _readings(self, event: _Opened, known: _Known) -> tuple[datetime | None, ...]:
        """When each offer was last read."""
        moments = [None if market.last_update is None else _read_iso(market.last_update) for market in event.markets]
        if None in moments:
            # The odds endpoint dates book and market, event odds only the market, and older bodies only the book.
            updates = [
                book.last_update if market.last_update is None else market.last_update
                for book in event.body.bookmakers
                for market in book.markets
            ]
            moments = [
                self._time(update, optional=True) if read.dated else None
                for update, read in zip(updates, known.reads, strict=True)
            ]
        return tuple([moments[place] for place in known.sources])

    def _given(self, item: object) -> tuple[str | None, SeenEvent | None]:
        """Reads an event of whatever shape: its id, if it has one, and what it shows, if it can be read."""
        event_id = _event_id(item)
        return event_id, self._event(item, event_id)

    def _reject(self, reason: Rejection, part: object) -> None:
        self._rejected[reason] += max(1, sum(1 for _ in _every_outcome(part)))

    def _event(self, item: object, event_id: str | None) -> SeenEvent | None:
        if not _is_object(item):
            self._reject(Rejection.MALFORMED, item)
            return None
        if event_id is None:
            self._reject(Rejection.NO_EVENT_ID, item)
            return None
        home, away = item.get("home_team"), item.get("away_team")
        teams = _teams(home, away) if isinstance(home, str) and isinstance(away, str) else None
        if teams is None:
            self._reject(Rejection.NO_TEAMS, item)
            return None
        books = item.get("bookmakers")
        if not _is_list(books):
            self._reject(Rejection.NO_BOOKMAKERS, item)
            return None
        sport_key = item.get("sport_key")
        commence_time = self._time(item.get("commence_time"))
        quotes = self._quotes(books, _Names(*teams))
        return SeenEvent(
            event_id=event_id,
            sport_key=sport_key if _is_key(sport_key) else self._sport_key,
            home_team=teams[0],
            away_team=teams[1],
            commence_time=commence_time,
            keys=tuple([offer.key for offer, _ in quotes]),
            offers=tuple([offer for offer, _ in quotes]),
            readings=tuple([reading for _, reading in quotes]),
        )

    def _quotes(self, books: Sequence[object], names: _Names) -> list[_Dated]:
        given = [book.get("key") if _is_object(book) else None for book in books]
        refused = self._refused(given)
        copies: dict[QuoteKey, list[_Dated]] = {}
        for place, book in enumerate(books):
            if place in refused or not _is_object(book) or not _is_list(book.get("markets")):
                self._refuse(book)
                continue
            key = self._books.canonical(book["key"])
            assert key is not None
            link = _link(book.get("link"))
            for market in book["markets"]:
                for quote in self._market(key, market, book.get("last_update"), link, names):
                    copies.setdefault(quote[0].key, []).append(quote)
        quotes = []
        for key_of_quote in sorted(copies):
            first, *others = copies[key_of_quote]
            contradicted = bool(others) and any(other != first for other in others)
            for offer, _ in copies[key_of_quote] if contradicted else others:
                self._rejected[Rejection.DUPLICATE_QUOTE] += len(offer.outcomes)
            if not contradicted:
                quotes.append(first)
        return quotes

    def _refused(self, given: Sequence[object]) -> frozenset[int]:
        """Which books of an event are not used, whatever they offer: by the keys they are given under."""
        named = {key for key in given if _is_key(key)}
        return frozenset(
            [
                place
                for place, key in enumerate(given)
                if not _is_key(key)
                or (present := self._books.canonical(key)) is None
                or (present != key and present in named)
            ]
        )

    def _refuse(self, book: object) -> None:
        """Counts a book that is not used."""
        if not _is_object(book) or not _is_key(book.get("key")) or not _is_list(book.get("markets")):
            self._reject(Rejection.MALFORMED, book)
            return
        given: str = book["key"]
        if self._books.canonical(given) is not None:
            self._reject(Rejection.RENAMED_BOOK_TWICE, book)
            return
        self._reject(Rejection.UNKNOWN_BOOK, book)
        self._quarantine(given, book)

    def _quarantine(self, key: str, book: Mapping[str, Any]) -> None:
        known = self._quarantined.get(key, SeenBook(key, "", 0))
        named = [market.get("key") for market in book["markets"] if _is_object(market)]
        self._quarantined[key] = SeenBook(
            book=key,
            # The greater title, so that the order of a response decides nothing.
            title=max(_text(book.get("title")) or key, known.title),
            quotes=len(book["markets"]) + known.quotes,
            markets=known.markets.union(name for name in named if _is_key(name) and market_kind(name) is not None),
        )

    def _market(
        self, book: str, market: object, book_update: object, book_link: str | None, names: _Names
    ) -> Iterator[_Dated]:
        offers = self._offers(book, market, book_link, names)
        if offers is not None and _is_object(market):
            # The odds endpoint dates book and market, event odds only the market, and older bodies only the book.
            given_update = market.get("last_update")
            last_update = self._time(book_update if given_update is None else given_update, optional=True)
            yield from [(offer, last_update) for offer in offers]

    def _offers(self, book: str, market: object, book_link: str | None, names: _Names) -> tuple[Offer, ...] | None:
        """What a book offers on a market, by player; None for what is no market that Stratum reads."""
        if not _is_object(market) or not _is_key(market.get("key")) or not _is_list(market.get("outcomes")):
            self._reject(Rejection.MALFORMED, market)
            return None
        key: str = market["key"]
        kind = market_kind(key)
        if kind is None:
            self._reject(_why_unread(key), market)
            return None
        link = _link(market.get("link")) or book_link
        return tuple(
            [
                Offer((key, player, book), line, outcomes)
                for player, line, outcomes in self._outcomes(key, kind, market["outcomes"], names, link)
            ]
        )

    def _outcomes(
        self, market: str, kind: MarketKind, given: Sequence[object], names: _Names, link: str | None
    ) -> Iterator[tuple[str, float | None, tuple[OutcomeQuote, ...]]]:
        by_player: dict[str, list[Mapping[str, Any]]] = {}
        for outcome in given:
            if not _is_object(outcome):
                self._reject(Rejection.MALFORMED, outcome)
            elif not market.startswith("player_"):
                by_player.setdefault("", []).append(outcome)
            elif (player := _text(outcome.get("description"))) is None:
                self._reject(Rejection.MISSING_PLAYER, outcome)
            else:
                by_player.setdefault(player, []).append(outcome)
        for player in sorted(by_player):
            sided = self._sides(by_player[player], kind, names, link)
            if sided is not None:
                line, outcomes = sided
                yield player, line, outcomes

    def _sides(
        self, given: Sequence[Mapping[str, Any]], kind: MarketKind, names: _Names, link: str | None
    ) -> tuple[float | None, tuple[OutcomeQuote, ...]] | None:
        """The line and sides of one quote, or None when any of them is wrong: half a market has no fair price."""
        good = [side for outcome in given if (side := self._side(outcome, kind, names, link)) is not None]
        by_name = {quote.outcome: quote for quote, _ in good}
        if len(by_name) < len(good):
            lines = {point for _, point in good if point is not None}
            several = len(lines) > (2 if kind is MarketKind.SPREAD else 1)
            self._rejected[Rejection.ALTERNATE_LINE if several else Rejection.DUPLICATE_OUTCOME] += len(good)
            return None
        first, second = ("over", "under") if kind is MarketKind.TOTAL else ("home", "away")
        if len(good) < len(given) or first not in by_name or second not in by_name:
            self._rejected[Rejection.ONE_SIDED] += len(good)
            return None
        points = {quote.outcome: point for quote, point in good}
        line = points[first]
        if points[second] != (-line if line is not None and kind is MarketKind.SPREAD else line):
            self._rejected[Rejection.NOT_MIRRORED] += len(good)
            return None
        order = (first, second, "draw") if "draw" in by_name else (first, second)
        return line, tuple(by_name[name] for name in order)

    def _side(
        self, outcome: Mapping[str, Any], kind: MarketKind, names: _Names, link: str | None
    ) -> tuple[OutcomeQuote, float | None] | None:
        """One side and its point, or None, counted."""
        name = names.name(outcome.get("name"), kind)
        if name is None:
            self._rejected[Rejection.UNKNOWN_OUTCOME] += 1
            return None
        price = self._price(outcome.get("price"))
        if isinstance(price, Rejection):
            self._rejected[price] += 1
            return None
        point = None
        if kind is not MarketKind.H2H:
            point = _number(outcome.get("point"))
            if point is None:
                self._rejected[Rejection.MISSING_POINT] += 1
                return None
            if not (point * 4).is_integer():
                self._rejected[Rejection.POINT_NOT_A_QUARTER] += 1
                return None
        limit = _number(outcome.get("bet_limit"))
        quote = OutcomeQuote(
            outcome=name,
            price=price,
            link=_link(outcome.get("link")) or link,
            limit=limit if limit is not None and limit > 0 else None,
            sid=_text(outcome.get("sid")),
        )
        return quote, None if point is None else point + 0.0

    def _price(self, given: object) -> float | Rejection:
        price = _number(given)
        if price is None:
            return Rejection.PRICE_NOT_A_NUMBER
        if self._american:
            if abs(price) < 100:
                return Rejection.PRICE_NOT_AMERICAN
            price = decimal_from_american(price)
        elif price <= 1:
            return Rejection.PRICE_NOT_ABOVE_ONE
        price = canonical(price)
        return Rejection.PLACEHOLDER_PRICE if price <= PLACEHOLDER_PRICE else price

    def _time(self, given: object, optional: bool = False) -> datetime | None:
        if given is None and optional:
            return None
        moment = read_time(given)
        if moment is None:
            self._rejected[Rejection.UNREADABLE_TIME] += 1
        return moment


@lru_cache(1 << 14)
def _teams(home_team: str, away_team: str) -> tuple[str, str] | None:
    """The teams of an event, home first; None where it does not name two."""
    home, away = _text(home_team), _text(away_team)
    return None if home is None or away is None or _folded(home) == _folded(away) else (home, away)


class _Names:
    """Which side an outcome's name means: the teams of the event, and the words every market shares."""

    def __init__(self, home: str, away: str) -> None:
        self._teams = {"draw": "draw", _folded(home): "home", _folded(away): "away"}
        #: Names as they were given before: an event repeats the same few some hundred times.
        self._known: dict[tuple[object, bool], str | None] = {}

    def name(self, given: object, kind: MarketKind) -> str | None:
        """home, away, draw, over or under; None for what is no side of such a market."""
        if not isinstance(given, str):
            return None
        key = (given, kind is MarketKind.TOTAL)
        if key not in self._known:
            folded = _folded(_text(given) or "")
            total = folded if folded in ("over", "under") else None
            self._known[key] = total if kind is MarketKind.TOTAL else self._teams.get(folded)
        side = self._known[key]
        return None if side == "draw" and kind is not MarketKind.H2H else side


def read_time(given: object) -> datetime | None:
    """A moment in UTC from ISO text with a zone or from seconds since 1970; None for anything else."""
    if isinstance(given, str):
        return _read_iso(given)
    try:
        seconds = _number(given)
        return None if seconds is None else EPOCH + timedelta(seconds=seconds)
    except (ValueError, OverflowError):
        return None


# The markets of a book are mostly dated alike, and so are the responses that repeat them.
@lru_cache(4096)
def _read_iso(given: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(given)
        return None if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _why_unread(market: str) -> Rejection:
    if market.endswith("_lay"):
        return Rejection.LAY_MARKET
    return Rejection.ALTERNATE_LINE if "alternate" in market else Rejection.UNKNOWN_MARKET


def _every_outcome(part: object) -> Iterator[dict[str, Any]]:
    """The outcomes anywhere in a response, an event, a book or a market; an outcome holds itself."""
    # A stack of our own: a hostile body may be nested more deeply than calls may.
    waiting = [part]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if "price" in item:
                yield item
            else:
                waiting.extend([item[name] for name in ("outcomes", "markets", "bookmakers") if name in item])
        elif isinstance(item, list):
            waiting.extend(item)


def _event_id(item: object) -> str | None:
    given = item.get("id") if _is_object(item) else None
    return given if isinstance(given, str) and _may_be_event_id(given) else None


def _may_be_event_id(text: str) -> bool:
    return EVENT_ID.fullmatch(text) is not None


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_key(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _may_be_key(value)


@lru_cache(4096)
def _may_be_key(text: str) -> bool:
    return KEY.fullmatch(text) is not None


def _number(value: object) -> float | None:
    """A finite number, or None; true and false are none, nor is a number that fits no float."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _text(value: object) -> str | None:
    """Printable text on one line, or None: what a database column and a partner's JSON can hold."""
    if not isinstance(value, str):
        return None
    text = " ".join(value.split())
    return text if text and text.isprintable() else None


def _link(value: object) -> str | None:
    if not isinstance(value, str) or not value.startswith(("https://", "http://")):
        return None
    return _text(value)


def _folded(name: str) -> str:
    return name.casefold()

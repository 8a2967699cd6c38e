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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeGuard

import msgspec

from services.ingest.bookmakers import KNOWN, Books
from services.shared.identity import EPOCH
from services.shared.odds import MarketKind, canonical, decimal_from_american, market_kind

#: Prices up to this are how books say "not offered" in a field that must hold a number.
PLACEHOLDER_PRICE = 1.01
#: Event ids become part of a subject on the bus, so they may not hold its separators.
EVENT_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
#: Market and book keys, as the provider writes them.
KEY = re.compile(r"[0-9a-z_]{1,64}")


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


class OutcomeQuote(msgspec.Struct, frozen=True):
    """One side of a book's quote."""

    #: home, away, draw, over or under.
    outcome: str
    #: Decimal odds.
    price: float
    link: str | None = None
    #: The largest stake, in the book's currency.
    limit: float | None = None
    sid: str | None = None


class Quote(msgspec.Struct, frozen=True):
    """One book's whole market: every side, and the canonical side's line."""

    book: str
    market: str
    player: str
    #: Home's point, or over's; None for h2h.
    line: float | None
    #: The canonical side first.
    outcomes: tuple[OutcomeQuote, ...]
    #: When the provider last read it at the book, if it said.
    last_update: datetime | None

    @property
    def key(self) -> tuple[str, str, str]:
        """What the quote is a quote of: market, player, book."""
        return (self.market, self.player, self.book)


@dataclass(frozen=True, slots=True)
class SeenEvent:
    """One event as one response showed it."""

    event_id: str
    sport_key: str
    home_team: str
    away_team: str
    #: None where the start cannot be read.
    commence_time: datetime | None
    #: In the order of their keys.
    quotes: tuple[Quote, ...]


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


#: What a market is read as: for each player, in order, the line and the sides.
_Sides = tuple[tuple[str, float | None, tuple[OutcomeQuote, ...]], ...]
#: What decides, beside the outcomes themselves, how they are read: American or not, event, home and away, book, market.
_MarketKey = tuple[bool, str, str, str, str, str]


@dataclass(frozen=True, slots=True)
class _Known:
    """A market of which every outcome was used, as it was given and as it was read."""

    outcomes: Sequence[object]
    link: str | None
    sides: _Sides


class Memory:
    """The markets of the last response: most of them come again as they were, dated anew, and are not read again.

    It saves time and changes no result: to be kept between the responses about one sport.
    """

    def __init__(self) -> None:
        self._markets: Mapping[_MarketKey, _Known] = {}
        self._next: dict[_MarketKey, _Known] = {}

    def recall(self, key: _MarketKey, outcomes: Sequence[object], link: str | None) -> _Sides | None:
        """What exactly these outcomes were read as in the last response; None when they must be read."""
        known = self._markets.get(key)
        if known is None or known.outcomes != outcomes or known.link != link:
            return None
        self._next[key] = known
        return known.sides

    def keep(self, key: _MarketKey, outcomes: Sequence[Mapping[str, Any]], link: str | None, sides: _Sides) -> None:
        """Remembers a market if nothing that is read otherwise could pass for its outcomes."""
        if all(_is_unmistakable(value) for outcome in outcomes for value in outcome.values()):
            self._next[key] = _Known(outcomes, link, sides)

    def turn(self) -> None:
        """Ends a response: forgets what was not in it."""
        self._markets, self._next = self._next, {}


def normalize(body: object, sport_key: str = "", memory: Memory | None = None, books: Books = KNOWN) -> Seen:
    """What a response of the odds or event-odds endpoint shows; `sport_key` serves events that do not say their own.

    `books` says which bookmakers count, and under which key.
    """
    given = [body] if _is_object(body) else body
    if not _is_list(given):
        return Seen(rejected={Rejection.MALFORMED: 1}, books_revision=books.revision)
    return _Reader(is_american(given), sport_key, memory or Memory(), books).read(given)


def is_american(events: Sequence[object]) -> bool:
    """Whether a response is in American odds: a property of the whole, since 150 alone may be either.

    American prices never lie between −100 and 100 and decimal ones hardly ever outside, so the greater part decides and
    one garbled price changes nothing.
    """
    far = near = 0
    for outcome in _every_outcome(events):
        price = _number(outcome.get("price"))
        if price is None:
            continue
        if abs(price) >= 100:
            far += 1
        else:
            near += 1
    return far > near


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
            event_id = _event_id(item)
            event = self._event(item, event_id)
            if event is not None:
                copies.setdefault(event.event_id, []).append(event)
            elif event_id is not None:
                unreadable.add(event_id)
        events = []
        for event_id in sorted(copies):
            first, *others = copies[event_id]
            contradicted = event_id in unreadable or any(other != first for other in others)
            for copy in copies[event_id] if contradicted else others:
                self._rejected[Rejection.DUPLICATE_EVENT] += max(1, sum(len(quote.outcomes) for quote in copy.quotes))
            if contradicted:
                unreadable.add(event_id)
            else:
                events.append(first)
        self._memory.turn()
        return Seen(
            events=tuple(events),
            unreadable=frozenset(unreadable),
            rejected={reason: count for reason, count in sorted(self._rejected.items()) if count},
            quarantined=tuple(self._quarantined[book] for book in sorted(self._quarantined)),
            books_revision=self._books.revision,
        )

    def _reject(self, reason: Rejection, part: object) -> None:
        self._rejected[reason] += max(1, sum(1 for _ in _every_outcome(part)))

    def _event(self, item: object, event_id: str | None) -> SeenEvent | None:
        if not _is_object(item):
            self._reject(Rejection.MALFORMED, item)
            return None
        if event_id is None:
            self._reject(Rejection.NO_EVENT_ID, item)
            return None
        home, away = _text(item.get("home_team")), _text(item.get("away_team"))
        if home is None or away is None or _folded(home) == _folded(away):
            self._reject(Rejection.NO_TEAMS, item)
            return None
        books = item.get("bookmakers")
        if not _is_list(books):
            self._reject(Rejection.NO_BOOKMAKERS, item)
            return None
        sport_key = item.get("sport_key")
        return SeenEvent(
            event_id=event_id,
            sport_key=sport_key if _is_key(sport_key) else self._sport_key,
            home_team=home,
            away_team=away,
            commence_time=self._time(item.get("commence_time")),
            quotes=self._quotes(books, _Names(event_id, home, away)),
        )

    def _quotes(self, books: Sequence[object], names: _Names) -> tuple[Quote, ...]:
        named = {book["key"] for book in books if _is_object(book) and _is_key(book.get("key"))}
        copies: dict[tuple[str, str, str], list[Quote]] = {}
        for book in books:
            for quote in self._book(book, named, names):
                copies.setdefault(quote.key, []).append(quote)
        quotes = []
        for key in sorted(copies):
            first, *others = copies[key]
            contradicted = bool(others) and any(other != first for other in others)
            for copy in copies[key] if contradicted else others:
                self._rejected[Rejection.DUPLICATE_QUOTE] += len(copy.outcomes)
            if not contradicted:
                quotes.append(first)
        return tuple(quotes)

    def _book(self, book: object, named: set[str], names: _Names) -> Iterator[Quote]:
        if not _is_object(book) or not _is_key(book.get("key")) or not _is_list(book.get("markets")):
            self._reject(Rejection.MALFORMED, book)
            return
        given: str = book["key"]
        key = self._books.canonical(given)
        if key is None:
            self._reject(Rejection.UNKNOWN_BOOK, book)
            self._quarantine(given, book)
            return
        if key != given and key in named:
            self._reject(Rejection.RENAMED_BOOK_TWICE, book)
            return
        link = _link(book.get("link"))
        for market in book["markets"]:
            yield from self._market(key, market, book.get("last_update"), link, names)

    def _quarantine(self, key: str, book: Mapping[str, Any]) -> None:
        known = self._quarantined.get(key, SeenBook(key, "", 0))
        named = {market.get("key") for market in book["markets"] if _is_object(market)}
        self._quarantined[key] = SeenBook(
            book=key,
            # The greater title, so that the order of a response decides nothing.
            title=max(_text(book.get("title")) or key, known.title),
            quotes=len(book["markets"]) + known.quotes,
            markets=known.markets.union(name for name in named if _is_key(name) and market_kind(name) is not None),
        )

    def _market(
        self, book: str, market: object, book_update: object, book_link: str | None, names: _Names
    ) -> Iterator[Quote]:
        if not _is_object(market) or not _is_key(market.get("key")) or not _is_list(market.get("outcomes")):
            self._reject(Rejection.MALFORMED, market)
            return
        key: str = market["key"]
        link = _link(market.get("link")) or book_link
        place = (self._american, names.event_id, names.home, names.away, book, key)
        sides = self._memory.recall(place, market["outcomes"], link)
        if sides is None:
            kind = market_kind(key)
            if kind is None:
                self._reject(_why_unread(key), market)
                return
            rejected = self._rejected.total()
            sides = tuple(self._outcomes(key, kind, market["outcomes"], names, link))
            if self._rejected.total() == rejected:
                self._memory.keep(place, market["outcomes"], link, sides)
        # The odds endpoint dates book and market, event odds only the market, and older bodies only the book.
        given_update = market.get("last_update")
        last_update = self._time(book_update if given_update is None else given_update, optional=True)
        for player, line, outcomes in sides:
            yield Quote(book, key, player, line, outcomes, last_update)

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


class _Names:
    """Which side an outcome's name means: the teams of the event, and the words every market shares."""

    def __init__(self, event_id: str, home: str, away: str) -> None:
        self.event_id = event_id
        self.home = home
        self.away = away
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
    return given if isinstance(given, str) and EVENT_ID.fullmatch(given) else None


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_key(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _may_be_key(value)


@lru_cache(4096)
def _may_be_key(text: str) -> bool:
    return KEY.fullmatch(text) is not None


def _is_unmistakable(value: object) -> bool:
    """Whether what equals this is read like this. True equals 1 and is no number; what is nested is not looked into."""
    return value is None or isinstance(value, str) or (isinstance(value, int | float) and value not in (0, 1))


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

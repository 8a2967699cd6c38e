"""Builders for the tests of consensus: quotes and observations, with what a test does not speak of filled in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from msgspec.structs import replace
from stratum.common.v1 import market_pb2 as common
from stratum.ingest.v1.events_pb2 import EventObserved, MarketReads, QuoteRemoved

from services.consensus.model import Coverage, MarketKey, Observation, OutcomeQuote, Quote
from services.shared.odds import MarketKind, market_kind

NOW = datetime(2026, 1, 15, 18, 0, tzinfo=UTC)
START = NOW + timedelta(hours=6)
EVENT = "f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0"
NBA = "basketball_nba"
EVEN = 1.909091  # −110

SPREADS = MarketKey("spreads")
TOTALS = MarketKey("totals")
H2H = MarketKey("h2h")


def a_quote(
    book: str,
    line: float | None = None,
    price: float = EVEN,
    other: float = EVEN,
    *,
    draw: float | None = None,
    market: str = "spreads",
    at: datetime = NOW,
    last_update: datetime | None = None,
) -> Quote:
    """One book's market: the canonical side's line and price, and the other side's price."""
    names = ("over", "under") if market_kind(market) is MarketKind.TOTAL else ("home", "away")
    prices = [(names[0], price), (names[1], other), *([("draw", draw)] if draw else [])]
    return Quote(
        book=book,
        line=line,
        outcomes=tuple(OutcomeQuote(name, value, at) for name, value in prices),
        observed_at=at,
        last_update=last_update or at - timedelta(seconds=20),
    )


def a_market(market: str = "spreads", **lines: float) -> dict[str, Quote]:
    """Books at even prices on these lines; for h2h the numbers are home's decimal prices against −110."""
    if market_kind(market) is MarketKind.H2H:
        return {book: a_quote(book, None, price, market=market) for book, price in lines.items()}
    return {book: a_quote(book, line, market=market) for book, line in lines.items()}


def mirrored(quotes: Mapping[str, Quote]) -> dict[str, Quote]:
    """The same quotes with home and away exchanged."""

    def turned(quote: Quote) -> Quote:
        first, second, *rest = quote.outcomes
        outcomes = (replace(second, outcome=first.outcome), replace(first, outcome=second.outcome), *rest)
        return replace(quote, line=None if quote.line is None else -quote.line, outcomes=outcomes)

    return {book: turned(quote) for book, quote in quotes.items()}


@dataclass
class Feed:
    """Plays ingest for one event: keeps what each book quotes and says what changed, or everything."""

    event_id: str = EVENT
    sport_key: str = NBA
    commence_time: datetime | None = START
    interval_seconds: float = 60.0
    markets: tuple[str, ...] = ("h2h", "spreads", "totals")
    books: tuple[str, ...] = ()
    now: datetime = NOW
    revision: int = 0
    quotes: dict[tuple[MarketKey, str], Quote] = field(default_factory=dict)
    _said: dict[tuple[MarketKey, str], Quote] = field(default_factory=dict)

    def quote(
        self, key: MarketKey, book: str, line: float | None = None, price: float = EVEN, other: float = EVEN
    ) -> None:
        """From the next observation on the book quotes this."""
        self.quotes[key, book] = replace(
            a_quote(book, line, price, other, market=key.market, at=self.now),
            previous_seen_at=None,
        )

    def board(self, key: MarketKey, lines: Mapping[str, float], price: float = EVEN) -> None:
        """Several books at once, on these lines."""
        for book, line in lines.items():
            self.quote(key, book, line, price)

    def drop(self, key: MarketKey, book: str) -> None:
        """From the next observation on the book is missing."""
        del self.quotes[key, book]

    def observe(
        self,
        after_seconds: float | None = None,
        keyframe: bool | None = None,
        asked: Sequence[str] | None = None,
        unread: Iterable[str] = (),
    ) -> Observation:
        """The next poll. Books in `unread` were not read anew by the provider."""
        if self.revision:
            self.now += timedelta(seconds=self.interval_seconds if after_seconds is None else after_seconds)
        whole = self.revision == 0 if keyframe is None else keyframe
        present = {place: self._seen(place, quote, set(unread)) for place, quote in sorted(self.quotes.items())}
        changed = {
            place: quote
            for place, quote in present.items()
            if place not in self._said or _value(quote) != _value(self._said[place])
        }
        touched = {key for key, _ in changed} | {key for key, book in self._said if (key, book) not in present}
        observation = Observation(
            event_id=self.event_id,
            sport_key=self.sport_key,
            home_team="Home",
            away_team="Away",
            revision=self.revision + 1,
            previous_revision=self.revision,
            observed_at=self.now,
            asked=Coverage(tuple(asked or self.markets), self.books, self.now, self.interval_seconds),
            commence_time=self.commence_time,
            keyframe=whole,
            changes=tuple((key, quote) for (key, _), quote in (present if whole else changed).items()),
            removed=() if whole else tuple(place for place in sorted(self._said) if place not in present),
            reads=()
            if whole
            else tuple(
                (key, book, quote.last_update)
                for (key, book), quote in present.items()
                if quote.last_update is not None
                and (key, book) not in changed
                and (key in touched or self._passes_start(quote.last_update, self._said[key, book].last_update))
            ),
        )
        self.revision += 1
        self._said = dict(present)
        self.quotes = dict(present)
        return observation

    def _seen(self, place: tuple[MarketKey, str], quote: Quote, unread: set[str]) -> Quote:
        said = self._said.get(place)
        if said is not None and _value(said) == _value(quote):
            read = said.last_update if quote.book in unread else self.now - timedelta(seconds=20)
            return replace(said, last_update=read)
        outcomes = tuple(replace(outcome, observed_at=self.now) for outcome in quote.outcomes)
        return replace(quote, outcomes=outcomes, observed_at=self.now, last_update=self.now - timedelta(seconds=20))

    def _passes_start(self, read: datetime, before: datetime | None) -> bool:
        start = self.commence_time
        return start is not None and before is not None and before < start <= read


def _value(quote: Quote) -> tuple[float | None, tuple[float, ...]]:
    return quote.line, quote.prices


def event_observed(seen: Observation) -> EventObserved:
    """The observation as ingest sends it."""
    return EventObserved(
        event=common.EventHeader(
            event_id=seen.event_id,
            sport_key=seen.sport_key,
            revision=seen.revision,
            previous_revision=seen.previous_revision,
            observed_at=_stamp(seen.observed_at),
            expected_interval_seconds=seen.asked.interval_seconds,
            asked=common.Coverage(markets=seen.asked.markets, books=seen.asked.books),
            commence_time=_stamp(seen.commence_time),
            home_team=seen.home_team,
            away_team=seen.away_team,
            keyframe=seen.keyframe,
        ),
        changes=[_book_quote(key, quote) for key, quote in seen.changes],
        removed=[QuoteRemoved(book=book, key=_key(key)) for key, book in seen.removed],
        market_reads=[
            MarketReads(
                key=_key(key),
                books=[book for one, book, _ in seen.reads if one == key],
                age_seconds=[(seen.observed_at - read).total_seconds() for one, _, read in seen.reads if one == key],
            )
            for key in sorted({key for key, _, _ in seen.reads})
        ],
    )


def _book_quote(key: MarketKey, quote: Quote) -> common.BookQuote:
    return common.BookQuote(
        book=quote.book,
        key=_key(key),
        line=quote.line,
        outcomes=[
            common.OutcomePrice(
                outcome=common.Outcome.Value.Value(outcome.outcome.upper()),
                price=outcome.price,
                observed_at=_stamp(outcome.observed_at),
                link=outcome.link,
            )
            for outcome in quote.outcomes
        ],
        last_update=_stamp(quote.last_update),
        changed_after=_stamp(quote.changed_after),
        changed_by=_stamp(quote.changed_by),
        observed_at=_stamp(quote.observed_at),
        previous_seen_at=_stamp(quote.previous_seen_at),
    )


def _key(key: MarketKey) -> common.MarketKey:
    return common.MarketKey(market=key.market, player=key.player)


def _stamp(at: datetime | None) -> Timestamp | None:
    if at is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp

"""Boards for tests: what books quote, as the observations that ingest and consensus would make of it.

`a_board(draftkings=-5.5, betmgm=-6.5)` is a first poll, `board.later(minutes(1), draftkings=-6.0)` the next one. What
is not named stays as it was; `None` takes a book away. Everything else (fair probabilities, change intervals, the view
of the others, the consensus) is a miniature of what the stages before do, written apart from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from statistics import pstdev

import msgspec

from services.shared.odds import (
    MarketKind,
    MarketModel,
    canonical,
    fair_line,
    fair_probabilities,
    implied_mean,
    market_kind,
    median,
    probability_at,
)
from services.signals import wire
from services.signals.model import (
    BookView,
    ConsensusView,
    Coverage,
    DetectedSignal,
    EventState,
    MarketKey,
    MarketUpdate,
    Observation,
    OthersView,
    Quote,
    SignalType,
    SuppressionRow,
)
from services.signals.rules import RuleSettings, observe

#: The first poll of a board, unless told: an evening on which nothing else happens.
NOON = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
#: How long before each poll the provider has read the books.
READING_LAG = timedelta(seconds=5)
MODEL = MarketModel()
#: Four times the threshold of DISLOCATION, at which consensus calls a quote implausible.
IMPLAUSIBLE = {MarketKind.SPREAD: 4.0, MarketKind.TOTAL: 8.0, MarketKind.H2H: 0.12}

SPREADS = MarketKey("spreads")
TOTALS = MarketKey("totals")
H2H = MarketKey("h2h")


@dataclass(frozen=True, slots=True)
class Offer:
    """What one book quotes: the canonical side's line and price first, then the other side's."""

    line: float | None
    price: float = 1.91
    price_other: float = 1.91
    price_draw: float | None = None


@dataclass(frozen=True, slots=True)
class _Sighting:
    """A quote as last seen, kept when the book goes, because it may return."""

    offer: Offer
    quote: Quote
    observed_at: datetime
    implied_mean: float | None
    seen_at: datetime
    read_at: datetime | None
    present: bool


@dataclass(frozen=True, slots=True)
class _Standing:
    """One book in a market whole, as consensus knows it."""

    view: BookView
    read_at: datetime | None
    excluded: str
    others: OthersView | None


@dataclass(frozen=True, slots=True)
class _Market:
    """A market whole: the consensus, and every book that quotes it, by name."""

    key: MarketKey
    consensus: ConsensusView
    books: tuple[_Standing, ...]


Offers = Mapping[tuple[MarketKey, str], Offer]


@dataclass(frozen=True, slots=True)
class Board:
    """Everything that the books quote for one event at one poll, and the observation that comes of it."""

    event_id: str
    sport_key: str
    observed_at: datetime
    commence_time: datetime | None
    interval: timedelta
    #: Whether the provider says when it read a book.
    reads: bool
    asked: Coverage
    observation: Observation
    _sightings: Mapping[tuple[MarketKey, str], _Sighting] = field(repr=False)
    _views: Mapping[MarketKey, _Market] = field(repr=False)

    @property
    def offers(self) -> dict[tuple[MarketKey, str], Offer]:
        """What is quoted now."""
        return {name: sighting.offer for name, sighting in self._sightings.items() if sighting.present}

    def later(
        self, wait: timedelta, /, market: MarketKey = SPREADS, **changes: float | tuple[float, float] | Offer | None
    ) -> Board:
        """The next poll, at which some books of a market changed."""
        return self.next(self.observed_at + wait, self._changed(market, changes))

    def later_in(
        self, wait: timedelta, changes: Mapping[MarketKey, Mapping[str, float | tuple[float, float] | Offer | None]]
    ) -> Board:
        """The next poll, at which books of several markets changed."""
        offers: Offers = self.offers
        for market, books in changes.items():
            offers = _with_changes(offers, market, books)
        return self.next(self.observed_at + wait, offers)

    def with_market(self, market: MarketKey, **books: float | tuple[float, float] | Offer) -> Board:
        """The same first poll with another market on it."""
        offers = self._changed(market, books)
        empty = replace(self, _sightings={}, _views={})
        return empty.next(self.observed_at, offers)

    def starting(self, commence_time: datetime | None) -> Board:
        """The same poll, with another start."""
        return replace(
            self,
            commence_time=commence_time,
            observation=msgspec.structs.replace(self.observation, commence_time=commence_time),
        )

    def as_keyframe(self) -> Board:
        """The same poll, told as a keyframe."""
        markets = tuple(_update(None, view, self.observed_at) for _, view in sorted(self._views.items()))
        return replace(
            self, observation=msgspec.structs.replace(self.observation, keyframe=True, markets=markets, removed=())
        )

    def next(self, observed_at: datetime, offers: Offers) -> Board:
        """The poll at which exactly these offers stand."""
        sightings = dict(self._sightings)
        for name, before in self._sightings.items():
            if name not in offers:
                sightings[name] = replace(before, present=False)
        for name, offer in offers.items():
            sightings[name] = self._seen(name, offer, observed_at)
        views = _views(self.sport_key, sightings, self._views)
        changed = [
            _update(self._views.get(key), view, observed_at)
            for key, view in sorted(views.items())
            if not _same(self._views.get(key), view)
        ]
        observation = Observation(
            event_id=self.event_id,
            sport_key=self.sport_key,
            home_team="Home",
            away_team="Away",
            observed_at=observed_at,
            expected_interval_seconds=self.interval.total_seconds(),
            asked=self.asked,
            commence_time=self.commence_time,
            keyframe=not self._views,
            markets=tuple(changed),
            removed=tuple(sorted(set(self._views) - set(views))),
        )
        return replace(self, observed_at=observed_at, observation=observation, _sightings=sightings, _views=views)

    def _changed(self, market: MarketKey, changes: Mapping[str, float | tuple[float, float] | Offer | None]) -> Offers:
        return _with_changes(self.offers, market, changes)

    def _seen(self, name: tuple[MarketKey, str], offer: Offer, now: datetime) -> _Sighting:
        key, _ = name
        read_at = now - READING_LAG if self.reads else None
        before = self._sightings.get(name)
        if before is not None and before.present and before.offer == offer:
            return replace(before, seen_at=now, read_at=read_at)
        quote, mean = _quote(self.sport_key, key, offer, now, read_at, before)
        return _Sighting(offer, quote, now, mean, now, read_at, present=True)


def a_board(
    market: MarketKey = SPREADS,
    *,
    at: datetime = NOON,
    starts_in: timedelta | None = timedelta(hours=3),
    every: timedelta = timedelta(minutes=1),
    sport_key: str = "basketball_nba",
    reads: bool = True,
    asked: Coverage | None = None,
    **books: float | tuple[float, float] | Offer,
) -> Board:
    """An event's first poll. A number is a line at 1.91 each way; a pair in h2h the two prices."""
    nothing = Observation("", "", "", "", at, 0.0, Coverage(), None, False, ())
    empty = Board(
        event_id="event-1",
        sport_key=sport_key,
        observed_at=at,
        commence_time=None if starts_in is None else at + starts_in,
        interval=every,
        reads=reads,
        asked=asked or Coverage(("h2h", "spreads", "totals")),
        observation=nothing,
        _sightings={},
        _views={},
    )
    return empty.next(at, _with_changes({}, market, books))


def minutes(number: float) -> timedelta:
    """That many minutes."""
    return timedelta(minutes=number)


def seconds(number: float) -> timedelta:
    """That many seconds."""
    return timedelta(seconds=number)


def steady(board: Board, polls: int, wait: timedelta = timedelta(minutes=1)) -> list[Board]:
    """The board, and as many polls after it at which nothing changed."""
    boards = [board]
    for _ in range(polls):
        boards.append(boards[-1].later(wait))
    return boards


@dataclass(frozen=True, slots=True)
class Told:
    """What the rules said about a series of boards."""

    state: EventState
    signals: tuple[DetectedSignal, ...]
    #: The suppression log: of each span its newest row.
    log: tuple[SuppressionRow, ...]

    def of(self, signal_type: SignalType) -> list[DetectedSignal]:
        """The signals of one type."""
        return [signal for signal in self.signals if signal.signal_type is signal_type]

    def reasons(self, signal_type: SignalType) -> list[str]:
        """Why signals of one type were held back, a reason a span."""
        return [str(row.reason) for row in self.log if row.signal_type is signal_type]


def tell(boards: Iterable[Board | Observation], settings: RuleSettings | None = None, reloading: bool = False) -> Told:
    """What the rules say, board by board; `reloading` writes the state down and reads it back before each."""
    settings = settings or RuleSettings()
    state: EventState | None = None
    signals: list[DetectedSignal] = []
    spans: dict[tuple[object, ...], SuppressionRow] = {}
    for board in boards:
        observation = board.observation if isinstance(board, Board) else board
        if reloading and state is not None:
            state = wire.load_state(wire.dump_state(state))
        state, found, rows = observe(state, observation, settings)
        signals.extend(found)
        for row in rows:
            key = (row.market, row.player, row.signal_type, row.direction, row.book, row.reason, row.first_seen_at)
            spans[key] = row
    assert state is not None, "a series has at least one board"
    return Told(state, tuple(signals), tuple(spans.values()))


def _with_changes(
    offers: Offers, market: MarketKey, changes: Mapping[str, float | tuple[float, float] | Offer | None]
) -> Offers:
    changed = dict(offers)
    for book, given in changes.items():
        if given is None:
            changed.pop((market, book), None)
        elif isinstance(given, Offer):
            changed[market, book] = given
        elif isinstance(given, tuple):
            changed[market, book] = Offer(None, *given)
        elif market_kind(market.market) is MarketKind.H2H:
            # A number in h2h is a fair probability, offered with a vig of 4 %.
            changed[market, book] = Offer(None, 1.0 / (1.04 * given), 1.0 / (1.04 * (1.0 - given)))
        else:
            changed[market, book] = Offer(float(given))
    return changed


def _quote(
    sport_key: str, key: MarketKey, offer: Offer, now: datetime, read_at: datetime | None, before: _Sighting | None
) -> tuple[Quote, float | None]:
    """The quote, and where it puts the mean of the result."""
    kind = market_kind(key.market)
    assert kind is not None, f"no market {key.market}"
    prices = [offer.price, offer.price_other] + ([] if offer.price_draw is None else [offer.price_draw])
    probability = fair_probabilities(prices)[0]
    changed_after = changed_by = previous_seen_at = None
    if before is not None:
        changed_by = now if read_at is None else min(now, read_at)
        changed_after = min(changed_by, before.seen_at if before.read_at is None else before.read_at)
        previous_seen_at = before.seen_at
    quote = Quote(
        line=offer.line,
        price=offer.price,
        price_other=offer.price_other,
        price_draw=offer.price_draw,
        fair_probability=probability,
        changed_after=changed_after,
        changed_by=changed_by,
        previous_seen_at=previous_seen_at,
    )
    return quote, implied_mean(kind, offer.line, probability, MODEL.sigma_of(sport_key, key.market))


def _views(
    sport_key: str, sightings: Mapping[tuple[MarketKey, str], _Sighting], before: Mapping[MarketKey, _Market]
) -> dict[MarketKey, _Market]:
    present: dict[MarketKey, dict[str, _Sighting]] = {}
    for (key, book), sighting in sorted(sightings.items()):
        if sighting.present:
            present.setdefault(key, {})[book] = sighting
    return {key: _read_again(before.get(key), books) or _view(sport_key, key, books) for key, books in present.items()}


def _read_again(before: _Market | None, books: Mapping[str, _Sighting]) -> _Market | None:
    """The same market with fresher readings; None where anything else changed."""
    if before is None or {one.view.book: one.view.observed_at for one in before.books} != {
        book: sighting.observed_at for book, sighting in books.items()
    }:
        return None
    return replace(before, books=tuple(replace(one, read_at=books[one.view.book].read_at) for one in before.books))


def _view(sport_key: str, key: MarketKey, books: Mapping[str, _Sighting]) -> _Market:
    kind = market_kind(key.market)
    assert kind is not None, f"no market {key.market}"
    sigma = MODEL.sigma_of(sport_key, key.market)

    def apart_from(cluster: str | None, without: frozenset[str]) -> dict[str, list[_Sighting]]:
        groups: dict[str, list[_Sighting]] = {}
        for book, sighting in books.items():
            mine = MODEL.cluster_of(book)
            if mine != cluster and book not in without:
                groups.setdefault(mine, []).append(sighting)
        return groups

    def view_of(groups: Mapping[str, list[_Sighting]]) -> OthersView | None:
        if not groups:
            return None
        sightings = [sighting for group in groups.values() for sighting in group]
        quotes = [sighting.quote for sighting in sightings]
        lines = [quote.line for quote in quotes if quote.line is not None]
        spread_over = [quote.fair_probability or 0.0 for quote in quotes] if kind is MarketKind.H2H else lines
        means = [sighting.implied_mean for sighting in sightings if sighting.implied_mean is not None]
        line = median(lines) if lines else None
        mean = median(means) if means else None
        return OthersView(
            clusters=len(groups),
            fair_line=None if mean is None else fair_line(kind, mean),
            fair_probability=None if mean is None else probability_at(kind, mean, line, sigma),
            dispersion=canonical(pstdev(spread_over)),
            consensus_line=line,
        )

    def is_implausible(book: str, sighting: _Sighting) -> bool:
        quote = sighting.quote
        others = view_of(apart_from(MODEL.cluster_of(book), frozenset()))
        if others is None or others.clusters < 3:
            return False
        if kind is MarketKind.H2H:
            here, there = quote.fair_probability, others.fair_probability
        elif sighting.implied_mean is not None:
            here, there = fair_line(kind, sighting.implied_mean), others.fair_line
        else:
            here, there = quote.line, others.consensus_line
        return here is not None and there is not None and abs(here - there) >= IMPLAUSIBLE[kind]

    bad = frozenset(book for book, sighting in books.items() if is_implausible(book, sighting))
    everybody = apart_from(None, bad)
    consensus = view_of(everybody) if len(everybody) >= MODEL.consensus_min_books else None
    probability = None if consensus is None else consensus.fair_probability
    return _Market(
        key=key,
        consensus=ConsensusView(devig_method="multiplicative", note="too_few_books")
        if consensus is None
        else ConsensusView(
            consensus_line=consensus.consensus_line,
            fair_line=consensus.fair_line,
            fair_probability=probability,
            consensus_price=canonical(1.0 / probability) if probability else None,
            dispersion=consensus.dispersion,
            dispersion_mad=None,
            books=len(books) - len(bad),
            clusters=consensus.clusters,
            devig_method="multiplicative",
        ),
        books=tuple(
            _Standing(
                BookView(book, MODEL.cluster_of(book), sighting.quote, sighting.observed_at, sighting.implied_mean),
                sighting.read_at,
                "implausible" if book in bad else "",
                view_of(apart_from(MODEL.cluster_of(book), bad)),
            )
            for book, sighting in books.items()
        ),
    )


def _update(before: _Market | None, after: _Market, now: datetime) -> MarketUpdate:
    """What consensus tells of a market: the quotes that are not those of before, and everybody's columns."""
    known = {} if before is None else {one.view.book: one.view for one in before.books}
    others = sorted({one.others for one in after.books if one.others is not None}, key=str)
    is_h2h = market_kind(after.key.market) is MarketKind.H2H
    return MarketUpdate(
        key=after.key,
        consensus=after.consensus,
        books=tuple(one.view.book for one in after.books),
        changed=tuple(one.view for one in after.books if known.get(one.view.book) != one.view),
        read_ages=tuple(None if one.read_at is None else (now - one.read_at).total_seconds() for one in after.books),
        others=tuple(others),
        others_at=tuple(one.fair_probability if is_h2h else one.fair_line for one in others),
        others_of=tuple(0 if one.others is None else others.index(one.others) + 1 for one in after.books),
        excluded=tuple((one.view.book, one.excluded) for one in after.books if one.excluded),
    )


def _same(before: _Market | None, after: _Market) -> bool:
    return before is not None and _without_readings(before) == _without_readings(after)


def _without_readings(market: _Market) -> _Market:
    return replace(market, books=tuple(replace(one, read_at=None) for one in market.books))

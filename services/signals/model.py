"""The words of signals: what an observation says, what is remembered of an event, and what is said about it.

Every value speaks for a market's canonical side (home; over) unless its name says otherwise. Times carry their zone,
lines are points, prices decimal odds, probabilities 0..1. `EventState` and what it is made of hold plain values only,
so that they survive being written to the database and read back unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from services.shared.identity import EPOCH


class Value(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A frozen value that is made, compared and written down by C code: an observation holds hundreds of them.

    Written down, its fields have no names, only their order, so new ones go to the end and have a default. No value
    refers back to one that holds it, so the garbage collector need not look at any.
    """


class SignalType(StrEnum):
    """What kind of thing happened. Names are those of the contract."""

    MOVE = "MOVE"
    KEY_CROSS = "KEY_CROSS"
    MULTIBOOK_SYNC = "MULTIBOOK_SYNC"
    STEAM = "STEAM"
    DISLOCATION = "DISLOCATION"


class Direction(StrEnum):
    """Toward which side the market moved; for a dislocation, the side that the book offers better than the others."""

    TOWARD_HOME = "TOWARD_HOME"
    TOWARD_AWAY = "TOWARD_AWAY"
    OVER = "OVER"
    UNDER = "UNDER"


class Tier(StrEnum):
    """How much activity, by the composite score."""

    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"


class TimeBucket(StrEnum):
    """How far away the start was."""

    OPEN = "OPEN"
    MID = "MID"
    LATE = "LATE"
    PRETIP = "PRETIP"
    INPLAY = "INPLAY"
    UNKNOWN = "UNKNOWN"


class ScoreSource(StrEnum):
    """How the composite score was made."""

    COMPOSITE = "COMPOSITE"
    STRENGTH_FALLBACK = "STRENGTH_FALLBACK"


class Reason(StrEnum):
    """Why something that met a trigger was held back, in the order in which reasons are tried."""

    STALE_FEED = "stale_feed"
    SPARSE_SAMPLING = "sparse_sampling"
    TOO_FEW_BOOKS = "too_few_books"
    AGAINST = "against"
    IMPLAUSIBLE = "implausible"
    COOLDOWN = "cooldown"
    CAP = "cap"


# What an observation says.


class MarketKey(Value, frozen=True, order=True):
    """Names a market inside an event; `player` is empty except for props."""

    market: str
    player: str = ""


class Coverage(Value, frozen=True):
    """What a poll asked for. An empty tuple means all there are."""

    markets: tuple[str, ...] = ()
    books: tuple[str, ...] = ()


class Quote(Value, frozen=True):
    """One book's value in a market: it stays the same quote until a price or the line changes."""

    line: float | None
    price: float
    price_other: float
    price_draw: float | None
    #: The canonical side's probability at the book's own line, the vig removed.
    fair_probability: float | None
    #: The value appeared within (changed_after, changed_by]; None at a first observation.
    changed_after: datetime | None = None
    changed_by: datetime | None = None
    #: When the value before this one was last seen; None at a first observation.
    previous_seen_at: datetime | None = None
    #: When each outcome was first seen as it is: canonical, other, draw. Empty where all came with the quote, as usual.
    outcomes_observed_at: tuple[datetime, ...] = ()


class OthersView(Value, frozen=True):
    """The books outside a book's cluster, as a market of their own."""

    clusters: int
    fair_line: float | None = None
    fair_probability: float | None = None
    dispersion: float | None = None
    consensus_line: float | None = None


class Bet(Value, frozen=True):
    """Where to bet each side, and the largest stake taken, as far as the book told."""

    link: str | None = None
    link_other: str | None = None
    limit: float | None = None
    limit_other: float | None = None


class BookView(Value, frozen=True):
    """One book's quote in a market, and what is told of the book with it."""

    book: str
    cluster: str
    quote: Quote
    #: When the quote was first seen.
    observed_at: datetime
    #: Where the book puts the mean of the result on the common scale; None without a scale.
    implied_mean: float | None = None
    #: None where it told neither a link nor a limit.
    bet: Bet | None = None


class ConsensusView(Value, frozen=True):
    """What the market as a whole thinks; numbers are None with too few books."""

    consensus_line: float | None = None
    fair_line: float | None = None
    fair_probability: float | None = None
    consensus_price: float | None = None
    dispersion: float | None = None
    dispersion_mad: float | None = None
    books: int = 0
    clusters: int = 0
    devig_method: str = ""
    note: str = ""


class MarketUpdate(Value, frozen=True):
    """A market that changed, as it stands: what changed in it, and columns that speak of every book in it."""

    key: MarketKey
    consensus: ConsensusView
    #: Every book that quotes the market.
    books: tuple[str, ...]
    #: Quotes that may be others than in the update before; in a keyframe all of them.
    changed: tuple[BookView, ...]
    #: For each book, seconds from the provider's last reading of it to this observation; None where it does not say.
    read_ages: tuple[float | None, ...]
    #: The comparisons that occur.
    others: Sequence[OthersView]
    #: Each comparison's place on the market's scale: its fair line, in h2h its fair probability.
    others_at: tuple[float | None, ...]
    #: For each book which of `others` is its own, counted from 1; 0 where it has none.
    others_of: tuple[int, ...]
    #: Books that are left out of the consensus, and why, by book.
    excluded: tuple[tuple[str, str], ...] = ()


class Observation(Value, frozen=True):
    """One event as one successful poll saw it. `markets` are the changed ones; in a keyframe, all there are."""

    event_id: str
    sport_key: str
    home_team: str
    away_team: str
    observed_at: datetime
    #: The interval that the poll keeps.
    expected_interval_seconds: float
    asked: Coverage
    #: As given in this same observation; None when it was not readable.
    commence_time: datetime | None
    keyframe: bool
    markets: tuple[MarketUpdate, ...]
    #: Markets in which no book quotes any more.
    removed: tuple[MarketKey, ...] = ()


# What is remembered of an event. It is written down with every message: nothing is in it that follows from the rest.


class Sight(Value, frozen=True):
    """That the event was observed: when, at which interval, and what was asked for."""

    observed_at: datetime
    expected_interval_seconds: float
    asked: Coverage


class Stand(Value, frozen=True):
    """A book's quote from the observation `since` which it stood to the one that found it replaced or gone."""

    since: datetime
    quote: Quote
    #: Why it was left out of the consensus; empty when it was in.
    excluded: str = ""
    #: None while it stands.
    until: datetime | None = None
    #: When the provider had read it, as of the market's last change before `until`. While it stands, the market knows.
    last_update: datetime | None = None
    #: When the quote was first seen, where that is not `since`: in a gap, or before it was left out or taken in again.
    first_seen_at: datetime | None = None

    @property
    def observed_at(self) -> datetime:
        """When the quote was first seen."""
        return self.first_seen_at or self.since


class BookState(Value, frozen=True):
    """What a book said in a market within the longest window, oldest first; the newest is what it offers now."""

    book: str
    #: The cluster that it votes in with others; empty for a book that is its own.
    shared_cluster: str
    stands: tuple[Stand, ...]
    implied_mean: float | None = None
    bet: Bet | None = None

    @property
    def cluster(self) -> str:
        """The cluster that it votes in."""
        return self.shared_cluster or self.book

    @property
    def quote(self) -> Quote:
        """What it offers; for a book that is gone, what it did."""
        return self.stands[-1].quote

    @property
    def excluded(self) -> str:
        """Why it is left out of the consensus; empty when it is in."""
        return self.stands[-1].excluded


class Outlier(Value, frozen=True):
    """A book that could stand apart from the others, and the others as it was compared with them."""

    book: str
    others: OthersView


class PriceStand(Value, frozen=True):
    """The consensus price since an observation."""

    since: datetime
    consensus_price: float | None


class Episode(Value, frozen=True):
    """A cluster that stands apart on one side of the market, from the first observation at the threshold."""

    cluster: str
    direction: str
    since: datetime
    #: Its books that were at the threshold at the newest observation.
    apart: tuple[str, ...]
    #: The highest multiple of the threshold that a signal told of; 0 while none did.
    told_multiple: int


class EpisodeEnd(Value, frozen=True):
    """When the last published episode of a cluster and side ended."""

    cluster: str
    direction: str
    ended_at: datetime


class LastSaid(Value, frozen=True):
    """When a type of signal was last published in a market and direction."""

    signal_type: str
    direction: str
    published_at: datetime


class HeldBack(Value, frozen=True):
    """A span of consecutive observations at which the same thing was held back for the same reason."""

    signal_type: str
    direction: str
    book: str
    reason: str
    count: int
    first_seen_at: datetime
    last_seen_at: datetime


class MarketState(Value, frozen=True):
    """What the rules need of a market's past. Tuples are ordered by name, histories by time."""

    key: MarketKey
    consensus: ConsensusView = ConsensusView()
    consensus_prices: tuple[PriceStand, ...] = ()
    #: The books that quote it.
    books: tuple[BookState, ...] = ()
    #: The books that did within the longest window, and do no more.
    gone: tuple[BookState, ...] = ()
    #: The newest observation that changed anything in it.
    changed_at: datetime = EPOCH
    #: For each of `books`, seconds from the provider's last reading to `changed_at`; None where it does not say.
    read_ages: tuple[float | None, ...] = ()
    #: Books that are left out of the consensus, and why, by book.
    excluded: tuple[tuple[str, str], ...] = ()
    #: The books about which DISLOCATION could have something to say.
    outliers: tuple[Outlier, ...] = ()
    #: The observations at which a book's line (h2h: its fair probability) was another than before, one a book.
    moves: tuple[datetime, ...] = ()
    #: The completing observation of the last MOVE or KEY_CROSS.
    anchor: datetime | None = None
    episodes: tuple[Episode, ...] = ()
    episode_ends: tuple[EpisodeEnd, ...] = ()
    last_said: tuple[LastSaid, ...] = ()
    held_back: tuple[HeldBack, ...] = ()

    def last_update_of(self, index: int) -> datetime | None:
        """When the provider had last read the quote of one of `books`, as of the market's last change."""
        age = self.read_ages[index]
        return None if age is None else self.changed_at - timedelta(seconds=age)


class CappedSignal(Value, frozen=True):
    """A published signal of a type that has a cap."""

    signal_type: str
    published_at: datetime


class EventState(Value, frozen=True):
    """Everything that the rules need of the past of one event, bounded by the longest window and cap."""

    event_id: str
    sport_key: str
    home_team: str
    away_team: str
    commence_time: datetime | None
    #: Oldest first; the last one is the newest observation.
    sights: tuple[Sight, ...]
    #: The observation at which the present pre-game stretch began; None in play. No window reaches behind it.
    pregame_since: datetime | None
    markets: tuple[MarketState, ...]
    capped: tuple[CappedSignal, ...]

    @property
    def observed_at(self) -> datetime:
        """The newest observation."""
        return self.sights[-1].observed_at


# What is said about it.


class ScorePart(Value, frozen=True):
    """A named part of the strength."""

    name: str
    points: float


class ScoreComponent(Value, frozen=True):
    """A named part of the composite score; `parts` add up to the strength, and only `strength` has them."""

    name: str
    points: float
    parts: tuple[ScorePart, ...] = ()


class BookMove(Value, frozen=True):
    """One book's own move, which happened within (changed_after, changed_by]."""

    book: str
    cluster: str
    from_value: float
    to_value: float
    changed_after: datetime | None
    changed_by: datetime | None


class BookHolding(Value, frozen=True):
    """A book that still offers the old number: `price` is that of the side named by the signal's direction."""

    book: str
    line: float | None
    price: float
    price_other: float
    last_update: datetime | None
    age_seconds: float | None
    #: price × consensus probability at that line − 1.
    ev_now: float | None
    link: str | None
    limit: float | None


class ExplainedInput(Value, frozen=True):
    """A quote that a signal was computed from; `role` is `from` or `to`, the end of the window."""

    snapshot_id: str
    book: str
    cluster: str
    role: str
    line: float | None
    price: float
    price_other: float
    fair_probability: float | None
    observed_at: datetime
    last_update: datetime | None


class DetectedSignal(Value, frozen=True):
    """Something worth knowing, complete except for when it leaves us and where it stands in the feed.

    The fields are those of `stratum.signals.v1.Signal`; `inputs` and `steps` are what an explanation adds.
    """

    id: str
    fact_id: str
    also: tuple[str, ...]
    sport_key: str
    event_id: str
    home_team: str
    away_team: str
    commence_time: datetime | None
    market: str
    player: str
    signal_type: SignalType
    direction: Direction
    book: str | None
    from_value: float | None
    to_value: float | None
    delta: float
    from_price: float | None
    to_price: float | None
    strength: int
    velocity: float | None
    acceleration: float | None
    composite_score: float
    score_source: ScoreSource
    tier: Tier
    components: tuple[ScoreComponent, ...]
    minutes_to_tip: float | None
    time_bucket: TimeBucket
    observed_at: datetime
    sampling_seconds: float
    window_seconds: float | None
    elapsed_seconds: float | None
    clusters_moved: int
    clusters_in_panel: int
    books_moved: tuple[BookMove, ...]
    books_holding: tuple[BookHolding, ...]
    consensus_line: float | None
    fair_line: float | None
    fair_probability: float | None
    devig_method: str
    dispersion: float | None
    snapshot_ids: tuple[str, ...]
    rules_version: str
    config_hash: str
    profile: str
    meta: Mapping[str, str]
    #: The books that moved in the direction, or the one that stands apart.
    books: tuple[str, ...]
    inputs: tuple[ExplainedInput, ...]
    steps: tuple[str, ...]


class OldNumber(Value, frozen=True):
    """What of a signal says which number is old: enough to ask who still offers it."""

    market: str
    player: str
    signal_type: str
    direction: str
    from_value: float
    to_value: float
    book: str | None


class SuppressionRow(Value, frozen=True):
    """A span at which something was held back, as of its newest observation.

    A later row with the same event, market, player, type, direction, book, reason and `first_seen_at` replaces it.
    """

    event_id: str
    sport_key: str
    market: str
    player: str
    signal_type: SignalType
    direction: Direction
    #: Only for DISLOCATION; empty otherwise.
    book: str
    reason: Reason
    count: int
    first_seen_at: datetime
    last_seen_at: datetime

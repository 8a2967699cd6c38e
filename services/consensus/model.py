"""The words of consensus: what a book quotes, what one observation brought, and what is known of an event.

Every number speaks for the canonical side: home in h2h and spreads, over in totals. Lines are points, prices decimal
odds, probabilities 0..1 with the vig removed, times aware and in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import msgspec

#: Why a book is left out of the consensus.
IMPLAUSIBLE = "implausible"
PRE_TIP_QUOTE = "pre_tip_quote"
STALE = "stale"
#: Why a book's price counts for nothing though its line does: it stands on another line, and there is no scale.
OTHER_LINE = "other_line"

#: What limits the consensus of a market.
TOO_FEW_BOOKS = "too_few_books"
NO_SIGMA = "no_sigma"


class Value(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A frozen value that is made, compared and written down by C code: a board holds hundreds of them.

    Written down, its fields have no names, only their order, so new ones go to the end and have a default.
    """


class MarketKey(NamedTuple):
    """Names a market inside an event; `player` is empty but for props."""

    market: str
    player: str = ""


class OutcomeQuote(Value, frozen=True):
    """One outcome's price, and when its present price and line were first seen; that names its snapshot."""

    outcome: str
    price: float
    observed_at: datetime
    link: str | None = None
    limit: float | None = None
    sid: str | None = None


class Quote(Value, frozen=True):
    """One book's whole market: two outcomes, or three with a draw, the canonical side first."""

    book: str
    line: float | None
    outcomes: tuple[OutcomeQuote, ...]
    observed_at: datetime
    last_update: datetime | None = None
    changed_after: datetime | None = None
    changed_by: datetime | None = None
    previous_seen_at: datetime | None = None

    @property
    def prices(self) -> tuple[float, ...]:
        """Decimal prices in the order of the outcomes."""
        first, second, *more = self.outcomes
        return (
            (first.price, second.price, *[outcome.price for outcome in more]) if more else (first.price, second.price)
        )

    def read(self, last_update: datetime | None) -> Quote:
        """The same quote, as the provider last read it then."""
        return Quote(
            self.book,
            self.line,
            self.outcomes,
            self.observed_at,
            last_update,
            self.changed_after,
            self.changed_by,
            self.previous_seen_at,
        )

    @property
    def other(self) -> OutcomeQuote:
        """The side opposite to the canonical one; never the draw."""
        return next(outcome for outcome in self.outcomes[1:] if outcome.outcome != "draw")


class Others(Value, frozen=True):
    """The rest of the market, as seen from one book: what everything outside its cluster says together.

    As in a consensus, `fair_probability` is the canonical side's at `consensus_line`: that of the others.
    """

    clusters: int
    consensus_line: float | None
    fair_line: float | None
    fair_probability: float | None
    dispersion: float


class Standing(Value, frozen=True):
    """Where one book stands in a market. `excluded` says why it is left out of the consensus; empty when it is in."""

    cluster: str
    fair_probability: float
    implied_mean: float | None
    excluded: str = ""
    others: Others | None = None


class Consensus(Value, frozen=True):
    """What the market as a whole thinks. Without enough clusters only the counts, the exclusions and the note speak."""

    books: int
    clusters: int
    in_play: bool
    #: How the vig was removed.
    devig_method: str
    note: str = ""
    consensus_line: float | None = None
    fair_line: float | None = None
    fair_probability: float | None = None
    consensus_price: float | None = None
    dispersion: float | None = None
    dispersion_mad: float | None = None
    #: (book, reason), by book.
    excluded: tuple[tuple[str, str], ...] = ()
    #: (book, what it counted for in the fair probability), by book.
    weights: tuple[tuple[str, float], ...] = ()

    @property
    def exists(self) -> bool:
        """Whether there is a consensus at all."""
        return self.note != TOO_FEW_BOOKS


class ReducedQuote(Value, frozen=True):
    """One book's quote, reduced to what is compared."""

    name: str
    cluster: str
    line: float | None
    probability: float
    mean: float | None
    #: Where it stands on the scale on which plausibility is judged.
    position: float


class Vote(Value, frozen=True):
    """One voice in a market: a cluster's, or for a start each book's own."""

    cluster: str
    members: tuple[ReducedQuote, ...]
    #: The median of its members' lines, or of their probabilities in h2h: what a market's dispersion is one of.
    value: float
    #: (implied mean, weight, cluster) of each member; nothing without a scale.
    means: tuple[tuple[float, float, str], ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PricedMarket:
    """A market's consensus and, by book, where each stands against the others."""

    consensus: Consensus
    standings: dict[str, Standing]
    #: What the two were made of, by book: when one book changes, the others need not be reduced again.
    reduced: dict[str, Vote]


class Coverage(Value, frozen=True):
    """The newest poll that asked for these markets and books (none named: every book), and the interval it keeps."""

    markets: tuple[str, ...]
    books: tuple[str, ...]
    observed_at: datetime
    interval_seconds: float

    def covers(self, market: str, book: str) -> bool:
        """Whether a quote that was there would have come with this poll."""
        return market in self.markets and (not self.books or book in self.books)


@dataclass(frozen=True, slots=True)
class Observation:
    """One event as one successful poll saw it: what changed, or, in a keyframe, everything."""

    event_id: str
    sport_key: str
    home_team: str
    away_team: str
    revision: int
    previous_revision: int
    observed_at: datetime
    asked: Coverage
    commence_time: datetime | None
    keyframe: bool
    changes: tuple[tuple[MarketKey, Quote], ...] = ()
    removed: tuple[tuple[MarketKey, str], ...] = ()
    #: (market, book, when the provider last read it) of quotes that did not change.
    reads: tuple[tuple[MarketKey, str, datetime], ...] = ()

    @property
    def in_play(self) -> bool:
        """Whether the event had begun, by the start given in this same observation."""
        return self.commence_time is not None and self.observed_at >= self.commence_time


@dataclass(frozen=True, slots=True)
class MarketState:
    """One market between two observations. Without quotes it only remembers that its end was said."""

    quotes: dict[str, Quote]
    #: Quotes that are there but no longer count, by book: why.
    dead: dict[str, str]
    in_play: bool
    #: When the newest row was written.
    row_at: datetime
    #: The newest observation at which the market was another than before.
    changed_at: datetime
    #: Made of all the above; None where a state was read back, because what can be made again is not stored.
    priced: PricedMarket | None


@dataclass(frozen=True, slots=True)
class EventState:
    """One event between two observations. `revision` counts the messages emitted for it."""

    revision: int = 0
    #: The configuration that priced the markets.
    config_hash: str = ""
    coverage: tuple[Coverage, ...] = ()
    markets: dict[MarketKey, MarketState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConsensusRow:
    """A market's consensus as it was published, or repeated as a heartbeat."""

    event_id: str
    sport_key: str
    key: MarketKey
    observed_at: datetime
    consensus: Consensus
    heartbeat: bool
    config_hash: str


@dataclass(frozen=True, slots=True)
class QuotePoint:
    """One book's quote from an observation on, for the canonical side. Without prices: from here on it was gone."""

    event_id: str
    key: MarketKey
    book: str
    observed_at: datetime
    line: float | None = None
    price: float | None = None
    price_other: float | None = None
    fair_probability: float | None = None


@dataclass(frozen=True, slots=True)
class GameRow:
    """An event as last observed."""

    event_id: str
    sport_key: str
    home_team: str
    away_team: str
    commence_time: datetime | None
    observed_at: datetime
    in_play: bool
    markets: tuple[str, ...]
    books: int

"""What a rule answers: candidates that may be published, and what met a trigger and was held back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from services.signals.model import BookState, Direction, MarketKey, OthersView, Reason, SignalType, Value
from services.signals.rules.score import Strength
from services.signals.rules.window import Movers, Panel


class Words(Value, frozen=True):
    """A candidate as it is told: the steps that led to it as sentences, and what only its type has, by name."""

    steps: tuple[str, ...]
    meta: Mapping[str, str]


class Apart(Value, frozen=True):
    """A book as it is compared with the others."""

    book: BookState
    #: When the provider had last read its quote.
    last_update: datetime | None
    others: OthersView


class Candidate(Value, frozen=True):
    """A signal that its rule would publish; only cooldown and cap can still hold it back."""

    key: MarketKey
    signal_type: SignalType
    direction: Direction
    from_value: float
    to_value: float
    delta: float
    #: The threshold by which it is scored.
    threshold: float
    strength: Strength
    #: |delta| per minute; None for a state, which has no speed.
    velocity: float | None
    #: Share of the panel that moved; for DISLOCATION the others, as a share of ten.
    breadth: float
    #: In points; in h2h, in probability.
    dispersion: float | None
    #: These two are asked for only when it is published: what a cap holds back for hours need not be worked out and put
    #: into words each time.
    words: Callable[[], Words]
    acceleration: Callable[[], float | None]
    # What a movement has.
    panel: Panel | None = None
    movers: Movers | None = None
    elapsed_seconds: float | None = None
    # What a dislocation has.
    apart: Apart | None = None
    multiple: int = 0

    @property
    def book(self) -> str:
        """The book that stands apart; empty for a movement."""
        return "" if self.apart is None else self.apart.book.book

    @property
    def clusters_in_panel(self) -> int:
        """The clusters of the panel; for a dislocation those that the book is compared with."""
        if self.panel is not None:
            return self.panel.size
        return 0 if self.apart is None else self.apart.others.clusters

    def order(self) -> tuple[float, float, MarketKey, str, str, str]:
        """Sorts the strongest first."""
        relative = -abs(self.delta) / self.threshold
        return (-self.strength.points, relative, self.key, self.book, self.direction, self.signal_type)


class Held(Value, frozen=True, order=True):
    """Something that met a trigger and was held back at this observation. `book` is empty except for DISLOCATION."""

    key: MarketKey
    signal_type: SignalType
    direction: Direction
    book: str
    reason: Reason


class Verdict(Value, frozen=True):
    """What a rule says about one market at one observation."""

    candidates: tuple[Candidate, ...] = ()
    held: tuple[Held, ...] = ()


NOTHING = Verdict()

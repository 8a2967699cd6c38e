"""Windows and panels: who stood in a market at both ends of a stretch of time, and how each moved against itself.

A window starts at the newest observation that is at least 0.9 of it old, never before the event became pre-game and,
where the rule has an anchor, never before that. Its panel is every book alive and plausible at both ends. A book that
arrives or leaves moves nothing, because it is not in the panel; one that vanished in between and came back is. A book
with a change that is not known to within 1.1 windows leaves the panel. Whatever counts books counts clusters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from services.shared.odds import MarketKind, canonical, median
from services.signals.model import BookState, Coverage, Direction, MarketKey, MarketState, Quote, Sight, Stand, Value
from services.signals.rules.settings import RuleSettings

#: Left out of a panel. A book on another line than the consensus (`other_line`) still moves against itself.
NOT_IN_PANEL = frozenset({"implausible", "pre_tip_quote", "stale"})


class Moment(Value, frozen=True):
    """What every rule looks at besides the market: the event's observations up to now, and the configuration."""

    sport_key: str
    #: Oldest first; the last one is now.
    sights: Sequence[Sight]
    pregame_since: datetime
    settings: RuleSettings

    @property
    def now(self) -> datetime:
        """The observation that is being judged."""
        return self.sights[-1].observed_at


class Window(Value, frozen=True):
    """A stretch of event time between two observations, and the length that the rule asked for."""

    start: datetime
    end: datetime
    seconds: float
    #: True when the polls had fallen silent at the moment where the window should begin.
    stale: bool


class OwnChange(Value, frozen=True):
    """One book against itself over a window. The interval spans all its changes; None when nothing changed."""

    book: str
    cluster: str
    start: Quote
    end: Quote
    from_value: float
    to_value: float
    delta: float
    changed_after: datetime | None
    changed_by: datetime | None
    #: The observation that first saw the last of the changes.
    seen_at: datetime | None


class ClusterChange(Value, frozen=True):
    """A cluster's one vote: medians over its members."""

    cluster: str
    from_value: float
    to_value: float
    own_change: float
    members: tuple[OwnChange, ...]


class Panel(Value, frozen=True):
    """The clusters alive at both ends of a window, by name; `left` are books whose changes are too vague in time."""

    window: Window
    clusters: tuple[ClusterChange, ...]
    left: tuple[OwnChange, ...]

    def with_those_that_left(self) -> Panel:
        """The panel as it would be if vague changes counted; it shows what sparse sampling hides."""
        members = [member for cluster in self.clusters for member in cluster.members]
        return Panel(self.window, clusters_of([*members, *self.left]), ())

    @property
    def from_value(self) -> float:
        """Median of the clusters at the window's start."""
        return canonical(median([cluster.from_value for cluster in self.clusters]))

    @property
    def to_value(self) -> float:
        """Median of the clusters at the window's end."""
        return canonical(median([cluster.to_value for cluster in self.clusters]))

    @property
    def own_change(self) -> float:
        """Median of the clusters' own changes."""
        return canonical(median([cluster.own_change for cluster in self.clusters]))


class Movers(Value, frozen=True):
    """Who moved one way in a panel, and how many clusters moved against it."""

    #: The clusters that moved, as their moved members alone make them.
    clusters: tuple[ClusterChange, ...]
    books: tuple[OwnChange, ...]
    against: int

    @property
    def from_value(self) -> float:
        """Median of where the moved clusters stood at the window's start."""
        return canonical(median([cluster.from_value for cluster in self.clusters]))

    @property
    def delta(self) -> float:
        """Median of the moved clusters' own changes."""
        return canonical(median([cluster.own_change for cluster in self.clusters]))

    @property
    def elapsed_seconds(self) -> float:
        """Start of the first mover's interval to end of the last mover's: the longest the move can have taken.

        At least one second, which is as finely as a provider's reading is dated.
        """
        first = min(book.changed_after for book in self.books if book.changed_after is not None)
        last = max(book.changed_by for book in self.books if book.changed_by is not None)
        return max(1.0, (last - first).total_seconds())


def value_of(kind: MarketKind, quote: Quote) -> float | None:
    """The number that moves: the line, or in h2h the fair probability."""
    return quote.fair_probability if kind is MarketKind.H2H else quote.line


def direction_of(kind: MarketKind, delta: float) -> Direction:
    """Toward which side a change of the canonical value goes. Home −5.5 → −6.5 is toward home."""
    if kind is MarketKind.TOTAL:
        return Direction.OVER if delta > 0 else Direction.UNDER
    toward_home = delta < 0 if kind is MarketKind.SPREAD else delta > 0
    return Direction.TOWARD_HOME if toward_home else Direction.TOWARD_AWAY


def names_canonical_side(direction: Direction) -> bool:
    """Whether a direction names home or over, for which a market's numbers speak."""
    return direction in (Direction.TOWARD_HOME, Direction.OVER)


def asks_for(asked: Coverage, market: str, book: str | None = None) -> bool:
    """Whether a poll asked for a market, and for a book in it."""
    if asked.markets and market not in asked.markets:
        return False
    return book is None or not asked.books or book in asked.books


def find_window(moment: Moment, key: MarketKey, seconds: float, anchor: datetime | None = None) -> Window | None:
    """The window that ends now; None while the event has not been watched for long enough."""
    now, settings = moment.now, moment.settings
    cut = now - timedelta(seconds=settings.window_start_share * seconds)
    for sight in reversed(moment.sights):
        if sight.observed_at < moment.pregame_since:
            return None
        if sight.observed_at <= cut and asks_for(sight.asked, key.market):
            if anchor is not None and anchor > sight.observed_at:
                return Window(anchor, now, seconds, stale=False)
            silence = (cut - sight.observed_at).total_seconds()
            stale = silence > settings.alive_seconds(sight.expected_interval_seconds)
            return Window(sight.observed_at, now, seconds, stale)
    return None


def find_panel(
    market: MarketState,
    kind: MarketKind,
    moment: Moment,
    seconds: float,
    anchor: datetime | None = None,
    movers: int = 1,
) -> Panel | None:
    """The panel of the window that ends now; None where there is none, or fewer books than `movers` changed in it."""
    window = find_window(moment, market.key, seconds, anchor)
    if window is None or market.moved_at is None or market.moved_at <= window.start:
        return None
    if sum(book.stands[-1].since > window.start for book in market.books) < movers:
        return None
    longest = timedelta(seconds=moment.settings.elapsed_share * window.seconds)
    # Nearly every poll asks for every book; then whoever stood at the window's start was alive.
    some_left_out = any(sight.asked.books for sight in moment.sights)
    members: list[OwnChange] = []
    left: list[OwnChange] = []
    for book in market.books:
        start = stand_at(book.stands, window.start)
        if book.view is None or start is None:
            continue
        if start.excluded in NOT_IN_PANEL or book.stands[-1].excluded in NOT_IN_PANEL:
            continue
        if some_left_out and not (
            is_alive(moment, window.start, market.key, book.book) and is_alive_now(moment, market.key, book.book)
        ):
            continue
        change, counts = _own_change(book, kind, start, window, longest)
        if change is not None:
            (members if counts else left).append(change)
    return Panel(window, clusters_of(members), tuple(left))


def find_movers(panel: Panel, sign: float, step: float) -> Movers:
    """Who moved in the direction of `sign` by at least `step`; any change, where that is 0.

    A cluster moved if a member did, and is against if its members' median is; one that would be both is against.
    """
    books: list[OwnChange] = []
    against = 0
    for cluster in panel.clusters:
        if _reaches(-sign * cluster.own_change, step):
            against += 1
        else:
            books.extend(member for member in cluster.members if _reaches(sign * member.delta, step))
    return Movers(clusters_of(books), tuple(sorted(books, key=lambda member: member.book)), against)


def stand_at(stands: Sequence[Stand], moment: datetime) -> Stand | None:
    """What stood at an observation; None where the book was not there."""
    for stand in reversed(stands):
        if stand.since <= moment:
            return stand if stand.until is None or moment < stand.until else None
    return None


def is_alive(moment: Moment, at: datetime, key: MarketKey, book: str) -> bool:
    """Whether the last poll up to `at` that asked for the book's quote is recent enough to speak for it."""
    for sight in reversed(moment.sights):
        if sight.observed_at <= at and asks_for(sight.asked, key.market, book):
            limit = moment.settings.alive_seconds(sight.expected_interval_seconds)
            return (at - sight.observed_at).total_seconds() <= limit
    return False


def is_alive_now(moment: Moment, key: MarketKey, book: str) -> bool:
    """The same at the observation that is being judged, which nearly always asked for everything."""
    return asks_for(moment.sights[-1].asked, key.market, book) or is_alive(moment, moment.now, key, book)


def clusters_of(members: Iterable[OwnChange]) -> tuple[ClusterChange, ...]:
    """The books' clusters by name, each with the medians of its members."""
    grouped: dict[str, list[OwnChange]] = {}
    for member in members:
        grouped.setdefault(member.cluster, []).append(member)
    return tuple(_cluster_of(cluster, group) for cluster, group in sorted(grouped.items()))


def _reaches(change: float, step: float) -> bool:
    return change > 0 and canonical(change) >= step


def _own_change(
    book: BookState, kind: MarketKind, start: Stand, window: Window, longest: timedelta
) -> tuple[OwnChange | None, bool]:
    """The book against itself from its stand at the window's start on, and whether every change in it counts."""
    end = book.stands[-1]
    from_value, to_value = value_of(kind, start.quote), value_of(kind, end.quote)
    if from_value is None or to_value is None:
        return None, False
    changed_after = changed_by = seen_at = None
    counts = True
    if end is not start:
        for before, after in zip(book.stands, book.stands[1:], strict=False):
            if before.since < start.since or value_of(kind, before.quote) == value_of(kind, after.quote):
                continue
            quote = after.quote
            earliest = quote.changed_after or quote.previous_seen_at or before.since
            changed_by = quote.changed_by or quote.observed_at
            changed_after = changed_after or earliest
            seen_at = after.since
            old_seen_at = quote.previous_seen_at
            seen_outside = old_seen_at is not None and old_seen_at < window.start
            counts = counts and not seen_outside and changed_by - earliest <= longest
    change = OwnChange(
        book=book.book,
        cluster=book.cluster,
        start=start.quote,
        end=end.quote,
        from_value=from_value,
        to_value=to_value,
        delta=canonical(to_value - from_value),
        changed_after=changed_after,
        changed_by=changed_by,
        seen_at=seen_at,
    )
    return change, counts


def _cluster_of(cluster: str, members: list[OwnChange]) -> ClusterChange:
    if len(members) == 1:
        only = members[0]
        return ClusterChange(cluster, only.from_value, only.to_value, only.delta, (only,))
    return ClusterChange(
        cluster=cluster,
        from_value=median([member.from_value for member in members]),
        to_value=median([member.to_value for member in members]),
        own_change=canonical(median([member.delta for member in members])),
        members=tuple(sorted(members, key=lambda member: member.book)),
    )

"""Windows and panels: who stood in a market at both ends of a stretch of time, and how each moved against itself.

A window starts at the newest observation that is at least 0.9 of it old, never before the event became pre-game and,
where the rule has an anchor, never before that. Its panel is every book alive and plausible at both ends. A book that
arrives or leaves moves nothing, because it is not in the panel; one that vanished in between and came back is. A book
with a change that is not known to within 1.1 windows leaves the panel. Whatever counts books counts clusters.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from operator import attrgetter

from services.shared.odds import MarketKind, canonical, market_kind, median
from services.signals.model import BookState, Coverage, Direction, MarketKey, MarketState, Quote, Sight, Stand, Value
from services.signals.rules.settings import RuleSettings

#: The kind of a market key, remembered: it is asked for with every update of every market.
kind_of = lru_cache(maxsize=1024)(market_kind)

#: Left out of a panel. A book on another line than the consensus (`other_line`) still moves against itself.
NOT_IN_PANEL = frozenset({"implausible", "pre_tip_quote", "stale"})


@dataclass(slots=True)
class Moment:
    """What every rule looks at besides the market: the event's observations up to now, and the configuration."""

    sport_key: str
    #: Oldest first; the last one is now.
    sights: Sequence[Sight]
    pregame_since: datetime
    settings: RuleSettings
    #: The observation that is being judged.
    now: datetime = field(init=False)
    #: Whether any of the polls left books out. Nearly every one asks for every book.
    some_left_out: bool = field(init=False)
    #: By a window's seconds, the newest observation that is old enough to start it, and that window.
    _windows: dict[float, tuple[int, Window | None]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.now = self.sights[-1].observed_at
        self.some_left_out = any(sight.asked.books for sight in self.sights)

    def window(self, key: MarketKey, seconds: float) -> Window | None:
        """The window that ends now; None while the event has not been watched for long enough.

        Found once for all markets, because nearly every poll asks for all of them.
        """
        found = self._windows.get(seconds)
        if found is None:
            cut = self.now - timedelta(seconds=self.settings.window_start_share * seconds)
            index = bisect_right(self.sights, cut, key=_observed_at) - 1
            found = self._windows[seconds] = index, self._window_from(index, seconds)
        index, window = found
        while window is not None and not asks_for(self.sights[index].asked, key.market):
            index -= 1
            window = self._window_from(index, seconds)
        return window

    def _window_from(self, index: int, seconds: float) -> Window | None:
        if index < 0 or self.sights[index].observed_at < self.pregame_since:
            return None
        sight = self.sights[index]
        cut = self.now - timedelta(seconds=self.settings.window_start_share * seconds)
        silence = (cut - sight.observed_at).total_seconds()
        stale = silence > self.settings.alive_seconds(sight.expected_interval_seconds)
        return Window(sight.observed_at, self.now, seconds, stale)


_observed_at = attrgetter("observed_at")


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
    start: Stand
    end: Stand
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


@dataclass(slots=True)
class Panel:
    """The books alive at both ends of a window; `left` are those whose changes are too vague in time.

    Most books stand still. They are written out as changes of nothing only where a signal tells of the panel.
    """

    window: Window
    #: Books that are where they were, with the number at which they stand.
    steady: Sequence[tuple[BookState, float]]
    #: Books that changed, even if only in what is not the number that moves, or if they came back to it.
    changed: Sequence[OwnChange]
    left: Sequence[OwnChange] = ()
    _votes: Sequence[tuple[float, float, float]] | None = field(init=False, default=None)
    _clusters: tuple[ClusterChange, ...] | None = field(init=False, default=None)

    @property
    def votes(self) -> Sequence[tuple[float, float, float]]:
        """The clusters' numbers at the window's start and at its end, and their own changes, in one order."""
        if self._votes is None:
            members: dict[str, list[tuple[float, float, float]]] = {}
            for book, value in self.steady:
                members.setdefault(book.shared_cluster or book.book, []).append((value, value, 0.0))
            for change in self.changed:
                members.setdefault(change.cluster, []).append((change.from_value, change.to_value, change.delta))
            self._votes = [group[0] if len(group) == 1 else _vote(group) for group in members.values()]
        return self._votes

    def with_those_that_left(self) -> Panel:
        """The panel as it would be if vague changes counted; it shows what sparse sampling hides."""
        return Panel(self.window, self.steady, [*self.changed, *self.left])

    @property
    def clusters(self) -> tuple[ClusterChange, ...]:
        """Everybody's vote, written out, by name."""
        if self._clusters is None:
            still = [_no_change(book, value) for book, value in self.steady]
            self._clusters = clusters_of([*self.changed, *still])
        return self._clusters

    @property
    def size(self) -> int:
        """How many clusters stood in the market at both ends."""
        return len(self.votes)

    @property
    def from_value(self) -> float:
        """Median of the clusters at the window's start."""
        return canonical(median([start for start, _, _ in self.votes]))

    @property
    def to_value(self) -> float:
        """Median of the clusters at the window's end."""
        return canonical(median([end for _, end, _ in self.votes]))

    @property
    def own_change(self) -> float:
        """Median of the clusters' own changes."""
        return canonical(median([change for _, _, change in self.votes]))

    def moving_clusters(self) -> tuple[ClusterChange, ...]:
        """The clusters of which a member changed; all others have moved nowhere."""
        names = {change.cluster for change in self.changed}
        beside = [_no_change(book, value) for book, value in self.steady if book.cluster in names]
        return clusters_of([*self.changed, *beside])


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


_NUMBERS: dict[MarketKind, Callable[[Quote], float | None]] = {
    MarketKind.H2H: attrgetter("fair_probability"),
    MarketKind.SPREAD: attrgetter("line"),
    MarketKind.TOTAL: attrgetter("line"),
}
#: Differences are rounded to six decimals before they are compared, so one that is this much short may yet be enough.
_ROUNDING = 1e-5


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


def find_panel(
    market: MarketState,
    kind: MarketKind,
    moment: Moment,
    seconds: float,
    anchor: datetime | None = None,
    *,
    movers: int = 1,
    step: float = 0.0,
    far: float = 0.0,
) -> Panel | None:
    """The panel of the window that ends now; None where there is none, or where it is plain that nothing came about.

    Plain is that fewer than `movers` books went the same way by `step`, or that none went as far as `far`: a median
    over books goes no further than the one that went furthest. This is asked of every market at every observation.
    """
    window = moment.window(market.key, seconds)
    if window is None:
        return None
    if anchor is not None and anchor > window.start:
        window = Window(anchor, moment.now, seconds, stale=False)
    start = window.start
    if len(market.moves) - bisect_right(market.moves, start) < movers:
        return None
    number = _NUMBERS[kind]
    changed: list[tuple[BookState, Stand, float, float]] = []
    ups = downs = 0
    furthest = 0.0
    for book in [one for one in market.books if one.stands[-1].since > start]:
        begin = stand_at(book.stands, start)
        if begin is None or not _takes_part(book, begin, market.key, moment, start):
            continue
        from_value, to_value = number(begin.quote), number(book.stands[-1].quote)
        if from_value is None or to_value is None:
            continue
        changed.append((book, begin, from_value, to_value))
        change = abs(to_value - from_value)
        furthest = max(furthest, change)
        if change and change >= step - _ROUNDING:
            ups, downs = (ups + 1, downs) if to_value > from_value else (ups, downs + 1)
    if max(ups, downs) < movers or furthest < far - _ROUNDING:
        return None

    longest = timedelta(seconds=moment.settings.elapsed_share * window.seconds)
    members: list[OwnChange] = []
    left: list[OwnChange] = []
    for book, begin, from_value, to_value in changed:
        own, counts = _own_change(book, kind, begin, from_value, to_value, window, longest)
        (members if counts else left).append(own)
    steady = [
        (book, value)
        for book in market.books
        if (stand := book.stands[-1]).since <= start
        and (value := number(stand.quote)) is not None
        and _takes_part(book, stand, market.key, moment, start)
    ]
    return Panel(window, steady, members, left)


def _takes_part(book: BookState, begin: Stand, key: MarketKey, moment: Moment, start: datetime) -> bool:
    """Whether a book that stood at a window's start is plausible and alive at both its ends."""
    excluded = book.stands[-1].excluded
    if (excluded and excluded in NOT_IN_PANEL) or (begin.excluded and begin.excluded in NOT_IN_PANEL):
        return False
    return not moment.some_left_out or (
        is_alive(moment, start, key, book.book) and is_alive_now(moment, key, book.book)
    )


def find_movers(panel: Panel, sign: float, step: float) -> Movers:
    """Who moved in the direction of `sign` by at least `step`; any change, where that is 0.

    A cluster moved if a member did, and is against if its members' median is; one that would be both is against.
    """
    books: list[OwnChange] = []
    against = 0
    for cluster in panel.moving_clusters():
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
    book: BookState,
    kind: MarketKind,
    start: Stand,
    from_value: float,
    to_value: float,
    window: Window,
    longest: timedelta,
) -> tuple[OwnChange, bool]:
    """The book against itself from its stand at the window's start on, and whether every change in it counts."""
    changed_after = changed_by = seen_at = None
    counts = True
    for before, after in zip(book.stands, book.stands[1:], strict=False):
        if before.since < start.since or value_of(kind, before.quote) == value_of(kind, after.quote):
            continue
        quote = after.quote
        earliest = quote.changed_after or quote.previous_seen_at or before.since
        changed_by = quote.changed_by or after.observed_at
        changed_after = changed_after or earliest
        seen_at = after.since
        old_seen_at = quote.previous_seen_at
        seen_outside = old_seen_at is not None and old_seen_at < window.start
        counts = counts and not seen_outside and changed_by - earliest <= longest
    change = OwnChange(
        book=book.book,
        cluster=book.cluster,
        start=start,
        end=book.stands[-1],
        from_value=from_value,
        to_value=to_value,
        delta=canonical(to_value - from_value),
        changed_after=changed_after,
        changed_by=changed_by,
        seen_at=seen_at,
    )
    return change, counts


def _no_change(book: BookState, value: float) -> OwnChange:
    stand = book.stands[-1]
    return OwnChange(book.book, book.cluster, stand, stand, value, value, 0.0, None, None, None)


def _vote(members: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """A cluster's one vote: medians over its members."""
    starts, ends, changes = zip(*members, strict=True)
    return median(starts), median(ends), canonical(median(changes))


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

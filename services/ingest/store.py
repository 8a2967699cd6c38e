"""Tables and queries of ingest; the only SQL. Every write happens in the caller's transaction."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

import msgspec
import psycopg
from psycopg.errors import LockNotAvailable
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Date,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    RowMapping,
    Table,
    Text,
    TextClause,
    delete,
    false,
    func,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by, insert
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection
from stratum.common.v1.error_reason_pb2 import ErrorReason

from services.ingest.bookmakers import AskedDecision, Decision, DecisionRefused, books_at, effective_from
from services.ingest.cadence import Asks, Budget, Limit
from services.ingest.cadence import Decision as CadenceDecision
from services.ingest.changes import Disappearance, EventState, GoneQuote, HeldQuote, Snapshot
from services.ingest.comparison import Comparison
from services.ingest.health import BookHealth, SportHealth
from services.ingest.normalize import QuoteKey, SeenBook
from services.shared.bus import partition_of
from services.shared.days import DayPartitions, by_day
from services.shared.errors import InvalidArgument, Unavailable
from services.shared.tables import stage_tables

metadata = MetaData(schema="ingest")
stage = stage_tables(metadata)
days = DayPartitions(metadata)

_MOMENT = DateTime(timezone=True)

games = Table(
    "games",
    metadata,
    Column("event_id", Text, primary_key=True),
    Column("sport_key", Text, nullable=False),
    Column("home_team", Text, nullable=False),
    Column("away_team", Text, nullable=False),
    Column("commence_time", _MOMENT),
    Column("first_seen_at", _MOMENT, nullable=False),
    Column("observed_at", _MOMENT, nullable=False),
    Column("gone", Boolean, nullable=False),
    # What `load_present` reads. Nothing in it changes with a poll, so that a poll need not write it.
    Index("games_present", "sport_key", postgresql_where=text("gone IS false")),
)
#: Every start the provider ever gave for a game: starts move.
game_starts = Table(
    "game_starts",
    metadata,
    Column("event_id", Text, primary_key=True),
    Column("observed_at", _MOMENT, primary_key=True),
    Column("commence_time", _MOMENT),
)
odds_snapshots = Table(
    "odds_snapshots",
    metadata,
    # A hash of the key below: with an event and a time, which whoever has an id has too, the key finds it.
    Column("id", Text, nullable=False),
    Column("observed_at", _MOMENT, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("book", Text, nullable=False),
    Column("market", Text, nullable=False),
    Column("player", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("price", Double, nullable=False),
    Column("line", Double),
    Column("last_update", _MOMENT),
    Column("changed_after", _MOMENT),
    Column("changed_by", _MOMENT),
    Column("link", Text),
    Column("limit", Double),
    Column("sid", Text),
    # The one index: it makes a repeated write the same row, and a history of an event is read in its order.
    PrimaryKeyConstraint("event_id", "observed_at", "market", "player", "book", "outcome"),
    postgresql_partition_by=by_day("observed_at"),
)
disappearances = Table(
    "disappearances",
    metadata,
    Column("event_id", Text, primary_key=True),
    Column("market", Text, primary_key=True),
    Column("player", Text, primary_key=True),
    Column("book", Text, primary_key=True),
    Column("observed_at", _MOMENT, primary_key=True),
    Column("last_seen_at", _MOMENT, nullable=False),
    postgresql_partition_by=by_day("observed_at"),
)
quarantined_books = Table(
    "quarantined_books",
    metadata,
    Column("book", Text, primary_key=True),
    Column("title", Text, nullable=False),
    Column("first_seen_at", _MOMENT, nullable=False),
    Column("last_seen_at", _MOMENT, nullable=False),
    Column("quotes", BigInteger, nullable=False),
    Column("sports", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("markets", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    #: The newest comparison with the books that count, as `comparison.Comparison` has it.
    Column("compared_at", _MOMENT),
    Column("compared_quotes", Integer, nullable=False, server_default=text("0")),
    Column("spread_points", Double),
    Column("total_points", Double),
    Column("h2h_probability", Double),
    Column("closest_book", Text, nullable=False, server_default=text("''")),
    Column("closest_share", Double),
)
#: What operators have decided about books, and the record of who did and why: the service's role may only add to it.
book_decisions = Table(
    "book_decisions",
    metadata,
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("book", Text, nullable=False),
    #: Canonical keys; empty is quarantined.
    Column("before", Text, nullable=False),
    Column("after", Text, nullable=False),
    Column("effective_from", _MOMENT, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("decided_at", _MOMENT, nullable=False, server_default=func.now()),
)
#: One row a poll, failed ones too.
polls = Table(
    "polls",
    metadata,
    Column("sport_key", Text, primary_key=True),
    Column("observed_at", _MOMENT, primary_key=True),
    #: The kind of failure; empty for a success.
    Column("failure", Text, nullable=False),
    Column("events", Integer, nullable=False),
    Column("quotes", Integer, nullable=False),
    Column("changes", Integer, nullable=False),
    Column("snapshots", Integer, nullable=False),
    #: What the provider said the call cost, and what was left; null where it said nothing.
    Column("credits_last", Integer),
    Column("credits_remaining", Integer),
    # What retention removes by.
    Index("polls_by_time", "observed_at"),
    #: The newest decision about books by which it was read; 0 for the code's table alone.
    Column("books_revision", Integer, nullable=False, server_default=text("0")),
)
#: One row a poll cycle, told of when it is over: how it went and what it cost.
cycles = Table(
    "cycles",
    metadata,
    Column("sport_key", Text, primary_key=True),
    Column("observed_at", _MOMENT, primary_key=True),
    #: The last answer of the cycle: those for single events come after the sport's own.
    Column("observed_until", _MOMENT, nullable=False),
    Column("started_at", _MOMENT, nullable=False),
    Column("completed_at", _MOMENT, nullable=False),
    Column("duration_ms", Integer, nullable=False),
    Column("target_interval_seconds", Double, nullable=False),
    Column("calls", Integer, nullable=False),
    #: Null where the provider said nothing.
    Column("requests_last", Integer),
    Column("requests_used_delta", Integer),
    Column("requests_remaining", Integer),
    Column("requests_limit", Integer),
    Column("events_processed", Integer, nullable=False),
    Column("quotes_seen", Integer, nullable=False),
    Column("quotes_changed", Integer, nullable=False),
    Column("snapshots_inserted", Integer, nullable=False),
    Column("degraded", Boolean, nullable=False),
    Column("reasons", ARRAY(Text), nullable=False),
    # What retention removes by, and what shows the last ones.
    Index("cycles_by_time", "observed_at"),
)
feed_health = Table(
    "feed_health",
    metadata,
    Column("sport_key", Text, primary_key=True),
    #: The newest successful poll, in event time, and the same moment by our own clock.
    Column("observed_at", _MOMENT),
    Column("polled_at", _MOMENT),
    #: How much faster the provider's time runs than ours; 0 where it stands still, in a recording.
    Column("clock_rate", Double, nullable=False),
    Column("expected_interval_seconds", Double, nullable=False),
    Column("consecutive_failures", Integer, nullable=False),
    Column("last_failure", Text, nullable=False),
    Column("credits_remaining", Integer),
    #: The newest poll that failed.
    Column("failed_at", _MOMENT),
)
#: One row a book that the newest poll of the sport showed, that it asked for by name, or that is missed.
book_health = Table(
    "book_health",
    metadata,
    Column("sport_key", Text, primary_key=True),
    Column("book", Text, primary_key=True),
    Column("last_update", _MOMENT),
    Column("quotes", Integer, nullable=False),
    Column("events", Integer, nullable=False),
    Column("observed_at", _MOMENT),
    Column("seen_at", _MOMENT),
    Column("quoted_until", _MOMENT),
    Column("asked", Boolean, nullable=False, server_default=false()),
    Column("recent_quotes", Double, nullable=False, server_default=text("0")),
    Column("recent_changes", Double, nullable=False, server_default=text("0")),
)
#: How often each thing happened, by sport: what `Tally` names, and for rejections their reason.
tallies = Table(
    "tallies",
    metadata,
    Column("sport_key", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("reason", Text, primary_key=True),
    Column("count", BigInteger, nullable=False),
)
keyframe_requests = Table(
    "keyframe_requests",
    metadata,
    Column("event_id", Text, primary_key=True),
    Column("requested_at", _MOMENT, nullable=False, server_default=func.now()),
)
#: Where a walk through the past stands. A finished one stays, so that the same command has nothing to do.
backfills = Table(
    "backfills",
    metadata,
    Column("sport_key", Text, primary_key=True),
    Column("since", _MOMENT, primary_key=True),
    Column("until", _MOMENT, primary_key=True),
    #: What to ask for next; null when the walk is finished.
    Column("next_date", _MOMENT),
    #: The newest response that was kept.
    Column("timestamp", _MOMENT),
    #: Seconds between the last responses, oldest first, at most 20.
    Column("gaps", ARRAY(Double), nullable=False),
    Column("responses", Integer, nullable=False),
)
#: Who polls. The term rises with every holder and is checked in each of its transactions.
poller_lease = Table(
    "poller_lease",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("term", BigInteger, nullable=False),
    Column("expires_at", _MOMENT, nullable=False),
)
#: What was spent in each day and month (UTC): costs as reported, forecasts of calls that did not report, and of those
#: under way. Its row is locked by whoever reserves.
credit_budgets = Table(
    "credit_budgets",
    metadata,
    Column("period", Text, primary_key=True),
    Column("begins", Date, primary_key=True),
    Column("spent", BigInteger, nullable=False),
    #: Of a month: what the provider last said is left, less what was reserved since; null while it has said nothing.
    Column("provider_remaining", BigInteger),
)
#: One row for each attempt of a call that may cost something, committed before it is made.
credit_reservations = Table(
    "credit_reservations",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("reserved_at", _MOMENT, nullable=False),
    #: Of the poller's lease.
    Column("term", BigInteger, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("sport_key", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("forecast", Integer, nullable=False),
    #: What the provider said it cost; null while it is under way, and where it did not say.
    Column("cost", Integer),
    Column("settled_at", _MOMENT),
    Index("credit_reservations_by_time", "reserved_at"),
)
#: How often each sport is asked now, and why.
cadences = Table(
    "cadences",
    metadata,
    Column("sport_key", Text, primary_key=True),
    Column("decided_at", _MOMENT, nullable=False),
    #: "odds", or only "events" while nothing is near or there are no credits.
    Column("asks", Text, nullable=False),
    Column("phase", Text, nullable=False),
    Column("interval_seconds", Double, nullable=False),
    Column("limited_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
)
#: Events that somebody wants to follow in play. Set by later stages, each under a name of its own.
watched_events = Table(
    "watched_events",
    metadata,
    Column("watcher", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
    Column("watched_at", _MOMENT, nullable=False, server_default=func.now()),
)

_LEASE = "poller"
#: A key that nobody has admitted names no more markets than these: what a stranger sends has to have an end.
MARKETS_NAMED = 64
_COMPARED = tuple(column.name for column in fields(Comparison) if column.name != "book")
_dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves the constructor untyped


class LeaseLost(Exception):  # noqa: N818 - a turn of events, not a mistake
    """Somebody else polls now: nothing of this transaction may be kept."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to poll, for one holder and one term."""

    holder: str
    term: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a walk through the past stands."""

    sport_key: str
    since: datetime
    until: datetime
    next_date: datetime | None
    timestamp: datetime | None = None
    gaps: tuple[float, ...] = ()
    responses: int = 0


@dataclass(frozen=True, slots=True)
class PollRow:
    """One poll as it is logged."""

    sport_key: str
    observed_at: datetime
    failure: str = ""
    events: int = 0
    quotes: int = 0
    changes: int = 0
    snapshots: int = 0
    credits_last: int | None = None
    credits_remaining: int | None = None
    books_revision: int = 0


@dataclass(frozen=True, slots=True)
class CycleRow:
    """One poll cycle: how it went, what it saw, and what it cost. Counts are of the whole cycle."""

    sport_key: str
    observed_at: datetime
    observed_until: datetime
    started_at: datetime
    completed_at: datetime
    duration_ms: int
    target_interval_seconds: float
    calls: int
    #: Credits that its calls cost, as the provider said of each.
    requests_last: int | None
    #: Credits by which the provider's own count of the key rose: more than `requests_last` where a failed attempt was
    #: charged, or somebody else uses the key.
    requests_used_delta: int | None
    requests_remaining: int | None
    requests_limit: int | None
    events_processed: int
    quotes_seen: int
    quotes_changed: int
    snapshots_inserted: int
    degraded: bool
    #: Kinds of failure, by the words of health and metrics.
    reasons: Sequence[str]


@dataclass(frozen=True, slots=True)
class QuarantinedBook:
    """A bookmaker that nobody has admitted yet."""

    book: str
    title: str
    first_seen_at: datetime
    last_seen_at: datetime
    quotes: int
    sports: Sequence[str] = ()
    #: At most `MARKETS_NAMED` of them, by key.
    markets: Sequence[str] = ()
    #: None before the first comparison.
    comparison: Comparison | None = None


@dataclass(slots=True)
class Rows:
    """What some polls leave to be written. An event's newest state stands for all before it."""

    states: dict[str, EventState] = field(default_factory=dict)
    #: Events as they were when first seen.
    first: list[EventState] = field(default_factory=list)
    #: Events of which a game's row says something else than before, when it was observed apart.
    renewed: set[str] = field(default_factory=set)
    starts: list[EventState] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    disappearances: list[Disappearance] = field(default_factory=list)
    polls: list[PollRow] = field(default_factory=list)
    #: With the sport and the time of the poll.
    quarantined: list[tuple[SeenBook, str, datetime]] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    #: By sport, name and reason.
    tallies: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    books: dict[str, tuple[BookHealth, ...]] = field(default_factory=dict)
    answered_keyframes: set[str] = field(default_factory=set)


async def acquire_lease(connection: AsyncConnection, holder: str, seconds: float) -> Lease | None:
    """The lease, when nobody holds it or its holder has let it expire; None otherwise."""
    expires_at = func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    statement = (
        insert(poller_lease)
        .values(name=_LEASE, holder=holder, term=1, expires_at=expires_at)
        .on_conflict_do_update(
            index_elements=["name"],
            set_={"holder": holder, "term": poller_lease.c.term + 1, "expires_at": expires_at},
            where=poller_lease.c.expires_at < func.clock_timestamp(),
        )
        .returning(poller_lease.c.term)
    )
    term = await connection.scalar(statement)
    return None if term is None else Lease(holder, term)


async def hold_lease(connection: AsyncConnection, lease: Lease, seconds: float) -> None:
    """Renews the lease and locks it until the transaction ends: nobody can take it in between.

    Raises LeaseLost when it is somebody else's.
    """
    statement = (
        update(poller_lease)
        .where(poller_lease.c.name == _LEASE, poller_lease.c.holder == lease.holder, poller_lease.c.term == lease.term)
        .values(expires_at=func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, seconds))
        .returning(poller_lease.c.term)
    )
    if await connection.scalar(statement) is None:
        raise LeaseLost(f"term {lease.term} of {lease.holder} is over")


async def release_lease(connection: AsyncConnection, lease: Lease) -> None:
    """Lets the next one in at once."""
    await connection.execute(
        update(poller_lease)
        .where(poller_lease.c.holder == lease.holder, poller_lease.c.term == lease.term)
        .values(expires_at=func.clock_timestamp())
    )


async def load_present(connection: AsyncConnection, sport_key: str) -> list[EventState]:
    """What is known of the events of a sport that the last poll showed."""
    statement = (
        select(stage.event_state.c.state)
        .join(games, games.c.event_id == stage.event_state.c.event_id)
        .where(games.c.sport_key == sport_key, games.c.gone.is_(False))
    )
    return [state_from(state) for state in await connection.scalars(statement)]


async def load_events(connection: AsyncConnection, event_ids: Iterable[str]) -> list[EventState]:
    """What is known of these events, those that disappeared included."""
    statement = select(stage.event_state.c.state).where(stage.event_state.c.event_id.in_(sorted(event_ids)))
    return [state_from(state) for state in await connection.scalars(statement)]


async def load_keyframe_requests(connection: AsyncConnection) -> frozenset[str]:
    """Events of which somebody wants to hear everything."""
    return frozenset((await connection.scalars(select(keyframe_requests.c.event_id))).all())


async def request_keyframes(connection: AsyncConnection, event_ids: Iterable[str]) -> None:
    """Asks that the next observation of these events be a keyframe. Asking twice is asking once."""
    rows = [{"event_id": event_id} for event_id in sorted(set(event_ids))]
    if rows:
        await connection.execute(insert(keyframe_requests).on_conflict_do_nothing(), rows)


async def write(connection: AsyncConnection, rows: Rows, state_rows: StateRows) -> None:
    """Keeps what some polls left. A snapshot that is there already is the same row."""
    await days.keep(connection, _moments(rows))
    await _add_snapshots(connection, rows.snapshots)
    await _insert(connection, _DISAPPEARANCES, rows.disappearances)
    await _insert(connection, _STARTS, rows.starts)
    await _insert(connection, _GAMES, rows.first)
    states = sorted(rows.states.values(), key=lambda state: state.event_id)
    await _insert(connection, _GAMES, [state for state in states if state.event_id in rows.renewed])
    if states:
        await connection.execute(
            _OBSERVED,
            {
                "event_ids": [state.event_id for state in states],
                "moments": [state.observed_at for state in states],
            },
        )
        await connection.execute(
            _STATES,
            {
                "event_ids": [state.event_id for state in states],
                "partitions": [partition_of(state.event_id) for state in states],
                "revisions": [state.revision for state in states],
                "states": [state_rows.row(state) for state in states],
            },
        )
    await _insert(connection, _POLLS, rows.polls)
    await _insert(
        connection,
        _TALLIES,
        [_TallyRow(*names, count) for names, count in sorted(rows.tallies.items()) if count],
    )
    for book, sport_key, seen_at in rows.quarantined:
        statement = insert(quarantined_books).values(
            book=book.book,
            title=book.title,
            first_seen_at=seen_at,
            last_seen_at=seen_at,
            quotes=book.quotes,
            sports=[sport_key],
            markets=sorted(book.markets)[:MARKETS_NAMED],
        )
        stored, given = quarantined_books.c, statement.excluded
        await connection.execute(
            statement.on_conflict_do_update(
                index_elements=["book"],
                set_={
                    "title": given.title,
                    "last_seen_at": func.greatest(stored.last_seen_at, given.last_seen_at),
                    "quotes": stored.quotes + given.quotes,
                    "sports": _united(stored.sports, given.sports),
                    "markets": _united(stored.markets, given.markets),
                },
            )
        )
    for comparison in rows.comparisons:
        values = {name: value for name, value in asdict(comparison).items() if name != "book"}
        await connection.execute(
            update(quarantined_books).where(quarantined_books.c.book == comparison.book).values(values)
        )
    for sport_key, books in rows.books.items():
        await connection.execute(delete(book_health).where(book_health.c.sport_key == sport_key))
        await _insert(connection, _BOOKS, books)
    if rows.answered_keyframes:
        await connection.execute(
            delete(keyframe_requests).where(keyframe_requests.c.event_id.in_(sorted(rows.answered_keyframes)))
        )


async def note_success(connection: AsyncConnection, health: SportHealth) -> None:
    """The feed of a sport works."""
    values = {name: getattr(health, name) for name in _names(feed_health)}
    statement = insert(feed_health).values(values)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["sport_key"],
            set_={name: statement.excluded[name] for name in values if name not in ("credits_remaining", "failed_at")}
            | {
                # Absent is unknown: what was known before stays.
                "credits_remaining": func.coalesce(
                    statement.excluded.credits_remaining, feed_health.c.credits_remaining
                )
            },
        )
    )


async def note_failure(
    connection: AsyncConnection, sport_key: str, failed_at: datetime, kind: str, interval: float, rate: float
) -> None:
    """A poll failed: nothing is known to have changed, and health says so."""
    await connection.execute(
        insert(feed_health)
        .values(
            sport_key=sport_key,
            clock_rate=rate,
            expected_interval_seconds=interval,
            consecutive_failures=1,
            last_failure=kind,
            failed_at=failed_at,
        )
        .on_conflict_do_update(
            index_elements=["sport_key"],
            set_={
                "consecutive_failures": feed_health.c.consecutive_failures + 1,
                "last_failure": kind,
                "failed_at": failed_at,
            },
        )
    )
    await _insert(connection, _POLLS, [PollRow(sport_key, failed_at, failure=kind)])
    await _insert(connection, _TALLIES, [_TallyRow(sport_key, "failed_polls", kind, 1)])


async def write_cycle(connection: AsyncConnection, row: CycleRow) -> None:
    """A cycle is over. One that is there already is the same row."""
    values = {name: getattr(row, name) for name in _names(cycles)} | {"reasons": list(row.reasons)}
    await connection.execute(insert(cycles).values(values).on_conflict_do_nothing())


async def load_health(
    connection: AsyncConnection, sport_keys: Sequence[str], polled: Sequence[str] = ()
) -> list[SportHealth]:
    """The health of these sports, or of all when none is named, by key. Polled ones are there from the first."""
    statement = select(feed_health).order_by(feed_health.c.sport_key)
    if sport_keys:
        statement = statement.where(feed_health.c.sport_key.in_(sport_keys))
    by_sport: dict[str, list[BookHealth]] = {}
    for book in await load_books(connection, sport_keys):
        by_sport.setdefault(book.sport_key, []).append(book)
    found = {
        row["sport_key"]: SportHealth(**row, books=tuple(by_sport.get(row["sport_key"], ())))
        for row in (await connection.execute(statement)).mappings()
    }
    for sport_key in polled:
        if not sport_keys or sport_key in sport_keys:
            found.setdefault(sport_key, SportHealth(sport_key, None, None, 1.0, 0.0, 0, "", None))
    return [health for _, health in sorted(found.items())]


async def load_books(connection: AsyncConnection, sport_keys: Sequence[str]) -> list[BookHealth]:
    """The health of each book of these sports, or of all when none is named, by key."""
    statement = select(book_health).order_by(book_health.c.book)
    if sport_keys:
        statement = statement.where(book_health.c.sport_key.in_(sport_keys))
    # What was written before `observed_at` was kept says too little to be judged by, and the next poll replaces it.
    rows = (await connection.execute(statement.where(book_health.c.observed_at.is_not(None)))).mappings()
    return [BookHealth(**row) for row in rows]


async def load_quarantined(connection: AsyncConnection) -> list[QuarantinedBook]:
    """The quarantined books, by key: what was counted under a key that has been admitted since is not among them."""
    books = books_at(await load_decisions(connection))
    rows = (await connection.execute(select(quarantined_books).order_by(quarantined_books.c.book))).mappings()
    return [_quarantined(row) for row in rows if books.canonical(row["book"]) is None]


def _quarantined(row: RowMapping) -> QuarantinedBook:
    given = {name: row[name] for name in _COMPARED}
    own = {name: value for name, value in row.items() if name not in _COMPARED}
    comparison = None if row["compared_at"] is None else Comparison(book=row["book"], **given)
    return QuarantinedBook(**own, comparison=comparison)


async def load_decisions(connection: AsyncConnection) -> list[Decision]:
    """Every decision about books, in the order in which they were made and take effect."""
    rows = (await connection.execute(select(book_decisions).order_by(book_decisions.c.revision))).mappings()
    return [Decision(**row) for row in rows]


async def load_newest_observation(connection: AsyncConnection) -> datetime | None:
    """The newest moment at which any event was observed; None before the first."""
    newest: datetime | None = await connection.scalar(select(func.max(games.c.observed_at)))
    return newest


async def decide(
    connection: AsyncConnection,
    change: Callable[[Sequence[Decision]], tuple[str, str]],
    asked: AskedDecision,
    now: datetime,
) -> Decision:
    """Adds a decision about a book to the log. `change` gives its before and after from those that were made.

    By itself it takes effect behind everything that was observed: while it is made no poll is being kept, and every
    poll that is kept later reads the log first. So no observation is read otherwise than the log says.
    Raises InvalidArgument when it cannot be taken, and Unavailable when the poll that it waits for does not end.
    """
    try:
        await connection.execute(text("LOCK TABLE ingest.poller_lease IN SHARE ROW EXCLUSIVE MODE"))
    except DBAPIError as error:
        if isinstance(error.orig, LockNotAvailable):
            told = "a poll is being kept, which takes long: nothing was decided, ask again in a moment"
            raise Unavailable(ErrorReason.UNAVAILABLE, told) from None
        raise
    decisions = await load_decisions(connection)
    try:
        before, after = change(decisions)
        moment = effective_from(decisions, asked.effective_from, await load_newest_observation(connection), now)
    except DecisionRefused as refused:
        raise InvalidArgument(ErrorReason.INVALID_ARGUMENT, str(refused), field="book") from None
    statement = insert(book_decisions).values(
        revision=len(decisions) + 1,
        book=asked.book,
        before=before,
        after=after,
        effective_from=moment,
        actor=asked.actor,
        reason=asked.reason,
        decided_at=now,
    )
    row = (await connection.execute(statement.returning(*book_decisions.c))).mappings().one()
    return Decision(**row)


async def load_tallies(connection: AsyncConnection, sport_key: str) -> dict[str, dict[str, int]]:
    """How often each thing happened in a sport: by name, then by reason, which is empty for most."""
    counts: dict[str, dict[str, int]] = {}
    statement = select(tallies.c.name, tallies.c.reason, tallies.c.count).where(tallies.c.sport_key == sport_key)
    for name, reason, count in await connection.execute(statement.order_by(tallies.c.name, tallies.c.reason)):
        counts.setdefault(name, {})[reason] = count
    return counts


async def load_cursor(connection: AsyncConnection, sport_key: str, since: datetime, until: datetime) -> Cursor:
    """Where this walk stands; at its beginning when it was never begun."""
    statement = select(backfills).where(
        backfills.c.sport_key == sport_key, backfills.c.since == since, backfills.c.until == until
    )
    row = (await connection.execute(statement)).mappings().one_or_none()
    if row is None:
        return Cursor(sport_key, since, until, next_date=since)
    return Cursor(**{**row, "gaps": tuple(row["gaps"])})


async def save_cursor(connection: AsyncConnection, cursor: Cursor) -> None:
    """Keeps where a walk stands, in the transaction of what it brought."""
    values = {name: getattr(cursor, name) for name in _names(backfills)} | {"gaps": list(cursor.gaps)}
    statement = insert(backfills).values(values)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["sport_key", "since", "until"],
            set_={name: statement.excluded[name] for name in ("next_date", "timestamp", "gaps", "responses")},
        )
    )


def _moments(rows: Rows) -> set[datetime]:
    return {row.observed_at for row in rows.snapshots} | {row.observed_at for row in rows.disappearances}


def _united(stored: ColumnElement[Sequence[str]], given: ColumnElement[Sequence[str]]) -> ColumnElement[Sequence[str]]:
    """Two arrays of words as one: each word once, in order, no more than `MARKETS_NAMED`."""
    word = func.unnest(func.array_cat(stored, given)).column_valued("word")
    united = select(func.array_agg(aggregate_order_by(word.distinct(), word))).scalar_subquery()
    return united[1:MARKETS_NAMED]


@dataclass(frozen=True, slots=True)
class Spend:
    """What an attempt of a call may cost, and what for."""

    endpoint: str
    sport_key: str
    credits: int
    attempt: int
    term: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Credits that may be spent in a day and in a month, both in UTC; None is no limit."""

    day: int | None = None
    month: int | None = None


#: A call that has not reported after so long will not: later reports of what is left count it in.
_UNDER_WAY = timedelta(minutes=5)


async def reserve_credits(connection: AsyncConnection, spend: Spend, limits: Limits, now: datetime) -> int | Limit:
    """The id of a reservation, or what forbids it; then nothing was reserved.

    The rows of the day and the month stay locked until the transaction ends, so that two who reserve take turns.
    """
    budget = await _locked_budget(connection, limits, now)
    limit = budget.limit_of(spend.credits)
    if limit is not Limit.NOTHING:
        return limit
    await connection.execute(
        update(credit_budgets)
        .where(_is_period_of(now))
        .values(
            spent=credit_budgets.c.spent + spend.credits,
            provider_remaining=credit_budgets.c.provider_remaining - spend.credits,
        )
    )
    reservation: int = (
        await connection.execute(
            insert(credit_reservations)
            .values(
                reserved_at=now,
                term=spend.term,
                endpoint=spend.endpoint,
                sport_key=spend.sport_key,
                attempt=spend.attempt,
                forecast=spend.credits,
            )
            .returning(credit_reservations.c.id)
        )
    ).scalar_one()
    return reservation


async def settle_credits(
    connection: AsyncConnection, reservation: int, cost: int | None, remaining: int | None, now: datetime
) -> None:
    """Puts what a call cost in place of its forecast, which stays where the provider did not say. Once only."""
    row = (
        await connection.execute(
            update(credit_reservations)
            .where(credit_reservations.c.id == reservation, credit_reservations.c.settled_at.is_(None))
            .values(cost=cost, settled_at=now)
            .returning(credit_reservations.c.forecast, credit_reservations.c.reserved_at)
        )
    ).one_or_none()
    if row is None:
        return
    await _lock_periods(connection, row.reserved_at)
    if cost is not None and cost != row.forecast:
        await connection.execute(
            update(credit_budgets)
            .where(_is_period_of(row.reserved_at))
            .values(spent=credit_budgets.c.spent + (cost - row.forecast))
        )
    if remaining is not None and _month(row.reserved_at) == _month(now):
        await _keep_remaining(connection, remaining, now)


async def note_remaining(connection: AsyncConnection, remaining: int, now: datetime) -> None:
    """The provider said, with an answer that was free, how many credits are left this month."""
    await _lock_periods(connection, now)
    await _keep_remaining(connection, remaining, now)


async def load_budget(connection: AsyncConnection, limits: Limits, now: datetime) -> Budget:
    """What is left of the day and the month."""
    statement = select(credit_budgets).where(_is_period_of(now))
    return _budget((await connection.execute(statement)).mappings(), limits)


async def save_cadence(connection: AsyncConnection, sport_key: str, decision: CadenceDecision, now: datetime) -> None:
    """Keeps how often a sport is asked from now on, and why."""
    values = {
        "sport_key": sport_key,
        "decided_at": now,
        "asks": decision.asks,
        "phase": decision.phase,
        "interval_seconds": decision.interval_seconds,
        "limited_by": decision.limit,
        "reason": decision.reason,
    }
    statement = insert(cadences).values(values)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["sport_key"], set_={name: statement.excluded[name] for name in values}
        )
    )


async def load_resting(connection: AsyncConnection) -> frozenset[str]:
    """Sports that are not asked for on purpose: nothing of them is near, and their credits are not the reason."""
    statement = select(cadences.c.sport_key).where(
        cadences.c.asks == Asks.EVENTS, cadences.c.limited_by == Limit.NOTHING
    )
    return frozenset((await connection.scalars(statement)).all())


async def load_starts(connection: AsyncConnection, sport_key: str, since: datetime) -> dict[str, datetime]:
    """When the known events of a sport that are not over begin, or began after `since`."""
    statement = select(games.c.event_id, games.c.commence_time).where(
        games.c.sport_key == sport_key, games.c.gone.is_(False), games.c.commence_time > since
    )
    return {row.event_id: row.commence_time for row in await connection.execute(statement)}


async def set_watched(connection: AsyncConnection, watcher: str, event_ids: Iterable[str]) -> None:
    """From now on a watcher watches these events, and no others."""
    wanted = sorted(set(event_ids))
    await connection.execute(
        delete(watched_events).where(watched_events.c.watcher == watcher, watched_events.c.event_id.not_in(wanted))
    )
    if wanted:
        rows = [{"watcher": watcher, "event_id": event_id} for event_id in wanted]
        await connection.execute(insert(watched_events).on_conflict_do_nothing(), rows)


async def load_watched(connection: AsyncConnection) -> dict[str, tuple[str, ...]]:
    """The watched events by id, each with its watchers."""
    watchers: dict[str, list[str]] = {}
    statement = select(watched_events.c.event_id, watched_events.c.watcher).order_by(*watched_events.primary_key)
    for event_id, watcher in await connection.execute(statement):
        watchers.setdefault(event_id, []).append(watcher)
    return {event_id: tuple(watchers[event_id]) for event_id in sorted(watchers)}


def _day(moment: datetime) -> date:
    return moment.astimezone(UTC).date()


def _month(moment: datetime) -> date:
    return _day(moment).replace(day=1)


def _is_period_of(moment: datetime) -> ColumnElement[bool]:
    periods = [("day", _day(moment)), ("month", _month(moment))]
    return tuple_(credit_budgets.c.period, credit_budgets.c.begins).in_(periods)


async def _lock_periods(connection: AsyncConnection, moment: datetime) -> list[RowMapping]:
    """The rows of a moment's day and month, made where they are missing; locked in this order by everybody."""
    rows = [
        {"period": period, "begins": begins, "spent": 0}
        for period, begins in (("day", _day(moment)), ("month", _month(moment)))
    ]
    await connection.execute(insert(credit_budgets).values(rows).on_conflict_do_nothing())
    statement = select(credit_budgets).where(_is_period_of(moment)).order_by(credit_budgets.c.period).with_for_update()
    return list((await connection.execute(statement)).mappings())


async def _locked_budget(connection: AsyncConnection, limits: Limits, now: datetime) -> Budget:
    return _budget(await _lock_periods(connection, now), limits)


def _budget(rows: Iterable[RowMapping], limits: Limits) -> Budget:
    found = {row["period"]: row for row in rows}
    spent = {period: row["spent"] for period, row in found.items()}
    return Budget(
        day=None if limits.day is None else limits.day - spent.get("day", 0),
        month=None if limits.month is None else limits.month - spent.get("month", 0),
        provider=found["month"]["provider_remaining"] if "month" in found else None,
    )


async def _keep_remaining(connection: AsyncConnection, remaining: int, now: datetime) -> None:
    """What the provider said, less what has been reserved and not reported yet: it may not know of those calls."""
    under_way = (
        select(func.coalesce(func.sum(credit_reservations.c.forecast), 0))
        .where(credit_reservations.c.settled_at.is_(None), credit_reservations.c.reserved_at > now - _UNDER_WAY)
        .scalar_subquery()
    )
    await connection.execute(
        update(credit_budgets)
        .where(credit_budgets.c.period == "month", credit_budgets.c.begins == _month(now))
        .values(provider_remaining=remaining - under_way)
    )


def _names(table: Table) -> list[str]:
    return [column.name for column in table.columns]


class StateRows:
    """Turns states into the bytes of their rows, remembering what the last row of each event held.

    From poll to poll few of an event's quotes change. A row holds a base, which is made seldom, and beside it the
    quotes that are others by now, so that only those are looked at. Every row is whole: nothing is lost with this
    memory.
    """

    def __init__(self) -> None:
        self._bases: dict[str, _Base] = {}

    def row(self, state: EventState) -> bytes:
        """The bytes of an event's row."""
        base = self._bases.get(state.event_id)
        renewed: list[tuple[int, HeldQuote]] = []
        if base is not None and base.keys == state.keys:
            pairs = zip(state.quotes, base.quotes, strict=True)
            renewed = [(place, quote) for place, (quote, held) in enumerate(pairs) if quote is not held]
        if base is None or base.keys != state.keys or len(renewed) > len(state.keys) / REBASE_AT:
            base, renewed = _Base(state.keys, state.quotes, zlib.compress(_encoder.encode(state.quotes), 1)), []
            self._bases[state.event_id] = base
        if state.gone:
            del self._bases[state.event_id]  # nothing more is written of it until it returns
        moments = {moment: place for place, moment in enumerate(dict.fromkeys((*state.readings, *state.told)))}
        return _encoder.encode(
            _Kept(
                event_id=state.event_id,
                sport_key=state.sport_key,
                home_team=state.home_team,
                away_team=state.away_team,
                commence_time=state.commence_time,
                revision=state.revision,
                observed_at=state.observed_at,
                keyframe_at=state.keyframe_at,
                gone=state.gone,
                base=base.written,
                renewed=renewed,
                seen_at=None if set(state.seen_at) <= {state.observed_at} else state.seen_at,
                moments=list(moments),
                readings=[moments[moment] for moment in state.readings],
                told=[moments[moment] for moment in state.told],
                absent=state.absent,
            )
        )


def state_from(row: bytes) -> EventState:
    """The state that a row holds."""
    kept = _decoder.decode(row)
    try:
        quotes = _base_decoder.decode(zlib.decompress(kept.base))
    except zlib.error as error:
        raise msgspec.DecodeError(f"the base of a state cannot be read: {error}") from error
    for place, quote in kept.renewed:
        quotes[place] = quote
    return EventState(
        event_id=kept.event_id,
        sport_key=kept.sport_key,
        home_team=kept.home_team,
        away_team=kept.away_team,
        commence_time=kept.commence_time,
        revision=kept.revision,
        observed_at=kept.observed_at,
        keyframe_at=kept.keyframe_at,
        gone=kept.gone,
        keys=tuple([quote.key for quote in quotes]),
        quotes=tuple(quotes),
        seen_at=(kept.observed_at,) * len(quotes) if kept.seen_at is None else kept.seen_at,
        readings=tuple([kept.moments[place] for place in kept.readings]),
        told=tuple([kept.moments[place] for place in kept.told]),
        absent=kept.absent,
    )


#: A new base is made when more than this part of the quotes is another than in the last.
REBASE_AT = 4


class _Base(msgspec.Struct, frozen=True):
    """Quotes as a row holds them."""

    keys: tuple[QuoteKey, ...]
    quotes: tuple[HeldQuote, ...]
    written: bytes


class _Kept(msgspec.Struct, array_like=True):
    """The row of an event's state, by position."""

    event_id: str
    sport_key: str
    home_team: str
    away_team: str
    commence_time: datetime | None
    revision: int
    observed_at: datetime
    keyframe_at: datetime
    gone: bool
    #: The quotes, compressed: a board repeats its keys and moments.
    base: bytes
    #: The quotes that are others than in the base, and their places.
    renewed: list[tuple[int, HeldQuote]]
    #: None: all of them were seen at the observation.
    seen_at: tuple[datetime, ...] | None
    #: The readings that there are, and which of them is each quote's.
    moments: list[datetime | None]
    readings: list[int]
    told: list[int]
    absent: tuple[GoneQuote, ...]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Kept)
_base_decoder = msgspec.msgpack.Decoder(list[HeldQuote])


async def _add_snapshots(connection: AsyncConnection, snapshots: Sequence[Snapshot]) -> None:
    """Copies the snapshots into their table.

    That one is there already can only be where an event is walked through again whose state is no longer kept. COPY
    knows no conflict, so it may fail by itself, and then the rows are inserted one by one.
    """
    if not snapshots:
        return
    try:
        async with connection.begin_nested():
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            async with driver.cursor() as cursor, cursor.copy(_COPY_SNAPSHOTS) as copy:
                copy.set_types(_COPIED_TYPES)
                for row in snapshots:
                    await copy.write_row(
                        (
                            row.id,
                            _microseconds(row.observed_at),
                            row.event_id,
                            row.book,
                            row.market,
                            row.player,
                            row.outcome,
                            row.price,
                            row.line,
                            _microseconds(row.last_update),
                            _microseconds(row.changed_after),
                            _microseconds(row.changed_by),
                            row.link,
                            row.limit,
                            row.sid,
                        )
                    )
    except psycopg.errors.UniqueViolation:
        await _insert(connection, _SNAPSHOTS, snapshots)
    except psycopg.Error as error:
        # As it would come from a statement: whoever survives a full disk there shall survive it here.
        raise OperationalError("COPY ingest.odds_snapshots", None, error, hide_parameters=True) from error


@lru_cache(4096)
def _microseconds(moment: datetime | None) -> int | None:
    """A moment as PostgreSQL sends it in binary: microseconds since 2000. A poll's rows share a few moments."""
    return None if moment is None else (moment - _POSTGRES_EPOCH) // timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class _TallyRow:
    sport_key: str
    name: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class _Insert:
    """An insert of many rows in one statement. They travel as JSON: the driver writes arrays value by value."""

    statement: TextClause
    #: Column to the attribute that fills it.
    attributes: Mapping[str, str]


def _prepared(table: Table, conflict: str, **attributes: str) -> _Insert:
    """Builds the insert. `attributes` names what fills a column where it is not called as the column."""
    names = _names(table)
    types = ", ".join(f'"{name}" {table.c[name].type.compile(_dialect)}' for name in names)
    columns = ", ".join(f'"{name}"' for name in names)
    statement = text(
        f"INSERT INTO {table.fullname} AS stored ({columns}) "  # noqa: S608 - our own tables' names
        f"SELECT {columns} FROM json_to_recordset(CAST(:rows AS json)) AS given ({types}) ON CONFLICT {conflict}"
    )
    return _Insert(statement, {name: attributes.get(name, name) for name in names})


async def _insert(connection: AsyncConnection, prepared: _Insert, rows: Sequence[object]) -> None:
    if rows:
        columns = prepared.attributes.items()
        values = [{name: getattr(row, attribute) for name, attribute in columns} for row in rows]
        await connection.execute(prepared.statement, {"rows": msgspec.json.encode(values).decode()})


_SNAPSHOTS = _prepared(odds_snapshots, "DO NOTHING")
_DISAPPEARANCES = _prepared(disappearances, "DO NOTHING")
_STARTS = _prepared(game_starts, "DO NOTHING")
_GAMES = _prepared(
    games,
    "(event_id) DO UPDATE SET sport_key = excluded.sport_key, home_team = excluded.home_team, "
    "away_team = excluded.away_team, commence_time = excluded.commence_time, observed_at = excluded.observed_at, "
    "gone = excluded.gone",
    first_seen_at="observed_at",
)
_OBSERVED = text(
    f"UPDATE {games.fullname} SET observed_at = given.observed_at "  # noqa: S608 - our own table's name
    "FROM unnest(CAST(:event_ids AS text[]), CAST(:moments AS timestamptz[])) AS given (event_id, observed_at) "
    f"WHERE {games.name}.event_id = given.event_id AND {games.name}.observed_at < given.observed_at"
)
_STATES = text(
    f"INSERT INTO {stage.event_state.fullname} "  # noqa: S608 - our own table's name
    "(event_id, partition, applied_revision, awaiting_keyframe, state) "
    "SELECT event_id, partition, revision, false, state FROM unnest(CAST(:event_ids AS text[]), "
    "CAST(:partitions AS smallint[]), CAST(:revisions AS bigint[]), CAST(:states AS bytea[])) "
    "AS given (event_id, partition, revision, state) "
    "ON CONFLICT (event_id) DO UPDATE SET applied_revision = excluded.applied_revision, state = excluded.state"
)
#: Moments are sent as the numbers that they are.
_COPIED_TYPES = [{DateTime: "int8", Double: "float8"}.get(type(column.type), "text") for column in odds_snapshots.c]
_COPIED_COLUMNS = ", ".join(f'"{name}"' for name in _names(odds_snapshots))
_COPY_SNAPSHOTS = f"COPY {odds_snapshots.fullname} ({_COPIED_COLUMNS}) FROM STDIN (FORMAT BINARY)"
_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_POLLS = _prepared(polls, "DO NOTHING")
_TALLIES = _prepared(tallies, '(sport_key, name, reason) DO UPDATE SET "count" = stored."count" + excluded."count"')
_BOOKS = _prepared(book_health, "DO NOTHING")

"""Tables and queries of ingest; the only SQL. Every write happens in the caller's transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import msgspec
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
    RowMapping,
    Table,
    Text,
    TextClause,
    delete,
    func,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.ingest.cadence import Budget, Decision, Limit
from services.ingest.changes import Disappearance, EventState, Snapshot
from services.ingest.normalize import SeenBook
from services.shared.bus import partition_of
from services.shared.tables import stage_tables

metadata = MetaData(schema="ingest")
stage = stage_tables(metadata)

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
    Index("games_by_sport", "sport_key", "observed_at"),
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
    # Time is part of the key so that the table can be cut by time.
    Column("id", Text, primary_key=True),
    Column("observed_at", _MOMENT, primary_key=True),
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
    Index("odds_snapshots_by_event", "event_id", "market", "book", "observed_at"),
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
)
quarantined_books = Table(
    "quarantined_books",
    metadata,
    Column("book", Text, primary_key=True),
    Column("title", Text, nullable=False),
    Column("first_seen_at", _MOMENT, nullable=False),
    Column("last_seen_at", _MOMENT, nullable=False),
    Column("quotes", BigInteger, nullable=False),
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
)
book_health = Table(
    "book_health",
    metadata,
    Column("sport_key", Text, primary_key=True),
    Column("book", Text, primary_key=True),
    Column("last_update", _MOMENT),
    Column("quotes", Integer, nullable=False),
    Column("events", Integer, nullable=False),
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
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(EventState)
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


@dataclass(frozen=True, slots=True)
class BookHealth:
    """How one book did in one poll."""

    sport_key: str
    book: str
    last_update: datetime | None
    quotes: int
    events: int


@dataclass(frozen=True, slots=True)
class SportHealth:
    """How one sport's feed is doing."""

    sport_key: str
    observed_at: datetime | None
    polled_at: datetime | None
    clock_rate: float
    expected_interval_seconds: float
    consecutive_failures: int
    last_failure: str
    credits_remaining: int | None
    books: tuple[BookHealth, ...] = ()


@dataclass(frozen=True, slots=True)
class QuarantinedBook:
    """A bookmaker that nobody has admitted yet."""

    book: str
    title: str
    first_seen_at: datetime
    last_seen_at: datetime
    quotes: int


@dataclass(slots=True)
class Rows:
    """What some polls leave to be written. An event's newest state stands for all before it."""

    states: dict[str, EventState] = field(default_factory=dict)
    #: Events as they were when first seen.
    first: list[EventState] = field(default_factory=list)
    starts: list[EventState] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    disappearances: list[Disappearance] = field(default_factory=list)
    polls: list[PollRow] = field(default_factory=list)
    quarantined: list[tuple[SeenBook, datetime]] = field(default_factory=list)
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
    return [_decoder.decode(state) for state in await connection.scalars(statement)]


async def load_events(connection: AsyncConnection, event_ids: Iterable[str]) -> list[EventState]:
    """What is known of these events, those that disappeared included."""
    statement = select(stage.event_state.c.state).where(stage.event_state.c.event_id.in_(sorted(event_ids)))
    return [_decoder.decode(state) for state in await connection.scalars(statement)]


async def load_keyframe_requests(connection: AsyncConnection) -> frozenset[str]:
    """Events of which somebody wants to hear everything."""
    return frozenset((await connection.scalars(select(keyframe_requests.c.event_id))).all())


async def request_keyframes(connection: AsyncConnection, event_ids: Iterable[str]) -> None:
    """Asks that the next observation of these events be a keyframe. Asking twice is asking once."""
    rows = [{"event_id": event_id} for event_id in sorted(set(event_ids))]
    if rows:
        await connection.execute(insert(keyframe_requests).on_conflict_do_nothing(), rows)


async def write(connection: AsyncConnection, rows: Rows) -> None:
    """Keeps what some polls left. A snapshot that is there already is the same row."""
    await _insert(connection, _SNAPSHOTS, rows.snapshots)
    await _insert(connection, _DISAPPEARANCES, rows.disappearances)
    await _insert(connection, _STARTS, rows.starts)
    states = sorted(rows.states.values(), key=lambda state: state.event_id)
    await _insert(connection, _GAMES, rows.first)
    await _insert(connection, _GAMES, states)
    await _insert(connection, _STATES, [_StateRow.of(state) for state in states])
    await _insert(connection, _POLLS, rows.polls)
    await _insert(
        connection,
        _TALLIES,
        [_TallyRow(*names, count) for names, count in sorted(rows.tallies.items()) if count],
    )
    for book, seen_at in rows.quarantined:
        statement = insert(quarantined_books).values(
            book=book.book, title=book.title, first_seen_at=seen_at, last_seen_at=seen_at, quotes=book.quotes
        )
        await connection.execute(
            statement.on_conflict_do_update(
                index_elements=["book"],
                set_={
                    "title": statement.excluded.title,
                    "last_seen_at": func.greatest(quarantined_books.c.last_seen_at, statement.excluded.last_seen_at),
                    "quotes": quarantined_books.c.quotes + statement.excluded.quotes,
                },
            )
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
            set_={name: statement.excluded[name] for name in values if name != "credits_remaining"}
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
        )
        .on_conflict_do_update(
            index_elements=["sport_key"],
            set_={"consecutive_failures": feed_health.c.consecutive_failures + 1, "last_failure": kind},
        )
    )
    await _insert(connection, _POLLS, [PollRow(sport_key, failed_at, failure=kind)])
    await _insert(connection, _TALLIES, [_TallyRow(sport_key, "failed_polls", kind, 1)])


async def load_health(connection: AsyncConnection, sport_keys: Sequence[str]) -> list[SportHealth]:
    """The health of these sports, or of all when none is named, by key."""
    statement = select(feed_health).order_by(feed_health.c.sport_key)
    books = select(book_health).order_by(book_health.c.book)
    if sport_keys:
        statement = statement.where(feed_health.c.sport_key.in_(sport_keys))
    by_sport: dict[str, list[BookHealth]] = {}
    for row in (await connection.execute(books)).mappings():
        by_sport.setdefault(row["sport_key"], []).append(BookHealth(**row))
    return [
        SportHealth(**row, books=tuple(by_sport.get(row["sport_key"], ())))
        for row in (await connection.execute(statement)).mappings()
    ]


async def load_quarantined(connection: AsyncConnection) -> list[QuarantinedBook]:
    """The quarantined books, by key."""
    rows = (await connection.execute(select(quarantined_books).order_by(quarantined_books.c.book))).mappings()
    return [QuarantinedBook(**row) for row in rows]


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


async def save_cadence(connection: AsyncConnection, sport_key: str, decision: Decision, now: datetime) -> None:
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


async def load_cadences(connection: AsyncConnection) -> dict[str, dict[str, object]]:
    """How often each sport is asked, and why."""
    return {row["sport_key"]: dict(row) for row in (await connection.execute(select(cadences))).mappings()}


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


@dataclass(frozen=True, slots=True)
class _StateRow:
    event_id: str
    partition: int
    applied_revision: int
    awaiting_keyframe: bool
    #: In hexadecimal, as PostgreSQL reads bytes from text.
    state: str

    @classmethod
    def of(cls, state: EventState) -> _StateRow:
        encoded = _encoder.encode(state).hex()
        return cls(state.event_id, partition_of(state.event_id), state.revision, False, f"\\x{encoded}")


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
_STATES = _prepared(
    stage.event_state,
    "(event_id) DO UPDATE SET applied_revision = excluded.applied_revision, state = excluded.state",
)
_POLLS = _prepared(polls, "DO NOTHING")
_TALLIES = _prepared(tallies, '(sport_key, name, reason) DO UPDATE SET "count" = stored."count" + excluded."count"')
_BOOKS = _prepared(book_health, "DO NOTHING")

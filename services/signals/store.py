"""Tables and queries of the signals service; the only SQL.

The feed is the table `signal` in the order of `feed_position`. Positions are handed out by the row `feed`, which the
writing transaction keeps locked until it commits: a reader that has seen position n will never see a lower one appear
afterwards, so a cursor is a number and resuming needs no memory of readers.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, NamedTuple

from msgspec import Meta
from psycopg import AsyncConnection as DriverConnection
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Row,
    SmallInteger,
    Table,
    Text,
    func,
    literal,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from stratum.common.v1.error_reason_pb2 import ErrorReason
from stratum.signals.v1 import signal_pb2 as proto

from services.shared.cycles import cycles_table
from services.shared.database import Database
from services.shared.days import DayPartitions, by_day
from services.shared.errors import NotFound
from services.shared.identity import EPOCH, hashed_id, milliseconds
from services.shared.tables import stage_tables
from services.signals import wire
from services.signals.cursor import Cursor
from services.signals.model import Direction, Reason, SignalType, SuppressionRow

#: Rung, with the new position, by each transaction that adds to the feed.
CHANNEL = "signals_feed"

metadata = MetaData(schema="signals")
stage = stage_tables(metadata)
days = DayPartitions(metadata)
#: What each poll led to here.
cycles = cycles_table(metadata)

signal = Table(
    "signal",
    metadata,
    Column("id", Text, primary_key=True),
    Column("feed_position", BigInteger, nullable=False, unique=True),
    Column("fact_id", Text, nullable=False),
    # 0 for the strongest signal of its fact, then 1, 2, …: what `collapse=fact` chooses by.
    Column("fact_rank", SmallInteger, nullable=False),
    Column("sport_key", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("market", Text, nullable=False),
    Column("player", Text, nullable=False),
    Column("signal_type", Text, nullable=False),
    Column("direction", Text, nullable=False),
    Column("tier", Text, nullable=False),
    Column("time_bucket", Text, nullable=False),
    # The books that moved, and the one that stands apart: what the filter `book` asks for.
    Column("books", ARRAY(Text), nullable=False),
    Column("composite_score", Double, nullable=False),
    Column("strength", Integer, nullable=False),
    Column("velocity", Double),
    Column("observed_at", DateTime(timezone=True), nullable=False),
    Column("published_at", DateTime(timezone=True), nullable=False),
    Column("config_hash", Text, ForeignKey("signals.configuration.config_hash"), nullable=False),
    # The signal as the feed gives it, serialized once for each view.
    Column("basic", LargeBinary, nullable=False),
    Column("full", LargeBinary, nullable=False),
    # Inputs and steps: a serialized ExplainSignalResponse.
    Column("explanation", LargeBinary, nullable=False),
    # `page`, in either order; of one event; its part for `collapse`; of a book that is seldom named. The stream and
    # retention go by the unique position.
    Index("signal_by_score", "composite_score", "feed_position"),
    Index("signal_by_time", "observed_at", "feed_position"),
    Index("signal_of_event", "event_id", "observed_at"),
    Index("signal_of_fact", "fact_id", "fact_rank"),
    Index("signal_books", "books", postgresql_using="gin"),
)

suppression = Table(
    "suppression",
    metadata,
    Column("id", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("sport_key", Text, nullable=False),
    Column("market", Text, nullable=False),
    Column("player", Text, nullable=False),
    Column("signal_type", Text, nullable=False),
    Column("direction", Text, nullable=False),
    Column("book", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("count", Integer, nullable=False),
    Column("first_seen_at", DateTime(timezone=True), nullable=False),
    Column("last_seen_at", DateTime(timezone=True), nullable=False),
    # The list goes by when a span began, which never changes; by its end, rows would jump while a reader pages. The id
    # is a hash of the beginning too, so that both together are as unique as it is alone.
    PrimaryKeyConstraint("first_seen_at", "id"),
    # The list of an event.
    Index("suppression_of_event", "event_id", "first_seen_at"),
    postgresql_partition_by=by_day("first_seen_at"),
)

#: One row: what the feed is, and how far it goes.
feed = Table(
    "feed",
    metadata,
    Column("singleton", Boolean, CheckConstraint("singleton", name="feed_has_one_row"), primary_key=True),
    # Drawn when the database was made, so that a cursor of another database is recognised.
    Column("epoch", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    # Signals up to here are gone: their time of retention is over.
    Column("trimmed_position", BigInteger, nullable=False),
    # When a market update last came in, for `x-data-age` after a restart.
    Column("received_at", DateTime(timezone=True)),
)

#: Every configuration that ever made a signal, for explanations of old ones.
configuration = Table(
    "configuration",
    metadata,
    Column("config_hash", Text, primary_key=True),
    Column("body", Text, nullable=False),
)

#: One statement for all spans of a batch: hundreds may be open on a board at a time, and each grows at every poll.
_KEEP_SPANS = text(
    "INSERT INTO signals.suppression AS held (id, event_id, sport_key, market, player, signal_type, direction, book, "
    "reason, count, first_seen_at, last_seen_at) SELECT * FROM unnest(CAST(:id AS text[]), CAST(:event_id AS text[]), "
    "CAST(:sport_key AS text[]), CAST(:market AS text[]), CAST(:player AS text[]), CAST(:signal_type AS text[]), "
    "CAST(:direction AS text[]), CAST(:book AS text[]), CAST(:reason AS text[]), CAST(:count AS integer[]), "
    "CAST(:first_seen_at AS timestamptz[]), CAST(:last_seen_at AS timestamptz[])) "
    "ON CONFLICT (first_seen_at, id) DO UPDATE SET count = excluded.count, last_seen_at = excluded.last_seen_at "
    "WHERE excluded.last_seen_at >= held.last_seen_at"
)


#: The columns of `signal`, each with what an array of its values is called.
_SIGNAL_ARRAYS = {
    column.name: {
        "feed_position": "bigint[]",
        "fact_rank": "smallint[]",
        "composite_score": "double precision[]",
        "strength": "integer[]",
        "velocity": "double precision[]",
        "observed_at": "timestamptz[]",
        "published_at": "timestamptz[]",
        "basic": "bytea[]",
        "full": "bytea[]",
        "explanation": "bytea[]",
    }.get(column.name, "text[]")
    for column in signal.columns
}
_SIGNAL_COLUMNS = ", ".join(f'"{name}"' for name in _SIGNAL_ARRAYS)
#: One statement for all signals of a batch. A list of lists is no table, so each signal's books come as JSON.
_ADD_SIGNALS = text(
    f"INSERT INTO signals.signal ({_SIGNAL_COLUMNS}) SELECT "  # noqa: S608 - the names are our own columns
    + _SIGNAL_COLUMNS.replace('"books"', "ARRAY(SELECT json_array_elements_text(CAST(books AS json)))")
    + f" FROM unnest({', '.join(f'CAST(:{name} AS {array})' for name, array in _SIGNAL_ARRAYS.items())}) "
    f"AS found ({_SIGNAL_COLUMNS}) ON CONFLICT DO NOTHING"
)


@dataclass(frozen=True, slots=True)
class Filters:
    """What a reader wants of the feed: one of each list that is not empty, and every bound that is given."""

    sport_key: Sequence[str] = ()
    event_id: Sequence[str] = ()
    market: Sequence[str] = ()
    signal_type: Sequence[str] = ()
    direction: Sequence[str] = ()
    tier: Sequence[str] = ()
    time_bucket: Sequence[str] = ()
    #: The book moved, or stands apart.
    book: Sequence[str] = ()
    #: Observed at or after; before.
    since: datetime | None = None
    until: datetime | None = None
    min_score: float | None = None
    min_strength: int | None = None
    #: Per minute, exclusive.
    velocity_gt: float | None = None

    def conditions(self, of: str = "signal") -> list[str]:
        """The same as SQL, over the table `signal` or an alias of it; the values are `parameters`."""
        given = {
            **{name: f"{of}.{name} = ANY(%({name})s)" for name in _LISTED if getattr(self, name)},
            "book": f"{of}.books && %(book)s" if self.book else "",
            "since": f"{of}.observed_at >= %(since)s" if self.since is not None else "",
            "until": f"{of}.observed_at < %(until)s" if self.until is not None else "",
            "min_score": f"{of}.composite_score >= %(min_score)s" if self.min_score is not None else "",
            "min_strength": f"{of}.strength >= %(min_strength)s" if self.min_strength is not None else "",
            "velocity_gt": f"{of}.velocity > %(velocity_gt)s" if self.velocity_gt is not None else "",
        }
        return [condition for condition in given.values() if condition]

    def parameters(self) -> dict[str, Any]:
        """What the conditions are compared with."""
        return {
            **{name: list(getattr(self, name)) for name in (*_LISTED, "book")},
            "since": self.since,
            "until": self.until,
            "min_score": self.min_score,
            "min_strength": self.min_strength,
            "velocity_gt": self.velocity_gt,
        }


#: A signal that the feed does not say to be gone.
_KEPT = "feed_position > (SELECT trimmed_position FROM signals.feed)"
_LISTED = ("sport_key", "event_id", "market", "signal_type", "direction", "tier", "time_bucket")


# A position comes back from the caller: what PostgreSQL or a time cannot hold is no token of ours.
_Whole = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Key = Annotated[float, Meta(ge=0, le=2.5e17)]


class PagePosition(NamedTuple):
    """Where a walk through a ranked feed stands: later signals do not join it; the next page goes on behind the key."""

    #: The feed's position when the walk began.
    upper: _Whole
    #: Score of the last signal shown, or its time in microseconds since 1970.
    key: _Key
    feed_position: _Whole


class SpanPosition(NamedTuple):
    """Where a walk through the suppressions stands: the beginning of the last span shown, and its id."""

    first_seen_microseconds: _Key
    id: str


class FeedState(NamedTuple):
    """What the feed is and how far it goes."""

    epoch: str
    position: int
    trimmed_position: int
    received_at: datetime | None


class Page(NamedTuple):
    """Serialized signals in their order, and where to go on; None on the last page."""

    payloads: Sequence[bytes]
    next: PagePosition | None
    #: How far the feed went in the very moment that the page shows; None for an empty page, which does not know.
    position: int | None


class Stretch(NamedTuple):
    """Signals of the feed in the order of publishing, and the position up to which this is all there is."""

    payloads: Sequence[bytes]
    through: int


@dataclass(frozen=True, slots=True)
class FoundSignal:
    """A signal that the rules found, on its way into the feed, where it gets its position."""

    signal: proto.Signal
    #: A serialized ExplainSignalResponse.
    explanation: bytes
    #: 0 for the strongest of its fact.
    fact_rank: int


@dataclass(frozen=True, slots=True)
class StoredSignal:
    """A signal of the feed, whole, and what explains it."""

    full: bytes
    explanation: bytes
    #: The configuration that made it, as JSON.
    configuration: str


class SignalStore:
    """Reads the feed. Writing happens inside the stage's transaction: see `write_signals` and `write_suppressions`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # The two questions that every reader repeats: the query builder took four times as long as all the rest.
        self._ask = database.readers.rows
        # A read is one statement, and a statement sees one state of the feed: BEGIN and COMMIT would only cost.
        self._reading = database.engine.execution_options(isolation_level="AUTOCOMMIT")

    async def page(
        self, filters: Filters, *, by_score: bool, full: bool, collapse: bool, size: int, behind: PagePosition | None
    ) -> Page:
        """A page of the ranked feed, highest score or newest first; ties by the later position."""
        key = "composite_score" if by_score else "observed_at"
        # What retention has begun to take is not shown any more: so nothing is on a page that its end would change.
        wanted, parameters = [*filters.conditions(), f"signal.{_KEPT}"], filters.parameters()
        if collapse:
            # Filters come first: a fact is shown by the strongest that passes, and never lost because another does not.
            stronger = ["other.fact_id = signal.fact_id", "other.fact_rank < signal.fact_rank", f"other.{_KEPT}"]
            stronger += filters.conditions("other")
            wanted.append(f"NOT EXISTS (SELECT FROM signals.signal other WHERE {' AND '.join(stronger)})")
        if behind is not None:
            wanted.append("signal.feed_position <= %(upper)s")
            wanted.append(f"(signal.{key}, signal.feed_position) < (%(key)s, %(position)s)")
            last = behind.key if by_score else _moment(behind.key)
            parameters |= {"upper": behind.upper, "key": last, "position": behind.feed_position}
        rows = await self._ask(
            # The text is made of our own words only; what a caller gave is in the parameters.
            f"SELECT signal.{'full' if full else 'basic'}, signal.{key}, signal.feed_position, "  # noqa: S608
            "(SELECT position FROM signals.feed) "
            f"FROM signals.signal WHERE {' AND '.join(wanted)} "
            f"ORDER BY signal.{key} DESC, signal.feed_position DESC LIMIT %(rows)s".encode(),
            {**parameters, "rows": size + 1},
        )
        payloads = [row[0] for row in rows[:size]]
        position = rows[0][3] if rows else None
        if len(rows) <= size:
            return Page(payloads, None, position)
        _, last_key, last_position, position = rows[size - 1]
        upper = position if behind is None else behind.upper
        behind = PagePosition(upper, last_key if by_score else _microseconds(last_key), last_position)
        return Page(payloads, behind, position)

    async def stretch(self, filters: Filters, *, full: bool, after: int, through: int, size: int) -> Stretch:
        """What the feed holds behind one position and through another, oldest first, at most `size` signals.

        `through` must be a position that the feed has reached: then everything below it is there.
        """
        wanted = ["signal.feed_position > %(after)s", "signal.feed_position <= %(through)s", *filters.conditions()]
        rows = await self._ask(
            f"SELECT signal.{'full' if full else 'basic'}, signal.feed_position FROM signals.signal "  # noqa: S608 - our words
            f"WHERE {' AND '.join(wanted)} ORDER BY signal.feed_position LIMIT %(rows)s".encode(),
            {**filters.parameters(), "after": after, "through": through, "rows": size},
        )
        return Stretch([row[0] for row in rows], rows[-1][1] if len(rows) == size else through)

    async def get(self, signal_id: str) -> StoredSignal:
        """One signal, whole. Raises NotFound (SIGNAL_NOT_FOUND)."""
        statement = (
            select(signal.c.full, signal.c.explanation, configuration.c.body)
            .join(configuration, configuration.c.config_hash == signal.c.config_hash)
            .where(signal.c.id == signal_id)
        )
        async with self._reading.connect() as connection:
            row = (await connection.execute(statement)).one_or_none()
        if row is None:
            raise NotFound(ErrorReason.SIGNAL_NOT_FOUND, f"no signal {signal_id}", signal_id=signal_id)
        return StoredSignal(*row)

    async def event_state(self, event_id: str) -> bytes | None:
        """The rules' state of an event as the stage left it; None for an event without one."""
        statement = select(stage.event_state.c.state).where(stage.event_state.c.event_id == event_id)
        async with self._reading.connect() as connection:
            return (await connection.execute(statement)).scalar_one_or_none()

    async def suppressions(
        self, filters: Filters, reasons: Sequence[str], *, size: int, behind: SpanPosition | None
    ) -> tuple[Sequence[SuppressionRow], SpanPosition | None]:
        """Spans in which something was held back, newest beginning first, and where to go on.

        Of the filters the lists and the times count; a span passes the times when any of it lies between them.
        """
        column = suppression.c
        listed = (
            (column.sport_key, filters.sport_key),
            (column.event_id, filters.event_id),
            (column.market, filters.market),
            (column.signal_type, filters.signal_type),
            (column.reason, reasons),
        )
        wanted: list[ColumnElement[bool]] = [name.in_(values) for name, values in listed if values]
        if filters.since is not None:
            wanted.append(column.last_seen_at >= filters.since)
        if filters.until is not None:
            wanted.append(column.first_seen_at < filters.until)
        if behind is not None:
            began = literal(_moment(behind.first_seen_microseconds))
            wanted.append(column.first_seen_at <= began)  # says the same, and by it the days behind are not visited
            wanted.append(tuple_(column.first_seen_at, column.id) < tuple_(began, literal(behind.id)))
        statement = (
            select(
                column.event_id,
                column.sport_key,
                column.market,
                column.player,
                column.signal_type,
                column.direction,
                column.book,
                column.reason,
                column.count.label("times"),
                column.first_seen_at,
                column.last_seen_at,
                column.id,
            )
            .where(*wanted)
            .order_by(column.first_seen_at.desc(), column.id.desc())
            .limit(size + 1)
        )
        async with self._reading.connect() as connection:
            rows = (await connection.execute(statement)).all()
        last = rows[size - 1] if len(rows) > size else None
        position = None if last is None else SpanPosition(_microseconds(last.first_seen_at), last.id)
        return [_suppression(row) for row in rows[:size]], position

    async def feed_state(self) -> FeedState:
        """What the feed is and how far it goes."""
        statement = select(feed.c.epoch, feed.c.position, feed.c.trimmed_position, feed.c.received_at)
        async with self._reading.connect() as connection:
            return FeedState(*(await connection.execute(statement)).one())

    async def note_received(self, received_at: datetime) -> None:
        """Keeps when the newest market update came in, for the processes that read and for the next start."""
        later = func.greatest(feed.c.received_at, received_at)
        async with self._database.begin() as connection:
            await connection.execute(update(feed).values(received_at=later))

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[AsyncIterator[int]]:
        """The feed's position, each time it rises, for as long as the connection holds."""
        address = self._database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        async with await DriverConnection.connect(address, autocommit=True) as connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            yield (int(notification.payload) async for notification in connection.notifies())


async def write_signals(
    connection: AsyncConnection, found: Sequence[FoundSignal], configuration_body: str, published_at: datetime
) -> None:
    """Adds signals to the feed, in their order, inside the caller's transaction, which should commit at once: until it
    does, every other writer waits for its positions. A signal that is there already stays as it is."""
    if not found:
        return
    hashes = {each.signal.config_hash for each in found}
    await connection.execute(
        insert(configuration).on_conflict_do_nothing(),
        [{"config_hash": config_hash, "body": configuration_body} for config_hash in sorted(hashes)],
    )
    taken = update(feed).values(position=feed.c.position + len(found)).returning(feed.c.epoch, feed.c.position)
    epoch, last = (await connection.execute(taken)).one()
    first = last - len(found) + 1
    rows = [_row(each, Cursor(epoch, first + index), published_at) for index, each in enumerate(found)]
    await connection.execute(_ADD_SIGNALS, {name: [row[name] for row in rows] for name in rows[0]})
    # Delivered when the transaction commits, and not at all if it does not.
    await connection.execute(select(func.pg_notify(CHANNEL, str(last))))


async def write_suppressions(connection: AsyncConnection, spans: Sequence[SuppressionRow]) -> None:
    """Keeps each span as of its newest observation, inside the caller's transaction."""
    newest = {_span_id(span): span for span in spans}
    if not newest:
        return
    spans = list(newest.values())
    await days.keep(connection, (span.first_seen_at for span in spans))
    await connection.execute(
        _KEEP_SPANS,
        {
            "id": list(newest),
            "event_id": [span.event_id for span in spans],
            "sport_key": [span.sport_key for span in spans],
            "market": [span.market for span in spans],
            "player": [span.player for span in spans],
            "signal_type": [str(span.signal_type) for span in spans],
            "direction": [str(span.direction) for span in spans],
            "book": [span.book for span in spans],
            "reason": [str(span.reason) for span in spans],
            "count": [span.count for span in spans],
            "first_seen_at": [span.first_seen_at for span in spans],
            "last_seen_at": [span.last_seen_at for span in spans],
        },
    )


def _row(found: FoundSignal, cursor: Cursor, published_at: datetime) -> dict[str, object]:
    full = proto.Signal()
    full.CopyFrom(found.signal)
    full.cursor = str(cursor)
    full.published_at.FromDatetime(published_at)
    return {
        "id": full.id,
        "feed_position": cursor.position,
        "fact_id": full.fact_id,
        "fact_rank": found.fact_rank,
        "sport_key": full.sport_key,
        "event_id": full.event_id,
        "market": full.market,
        "player": full.player,
        "signal_type": proto.SignalType.Value.Name(full.signal_type),
        "direction": proto.Direction.Value.Name(full.direction),
        "tier": proto.Tier.Value.Name(full.tier),
        "time_bucket": proto.TimeBucket.Value.Name(full.time_bucket),
        "books": json.dumps(sorted({*full.books, *([full.book] if full.book else [])})),
        "composite_score": full.composite_score,
        "strength": full.strength,
        "velocity": full.velocity if full.HasField("velocity") else None,
        "observed_at": wire.moment(full.observed_at),
        "published_at": published_at,
        "config_hash": full.config_hash,
        "basic": wire.serialized(wire.basic_view(full)),
        "full": wire.serialized(full),
        "explanation": found.explanation,
    }


def _suppression(row: Row[*tuple[Any, ...]]) -> SuppressionRow:
    return SuppressionRow(
        event_id=row.event_id,
        sport_key=row.sport_key,
        market=row.market,
        player=row.player,
        signal_type=SignalType(row.signal_type),
        direction=Direction(row.direction),
        book=row.book,
        reason=Reason(row.reason),
        count=row.times,
        first_seen_at=row.first_seen_at,
        last_seen_at=row.last_seen_at,
    )


def _span_id(span: SuppressionRow) -> str:
    return hashed_id(
        span.event_id,
        span.market,
        span.player,
        span.signal_type,
        span.direction,
        span.book,
        span.reason,
        str(milliseconds(span.first_seen_at)),
    )


def _microseconds(at: datetime) -> int:
    return (at - EPOCH) // timedelta(microseconds=1)


def _moment(microseconds: float) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)

"""Tables and queries of consensus; the only SQL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from sqlalchemy import (
    ARRAY,
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    Float,
    Index,
    Integer,
    MetaData,
    Row,
    Select,
    Table,
    Text,
    TextClause,
    and_,
    delete,
    func,
    or_,
    select,
    text,
    tuple_,
)
from sqlalchemy.dialects.postgresql import JSONB, distinct_on
from sqlalchemy.ext.asyncio import AsyncConnection

from services.consensus.model import Consensus, ConsensusRow, GameRow, MarketKey, QuotePoint
from services.shared.database import Database
from services.shared.stage import stage_tables

T = TypeVar("T")

metadata = MetaData(schema="consensus")
stage = stage_tables(metadata)


def _moment(name: str, **options: Any) -> Column[datetime]:
    return Column(name, DateTime(timezone=True), **options)


def _market_key() -> tuple[Column[str], Column[str], Column[str]]:
    return (
        Column("event_id", Text, primary_key=True),
        Column("market", Text, primary_key=True),
        Column("player", Text, primary_key=True),
    )


#: Every event, as last observed.
games = Table(
    "games",
    metadata,
    Column("event_id", Text, primary_key=True),
    Column("sport_key", Text, nullable=False),
    Column("home_team", Text, nullable=False),
    Column("away_team", Text, nullable=False),
    _moment("commence_time", nullable=True),
    _moment("observed_at", nullable=False),
    Column("in_play", Boolean, nullable=False),
    Column("markets", ARRAY(Text), nullable=False),
    Column("books", Integer, nullable=False),
    Index("games_by_start", "commence_time", "event_id"),
    Index("games_by_sport_and_start", "sport_key", "commence_time", "event_id"),
)

#: The consensus of a market whenever it changed, and every ten minutes. The time stands second in the key: a history is
#: read for one event, in order.
consensus_snapshots = Table(
    "consensus_snapshots",
    metadata,
    Column("event_id", Text, primary_key=True),
    _moment("observed_at", primary_key=True),
    Column("market", Text, primary_key=True),
    Column("player", Text, primary_key=True),
    Column("sport_key", Text, nullable=False),
    Column("consensus_line", Float, nullable=True),
    Column("fair_line", Float, nullable=True),
    Column("fair_probability", Float, nullable=True),
    Column("consensus_price", Float, nullable=True),
    Column("dispersion", Float, nullable=True),
    Column("dispersion_mad", Float, nullable=True),
    Column("books", Integer, nullable=False),
    Column("clusters", Integer, nullable=False),
    Column("devig_method", Text, nullable=False),
    Column("in_play", Boolean, nullable=False),
    Column("excluded", JSONB, nullable=False),
    Column("note", Text, nullable=False),
    Column("weights", JSONB, nullable=False),
    Column("heartbeat", Boolean, nullable=False),
    Column("config_hash", Text, nullable=False),
)

#: What each book quoted from when on. Without a price: from then on it was gone.
quote_history = Table(
    "quote_history",
    metadata,
    *_market_key(),
    Column("book", Text, primary_key=True),
    _moment("observed_at", primary_key=True),
    Column("line", Float, nullable=True),
    Column("price", Float, nullable=True),
    Column("price_other", Float, nullable=True),
    Column("fair_probability", Float, nullable=True),
)

#: The markets that somebody quotes. What is quoted in them is in the states of their events.
current_market = Table(
    "current_market",
    metadata,
    *_market_key(),
    Column("sport_key", Text, nullable=False),
    Index("current_market_by_sport", "sport_key", "event_id", "market", "player"),
)


@dataclass(frozen=True, slots=True)
class CurrentMarket:
    """Whether somebody quotes a market."""

    event_id: str
    sport_key: str
    key: MarketKey
    quoted: bool


@dataclass(frozen=True, slots=True)
class MarketPosition:
    """Where a list of current markets goes on."""

    event_id: str
    market: str
    player: str


@dataclass(frozen=True, slots=True)
class HistoryPosition:
    """Where the history of an event goes on."""

    observed_at: datetime
    market: str
    player: str


@dataclass(frozen=True, slots=True)
class GamePosition:
    """Where a list of games goes on; games without a readable start come last."""

    commence_time: datetime | None
    event_id: str


async def write(connection: AsyncConnection, rows: Sequence[Any]) -> None:
    """Stores what a batch led to. Rows that are replaced as a whole are written once, as they were last."""
    await _write_games(connection, [row for row in rows if isinstance(row, GameRow)])
    await _insert(connection, _insert_snapshots, [_snapshot(row) for row in rows if isinstance(row, ConsensusRow)])
    await _insert(connection, _insert_points, [_point(row) for row in rows if isinstance(row, QuotePoint)])
    await _write_current(connection, [row for row in rows if isinstance(row, CurrentMarket)])


def _insertion(table: Table, conflict: str) -> TextClause:
    """Inserts any number of rows, given as one JSON array of objects: a single value to send, however many they are."""
    name = table.fullname
    return text(
        f"INSERT INTO {name} SELECT * FROM json_populate_recordset(CAST(NULL AS {name}), CAST(:rows AS json)) "  # noqa: S608 - our own table's name
        f"ON CONFLICT {conflict}"
    )


def _replacing(table: Table) -> str:
    """What an insertion does about a row that is there: it puts the new one in its place."""
    key = ", ".join(column.name for column in table.primary_key)
    values = ", ".join(f"{column.name} = excluded.{column.name}" for column in table.columns if not column.primary_key)
    return f"({key}) DO UPDATE SET {values}"


_GAME_COLUMNS = [column.name for column in games.columns]
_insert_games = _insertion(games, _replacing(games))
_insert_snapshots = _insertion(consensus_snapshots, "DO NOTHING")
_insert_points = _insertion(quote_history, "DO NOTHING")
_insert_current = _insertion(current_market, "DO NOTHING")


async def _insert(connection: AsyncConnection, insertion: TextClause, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        await connection.execute(insertion, {"rows": msgspec.json.encode(rows).decode()})


async def _write_games(connection: AsyncConnection, rows: Iterable[GameRow]) -> None:
    newest = {row.event_id: row for row in rows}
    await _insert(
        connection,
        _insert_games,
        [{name: getattr(row, name) for name in _GAME_COLUMNS} for _, row in sorted(newest.items())],
    )


async def _write_current(connection: AsyncConnection, rows: Iterable[CurrentMarket]) -> None:
    newest = {(row.event_id, row.key): row for row in rows}
    gone = [(row.event_id, *row.key) for row in newest.values() if not row.quoted]
    if gone:
        key = tuple_(current_market.c.event_id, current_market.c.market, current_market.c.player)
        await connection.execute(delete(current_market).where(key.in_(sorted(gone))))
    held = [
        {"event_id": row.event_id, "market": row.key.market, "player": row.key.player, "sport_key": row.sport_key}
        for _, row in sorted(newest.items())
        if row.quoted
    ]
    await _insert(connection, _insert_current, held)


def _snapshot(row: ConsensusRow) -> dict[str, Any]:
    held = row.consensus
    return {
        "event_id": row.event_id,
        "observed_at": row.observed_at,
        "market": row.key.market,
        "player": row.key.player,
        "sport_key": row.sport_key,
        "consensus_line": held.consensus_line,
        "fair_line": held.fair_line,
        "fair_probability": held.fair_probability,
        "consensus_price": held.consensus_price,
        "dispersion": held.dispersion,
        "dispersion_mad": held.dispersion_mad,
        "books": held.books,
        "clusters": held.clusters,
        "devig_method": held.devig_method,
        "in_play": held.in_play,
        "excluded": dict(held.excluded),
        "note": held.note,
        "weights": dict(held.weights),
        "heartbeat": row.heartbeat,
        "config_hash": row.config_hash,
    }


def _point(row: QuotePoint) -> dict[str, Any]:
    return {
        "event_id": row.event_id,
        "market": row.key.market,
        "player": row.key.player,
        "book": row.book,
        "observed_at": row.observed_at,
        "line": row.line,
        "price": row.price,
        "price_other": row.price_other,
        "fair_probability": row.fair_probability,
    }


class ConsensusStore:
    """What the service answers from."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def current_markets(
        self,
        sport_keys: Sequence[str],
        event_ids: Sequence[str],
        markets: Sequence[str],
        after: MarketPosition | None = None,
        limit: int | None = None,
    ) -> list[CurrentMarket]:
        """Markets that somebody quotes, by event, market and player; an empty filter lets all by."""
        table = current_market.c
        key = tuple_(table.event_id, table.market, table.player)
        query = select(current_market).where(
            *_among((table.sport_key, sport_keys), (table.event_id, event_ids), (table.market, markets))
        )
        if after is not None:
            query = query.where(key > (after.event_id, after.market, after.player))
        rows = await self._rows(query.order_by(table.event_id, table.market, table.player).limit(limit))
        return [
            CurrentMarket(row.event_id, row.sport_key, MarketKey(row.market, row.player), quoted=True) for row in rows
        ]

    async def states(self, event_ids: Iterable[str]) -> dict[str, bytes]:
        """What the stage knows of these events, by event, as it wrote it down."""
        table = stage.event_state.c
        rows = await self._rows(select(table.event_id, table.state).where(table.event_id.in_(sorted(set(event_ids)))))
        return {row.event_id: row.state for row in rows}

    async def history(
        self,
        event_id: str,
        markets: Sequence[str] = (),
        player: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
        after: HistoryPosition | None = None,
        limit: int | None = None,
    ) -> list[ConsensusRow]:
        """Consensus rows of an event observed from `since` to `until`, both included, oldest first."""
        table = consensus_snapshots.c
        query = select(consensus_snapshots).where(table.event_id == event_id, *_among((table.market, markets)))
        if player:
            query = query.where(table.player == player)
        if since is not None:
            query = query.where(table.observed_at >= since)
        if until is not None:
            query = query.where(table.observed_at <= until)
        if after is not None:
            position = (after.observed_at, after.market, after.player)
            query = query.where(tuple_(table.observed_at, table.market, table.player) > position)
        rows = await self._rows(query.order_by(table.observed_at, table.market, table.player).limit(limit))
        return [_consensus_row(row) for row in rows]

    async def newest(self, event_id: str, markets: Sequence[str]) -> list[ConsensusRow]:
        """The newest consensus row of every market that an event ever had, by market and player."""
        table = consensus_snapshots.c
        query = select(consensus_snapshots).where(table.event_id == event_id, *_among((table.market, markets)))
        rows = await self._rows(
            query.ext(distinct_on(table.market, table.player)).order_by(
                table.market, table.player, table.observed_at.desc()
            )
        )
        return [_consensus_row(row) for row in rows]

    async def quotes(self, event_id: str, markets: Sequence[str], since: datetime | None) -> list[QuotePoint]:
        """Every change of every book's quotes, by market, player and book, oldest first."""
        table = quote_history.c
        query = select(quote_history).where(table.event_id == event_id, *_among((table.market, markets)))
        if since is not None:
            query = query.where(table.observed_at >= since)
        rows = await self._rows(query.order_by(table.market, table.player, table.book, table.observed_at))
        return [
            QuotePoint(
                event_id=row.event_id,
                key=MarketKey(row.market, row.player),
                book=row.book,
                observed_at=row.observed_at,
                line=row.line,
                price=row.price,
                price_other=row.price_other,
                fair_probability=row.fair_probability,
            )
            for row in rows
        ]

    async def games(
        self,
        sport_keys: Sequence[str],
        since: datetime | None,
        until: datetime | None,
        after: GamePosition | None,
        limit: int,
    ) -> list[GameRow]:
        """Games that start from `since` to before `until`, soonest first; without either, those that are not over.

        A game is over when it had begun by the newest observation and nobody quotes it. Without a readable start it is
        found only where no time was asked for.
        """
        table = games.c
        query = select(games).where(*_among((table.sport_key, sport_keys)))
        if since is None and until is None:
            newest = select(func.max(table.observed_at)).scalar_subquery()
            query = query.where(or_(table.books > 0, table.commence_time > newest, table.commence_time.is_(None)))
        if since is not None:
            query = query.where(table.commence_time >= since)
        if until is not None:
            query = query.where(table.commence_time < until)
        if after is not None:
            query = query.where(_behind(after))
        rows = await self._rows(query.order_by(table.commence_time.asc().nulls_last(), table.event_id).limit(limit))
        return [_game(row) for row in rows]

    async def game(self, event_id: str) -> GameRow | None:
        """The event as last observed, or None for one that never was."""
        rows = await self._rows(select(games).where(games.c.event_id == event_id))
        return _game(rows[0]) if rows else None

    async def _rows(self, query: Select[*tuple[Any, ...]]) -> Sequence[Row[*tuple[Any, ...]]]:
        async with self._database.engine.connect() as connection:
            return (await connection.execute(query)).all()


def _among(*filters: tuple[Column[str], Sequence[str]]) -> list[ColumnElement[bool]]:
    """One condition for each filter that names anything."""
    return [column.in_(sorted(set(values))) for column, values in filters if values]


def _behind(after: GamePosition) -> ColumnElement[bool]:
    table = games.c
    if after.commence_time is None:
        return and_(table.commence_time.is_(None), table.event_id > after.event_id)
    return or_(
        tuple_(table.commence_time, table.event_id) > (after.commence_time, after.event_id),
        table.commence_time.is_(None),
    )


def _consensus_row(row: Row[*tuple[Any, ...]]) -> ConsensusRow:
    return ConsensusRow(
        event_id=row.event_id,
        sport_key=row.sport_key,
        key=MarketKey(row.market, row.player),
        observed_at=row.observed_at,
        consensus=Consensus(
            books=row.books,
            clusters=row.clusters,
            in_play=row.in_play,
            devig_method=row.devig_method,
            note=row.note,
            consensus_line=row.consensus_line,
            fair_line=row.fair_line,
            fair_probability=row.fair_probability,
            consensus_price=row.consensus_price,
            dispersion=row.dispersion,
            dispersion_mad=row.dispersion_mad,
            excluded=tuple(sorted(row.excluded.items())),
            weights=tuple(sorted(row.weights.items())),
        ),
        heartbeat=row.heartbeat,
        config_hash=row.config_hash,
    )


def _game(row: Row[*tuple[Any, ...]]) -> GameRow:
    return GameRow(
        event_id=row.event_id,
        sport_key=row.sport_key,
        home_team=row.home_team,
        away_team=row.away_team,
        commence_time=row.commence_time,
        observed_at=row.observed_at,
        in_play=row.in_play,
        markets=tuple(row.markets),
        books=row.books,
    )

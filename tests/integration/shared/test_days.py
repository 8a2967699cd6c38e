"""Dividing the tables by day takes their rows along, and so does the way back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Connection, create_engine, text

from deploy import schema
from deploy.local.postgres import PostgresServer
from services.consensus import store as consensus
from services.ingest import store as ingest
from services.shared.database import Database
from services.signals import store as signals

#: For each service: the revisions before and after, and rows of every divided table, of two days.
ROWS: dict[str, tuple[str, str, dict[str, str]]] = {
    "ingest": (
        "0001",
        "0004",
        {
            "odds_snapshots": "(id, observed_at, event_id, book, market, player, outcome, price) VALUES "
            "('a', '2026-01-01 23:59:59.999999+00', 'game', 'betmgm', 'h2h', '', 'home', 1.9), "
            "('b', '2026-01-02 00:00:00+00', 'game', 'betmgm', 'h2h', '', 'home', 2.0)",
            "disappearances": "(event_id, market, player, book, observed_at, last_seen_at) VALUES "
            "('game', 'h2h', '', 'betmgm', '2026-01-03 12:00+00', '2026-01-02 12:00+00')",
        },
    ),
    "consensus": (
        "consensus_0001",
        "consensus_0002",
        {
            "consensus_snapshots": "(event_id, observed_at, market, player, sport_key, books, clusters, devig_method, "
            "in_play, excluded, note, weights, heartbeat, config_hash) VALUES ('game', '2026-01-01 12:00+00', 'h2h', "
            "'', 'nba', 1, 1, '', false, '{}', '', '{}', false, ''), ('game', '2026-01-02 12:00+00', 'h2h', '', 'nba', "
            "1, 1, '', false, '{}', '', '{}', false, '')",
            "quote_history": "(event_id, market, player, book, observed_at) VALUES ('game', 'h2h', '', 'betmgm', "
            "'2026-01-01 12:00+00'), ('game', 'h2h', '', 'betmgm', '2026-01-02 12:00+00')",
        },
    ),
    "signals": (
        "signals_0001",
        "signals_0002",
        {
            "suppression": "(id, event_id, sport_key, market, player, signal_type, direction, book, reason, count, "
            "first_seen_at, last_seen_at) VALUES ('a', 'game', 'nba', 'h2h', '', 'MOVE', '', '', 'COOLDOWN', 1, "
            "'2026-01-01 12:00+00', '2026-01-01 12:00+00'), ('b', 'game', 'nba', 'h2h', '', 'MOVE', '', '', "
            "'COOLDOWN', 1, '2026-01-02 12:00+00', '2026-01-02 12:00+00')",
        },
    ),
}


@pytest.fixture
def migrator(postgres_server: PostgresServer, passwords: dict[str, str]) -> Iterator[Callable[[str], Connection]]:
    """A connection that may migrate a database of one service, which is made empty."""
    opened: list[Connection] = []

    def connect(service: str) -> Connection:
        name = f"days_of_{service}"
        schema.prepare(postgres_server.url(), passwords, name, (service,))
        url = schema.service_url(postgres_server.url(), schema.MIGRATOR, passwords, name)
        opened.append(create_engine(url).connect())
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()
        connection.engine.dispose()


@pytest.mark.parametrize("service", ROWS)
def test_the_rows_come_along_in_both_directions(migrator: Callable[[str], Connection], service: str) -> None:
    before, after, tables = ROWS[service]
    connection = migrator(service)
    configuration = schema._configuration(service, connection)
    command.upgrade(configuration, before)
    for table, rows in tables.items():
        connection.execute(text(f"INSERT INTO {service}.{table} {rows}"))
    connection.commit()
    found = [_rows(connection, service, tables)]
    command.upgrade(configuration, after)
    assert _divided(connection, service) == set(tables)
    found.append(_rows(connection, service, tables))
    command.downgrade(configuration, before)
    assert _divided(connection, service) == set()
    found.append(_rows(connection, service, tables))
    assert found[0] == found[1] == found[2]
    assert all(found[0].values())


@pytest.mark.parametrize(("service", "store"), [("ingest", ingest), ("consensus", consensus), ("signals", signals)])
async def test_a_service_makes_the_days_that_it_needs_and_no_others(
    database_for: Callable[[str], Awaitable[Database]], service: str, store: Any
) -> None:
    database = await database_for(service)
    late = datetime(2019, 7, 1, 23, 30, tzinfo=UTC)
    async with database.begin() as connection:
        await store.days.keep(connection, [late, late])
        found = list(
            await connection.scalars(
                text(
                    "SELECT relname FROM pg_class WHERE relnamespace = CAST(:schema AS regnamespace) "
                    "AND relispartition AND relkind = 'r' AND relname LIKE '%\\_p2019%' ORDER BY relname"
                ),
                {"schema": service},
            )
        )
    assert found == sorted(f"{table}_p20190701" for table in ROWS[service][2])


def _rows(connection: Connection, service: str, tables: dict[str, str]) -> dict[str, list[str]]:
    found = {}
    for table in tables:
        # In the signals' table a column is gone that says when the row was written.
        written = f"SELECT (to_jsonb(one) - 'inserted_at')::text FROM {service}.{table} AS one ORDER BY 1"
        found[table] = list(connection.execute(text(written)).scalars())
    connection.commit()
    return found


def _divided(connection: Connection, service: str) -> set[str]:
    named = text("SELECT relname FROM pg_class WHERE relkind = 'p' AND relnamespace = CAST(:schema AS regnamespace)")
    found = set(connection.execute(named, {"schema": service}).scalars())
    connection.commit()
    return found

"""How fast PostgreSQL alone takes the rows of a run with COPY, as durable as before: the yardstick of throughput."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from deploy import schema
from deploy.local.postgres import PostgresServer

#: Rows of a table that are copied, at most: enough for seconds of work.
ROWS = 200_000


def seconds_per_row(database_folder: Path, tables: list[str]) -> Mapping[str, float]:
    """What COPY takes for a row of each of these tables, its indexes included; the stack must have ended.

    Each table's rows are read out in the binary form first, so that only the taking in is timed, commit included. A
    table without rows is left out.
    """
    with PostgresServer(database_folder) as server:
        url = make_url(server.url(database=schema.DATABASE))
        with psycopg.connect(
            host=url.host, port=url.port, user=url.username, password=url.password, dbname=url.database, autocommit=True
        ) as connection:
            # As quiet as it was when the run began: nothing else is on its way to the disk.
            connection.execute("CHECKPOINT")
            found = {table: _seconds_per_row(connection, table) for table in tables}
    return {table: seconds for table, seconds in found.items() if seconds is not None}


def _seconds_per_row(connection: psycopg.Connection, table: str) -> float | None:
    named = sql.Identifier(*table.split("."))
    rows: list[bytes] = []
    with connection.cursor().copy(
        sql.SQL("COPY (SELECT * FROM {} LIMIT {}) TO STDOUT (FORMAT BINARY)").format(named, sql.Literal(ROWS))
    ) as source:
        rows.extend(bytes(block) for block in source)
    connection.execute("DROP TABLE IF EXISTS public.copied")
    connection.execute(sql.SQL("CREATE TABLE public.copied (LIKE {} INCLUDING ALL)").format(named))
    cursor = connection.cursor()
    began = time.perf_counter()
    with cursor.copy("COPY public.copied FROM STDIN (FORMAT BINARY)") as target:
        for block in rows:
            target.write(block)
    seconds = time.perf_counter() - began
    return seconds / cursor.rowcount if cursor.rowcount else None

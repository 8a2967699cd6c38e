"""What a changed quote costs on its way from the provider's body to the feed, against storing its rows with COPY."""

from __future__ import annotations

import time
from pathlib import Path

import psycopg
from sqlalchemy.engine import make_url

from deploy import schema
from deploy.home import Home
from deploy.local.postgres import PostgresServer
from deploy.recording import open_recording
from deploy.replay import Replay
from tests.bench.board import write_board
from tests.bench.figures import Figure


async def measure(folder: Path, events: int = 200, responses: int = 60) -> list[Figure]:
    """Replays a generated board through the real services, everything durable, then copies the same rows."""
    recording_folder = write_board(folder / "board", events, responses)
    home = Home(folder / "home")
    with open_recording(recording_folder) as recording:
        summary, _ = await Replay(recording, home, profile="live", say=print).run()
    rows_per_second = _copy(home.database_folder())
    changes = summary.changes
    figures = [
        Figure(
            "changed quotes through the whole pipeline",
            changes / summary.wall_seconds,
            "quotes/s",
            rows_per_second / (summary.snapshots / changes),
            "COPY of the same quotes' rows",
        )
    ]
    figures.extend(
        Figure(f"CPU per changed quote: {name}", seconds / changes * 1e6, "µs")
        for name, seconds in summary.cpu_seconds.items()
    )
    return figures


def _copy(database_folder: Path) -> float:
    """Rows a second with which PostgreSQL alone, as durable as before, takes the snapshots of the run."""
    with PostgresServer(database_folder) as server:
        url = make_url(server.url(database=schema.DATABASE))
        with psycopg.connect(
            host=url.host, port=url.port, user=url.username, password=url.password, dbname=url.database, autocommit=True
        ) as connection:
            rows: list[bytes] = []
            with connection.cursor().copy("COPY (TABLE ingest.odds_snapshots) TO STDOUT (FORMAT BINARY)") as source:
                rows.extend(bytes(block) for block in source)
            connection.execute("CREATE TABLE ingest.copied (LIKE ingest.odds_snapshots INCLUDING ALL)")
            began = time.perf_counter()
            cursor = connection.cursor()
            with cursor.copy("COPY ingest.copied FROM STDIN (FORMAT BINARY)") as target:
                for block in rows:
                    target.write(block)
            return cursor.rowcount / (time.perf_counter() - began)

"""The service's own schema in PostgreSQL, reached with the service's own role."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg.types.array import ListBinaryDumper
from sqlalchemy import event, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from services.shared.config import ServiceConfig


class Database:
    """A bounded pool of connections. `async with database.begin() as connection` is one transaction."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A transaction: committed at the end of the block, rolled back when the block raises."""
        async with self.engine.begin() as connection:
            yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection on which each statement is a transaction of its own, begun and ended with it: for one question
        a third of the round trips."""
        async with self._autocommit.connect() as connection:
            yield connection

    async def check(self) -> None:
        """Returns when the database answers; raises its error when it does not. For readiness."""
        async with self.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))


@asynccontextmanager
async def open_database(config: ServiceConfig) -> AsyncIterator[Database]:
    """The database of the settings; closed at the end of the block.

    Connects when first used, so a service starts before its database does and says so through its readiness.
    """
    url = make_url(config.database_url.get_secret_value())
    options = {
        "statement_timeout": round(config.database_statement_timeout_seconds * 1000),
        "lock_timeout": round(config.database_lock_timeout_seconds * 1000),
        # A worker that hangs inside a transaction would hold its partitions' rows for ever.
        "idle_in_transaction_session_timeout": round(config.database_statement_timeout_seconds * 1000),
    }
    engine = create_async_engine(
        url,
        pool_size=config.database_pool_size,
        max_overflow=0,
        pool_timeout=config.database_statement_timeout_seconds,
        pool_pre_ping=True,
        # The connection that was used last knows the statements already: each is planned once, not once a connection.
        pool_use_lifo=True,
        pool_recycle=1800,
        hide_parameters=True,
        connect_args={
            "application_name": f"stratum-{url.username or 'service'}",
            "connect_timeout": 5,
            "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
        },
    )
    event.listen(engine.sync_engine, "connect", _send_arrays_binary)
    try:
        yield Database(engine)
    finally:
        await engine.dispose()


def _send_arrays_binary(connection: Any, _record: object) -> None:
    # A batch's payloads and states go as one array: as text each byte would be two digits, escaped and read back.
    connection.driver_connection.adapters.register_dumper(list, ListBinaryDumper)

"""The service's own schema in PostgreSQL, reached with the service's own role."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection as DriverConnection
from psycopg import OperationalError
from psycopg.pq import TransactionStatus
from psycopg.types.array import ListBinaryDumper
from sqlalchemy import event, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from services.shared.config import ServiceConfig

#: Connections of `Readers`, beside those of the pool.
READERS = 4


class Readers:
    """Connections for the few questions that are asked at every call: one statement, one round trip, in binary.

    Each statement is a transaction of its own, and planned once a connection. The pool's way to ask took longer than
    everything else in such a call together: it asks first whether the connection lives, and switches autocommit.
    """

    def __init__(self, address: str, options: Mapping[str, Any], wait_seconds: float) -> None:
        """`address` is libpq's, the options are those of the pool's connections."""
        self._address = address
        self._options = options
        self._wait_seconds = wait_seconds
        self._room = asyncio.Semaphore(READERS)
        self._idle: list[DriverConnection] = []

    async def rows(self, query: bytes, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """The whole answer. Raises psycopg.Error, or TimeoutError when all connections stay busy.

        A connection that broke while nobody used it, as at a restart of the database, is not the caller's concern: the
        question is asked once more, on a new one.
        """
        async with asyncio.timeout(self._wait_seconds if self._room.locked() else None) as limit, self._room:
            limit.reschedule(None)
            if self._idle:
                connection = self._idle.pop()
                try:
                    return await self._asked(connection, query, parameters)
                except OperationalError:
                    if not connection.closed:
                        raise
                    await self.close()
            connection = await DriverConnection.connect(self._address, autocommit=True, **self._options)
            return await self._asked(connection, query, parameters)

    async def close(self) -> None:
        """Hangs up, as far as nobody is asking."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()

    async def _asked(
        self, connection: DriverConnection, query: bytes, parameters: Mapping[str, Any]
    ) -> list[tuple[Any, ...]]:
        answered = False
        try:
            cursor = connection.cursor(binary=True)
            await cursor.execute(query, parameters, prepare=True)
            found = await cursor.fetchall()
            answered = True
        finally:
            # What was given up half-way may still get its answer; nobody else shall read it.
            if answered or (not connection.closed and connection.info.transaction_status == TransactionStatus.IDLE):
                self._idle.append(connection)
            else:
                await connection.close()
        return found


class Database:
    """A bounded pool of connections. `async with database.begin() as connection` is one transaction."""

    def __init__(self, engine: AsyncEngine, readers: Readers) -> None:
        self.engine = engine
        self.readers = readers
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
    connect_args = {
        "application_name": f"stratum-{url.username or 'service'}",
        "connect_timeout": 5,
        "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
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
        connect_args=connect_args,
    )
    event.listen(engine.sync_engine, "connect", _send_arrays_binary)
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    readers = Readers(address, connect_args, config.database_statement_timeout_seconds)
    try:
        yield Database(engine, readers)
    finally:
        await readers.close()
        await engine.dispose()


def _send_arrays_binary(connection: Any, _record: object) -> None:
    # A batch's payloads and states go as one array: as text each byte would be two digits, escaped and read back.
    connection.driver_connection.adapters.register_dumper(list, ListBinaryDumper)

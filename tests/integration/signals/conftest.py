"""The feed as a gRPC service over a real database, without a bus: signals are put into it as the stage does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc.aio
import pytest
from sqlalchemy import QueuePool, text
from stratum.signals.v1.signals_service_pb2_grpc import SignalsServiceStub, add_SignalsServiceServicer_to_server

from services.shared.database import Database
from services.shared.principal import Guard
from services.shared.server import Interceptor
from services.shared.testing import RING, channel_to, eventually
from services.signals.api import SignalsApi
from services.signals.feed import Feed, FeedLimits
from services.signals.rules.settings import RuleSettings
from services.signals.store import SignalStore


@dataclass(frozen=True, slots=True)
class ServedFeed:
    """The running feed, and who can ask it."""

    database: Database
    store: SignalStore
    feed: Feed
    ask: Any


Serve = Callable[..., Awaitable[ServedFeed]]


@pytest.fixture
async def serve_feed(database_for: Any) -> AsyncIterator[Serve]:
    """`await serve_feed(open_streams=1)`: the feed with these limits, over a database of its own or the one given."""
    async with AsyncExitStack() as stack:

        async def serve(database: Database | None = None, **limits: Any) -> ServedFeed:
            database = database or await database_for("signals")
            store = SignalStore(database)
            feed = Feed(store, FeedLimits(**limits))
            server = grpc.aio.server(interceptors=[Interceptor(10.0, Guard(RING))])
            add_SignalsServiceServicer_to_server(SignalsApi(store, feed, RuleSettings()), server)
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            stack.push_async_callback(server.stop, None)
            running = asyncio.create_task(feed.run())
            stack.push_async_callback(_end, running)
            # A connection that is given up while it is being made would keep the server busy for its login timeout.
            await eventually(partial(_settled, database))
            channel = await stack.enter_async_context(channel_to(port))
            return ServedFeed(database, store, feed, SignalsServiceStub(channel))

        yield serve


@pytest.fixture
async def served(serve_feed: Serve) -> ServedFeed:
    """The feed with its usual limits."""
    return await serve_feed()


async def _settled(database: Database) -> bool:
    async with database.engine.connect() as connection:
        listening = await connection.scalar(
            text("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()")
        )
    pool = database.engine.pool
    assert isinstance(pool, QueuePool)
    return bool(listening) and pool.checkedout() == 0


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

"""A provider of the tests' own on a real socket, and ingest's own database and outbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from services.ingest import store
from services.ingest.testing import FakeProvider
from services.shared.bus import OBSERVATIONS, Bus
from services.shared.database import Database
from services.shared.outbox import Outbox


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    """A provider that answers what the test tells it to."""
    async with FakeProvider() as running:
        yield running


@pytest.fixture
async def database(database_for: Callable[[str], Awaitable[Database]]) -> Database:
    """Ingest's database, empty."""
    return await database_for("ingest")


@pytest.fixture
def outbox(database: Database, bus: Bus) -> Outbox:
    """Ingest's outbox."""
    return Outbox(database, bus, store.stage, OBSERVATIONS)

"""Billing as a gRPC service over a real database and bus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc.aio
import pytest
from stratum.billing.v1.access_service_pb2_grpc import AccessServiceStub, add_AccessServiceServicer_to_server
from stratum.billing.v1.accounts_service_pb2_grpc import AccountsServiceStub, add_AccountsServiceServicer_to_server
from stratum.billing.v1.billing_service_pb2_grpc import BillingServiceStub, add_BillingServiceServicer_to_server

from services.billing.api import AccessApi, AccountsApi, BillingApi
from services.billing.changes import Changes
from services.billing.events import AccountEvents
from services.billing.idempotency import Once
from services.billing.metering_testing import NOON, Metering
from services.billing.service_testing import PEPPERS, Billing, Clock, UsageStandIn
from services.billing.tables import stage
from services.shared.bus import ACCOUNTS, Bus
from services.shared.database import Database
from services.shared.outbox import Outbox
from services.shared.principal import Guard
from services.shared.server import Interceptor
from services.shared.tasks import end_tasks
from services.shared.testing import RING, channel_to


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def billing_service(database_for: Any, bus: Bus, clock: Clock) -> AsyncIterator[Billing]:
    database = await database_for("billing")
    events = AccountEvents(Outbox(database, bus, stage, ACCOUNTS))
    once, desk, usage = Once(database, events.committed), Changes(events, PEPPERS, clock), UsageStandIn()
    server = grpc.aio.server(interceptors=[Interceptor(10.0, Guard(RING))])
    add_AccountsServiceServicer_to_server(AccountsApi(database, once, desk, usage, clock), server)
    add_BillingServiceServicer_to_server(BillingApi(database, once, desk, usage, clock), server)
    add_AccessServiceServicer_to_server(AccessApi(database, clock), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    publishing = asyncio.create_task(events.run())
    async with channel_to(port) as channel, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as outside:
        yield Billing(
            database,
            clock,
            events,
            AccountsServiceStub(channel),
            AccessServiceStub(channel),
            BillingServiceStub(outside),
        )
    await server.stop(None)
    await end_tasks([publishing])


@pytest.fixture
async def metering(database: Database) -> Metering:
    """Counting at noon and a minute, over the test's own `database`; the hours from eleven on are open."""
    counting = Metering(database)
    await counting.set_clock(NOON - timedelta(hours=1))
    return counting

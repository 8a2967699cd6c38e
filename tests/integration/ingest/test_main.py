"""The whole service: started as in production, polling a provider, asked over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import SecretStr
from stratum.ingest.v1 import ingest_service_pb2 as pb
from stratum.ingest.v1.events_pb2 import EventObserved
from stratum.ingest.v1.ingest_service_pb2_grpc import IngestServiceStub

from deploy.local.nats import NatsServer
from deploy.local.process import free_port
from services.ingest.__main__ import serve_and_poll
from services.ingest.config import Config
from services.ingest.testing import SPORT, FakeProvider, a_book, an_event, moneyline, spreads
from services.shared.bus import OBSERVATIONS, Bus
from services.shared.database import Database
from services.shared.testing import channel_to, eventually, settings, stored


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[IngestServiceStub]:
    """The service, and a client of it."""
    service = asyncio.create_task(serve_and_poll(config))
    try:
        async with channel_to(config.grpc_port) as channel:
            yield IngestServiceStub(channel)
    finally:
        service.cancel()
        await asyncio.gather(service, return_exceptions=True)


async def test_it_polls_tells_and_answers(
    provider: FakeProvider, database: Database, bus: Bus, nats_server: NatsServer
) -> None:
    provider.will_say([an_event(a_book("draftkings", spreads(-5.5)), a_book("nobody_knows", moneyline()))])
    config = settings(
        Config,
        database,
        nats_url=nats_server.url,
        nats_monitor_url=nats_server.monitor_url,
        grpc_port=free_port(),
        odds_api_key=SecretStr("key"),
        odds_api_base_url=provider.url,
        odds_api_clock_rate=600.0,
        odds_api_poll_interval_seconds=60.0,
    )
    async with running(config) as ingest:

        async def told() -> list[EventObserved]:
            return [EventObserved.FromString(delivery.payload) for delivery in await stored(bus, OBSERVATIONS)]

        async def told_twice() -> bool:
            return len(await told()) >= 2

        await eventually(told_twice)

        async def fresh() -> pb.SportHealth | None:
            asked = pb.GetFeedHealthRequest(sport_key=[SPORT])
            (health,) = (await ingest.GetFeedHealth(asked, wait_for_ready=True)).sports
            return health if health.status == pb.SportHealth.Status.OK else None

        # The provider's time runs so fast here that a breath is a poll too late.
        assert [book.book for book in (await eventually(fresh)).books] == ["draftkings"]
        quarantined = await ingest.ListQuarantinedBooks(pb.ListQuarantinedBooksRequest())
        assert [book.book for book in quarantined.books] == ["nobody_knows"]
        await ingest.RequestKeyframes(pb.RequestKeyframesRequest(event_ids=["game"]))

        async def told_everything_again() -> bool:
            return any(message.event.keyframe for message in (await told())[1:])

        await eventually(told_everything_again)


async def test_without_a_key_it_serves_and_asks_nobody(
    provider: FakeProvider, database: Database, bus: Bus, nats_server: NatsServer
) -> None:
    config = settings(
        Config, database, nats_url=nats_server.url, nats_monitor_url=nats_server.monitor_url, grpc_port=free_port()
    )
    async with running(config) as ingest:
        health = await ingest.GetFeedHealth(pb.GetFeedHealthRequest(), wait_for_ready=True)
    assert list(health.sports) == []

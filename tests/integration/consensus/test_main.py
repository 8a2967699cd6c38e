"""The whole service: started as in production, fed by the bus, asked over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from stratum.consensus.v1 import consensus_service_pb2 as pb
from stratum.consensus.v1.consensus_service_pb2_grpc import ConsensusServiceStub
from stratum.ingest.v1.ingest_service_pb2 import RequestKeyframesResponse
from stratum.ingest.v1.ingest_service_pb2_grpc import IngestServiceServicer, add_IngestServiceServicer_to_server

from deploy.local.process import free_port
from services.consensus.__main__ import SERVICE, main
from services.consensus.config import Config
from services.consensus.testing import EVENT, SPREADS, Feed, event_observed
from services.shared.bus import OBSERVATIONS, Bus, Outgoing
from services.shared.testing import channel_to, eventually, settings


class KeyframesAsked(IngestServiceServicer):
    """Stands in for ingest: remembers whose keyframe was asked for."""

    def __init__(self) -> None:
        self.event_ids: list[str] = []

    async def RequestKeyframes(self, request: Any, _context: object) -> RequestKeyframesResponse:  # noqa: N802 - the contract's
        self.event_ids.extend(request.event_ids)
        return RequestKeyframesResponse()


@pytest.fixture
async def ingest() -> AsyncIterator[tuple[KeyframesAsked, str]]:
    servicer = KeyframesAsked()
    server = grpc.aio.server()
    add_IngestServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield servicer, f"127.0.0.1:{port}"
    await server.stop(None)


async def test_it_answers_from_what_it_was_told_and_asks_for_what_it_missed(
    database_for: Any, bus: Bus, nats_server: Any, ingest: tuple[KeyframesAsked, str]
):
    asked, address = ingest
    config = settings(
        Config,
        await database_for("consensus"),
        nats_url=nats_server.url,
        nats_monitor_url=nats_server.monitor_url,
        grpc_port=free_port(),
        consensus_ingest_address=address,
    )
    feed = Feed()
    feed.board(SPREADS, dict.fromkeys(("betmgm", "caesars", "draftkings", "fanduel"), -6.0))
    first, _missed, later = feed.observe(), feed.observe(), feed.observe()
    await bus.publish(
        OBSERVATIONS,
        [
            Outgoing(EVENT, f"{EVENT}:{seen.revision}", event_observed(seen).SerializeToString())
            for seen in (first, later)
        ],
    )
    service = asyncio.create_task(main(config))
    try:
        async with channel_to(config.grpc_port) as channel:
            health, consensus = health_pb2_grpc.HealthStub(channel), ConsensusServiceStub(channel)

            async def is_serving() -> bool:
                request = health_pb2.HealthCheckRequest(service=SERVICE)
                answer = await health.Check(request, wait_for_ready=True)
                return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

            async def was_asked() -> bool:
                return asked.event_ids == [EVENT]

            await eventually(is_serving)
            await eventually(was_asked)
            answer = await consensus.ListConsensus(pb.ListConsensusRequest())
            assert [(one.market, one.consensus_line) for one in answer.consensus] == [("spreads", -6.0)]
    finally:
        service.cancel()
        await asyncio.gather(service, return_exceptions=True)

"""Wiring only: settings, adapters, serve."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from stratum.consensus.v1 import consensus_service_pb2
from stratum.consensus.v1.consensus_service_pb2_grpc import add_ConsensusServiceServicer_to_server
from stratum.ingest.v1.ingest_service_pb2 import RequestKeyframesRequest
from stratum.ingest.v1.ingest_service_pb2_grpc import IngestServiceStub

from services.consensus import store
from services.consensus.api import ConsensusApi
from services.consensus.config import Config
from services.consensus.events import ConsensusFold
from services.consensus.store import ConsensusStore
from services.shared import client
from services.shared.bus import MARKETS, OBSERVATIONS, open_bus
from services.shared.database import open_database
from services.shared.keyring import Keyring
from services.shared.room import keep_room
from services.shared.server import run, serve
from services.shared.stage import Stage

SERVICE = consensus_service_pb2.DESCRIPTOR.services_by_name["ConsensusService"].full_name


@asynccontextmanager
async def keyframe_requests(
    ingest_address: str, ring: Keyring
) -> AsyncIterator[Callable[[str], Awaitable[None]] | None]:
    """How to ask ingest for an event's keyframe; None without an address, when the next one is waited for."""
    if not ingest_address:
        yield None
        return
    async with client.channel(ingest_address, "consensus", ring) as channel:
        ingest = IngestServiceStub(channel)

        async def ask(event_id: str) -> None:
            await ingest.RequestKeyframes(RequestKeyframesRequest(event_ids=[event_id]), timeout=2.0)

        yield ask


async def main(config: Config) -> None:
    rules = config.board_rules()
    async with (
        open_database(config) as database,
        open_bus(config) as bus,
        keyframe_requests(config.consensus_ingest_address, config.principal_ring) as ask_for_keyframe,
    ):
        for stream in (OBSERVATIONS, MARKETS):
            await bus.ensure_stream(stream)
        stage = Stage(
            "consensus",
            database,
            bus,
            ConsensusFold(rules),
            source=OBSERVATIONS,
            target=MARKETS,
            tables=store.stage,
            partitions=config.partitions,
            batch_size=config.consensus_batch_size,
            on_gap=ask_for_keyframe,
            cached_events=config.cached_events,
            cycles=store.cycles,
        )
        await serve(
            config,
            [partial(add_ConsensusServiceServicer_to_server, ConsensusApi(ConsensusStore(database), rules))],
            [SERVICE],
            background=[stage.run(), keep_room(database, bus, store.stage, OBSERVATIONS, config.partitions)],
            ready=[database.check, bus.check_connected, bus.check_syncs_writes],
        )


if __name__ == "__main__":
    run(Config, main)

"""Wiring only: settings, then adapters, then serve. `python -m deploy.sandbox`"""

from __future__ import annotations

import os
from functools import partial
from typing import Any, cast

from stratum.consensus.v1 import consensus_service_pb2
from stratum.consensus.v1.consensus_service_pb2_grpc import add_ConsensusServiceServicer_to_server
from stratum.ingest.v1 import ingest_service_pb2
from stratum.ingest.v1.ingest_service_pb2_grpc import add_IngestServiceServicer_to_server
from stratum.signals.v1 import signals_service_pb2
from stratum.signals.v1.signals_service_pb2_grpc import add_SignalsServiceServicer_to_server

from deploy.sandbox.config import Config
from deploy.sandbox.evening import board_rules, rule_settings
from deploy.sandbox.serving import PacedFeed, Prepared, Recorded
from services.consensus.api import ConsensusApi
from services.consensus.store import ConsensusStore
from services.ingest.api import IngestApi
from services.shared.bus import open_spoken
from services.shared.database import open_database
from services.shared.server import run, serve
from services.signals.api import SignalsApi
from services.signals.permits import Permits, following
from services.signals.store import SignalStore

INGEST = ingest_service_pb2.DESCRIPTOR.services_by_name["IngestService"].full_name
CONSENSUS = consensus_service_pb2.DESCRIPTOR.services_by_name["ConsensusService"].full_name
SIGNALS = signals_service_pb2.DESCRIPTOR.services_by_name["SignalsService"].full_name


async def main(config: Config) -> None:
    """Brings the evening into the database, and serves it, until told to stop."""
    os.nice(config.sandbox_niceness)
    async with (
        open_database(config) as database,
        open_spoken(config) as spoken,
        following(config.sandbox_billing_address, "sandbox", config.principal_ring, spoken) as follower,
    ):
        permits = Permits(follower)
        recorded = Recorded(database, config.evening)
        store = SignalStore(database)
        feed = PacedFeed(store, config.feed_limits(), config.sandbox_signal_seconds)
        apis = {
            INGEST: (add_IngestServiceServicer_to_server, IngestApi(database, (), polls=False)),
            CONSENSUS: (
                add_ConsensusServiceServicer_to_server,
                ConsensusApi(ConsensusStore(database), board_rules()),
            ),
            SIGNALS: (add_SignalsServiceServicer_to_server, SignalsApi(store, feed, rule_settings(), permits)),
        }

        async def prepare_and_follow() -> None:
            await recorded.prepare()
            await feed.run()

        await serve(
            config,
            [
                partial(cast(Any, register), Prepared(service, api, recorded))
                for service, (register, api) in apis.items()
            ],
            list(apis),
            background=[prepare_and_follow(), *permits.background(feed.wake)],
            ready=[database.check, recorded.check],
            draining=[feed.drain],
            recorded=True,
        )


if __name__ == "__main__":
    run(Config, main)

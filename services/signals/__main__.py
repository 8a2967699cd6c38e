"""Wiring only: settings, then adapters, then serve."""

from __future__ import annotations

from functools import partial

from stratum.signals.v1 import signals_service_pb2
from stratum.signals.v1.signals_service_pb2_grpc import add_SignalsServiceServicer_to_server

from services.shared.asgi import AsgiServer
from services.shared.bus import MARKETS, SIGNALS, open_bus
from services.shared.database import open_database
from services.shared.principal import Guard
from services.shared.room import keep_room
from services.shared.server import Interceptor, run, serve
from services.shared.stage import Stage
from services.signals.api import SignalsApi
from services.signals.config import Config
from services.signals.events import SignalEvents, keyframes_of
from services.signals.feed import Feed
from services.signals.over_http import FeedOverHttp
from services.signals.permits import Permits, following
from services.signals.store import SignalStore, cycles, stage

SERVICE = signals_service_pb2.DESCRIPTOR.services_by_name["SignalsService"].full_name


async def main(config: Config) -> None:
    """Runs the rules over every market update, and serves the feed, until told to stop."""
    settings = config.rule_settings()
    async with (
        open_database(config) as database,
        open_bus(config) as bus,
        keyframes_of(config.signals_ingest_address, config.principal_ring) as request_keyframe,
        following(config.signals_billing_address, "signals", config.principal_ring, bus.spoken) as follower,
    ):
        store = SignalStore(database)
        feed = Feed(store, config.feed_limits())
        permits = Permits(follower)
        fold = SignalEvents(settings, feed.received)
        rules = Stage(
            "signals",
            database,
            bus,
            fold,
            source=MARKETS,
            target=SIGNALS,
            tables=stage,
            partitions=config.partitions,
            on_gap=request_keyframe,
            cached_events=config.cached_events,
            cycles=cycles,
        )
        api = SignalsApi(store, feed, settings, permits)
        pages = _pages_over_http(config, api)
        await serve(
            config,
            [partial(add_SignalsServiceServicer_to_server, api)],
            [SERVICE],
            background=[
                rules.run(),
                feed.run(),
                keep_room(database, bus, stage, MARKETS, config.partitions),
                *permits.background(feed.wake),
                *(server.serve() for server in pages),
            ],
            ready=[database.check, bus.check_connected, bus.check_syncs_writes],
            draining=[feed.drain, *(server.stop for server in pages)],
        )


def _pages_over_http(config: Config, api: SignalsApi) -> list[AsgiServer]:
    """One server, where the settings name a port for it."""
    if not config.signals_feed_port:
        return []
    interceptor = Interceptor(config.grpc_default_deadline_seconds, Guard(config.principal_ring))
    app = FeedOverHttp(api, interceptor)
    return [AsgiServer(app, config.signals_feed_host, config.signals_feed_port, config.drain_seconds)]


if __name__ == "__main__":
    run(Config, main)

"""Ingest. `python -m services.ingest` serves and polls; `python -m services.ingest backfill …` walks the past."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NoReturn
from uuid import uuid4

from stratum.ingest.v1.ingest_service_pb2 import DESCRIPTOR
from stratum.ingest.v1.ingest_service_pb2_grpc import add_IngestServiceServicer_to_server

from services.ingest import store
from services.ingest.api import IngestApi
from services.ingest.backfill import Backfill, BackfillError
from services.ingest.config import Config
from services.ingest.monitor import Monitor
from services.ingest.normalize import read_time
from services.ingest.poller import Poller
from services.ingest.provider import OddsApi, ProviderFailure, open_session
from services.ingest.store import Cursor
from services.shared.bus import OBSERVATIONS, Bus, open_bus
from services.shared.clock import utc_now
from services.shared.database import Database, open_database
from services.shared.logging import logger
from services.shared.outbox import Outbox
from services.shared.server import run, serve

log = logger(__name__)


@asynccontextmanager
async def adapters(config: Config) -> AsyncIterator[tuple[Database, Bus, Outbox, OddsApi]]:
    """Database, bus, outbox and the provider's client, open for the block."""
    async with open_database(config) as database, open_bus(config) as bus, open_session() as session:
        await bus.ensure_stream(OBSERVATIONS)
        yield database, bus, Outbox(database, bus, store.stage, OBSERVATIONS), OddsApi(session, config)


async def serve_and_poll(config: Config) -> None:
    """Serves, and polls if there is anyone to ask."""
    async with adapters(config) as (database, bus, outbox, api):
        poller = Poller(config, api, database, outbox, _holder())
        monitor = Monitor(database, config.odds_api_sports if config.polls else ())
        if not config.polls:
            log.warning("idle: without ODDS_API_KEY the provider is not asked")
        await serve(
            config,
            [partial(add_IngestServiceServicer_to_server, IngestApi(database, config.odds_api_sports, config.polls))],
            [DESCRIPTOR.services_by_name["IngestService"].full_name],
            background=[poller.run() if config.polls else _idle(), monitor.run()],
            ready=[database.check, bus.check_connected, bus.check_syncs_writes],
        )


async def backfill(config: Config, sport_key: str, since: datetime, until: datetime) -> None:
    """Walks the past; tells its progress and what came of it as JSON lines on standard output."""
    async with adapters(config) as (database, _, outbox, api):
        try:
            await Backfill(config, api, database, outbox, _holder()).run(sport_key, since, until, _show_progress)
        except (BackfillError, ProviderFailure) as error:
            raise SystemExit(f"backfill: {error}") from None
        async with database.begin() as connection:
            tallies = await store.load_tallies(connection, sport_key)
    _show({"status": "done", "sport_key": sport_key, "tallies": tallies})


async def _idle() -> NoReturn:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


def _holder() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"


def _show_progress(cursor: Cursor) -> None:
    done = None if cursor.timestamp is None else (cursor.timestamp - cursor.since) / (cursor.until - cursor.since)
    _show(
        {
            "status": "walking",
            "sport_key": cursor.sport_key,
            "responses": cursor.responses,
            "timestamp": None if cursor.timestamp is None else cursor.timestamp.isoformat(),
            "share": done,
        }
    )


def _show(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _moment(given: str) -> datetime:
    moment = read_time(given)
    if moment is None:
        raise argparse.ArgumentTypeError(f"{given} is no time with a zone, such as 2026-01-31T18:00:00Z")
    return moment


def main() -> None:
    """Reads the command line and runs what it says."""
    parser = argparse.ArgumentParser(prog="python -m services.ingest", description=__doc__)
    walk = parser.add_subparsers(dest="command").add_parser(
        "backfill",
        help="walk the provider's past and keep it as if it had been polled",
        description="Walks the historical endpoint; the same command goes on where it was interrupted.",
    )
    walk.add_argument("--sport", required=True, help="the provider's key, such as basketball_nba")
    walk.add_argument("--from", dest="since", type=_moment, help="first time; by default the look-back of the settings")
    walk.add_argument("--to", dest="until", type=_moment, help="last time; by default now")
    given = parser.parse_args()
    if given.command is None:
        run(Config, serve_and_poll)
    else:
        run(Config, partial(_backfill_from_arguments, given=given))


async def _backfill_from_arguments(config: Config, given: argparse.Namespace) -> None:
    until: datetime = given.until or utc_now().astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    since: datetime = given.since or until - timedelta(days=config.odds_api_historical_lookback_days)
    if since >= until:
        raise SystemExit("backfill: --from must lie before --to")
    await backfill(config, given.sport, since, until)


if __name__ == "__main__":
    main()

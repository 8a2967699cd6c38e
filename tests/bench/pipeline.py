"""The real services on real servers behind a provider of our own: started, fed, watched until nothing is under way."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import psycopg
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from deploy import schema
from deploy.children import cpu_seconds
from deploy.home import Home, free_ports
from deploy.provider import served
from deploy.stack import Live, Stack, StackSettings
from services.consensus import store as consensus_store
from services.ingest import store as ingest_store
from services.shared.bus import MARKETS, OBSERVATIONS, SIGNALS, Bus, open_bus
from services.shared.config import ServiceConfig
from services.shared.database import Database, open_database
from services.shared.outbox import Outbox
from services.shared.stage import drained
from services.signals import store as signals_store
from tests.bench.board import Response
from tests.bench.provider import BenchProvider

LOOK_SECONDS = 0.2
SHOW_SECONDS = 5.0
#: Nothing of a benchmark takes this long unless something is broken.
DRAIN_SECONDS = 1200.0
CADENCE_SECONDS = 60.0
#: The provider's time runs so much faster than ours that the poller asks again as soon as it has kept an answer.
CLOCK_RATE = 6000.0
#: Time is what the provider says, a cadence from one response to the next, however fast they follow one another.
AS_FAST_AS_IT_GOES: Mapping[str, str] = {
    "ODDS_API_CLOCK": "provider",
    "ODDS_API_CLOCK_RATE": f"{CLOCK_RATE:g}",
    "ODDS_API_POLL_INTERVAL_SECONDS": f"{CADENCE_SECONDS:g}",
}
#: What a busy process of ours is called in figures; the provider is this process, and so is what watches.
PROVIDER = "provider and benchmark"

#: Whether it is worth asking each stage: a look that costs next to nothing, since it is paid for in what is measured.
_UNDER_WAY = """
SELECT (SELECT count(*) FROM ingest.polls), (SELECT count(*) FROM ingest.polls WHERE failure <> ''),
    coalesce((SELECT max(id) FROM ingest.outbox) > (SELECT max(published_id) FROM ingest.outbox_position), false)
    OR coalesce((SELECT max(id) FROM consensus.outbox) > (SELECT max(published_id) FROM consensus.outbox_position),
        false),
    (SELECT max(sequence) FROM consensus.position), (SELECT max(sequence) FROM signals.position)
"""
_ROWS = """
SELECT relation, sum(written)
FROM (
    SELECT coalesce(pg_partition_root(relid), relid)::regclass::text AS relation, n_tup_ins + n_tup_upd AS written
    FROM pg_stat_user_tables
    WHERE schemaname = ANY (%s)
) AS counted
GROUP BY relation
"""
#: A connection tells what it has done when it next ends a transaction, or after ten idle seconds.
STATISTICS_SECONDS = 11.0


@dataclass(frozen=True, slots=True)
class Spent:
    """What has been used and written up to a moment; two of them make a difference."""

    #: By process.
    cpu_seconds: Mapping[str, float]
    bus_bytes: int
    wal_bytes: int

    def since(self, before: Spent) -> Spent:
        """What came in between."""
        return Spent(
            {name: seconds - before.cpu_seconds.get(name, 0.0) for name, seconds in self.cpu_seconds.items()},
            self.bus_bytes - before.bus_bytes,
            self.wal_bytes - before.wal_bytes,
        )

    def and_also(self, other: Spent) -> Spent:
        """Both together."""
        return Spent(
            {name: seconds + other.cpu_seconds.get(name, 0.0) for name, seconds in self.cpu_seconds.items()},
            self.bus_bytes + other.bus_bytes,
            self.wal_bytes + other.wal_bytes,
        )


class Pipeline:
    """One running stack, everything durable, that polls a provider which says what it is told to say."""

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str] = AS_FAST_AS_IT_GOES,
        gateway: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`environment` goes over the live profile's; no service refuses a setting of another."""
        self.provider = BenchProvider()
        self.home = Home(folder)
        self._environment = environment
        self._gateway = gateway
        self._say = say
        self._given = 0
        self._exit = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._exit.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._exit.aclose()

    async def _start(self) -> None:
        url = await self._exit.enter_async_context(served(self.provider.application(), 0))
        self._exit.callback(self.provider.end)
        environment = {
            "ODDS_API_BASE_URL": url,
            "ODDS_API_KEY": "a-stand-in-needs-no-secret",
            "ODDS_API_HTTP_TIMEOUT_SECONDS": "3600",
            "STRATUM_DATABASE_STATEMENT_TIMEOUT_SECONDS": "600",
            **self._environment,
        }
        settings = StackSettings(
            self.home, free_ports(), Live(), "live", gateway=self._gateway, environment=environment
        )
        self.stack = await self._exit.enter_async_context(Stack(settings))
        self.bus: Bus = await self._exit.enter_async_context(open_bus(self._config("ingest")))
        self.connection = await self._exit.enter_async_context(await _superuser(self.stack))
        self._databases: dict[str, Database] = {
            name: await self._exit.enter_async_context(open_database(self._config(name))) for name in schema.PIPELINE
        }

    def give(self, responses: list[Response]) -> int:
        """Lets the provider say these, one a call; returns how many quotes change with them."""
        self._given += len(responses)
        self.provider.say(responses)
        return sum(response.changes for response in responses)

    async def drained(self) -> float:
        """Waits until every given response has come through all stages and all is published; the moment it had.

        Raises StackFailedError, and TimeoutError after twenty minutes.
        """
        failing = asyncio.ensure_future(self.stack.failed())
        shown = time.monotonic()
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while not await self._is_drained():
                    if time.monotonic() - shown > SHOW_SECONDS:
                        shown = time.monotonic()
                        self._say(await self._progress())
                    await asyncio.wait([failing], timeout=LOOK_SECONDS)
                    if failing.done():
                        failing.result()
            return time.monotonic()
        finally:
            failing.cancel()

    async def spent(self) -> Spent:
        """What has been used so far."""
        cpu = {name: cpu_seconds(kept.runnable.pid) for name, kept in self.stack.members.items()}
        # Ours without our children, who are the others.
        own = os.times()
        cpu[PROVIDER] = own.user + own.system
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.stack.nats_monitor_url}/jsz?streams=true") as answer,
        ):
            streams = (await answer.json())["account_details"][0]["stream_detail"]
        (wal,) = await self.stack.rows("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
        return Spent(cpu, sum(stream["state"]["bytes"] for stream in streams), wal[0])

    async def rows_written(self) -> Counter[str]:
        """Rows inserted or changed so far, by table. Waits until the database knows."""
        await asyncio.sleep(STATISTICS_SECONDS)
        return Counter({name: int(count) for name, count in await self.stack.rows(_ROWS, list(schema.SERVICES))})

    async def _is_drained(self) -> bool:
        polls, failed, unsent, consensus, signals = await self._look()
        if failed:
            raise RuntimeError(f"{failed} polls failed: see {self.home.logs}")
        if polls < self._given or unsent:
            return False
        for spec, sequence in ((OBSERVATIONS, consensus), (MARKETS, signals)):
            if (sequence or 0) < (await self.bus.stream_state(spec)).last_sequence:
                return False
        databases = self._databases
        return (
            await Outbox(databases["ingest"], self.bus, ingest_store.stage, OBSERVATIONS).is_empty()
            and await drained(databases["consensus"], self.bus, consensus_store.stage, OBSERVATIONS, MARKETS)
            and await drained(databases["signals"], self.bus, signals_store.stage, MARKETS, SIGNALS)
        )

    async def _look(self) -> tuple[int, int, bool, int | None, int | None]:
        cursor = await self.connection.execute(_UNDER_WAY)
        found = await cursor.fetchone()
        assert found is not None
        return found

    async def _progress(self) -> str:
        polls, _, _, consensus, signals = await self._look()
        streams = {spec.name: (await self.bus.stream_state(spec)).last_sequence for spec in (OBSERVATIONS, MARKETS)}
        return (
            f"{polls} of {self._given} responses kept, consensus {consensus or 0:,} of "
            f"{streams['OBSERVATIONS']:,} messages, signals {signals or 0:,} of {streams['MARKETS']:,}"
        )

    def _config(self, service: str) -> ServiceConfig:
        return ServiceConfig(
            database_url=SecretStr(self.stack.database_url(service)),
            nats_url=self.stack.nats_url,
            nats_monitor_url=self.stack.nats_monitor_url,
        )


async def _superuser(stack: Stack) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    url = make_url(stack.admin_url)
    return await psycopg.AsyncConnection.connect(
        host=url.host,
        port=url.port,
        user=url.username,
        password=url.password,
        dbname=schema.DATABASE,
        autocommit=True,
    )

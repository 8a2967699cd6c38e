"""The whole system on one machine, as children of this process: PostgreSQL, NATS, the services, Envoy and a market.

`async with Stack(settings) as stack` returns when everything answers, and leaves nothing running. Whatever dies
meanwhile is started again. Nothing in the services knows that it is run like this: only addresses differ.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, LiteralString, Self

import aiohttp
import psutil
import psycopg
from psycopg.rows import tuple_row
from sqlalchemy.engine import make_url

from deploy import profiles, retention, schema
from deploy.accounts import Partner, make_partner
from deploy.children import GaveUpError, Household, Kept, Program
from deploy.home import KEY_PEPPERS, PRINCIPAL_KEYS, Home, Living, Ports, without_taken
from deploy.local.envoy import Envoy
from deploy.local.nats import NatsServer
from deploy.local.postgres import PostgresServer
from deploy.local.process import ServerFailedError, free_port
from deploy.provider import served
from deploy.recording import Recording, iso
from deploy.replay_provider import ReplayProvider
from deploy.simulator.server import SimulatedProvider, opened_now
from deploy.terminal import ToldError
from services.shared.clock import utc_now

READY_SECONDS = 120.0
WATCH_SECONDS = 0.25
#: Within this everybody at the gateway knows of a new key, and not only when the bus is well.
KNOWN_SECONDS = 20.0
#: Our own variables, which mean nothing to a service.
OURS = ("STRATUM_HOME", "STRATUM_PORT_BASE")
PROVIDERS = "ODDS_API_"
GATEWAY, USAGE = "gateway", "usage"
#: The one that is asked, and the one that is asked when it is gone.
AUTHORISERS = ("authz", "standby")
#: What stands around the gateway and keeps no tables.
EDGE = (*AUTHORISERS, "sandbox", USAGE)


class StackFailedError(ToldError):
    """The system did not come up, or could not be kept up. The message says what to look at."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """A simulated market in accelerated time."""

    seed: int = 1
    #: Seconds of the market's time in one of ours.
    speed: float = 40.0
    #: Seconds of the market's time between two polls.
    cadence: float = 60.0

    def __str__(self) -> str:
        return f"a simulated market (seed {self.seed}, {self.speed:g} times as fast as the clock)"


@dataclass(frozen=True, slots=True)
class Live:
    """The provider itself; its key and what to ask for are in the environment."""

    def __str__(self) -> str:
        return "the live provider"


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recorded series, walked through from its first answer to its last, as fast as it goes."""

    recording: Recording

    def __str__(self) -> str:
        return f"the recording {self.recording.folder.name}"


Market = Simulated | Live | Recorded


@dataclass(frozen=True, slots=True)
class StackSettings:
    """What differs between one stack and another."""

    home: Home
    ports: Ports
    market: Market = field(default_factory=Simulated)
    profile: str = "live"
    #: With everything that stands at the edge: billing, the authorisation and its standby, the reader of usage.
    gateway: bool = True
    #: The recorded evening that test keys read; only with a gateway.
    sandbox: bool = True
    #: Requests that one address may send in a second; twice as many at once.
    address_requests_per_second: int = 100
    #: Threads with which a gateway serves callers.
    gateway_workers: int = 2
    #: Put over the servers' own, such as `fsync`.
    postgres: Mapping[str, str] = field(default_factory=dict)
    #: Settings for every service, over those of the profile.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Whether the ports were asked for by number; else one that somebody takes before its server does is replaced.
    keep_ports: bool = False


class Stack:
    """One running system."""

    def __init__(self, settings: StackSettings, say: Callable[[str], None] = lambda _: None) -> None:
        """`say` is told, in a sentence, what is being done and what had to be started again."""
        self.settings = settings
        self.home = settings.home
        self._say = say
        self._household = Household(say)
        self._exit = AsyncExitStack()
        self._failed: asyncio.Future[None] | None = None
        self._ready = False

    async def __aenter__(self) -> Self:
        try:
            await self._start_or_end()
        except StackFailedError:
            # Everything of ours has ended, so whoever listens on one of our ports now is somebody else.
            ports, said = without_taken(self.settings.ports)
            if self.settings.keep_ports or not said:
                raise
            for sentence in said:
                self._say(sentence)
            self.settings = replace(self.settings, ports=ports)
            self._household = Household(self._say)
            await self._start_or_end()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._exit.aclose()

    @property
    def gateway_url(self) -> str:
        """Where partners ask."""
        return f"http://127.0.0.1:{self.settings.ports.gateway}"

    @property
    def members(self) -> Mapping[str, Kept]:
        """Every process by name, with how often it was started again and the processor time it used."""
        return self._household.members

    def metrics_url(self, service: str) -> str:
        """Where a service shows its metrics."""
        return f"http://127.0.0.1:{self._metrics_port(service)}/metrics"

    def database_url(self, service: str) -> str:
        """The address with which a service logs in, password included: never to be logged."""
        return schema.service_url(self._postgres.url(), service, self.home.passwords())

    @property
    def admin_url(self) -> str:
        """The address with which the database's superuser logs in, password included: never to be logged."""
        return self._postgres.url()

    @property
    def nats_url(self) -> str:
        """Where the bus is."""
        return f"nats://127.0.0.1:{self.settings.ports.nats}"

    @property
    def billing_address(self) -> str:
        """Where billing answers our own."""
        return f"127.0.0.1:{self.settings.ports.billing}"

    @property
    def nats_monitor_url(self) -> str:
        """Where the bus tells about itself."""
        return f"http://127.0.0.1:{self.settings.ports.nats_monitor}"

    async def make_partner(self, name: str, **account: Any) -> Partner:
        """Somebody with an account and keys that the gateway knows already. Raises AskingError, and TimeoutError."""
        partner = await make_partner(self.billing_address, self.home.principal_ring(), name, **account)
        async with asyncio.timeout(KNOWN_SECONDS), aiohttp.ClientSession(self.gateway_url) as session:
            for key in (partner.key, partner.test_key):
                while await _is_unknown(session, key):  # noqa: ASYNC110 - who is asked has no event to wait for
                    await asyncio.sleep(WATCH_SECONDS / 10)
        return partner

    def kill(self, name: str) -> None:
        """End one process as a crash would; it is started again. To show that nothing is lost."""
        self.members[name].kill()

    def hold(self, name: str) -> None:
        """Let a process stand still until `let_go`: it lives, and does not answer."""
        psutil.Process(self.members[name].runnable.pid).suspend()

    def let_go(self, name: str) -> None:
        """Let a held process go on."""
        psutil.Process(self.members[name].runnable.pid).resume()

    async def failed(self) -> None:
        """Returns never; raises StackFailedError when a process cannot be kept alive."""
        assert self._failed is not None, "not started"
        await asyncio.shield(self._failed)

    def living(self) -> Living:
        """Who lives in the home now, for those who look from outside."""
        return Living(
            pid=os.getpid(),
            started_at=psutil.Process().create_time(),
            ports=self.settings.ports,
            market=str(self.settings.market),
            ready=self._ready,
            processes={name: kept.runnable.pid for name, kept in self.members.items() if not kept.finished},
        )

    async def rows(self, statement: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        """What the database answers to a question, asked as its superuser. Raises psycopg.Error."""
        async with await self._connected() as connection, connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(statement, parameters)
            return await cursor.fetchall()

    async def _connected(self) -> psycopg.AsyncConnection:
        url = make_url(self.admin_url)
        return await psycopg.AsyncConnection.connect(
            host=url.host,
            port=url.port,
            user=url.username,
            password=url.password,
            dbname=schema.DATABASE,
            connect_timeout=5,
        )

    async def execute(self, statement: str) -> None:
        """Lets the database's superuser do something, such as plant a fault. Raises psycopg.Error."""
        async with await self._connected() as connection:
            await connection.execute(statement)

    async def _start_or_end(self) -> None:
        """Starts everything, or ends what was started. Raises StackFailedError."""
        try:
            await self._start()
        except BaseException as error:
            await self._exit.aclose()
            if isinstance(error, ServerFailedError | GaveUpError | OSError):
                raise StackFailedError(f"{error}\nLogs are in {self.home.logs}") from error
            raise

    async def _start(self) -> None:
        self._exit.enter_context(self.home.occupied())
        self._exit.callback(self._household.stop)
        self._failed = asyncio.get_running_loop().create_future()
        self._exit.callback(self._failed.cancel)
        self.home.tell(self.living())
        self._start_servers()
        provider_url = await self._start_provider()
        for name in ("signals", "consensus", "ingest", *(("billing",) if self.settings.gateway else ())):
            self._start_service(name, provider_url)
        watching = asyncio.create_task(self._watch())
        self._exit.push_async_callback(_cancelled, watching)
        if self.settings.gateway:
            self._start_edge()
        await self._await_ready()
        self._ready = True
        self.home.tell(self.living())
        if not isinstance(self.settings.market, Recorded):
            # What is recorded was observed long ago, and would be old as soon as it is written.
            keeping = asyncio.create_task(self._keep())
            self._exit.push_async_callback(_cancelled, keeping)

    def _start_servers(self) -> None:
        ports = self.settings.ports
        self._say("starting PostgreSQL")
        folder = self.home.database_folder()
        if not folder.is_relative_to(self.home.folder):
            folder.mkdir(mode=0o711, parents=True, exist_ok=True)
            self._say(f"the database is kept in {folder}: its user cannot enter {self.home.folder}")
        self._postgres = PostgresServer(folder, ports.postgres, self.settings.postgres)
        self._household.add("postgres", self._postgres, folder / "postgres.log")
        self._say("starting NATS")
        nats = NatsServer(self.home.folder / "nats", ports.nats, ports.nats_monitor)
        self._household.add("nats", nats, self.home.folder / "nats" / "nats.log")
        self._say("preparing the schemas")
        schema.upgrade(self._postgres.url(), self.home.passwords())
        if self._has_sandbox:
            schema.upgrade_sandbox(self._postgres.url(), self.home.passwords())
        for ring in (PRINCIPAL_KEYS, KEY_PEPPERS):
            self.home.ring(ring)

    async def _start_provider(self) -> str:
        market = self.settings.market
        if isinstance(market, Live):
            return ""
        if isinstance(market, Simulated):
            provider: ReplayProvider | SimulatedProvider = opened_now(utc_now, market.seed, market.speed)
        else:
            provider = ReplayProvider(market.recording)
        return await self._exit.enter_async_context(served(provider.application(), self.settings.ports.provider))

    def _start_service(self, name: str, provider_url: str) -> None:
        self._say(f"starting {name}")
        arguments = self.backfill_arguments() if isinstance(self.settings.market, Recorded) and name == "ingest" else []
        self._start_program(name, f"services.{name}", self._environment(name, provider_url), arguments)

    def backfill_arguments(self) -> list[str]:
        """What tells ingest to walk through the recording."""
        assert isinstance(self.settings.market, Recorded)
        recording = self.settings.market.recording
        return [
            *("backfill", "--sport", recording.sport_key),
            *("--from", iso(recording.times[0]), "--to", iso(recording.times[-1])),
        ]

    def _environment(self, name: str, provider_url: str) -> dict[str, str]:
        ports = self.settings.ports
        url_file = self.home.keep_secret(f"{name}-database-url", self.database_url(name))
        environment = {
            **self._common(name),
            "STRATUM_DATABASE_URL_FILE": str(url_file),
            "STRATUM_GRPC_PORT": str(getattr(ports, name)),
        }
        if name == "ingest":
            return environment | self._ingest_environment(provider_url)
        if name == "billing":
            return environment | self._peppers()
        if name == "signals" and self.settings.gateway:
            environment["SIGNALS_BILLING_ADDRESS"] = self.billing_address
            environment["SIGNALS_FEED_PORT"] = str(ports.feed)
        if not isinstance(self.settings.market, Recorded):
            environment[f"{name.upper()}_INGEST_ADDRESS"] = f"127.0.0.1:{ports.ingest}"
        return environment

    def _common(self, name: str) -> dict[str, str]:
        """What every process of ours is told."""
        # The provider's key and plan are for ingest alone, and not for asking a stand-in.
        asks = name == "ingest" and isinstance(self.settings.market, Live)
        return {
            **_inherited(asks=asks),
            "STRATUM_NATS_URL": self.nats_url,
            "STRATUM_NATS_MONITOR_URL": self.nats_monitor_url,
            "STRATUM_METRICS_PORT": str(self._metrics_port(name)),
            "STRATUM_PRINCIPAL_KEYS_FILE": str(self.home.secrets / PRINCIPAL_KEYS),
            **profiles.settings(self.settings.profile),
            **self.settings.environment,
        }

    def _peppers(self) -> dict[str, str]:
        return {"API_KEY_PEPPERS_FILE": str(self.home.secrets / KEY_PEPPERS)}

    def _ingest_environment(self, provider_url: str) -> dict[str, str]:
        market = self.settings.market
        if isinstance(market, Live):
            return {}
        asked = {
            "ODDS_API_BASE_URL": provider_url,
            "ODDS_API_KEY": "a-stand-in-needs-no-secret",
            # A stand-in that was cut off is back at once, and need not be spared.
            "ODDS_API_CIRCUIT_SECONDS": "1",
        }
        if isinstance(market, Recorded):
            return asked
        return asked | {
            "ODDS_API_CLOCK": "provider",
            "ODDS_API_CLOCK_RATE": f"{market.speed:g}",
            "ODDS_API_POLL_INTERVAL_SECONDS": f"{market.cadence:g}",
        }

    def _start_edge(self) -> None:
        """Who decides about callers, its standby, the recorded evening, the gateway, and the reader of its log."""
        ports = self.settings.ports
        for name in AUTHORISERS:
            self._say(f"starting {name}")
            self._start_program(name, "gateway.authz", self._authz_environment(name))
        if self._has_sandbox:
            self._say("starting the sandbox")
            self._start_program("sandbox", "deploy.sandbox", self._sandbox_environment())
        self._start_gateway("gateway", ports.gateway, ports.gateway_admin, ports.usage_metrics)

    def _start_gateway(self, name: str, port: int, admin_port: int, usage_metrics: int) -> Envoy:
        ports = self.settings.ports
        self._say(f"starting {name.replace('-', ' ')}")
        services = {service: ("127.0.0.1", int(getattr(ports, service))) for service in schema.SERVICES}
        folder = self.home.folder / name
        envoy = Envoy(
            folder,
            services,
            port,
            admin_port,
            authz=[("127.0.0.1", int(getattr(ports, authoriser))) for authoriser in AUTHORISERS],
            sandbox=("127.0.0.1", ports.sandbox) if self._has_sandbox else None,
            address_requests_per_second=self.settings.address_requests_per_second,
            address_burst=2 * self.settings.address_requests_per_second,
            feed=("127.0.0.1", ports.feed),
            workers=self.settings.gateway_workers,
        )
        self._household.add(name, envoy, folder / "envoy.log")
        reader = name.replace(GATEWAY, USAGE)
        self._start_program(
            reader, "gateway.usage", self._usage_environment(name, folder, envoy.gateway.admin_port, usage_metrics)
        )
        return envoy

    async def add_gateway(self, name: str) -> str:
        """Starts one gateway more, beside the first one and with a reader of its own; gives its address."""
        envoy = await asyncio.to_thread(self._start_gateway, f"{GATEWAY}-{name}", free_port(), free_port(), free_port())
        await self._await_ready()
        self.home.tell(self.living())
        return envoy.url

    def _start_program(
        self, name: str, module: str, environment: dict[str, str], arguments: Sequence[str] = ()
    ) -> None:
        """With arguments it has a piece of work to do, and ends when that is done; else it serves for ever."""
        program = Program(
            [sys.executable, "-m", module, *arguments],
            self.home.logs / f"{name}.log",
            environment,
            ready_url=None if arguments else f"http://127.0.0.1:{environment['STRATUM_METRICS_PORT']}/readyz",
        )
        self._household.add(name, program, program.log, may_finish=bool(arguments))

    @property
    def _has_sandbox(self) -> bool:
        return self.settings.gateway and self.settings.sandbox

    def _authz_environment(self, name: str) -> dict[str, str]:
        return {
            **self._common(name),
            **self._peppers(),
            "AUTHZ_PORT": str(getattr(self.settings.ports, name)),
            "AUTHZ_BILLING_ADDRESS": self.billing_address,
            "AUTHZ_COPY_PATH": str(self.home.secrets / f"{name}-table"),
        }

    def _sandbox_environment(self) -> dict[str, str]:
        url = schema.service_url(self._postgres.url(), schema.SANDBOX, self.home.passwords(), schema.SANDBOX_DATABASE)
        return {
            **self._common("sandbox"),
            "STRATUM_DATABASE_URL_FILE": str(self.home.keep_secret("sandbox-database-url", url)),
            "STRATUM_GRPC_PORT": str(self.settings.ports.sandbox),
            "SANDBOX_BILLING_ADDRESS": self.billing_address,
        }

    def _usage_environment(self, gateway: str, folder: Path, admin_port: int, metrics_port: int) -> dict[str, str]:
        return {
            **self._common(USAGE),
            "STRATUM_METRICS_PORT": str(metrics_port),
            "USAGE_LOG_FOLDER": str(folder),
            "USAGE_OFFSET_FILE": str(folder / "usage.offset"),
            "USAGE_UNREADABLE_FILE": str(folder / "usage.unreadable.jsonl"),
            "USAGE_GATEWAY": gateway,
            "USAGE_BILLING_ADDRESS": self.billing_address,
            "USAGE_ENVOY_ADMIN_URL": f"http://127.0.0.1:{admin_port}",
        }

    async def _keep(self) -> None:
        """Retention every hour, by the command that a cluster runs. What one run leaves, the next one does."""
        await asyncio.sleep(retention.FIRST_AFTER_SECONDS)
        while True:
            code = await self._keep_once()
            if code != 0:
                self._say(f"retention ended with {code}, and is tried again in an hour: see {self._retention_log}")
            await asyncio.sleep(retention.EVERY_SECONDS)

    async def _keep_once(self) -> int:
        url = schema.service_url(self._postgres.url(), schema.MIGRATOR, self.home.passwords())
        with self._retention_log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "deploy.retention"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    **_inherited(),
                    **profiles.settings(self.settings.profile),
                    **self.settings.environment,
                    "STRATUM_DATABASE_URL_FILE": str(self.home.keep_secret("migrator-database-url", url)),
                },
            )
            try:
                return await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    @property
    def _retention_log(self) -> Path:
        return self.home.logs / "retention.log"

    def _metrics_port(self, service: str) -> int:
        return int(getattr(self.settings.ports, f"{service}_metrics"))

    async def _await_ready(self) -> None:
        self._say("waiting until every service is ready")
        waited_for = [kept for kept in self.members.values() if isinstance(kept.runnable, Program)]
        try:
            async with asyncio.timeout(READY_SECONDS):
                while waited_for:
                    waited_for = [kept for kept in waited_for if not await _is_ready(kept)]
                    await asyncio.wait([self._future()], timeout=0.05)
                    if self._future().done():
                        self._future().result()
        except TimeoutError:
            names = ", ".join(f"{kept.name} (see {kept.log})" for kept in waited_for)
            raise StackFailedError(f"not ready after {READY_SECONDS:.0f} s: {names}") from None

    def _future(self) -> asyncio.Future[None]:
        assert self._failed is not None, "not started"
        return self._failed

    async def _watch(self) -> None:
        while True:
            pids = self.living().processes
            try:
                self._household.watch()
            except (GaveUpError, ServerFailedError) as error:
                if not self._future().done():
                    self._future().set_exception(StackFailedError(str(error)))
                return
            if self.living().processes != pids:
                self.home.tell(self.living())
            await asyncio.sleep(WATCH_SECONDS)


def _inherited(*, asks: bool = False) -> dict[str, str]:
    """What a process of ours keeps of our own environment; what is the provider's only if it `asks` the provider."""
    return {
        variable: value
        for variable, value in os.environ.items()
        if variable not in OURS and (asks or not variable.startswith(PROVIDERS))
    }


async def _is_ready(kept: Kept) -> bool:
    assert isinstance(kept.runnable, Program)
    return kept.finished or await asyncio.to_thread(kept.runnable.ready)


async def _is_unknown(session: aiohttp.ClientSession, key: str) -> bool:
    async with session.get("/api/v1/plan", headers={"Authorization": f"Bearer {key}"}) as answer:
        return answer.status in (401, 503)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

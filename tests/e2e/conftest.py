"""The gateway in front of stand-ins, so that its own behaviour is seen alone; and the whole stack behind it."""

import asyncio
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from deploy.accounts import Partner
from deploy.home import Home, free_ports
from deploy.local.envoy import Envoy
from deploy.local.nats import NatsServer
from deploy.local.process import INHERITED, end, free_port, spawn
from deploy.stack import Simulated, Stack, StackSettings
from gateway.testing import PEPPERS_WRITTEN, StandIns
from services.shared.testing import PRINCIPAL_KEYS, eventually

DEADLINE_SECONDS = 0.5
#: No test but the one of it shall meet the limit of its address: they all come from one.
PLENTY = {"address_requests_per_second": 10_000, "address_burst": 10_000}
SERVICES = ("ingest", "consensus", "signals", "billing")


class Authz:
    """An authorisation server as a child, on a port that it keeps. `start` and `stop` may follow each other."""

    def __init__(self, folder: Path, billing_port: int, nats_url: str, **settings: str) -> None:
        self.port, self.metrics_port = free_port(), free_port()
        self.address = ("127.0.0.1", self.port)
        self.log = folder / f"authz-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = {
            **{name: os.environ[name] for name in (*INHERITED, "PYTHONPATH") if name in os.environ},
            "STRATUM_PRINCIPAL_KEYS": PRINCIPAL_KEYS,
            "API_KEY_PEPPERS": PEPPERS_WRITTEN,
            "STRATUM_NATS_URL": nats_url,
            "STRATUM_METRICS_PORT": str(self.metrics_port),
            "AUTHZ_PORT": str(self.port),
            "AUTHZ_BILLING_ADDRESS": f"127.0.0.1:{billing_port}",
            **settings,
        }

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    async def start(self, health: int = 200) -> None:
        """Starts it, and returns when it answers so to whether it is well."""
        command = [sys.executable, "-m", "gateway.authz"]
        self._process = spawn(command, self.log, signal.SIGTERM, environment=self._environment)

        async def answers() -> bool:
            # In a thread: the stand-ins that it asks live in this one.
            assert self.running, self.log.read_text()
            return await asyncio.to_thread(self.health) == health

        await eventually(answers, within=30)

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def health(self) -> int:
        """The status of its answer to whether it is well; 0 for none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=2) as answer:
                return answer.status
        except urllib.error.HTTPError as refused:
            return refused.code
        except OSError:
            return 0

    def ask_to_end(self) -> None:
        """Begins an orderly end."""
        assert self._process is not None, "the server was not started"
        self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """An orderly end."""
        if self._process is not None:
            end(self._process, signal.SIGTERM, 10.0)

    def kill(self) -> None:
        """Ends it as a crash would, if it lives."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


AuthzWith = Callable[..., Authz]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stand_ins() -> AsyncIterator[StandIns]:
    """Services that answer as told, and know one account that may do everything."""
    services = StandIns()
    services.table.account("acct_known")
    await services.start()
    yield services
    await services.stop()


@pytest.fixture(scope="module")
def secret(stand_ins: StandIns) -> str:
    """A key that opens everything."""
    return stand_ins.table.key("key_known", "acct_known")


@pytest.fixture(scope="module")
def authz_with(
    stand_ins: StandIns, nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AuthzWith]:
    """`authz_with(AUTHZ_COPY_PATH=…)`: an authorisation server that is started by the test, and ended after all."""
    with ExitStack() as stack:

        def made(billing_port: int = 0, nats_url: str = "", **settings: str) -> Authz:
            folder = tmp_path_factory.mktemp("authz")
            authz = Authz(folder, billing_port or stand_ins.port, nats_url or nats_server.url, **settings)
            stack.callback(authz.kill)
            return authz

        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def authz(authz_with: AuthzWith, secret: str) -> Authz:
    """The one that the gateways of most tests ask."""
    server = authz_with()
    await server.start()
    return server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(stand_ins: StandIns, authz: Authz, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Envoy]:
    """A gateway whose services answer, and whose test keys read them as well."""
    services = dict.fromkeys(SERVICES, ("127.0.0.1", stand_ins.port))
    with Envoy(
        tmp_path_factory.mktemp("gateway"),
        services,
        deadline_seconds=DEADLINE_SECONDS,
        authz=[authz.address],
        sandbox=("127.0.0.1", stand_ins.port),
        stream_flush_seconds=1.0,
        **PLENTY,
    ) as envoy:
        yield envoy


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lonely_gateway(authz: Authz, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Envoy]:
    """A gateway whose services are all down."""
    services = {name: ("127.0.0.1", free_port()) for name in SERVICES}
    with Envoy(
        tmp_path_factory.mktemp("lonely"), services, deadline_seconds=DEADLINE_SECONDS, authz=[authz.address], **PLENTY
    ) as envoy:
        yield envoy


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def caller(gateway: Envoy, secret: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Somebody who asks the gateway with a key that opens everything."""
    async with aiohttp.ClientSession(
        gateway.url, timeout=aiohttp.ClientTimeout(total=20), headers={"authorization": f"Bearer {secret}"}
    ) as session:
        yield session


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(server_folder: Path) -> AsyncIterator[Stack]:
    """Everything, with a simulated market that runs fast enough to bring signals while the tests look."""
    settings = StackSettings(
        Home(server_folder / "stack"),
        free_ports(),
        Simulated(seed=1, speed=240.0),
        postgres={"fsync": "off"},
        environment={"SIGNALS_HEARTBEAT_SECONDS": "1"},
        address_requests_per_second=10_000,
    )
    async with Stack(settings) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def account(stack: Stack) -> Partner:
    """Somebody who may do everything, as fast as anybody may."""
    return await stack.make_partner("tests", rate_class="enterprise")

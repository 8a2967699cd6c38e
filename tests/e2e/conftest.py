"""The gateway in front of stand-ins, so that its own behaviour is seen alone; and the whole stack behind it."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from deploy.home import Home, free_ports
from deploy.local.envoy import Envoy
from deploy.local.process import free_port
from deploy.stack import Simulated, Stack, StackSettings
from gateway.testing import StandIns

DEADLINE_SECONDS = 0.5


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stand_ins() -> AsyncIterator[StandIns]:
    """Services that answer as told."""
    services = StandIns()
    await services.start()
    yield services
    await services.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(stand_ins: StandIns, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Envoy]:
    """A gateway whose services answer."""
    addresses = dict.fromkeys(("ingest", "consensus", "signals"), ("127.0.0.1", stand_ins.port))
    with Envoy(tmp_path_factory.mktemp("gateway"), addresses, deadline_seconds=DEADLINE_SECONDS) as envoy:
        yield envoy


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lonely_gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Envoy]:
    """A gateway whose services are all down."""
    addresses = {name: ("127.0.0.1", free_port()) for name in ("ingest", "consensus", "signals")}
    with Envoy(tmp_path_factory.mktemp("lonely"), addresses, deadline_seconds=DEADLINE_SECONDS) as envoy:
        yield envoy


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def caller(gateway: Envoy) -> AsyncIterator[aiohttp.ClientSession]:
    """Somebody who asks the gateway."""
    async with aiohttp.ClientSession(gateway.url, timeout=aiohttp.ClientTimeout(total=20)) as session:
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
    )
    async with Stack(settings) as running:
        yield running

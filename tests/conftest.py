"""Real servers for every test that asks for one: started once in a session, in a temporary folder, on free ports."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from secrets import token_urlsafe

import psycopg
import pytest
import structlog
from hypothesis import settings as hypothesis_settings
from psycopg import sql
from pydantic import SecretStr

from deploy import schema
from deploy.local.nats import NatsServer
from deploy.local.postgres import PostgresServer
from services.shared.bus import ACCOUNTS, MARKETS, OBSERVATIONS, SIGNALS, Bus, open_bus
from services.shared.config import ServiceConfig
from services.shared.database import Database, open_database

# Plain tracebacks: the ones with every local variable are slow to draw and would show the servers' passwords.
structlog.configure(
    processors=[
        structlog.stdlib.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)

# How long an example takes says something of the machine, not of the code: no test is timed.
hypothesis_settings.register_profile("untimed", deadline=None, max_examples=50, print_blob=True)
hypothesis_settings.load_profile("untimed")

DatabaseFor = Callable[[str], Awaitable[Database]]


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """A folder that the database's user can get to. pytest's own are private, and made so again by every run."""
    with tempfile.TemporaryDirectory(prefix="stratum-tests-") as folder:
        os.chmod(folder, 0o711)
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres_server(server_folder: Path) -> Iterator[PostgresServer]:
    """PostgreSQL. It does not wait for the disk: no test cuts the power."""
    with PostgresServer(server_folder / "postgres", settings={"fsync": "off"}) as server:
        yield server


@pytest.fixture(scope="session")
def nats_server(server_folder: Path) -> Iterator[NatsServer]:
    """NATS, which syncs its writes."""
    with NatsServer(server_folder / "nats") as server:
        yield server


@pytest.fixture(scope="session")
def passwords() -> dict[str, str]:
    """A password for each login of the session's database server; a test's own service gets one when it is made."""
    return schema.generated_passwords()


@pytest.fixture(scope="session")
def template_of(postgres_server: PostgresServer, passwords: dict[str, str]) -> Callable[[str], str]:
    """The name of a database with one service's schema, migrated when first asked for and copied from then on."""
    made: dict[str, str] = {}

    def template(service: str) -> str:
        if service not in made:
            name = f"template_{service}"
            passwords.setdefault(service, token_urlsafe(24))
            schema.prepare(postgres_server.url(), passwords, name, (service,))
            if any((Path(schema.__file__).parents[1] / "services" / service / "migrations").glob("*.py")):
                migrator = schema.service_url(postgres_server.url(), schema.MIGRATOR, passwords, name)
                schema.migrate(migrator, service)
            made[service] = name
        return made[service]

    return template


_numbers = count(1)


@pytest.fixture
async def database_for(
    postgres_server: PostgresServer, passwords: dict[str, str], template_of: Callable[[str], str]
) -> AsyncIterator[DatabaseFor]:
    """`await database_for("signals")`: a database of its own for this test, as that service and its role see it."""
    made: list[str] = []
    async with AsyncExitStack() as stack:

        async def fresh(service: str) -> Database:
            name = f"test_{service}_{next(_numbers)}"
            _as_superuser(postgres_server, "CREATE DATABASE {} TEMPLATE {}", name, template_of(service))
            made.append(name)
            url = schema.service_url(postgres_server.url(), service, passwords, name)
            return await stack.enter_async_context(open_database(ServiceConfig(database_url=SecretStr(url))))

        yield fresh
    for name in made:
        _as_superuser(postgres_server, "DROP DATABASE {} WITH (FORCE)", name)


def _as_superuser(server: PostgresServer, statement: str, *names: str) -> None:
    with psycopg.connect(
        host="127.0.0.1",
        port=server.port,
        user="postgres",
        password=server.password,
        dbname="postgres",
        autocommit=True,
    ) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """A bus whose four streams are new and empty."""
    config = ServiceConfig(nats_url=nats_server.url, nats_monitor_url=nats_server.monitor_url)
    async with open_bus(config) as opened:
        for spec in (OBSERVATIONS, MARKETS, SIGNALS, ACCOUNTS):
            await opened.delete_stream(spec)
            await opened.ensure_stream(spec)
        yield opened

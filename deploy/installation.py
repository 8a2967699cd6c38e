"""Where the parts of an installation are: those of a home on this machine, or those that the environment names."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import DictRow, dict_row
from sqlalchemy.engine import make_url

from deploy import schema
from deploy.home import PRINCIPAL_KEYS, Home, Living, Ports
from deploy.local.postgres import PostgresServer
from services.shared.config import ServiceConfig
from services.shared.keyring import Keyring

CONNECT_SECONDS = 5
_METRICS = "_metrics"


@dataclass(frozen=True, slots=True)
class Installation:
    """Addresses of everything that can be asked."""

    #: A login that may read every schema; empty where none is known. It holds a password: never to be shown.
    database_url: str
    nats_url: str
    nats_monitor_url: str
    #: Where each service shows its metrics and readiness.
    metrics_urls: dict[str, str] = field(default_factory=dict)
    #: Where it lives, if on this machine under our own supervision.
    home: Home | None = None
    living: Living | None = None


def found(home: Home, database_url: str = "") -> Installation:
    """What lives in the home; where nothing does, what the environment and the services' defaults say of the bus.

    `database_url` is a login that may read every schema, for an installation that is not a home's.
    """
    living = home.living()
    if living is not None and not database_url:
        ports = living.ports
        return Installation(
            PostgresServer(home.database_folder(), ports.postgres).url(database=schema.DATABASE),
            f"nats://127.0.0.1:{ports.nats}",
            f"http://127.0.0.1:{ports.nats_monitor}",
            _metrics(ports),
            home,
            living,
        )
    defaults = ServiceConfig.model_fields
    return Installation(
        database_url,
        os.environ.get("STRATUM_NATS_URL") or str(defaults["nats_url"].default),
        os.environ.get("STRATUM_NATS_MONITOR_URL") or str(defaults["nats_monitor_url"].default),
        _metrics(Ports()),
        home,
        None,
    )


def vouching(home: Home) -> Keyring:
    """The secrets with which we vouch for ourselves: those of the environment, else those of the home. Raises
    LookupError, which says what to do, where there are none."""
    given = ServiceConfig().principal_ring
    if given:
        return given
    if not (home.secrets / PRINCIPAL_KEYS).exists():
        raise LookupError(
            f"{home.folder} holds no secret to vouch for us with: start it with `stratum up`, or set "
            "STRATUM_PRINCIPAL_KEYS (or …_FILE) to the installation's."
        )
    return home.principal_ring()


def _metrics(ports: Ports) -> dict[str, str]:
    named = (port.name for port in fields(Ports) if port.name.endswith(_METRICS))
    return {name.removesuffix(_METRICS): f"http://127.0.0.1:{getattr(ports, name)}" for name in named}


class Rows:
    """Questions to the database. Raises psycopg.Error; what it says of an address is without the password."""

    def __init__(self, database_url: str) -> None:
        url = make_url(database_url)
        self._connection = psycopg.connect(
            host=url.host,
            port=url.port,
            user=url.username,
            password=url.password,
            dbname=url.database,
            connect_timeout=CONNECT_SECONDS,
            autocommit=True,
            row_factory=dict_row,
        )
        self._connection.execute("SET statement_timeout = '5s'")

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def of(self, statement: LiteralString | sql.Composed, *parameters: object) -> list[DictRow]:
        """The rows that answer."""
        return self._connection.execute(statement, parameters).fetchall()

"""Roles and schemas: who may do what in the database, and migrations that say what the tables say."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Column, MetaData, Table, Text, create_engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError

import services
from deploy import schema
from deploy.local.postgres import PostgresServer
from services.shared.database import Database
from services.shared.stage import stage_tables
from services.shared.testing import eventually

DatabaseFor = Callable[[str], Awaitable[Database]]

STORE = """
from sqlalchemy import Column, MetaData, Table, Text
from services.shared.stage import stage_tables
metadata = MetaData(schema="{service}")
tables = stage_tables(metadata)
"""
MIGRATION = """
from services.shared.migrations.tables import add_traceparent_v1, create_stage_tables_v1
from services.shared.migrations.tables import drop_stage_tables_v1, drop_traceparent_v1
revision, down_revision, branch_labels, depends_on = "0001", None, None, None
def upgrade(): create_stage_tables_v1("{service}"), add_traceparent_v1("{service}")
def downgrade(): drop_traceparent_v1("{service}"), drop_stage_tables_v1("{service}")
"""
SECOND_MIGRATION = """
from services.shared.migrations.tables import forget_what_was_published_v1, keep_what_was_published_v1
revision, down_revision, branch_labels, depends_on = "0002", "0001", None, None
def upgrade(): keep_what_was_published_v1("{service}")
def downgrade(): forget_what_was_published_v1("{service}")
"""


async def test_a_service_reads_and_writes_rows_in_its_schema_and_makes_no_tables(database_for: DatabaseFor):
    database = await database_for("signals")
    async with database.begin() as connection:
        assert await connection.scalar(text("SELECT current_schema()")) == "signals"
    with pytest.raises(ProgrammingError, match="permission denied"):
        async with database.begin() as connection:
            await connection.execute(text("CREATE TABLE signals.mine (id int)"))


async def test_a_service_cannot_enter_the_schema_of_another(postgres_server: PostgresServer, passwords: dict[str, str]):
    schema.prepare(postgres_server.url(), passwords, "prepared")
    url = make_url(schema.service_url(postgres_server.url(), "signals", passwords, "prepared"))
    engine = create_engine(url)
    with engine.connect() as connection, pytest.raises(ProgrammingError, match="permission denied for schema ingest"):
        connection.execute(text("SELECT * FROM ingest.anything"))
    with engine.connect() as connection, pytest.raises(ProgrammingError, match="permission denied"):
        connection.execute(text("SET ROLE signals_owner"))
    engine.dispose()


def test_a_wrong_password_is_refused(postgres_server: PostgresServer, passwords: dict[str, str]):
    schema.prepare(postgres_server.url(), passwords, "prepared")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(
            host="127.0.0.1", port=postgres_server.port, user="signals", password="guess", dbname="prepared"
        )


def test_preparing_twice_changes_nothing(postgres_server: PostgresServer, passwords: dict[str, str]):
    for _ in range(2):
        schema.prepare(postgres_server.url(), passwords, "prepared_twice")
    url = schema.service_url(postgres_server.url(), "ingest", passwords, "prepared_twice")
    engine = create_engine(url)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT current_user")) == "ingest"
    engine.dispose()


def test_the_migrator_has_an_owners_rights_only_when_it_becomes_that_owner(
    postgres_server: PostgresServer, passwords: dict[str, str]
):
    schema.prepare(postgres_server.url(), passwords, "prepared")
    engine = create_engine(schema.service_url(postgres_server.url(), schema.MIGRATOR, passwords, "prepared"))
    with engine.connect() as connection, pytest.raises(ProgrammingError, match="permission denied"):
        connection.execute(text("CREATE TABLE ingest.mine (id int)"))
    with engine.connect() as connection:
        connection.execute(text("SET ROLE ingest_owner"))
        connection.execute(text("CREATE TABLE ingest.theirs (id int)"))
        connection.rollback()
    engine.dispose()


@pytest.fixture
def a_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_server: PostgresServer, passwords: dict[str, str]
) -> str:
    """A service that has a store and its migrations, outside of the repository, and a prepared database."""
    service = "scratch"
    folder = tmp_path / service
    (folder / "migrations").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "store.py").write_text(STORE.format(service=service))
    (folder / "migrations" / "0001_first_tables.py").write_text(MIGRATION.format(service=service))
    (folder / "migrations" / "0002_more_tables.py").write_text(SECOND_MIGRATION.format(service=service))
    monkeypatch.setattr(services, "__path__", [*services.__path__, str(tmp_path)])
    for module in [name for name in sys.modules if name.startswith(f"services.{service}")]:
        monkeypatch.delitem(sys.modules, module)
    passwords.setdefault(service, "scratch")
    schema.prepare(postgres_server.url(), passwords, service, (service,))
    return service


def test_migrations_make_the_tables_of_a_stage_as_they_are_declared(
    a_service: str, postgres_server: PostgresServer, passwords: dict[str, str]
):
    url = schema.service_url(postgres_server.url(), schema.MIGRATOR, passwords, a_service)
    schema.migrate(url, a_service)
    schema.migrate(url, a_service)
    schema.compare(url, a_service)
    engine = create_engine(schema.service_url(postgres_server.url(), a_service, passwords, a_service))
    with engine.connect() as connection:
        declared = MetaData(schema=a_service)
        stage_tables(declared)
        assert {f"{a_service}.{name}" for name in inspect(connection).get_table_names(a_service)} == {
            *declared.tables,
            f"{a_service}.alembic_version",
        }
        connection.execute(
            text("INSERT INTO outbox (partition, event_id, message_id, payload) VALUES (0, 'a', 'b', '')")
        )
        with pytest.raises(ProgrammingError, match="permission denied"):
            connection.execute(text("DELETE FROM alembic_version"))
    engine.dispose()


def test_a_table_that_no_migration_makes_is_found(
    a_service: str, postgres_server: PostgresServer, passwords: dict[str, str]
):
    url = schema.service_url(postgres_server.url(), schema.MIGRATOR, passwords, a_service)
    schema.migrate(url, a_service)
    metadata = import_module(f"services.{a_service}.store").metadata
    forgotten = Table("forgotten", metadata, Column("id", Text, primary_key=True))
    with pytest.raises(schema.SchemaError, match="forgotten"):
        schema.compare(url, a_service)
    metadata.remove(forgotten)


async def test_a_server_that_is_killed_comes_back_with_what_was_committed(
    postgres_server: PostgresServer, database_for: DatabaseFor
):
    database = await database_for("signals")
    await database.check()
    postgres_server.kill()
    postgres_server.start()

    async def answers() -> bool:
        try:
            await database.check()
        except Exception:
            return False
        return True

    await eventually(answers, within=30.0)

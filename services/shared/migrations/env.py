"""Runs one service's migrations: `alembic --name signals upgrade head`, or `stratum schema --upgrade` for all.

The migrator's login may only become a schema's owner, and owns nothing itself: everything is made as the owner, and
the service's own role gets what the default privileges say. The connection comes from the caller, or from DATABASE_URL.
"""

from __future__ import annotations

import os
import re
from importlib import import_module

from alembic import context
from sqlalchemy import Connection, MetaData, create_engine, text

SERVICE = context.config.config_ini_section
#: Partitions of a table that is divided by day are made and dropped by retention, not by migrations.
_DAY_PARTITION = re.compile(r".*_p\d{8}")


def _metadata() -> MetaData:
    metadata: MetaData = import_module(f"services.{SERVICE}.store").metadata
    return metadata


def _is_ours(name: str | None, kind: str, _parents: object) -> bool:
    if kind == "schema":
        return name == SERVICE
    return not (kind == "table" and name is not None and _DAY_PARTITION.fullmatch(name))


def _run(connection: Connection) -> None:
    connection.execute(text(f"SET ROLE {SERVICE}_owner"))
    # A migration that waits for a lock makes everyone behind it wait as well: better that it fails and is repeated.
    connection.execute(text("SET lock_timeout = '5s'"))
    connection.commit()
    context.configure(
        connection=connection,
        target_metadata=_metadata(),
        version_table_schema=SERVICE,
        include_schemas=True,
        include_name=_is_ours,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    _run(given)
else:
    with create_engine(os.environ["DATABASE_URL"]).connect() as own:
        _run(own)

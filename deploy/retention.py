"""Retention: the work that keeps every service's tables as long as their settings say, done as the schemas' owners.

`stratum retention` does it for the local stack; in a cluster `python -m deploy.retention` is the command of a CronJob
that runs every hour. Its settings are the services' own `…_RETENTION_DAYS`, and `STRATUM_DATABASE_URL` (or `…_FILE`)
with the migrator's login. docs/keeping.md says what is kept how long.

Two runs at a time do no harm: a schema that another run works on is left out, and the report says so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from rich.table import Table
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from services.billing import keeping as billing
from services.billing.config import Config as BillingConfig
from services.consensus import keeping as consensus
from services.consensus.config import Config as ConsensusConfig
from services.ingest import keeping as ingest
from services.ingest.config import Config as IngestConfig
from services.shared.clock import utc_now
from services.shared.config import ConfigurationError, ServiceConfig, read
from services.shared.keeping import Kept, Report, Run
from services.shared.logging import configure_logging, logger
from services.signals import keeping as signals
from services.signals.config import Config as SignalsConfig

log = logger(__name__)

#: Partitions are made for today and so many days more, so that the job may fail for as long without anybody noticing.
DAYS_AHEAD = 3
#: How often the local stack runs it, and how long after its start for the first time.
EVERY_SECONDS, FIRST_AFTER_SECONDS = 3600.0, 60.0
#: A statement of ours that has not ended by then is stuck; the next run goes on.
STATEMENT_TIMEOUT = "300s"
#: The first of the two numbers by which PostgreSQL knows our lock; the second is the schema's.
_LOCK = 20261126


@dataclass(frozen=True, slots=True)
class Done:
    """What one run did, or in a dry run would do."""

    at: datetime
    dry_run: bool
    reports: Sequence[Report]
    #: Schemas that another run was working on.
    busy: Sequence[str]

    @property
    def left(self) -> list[str]:
        """What could not be done now."""
        return [f"{report.table}: {what}" for report in self.reports for what in report.left]

    def sentences(self) -> list[str]:
        """What somebody should know besides the numbers."""
        busy = [f"another run is at work on {schema}: nothing was done there" for schema in self.busy]
        return busy + [f"left to the next run: {what}" for what in self.left]


def run(migrator_url: str, now: datetime, days_ahead: int = DAYS_AHEAD, dry_run: bool = False) -> Done:
    """One run over all services' schemas. Raises ConfigurationError before anything is done, or SQLAlchemyError."""
    # All settings are read first: with a wrong one nothing is removed anywhere.
    kept: dict[str, Sequence[Kept]] = {
        # Behind before in front: what is forgotten upstream is never still wanted downstream.
        "signals": signals.kept(read(SignalsConfig)),
        "consensus": consensus.kept(read(ConsensusConfig)),
        "ingest": ingest.kept(read(IngestConfig)),
        "billing": billing.kept(read(BillingConfig)),
    }
    reports: list[Report] = []
    busy: list[str] = []
    engine = create_engine(migrator_url, poolclass=NullPool, hide_parameters=True)
    try:
        for schema, tables in kept.items():
            with engine.connect() as connection:
                if not _alone(connection, schema):
                    busy.append(schema)
                    continue
                one = Run(connection, now, days_ahead, dry_run)
                reports.extend(table.keep(one) for table in tables)
    finally:
        engine.dispose()
    return Done(now, dry_run, reports, busy)


def as_table(done: Done) -> Table:
    """The run for a terminal."""
    title = "Retention: what would be done" if done.dry_run else "Retention"
    # Without lines, so that it fits into eighty columns.
    table = Table(title=f"{title}\n(days made and dropped, rows removed, room given back, next day due)", box=None)
    table.padding = (0, 1, 0, 0)
    for heading in ("table", "kept", "made", "dropped", "rows", "freed", "due"):
        table.add_column(heading, justify="left" if heading in ("table", "due") else "right", overflow="fold")
    for report in done.reports:
        table.add_row(
            report.table,
            f"{report.kept_days:g} d" if report.kept_days else "for ever",
            *(f"{number:,}" for number in (report.partitions_made, report.partitions_dropped, report.rows_removed)),
            _size(report.bytes_freed),
            f"{report.next_due:%Y-%m-%d}" if report.next_due else "",
        )
    return table


def as_fields(done: Done) -> dict[str, Any]:
    """The run for a log: one object."""
    tables = [
        asdict(report) | {"next_due": report.next_due.isoformat() if report.next_due else None}
        for report in done.reports
    ]
    return {"dry_run": done.dry_run, "at": done.at.isoformat(), "busy": list(done.busy), "tables": tables}


def main(arguments: Sequence[str] | None = None) -> int:
    """One run, as one line of JSON on standard error. 0: done, or another run does it; 1: something is left or failed;
    2: a setting is wrong."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    asked.add_argument("--ahead", type=int, default=DAYS_AHEAD, help="days whose partitions are made in advance")
    given = asked.parse_args(arguments)
    configure_logging("retention")
    try:
        url = read(ServiceConfig).database_url.get_secret_value()
        done = run(url, utc_now(), given.ahead, given.dry_run)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except SQLAlchemyError as error:
        log.error("retention failed", exc_info=error)
        return 1
    (log.warning if done.left else log.info)("retention", **as_fields(done))
    return 1 if done.left else 0


def _alone(connection: Connection, schema: str) -> bool:
    """Becomes the schema's owner and takes its lock until the connection ends; False when another run holds it."""
    connection.execute(text(f'SET ROLE "{schema}_owner"'))
    connection.execute(text(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'"))
    connection.execute(text("SET lock_timeout = '5s'"))
    alone = connection.scalar(
        text("SELECT pg_try_advisory_lock(:lock, hashtext(:schema))"), {"lock": _LOCK, "schema": schema}
    )
    connection.commit()
    return bool(alone)


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} TB"


if __name__ == "__main__":
    sys.exit(main())

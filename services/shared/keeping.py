"""What is kept how long, and the work of keeping it so: days made ahead and dropped whole, old rows removed.

A service registers each of its tables in its own `keeping.py`, a line a table. `deploy.retention` runs them all, as the
schema's owner. Each piece of work is a short transaction of its own, so that a run that dies has done some of it and
the next one does the rest; nothing is remembered between runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple, Protocol

from msgspec import DecodeError
from psycopg.errors import LockNotAvailable
from sqlalchemy import Column, ColumnElement, Connection, Table, func, literal_column, select, text
from sqlalchemy.exc import OperationalError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random

from services.shared.days import day_of, is_divided

# ruff: noqa: S608 - the only names put into these statements are those of our own tables

#: Rows that are removed in one transaction, and state rows that are read in one.
BATCH_ROWS, BATCH_STATES = 5000, 200
#: Whoever comes to a table while a drop waits for it waits as long: so it does not wait long, and tries again.
LOCK_TIMEOUT = "500ms"
LOCK_ATTEMPTS = 20
#: An event's row with a state no larger than this holds nothing that is worth forgetting.
STUB_BYTES = 512
_PARTITION = re.compile(r".*_p(\d{8})")
_MADE = re.compile(r"made (.+)")


@dataclass(slots=True)
class Report:
    """What a run did to one table, or in a dry run would do."""

    table: str
    #: 0 for what is kept for ever.
    kept_days: float
    partitions_made: int = 0
    partitions_dropped: int = 0
    #: Removed rows; those of dropped partitions as PostgreSQL estimates them.
    rows_removed: int = 0
    #: Given back to the disk. Removed rows leave room that the table itself uses again, and count nothing here.
    bytes_freed: int = 0
    #: When the oldest partition's time is over; None where there is none or nothing goes by partitions.
    next_due: datetime | None = None
    #: What could not be done now and is left to the next run.
    left: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Run:
    """One run over one schema."""

    #: As the schema's owner, outside of any transaction.
    connection: Connection
    now: datetime
    #: Days that are made ahead, today not counted.
    days_ahead: int = 3
    dry: bool = False

    def before(self, kept_days: float) -> datetime:
        """What is older than this goes; the beginning of time for what is kept for ever."""
        if kept_days == 0:
            return datetime.min.replace(tzinfo=UTC)
        return self.now - timedelta(days=kept_days)


class Kept(Protocol):
    """A table, or a part of one, with its time."""

    def keep(self, run: Run) -> Report:
        """Does what is due and says what it was."""
        ...


class Partition(NamedTuple):
    """One day of a divided table."""

    name: str
    day: date
    #: When the partition was made; None where its comment does not say.
    made_at: datetime | None
    #: Tables, indexes and out-of-line values.
    bytes: int
    #: Estimated.
    rows: int

    def due_at(self, kept_days: float) -> datetime:
        """When its time is over. What was written late, a bought past say, is kept as long as what was written in time:
        the time runs from the end of the day, or from when the partition was made if that was later."""
        ended_at = datetime.combine(self.day, datetime.min.time(), UTC) + timedelta(days=1)
        return max(ended_at, self.made_at or ended_at) + timedelta(days=kept_days)


@dataclass(frozen=True, slots=True)
class Days:
    """A table that is divided by day. Its coming days are made ahead, and its old ones dropped whole."""

    table: Table
    kept_days: float

    def keep(self, run: Run) -> Report:
        """Makes the coming days that are missing and drops the days whose time is over, oldest first."""
        assert is_divided(self.table), f"{self.table.fullname} is not declared as divided by day"
        report = Report(self.table.fullname, self.kept_days)
        partitions = list(partitions_of(run.connection, self.table))
        missing = sorted(set(_coming(run)) - {partition.day for partition in partitions})
        report.partitions_made = len(missing)
        if missing and not run.dry:
            _make(run.connection, self.table, missing)
        due = [one for one in partitions if self.kept_days and one.due_at(self.kept_days) <= run.now]
        for number, partition in enumerate(due):
            if not run.dry and not _dropped(run.connection, self.table, partition.name):
                # Whoever is in the way is in the way of the others too: it is the table that has to be free.
                report.left.append(f"the table was in use, so {len(due) - number} days stay")
                break
            report.partitions_dropped += 1
            report.rows_removed += partition.rows
            report.bytes_freed += partition.bytes
        stays = [one.due_at(self.kept_days) for one in partitions if one not in due[: report.partitions_dropped]]
        if self.kept_days and stays:
            report.next_due = min(stays)
        return report


@dataclass(frozen=True, slots=True)
class Rows:
    """A table that is not divided, whose old rows are removed in batches: by an index on the moment, if it is no small
    one."""

    table: Table
    moment: Column[Any]
    kept_days: float
    #: What must hold as well for a row to go.
    also: ColumnElement[bool] | None = None

    def keep(self, run: Run) -> Report:
        """Removes the rows whose moment is older than their time."""
        report = Report(self.table.fullname, self.kept_days)
        if self.kept_days:
            old = self.moment < run.before(self.kept_days)
            report.rows_removed = removed(run, self.table, old if self.also is None else old & self.also)
        return report


@dataclass(frozen=True, slots=True)
class States:
    """A stage's or ingest's states: what is remembered of an event that is long over shrinks to a stub.

    The row stays, because its revision must go on: an event may return, and a revision that began anew would be taken
    for a repetition by everybody behind.
    """

    table: Table
    kept_days: float
    #: The stub of a state whose event was last observed before a time; None for a state that is to stay.
    forgotten: Callable[[bytes, datetime], bytes | None]

    def keep(self, run: Run) -> Report:
        """Puts stubs in the place of old states. A state that changes meanwhile stays as it is."""
        report = Report(self.table.fullname, self.kept_days)
        if self.kept_days == 0:
            return report
        name, before, last = self.table.fullname, run.before(self.kept_days), ""
        unreadable: list[str] = []
        read = text(
            f"SELECT event_id, applied_revision, state FROM {name} WHERE event_id > :last "
            f"AND octet_length(state) > {STUB_BYTES} ORDER BY event_id LIMIT {BATCH_STATES}"
        )
        shrink = text(
            f"UPDATE {name} SET state = :stub WHERE event_id = :event_id AND applied_revision = :revision "
            "AND state = :state"
        )
        while True:
            with run.connection.begin():
                rows = run.connection.execute(read, {"last": last}).all()
                for event_id, revision, state in rows:
                    try:
                        stub = self.forgotten(bytes(state), before)
                    except DecodeError:
                        unreadable.append(event_id)
                        continue
                    if stub is None or len(stub) >= len(state):
                        continue
                    given = {"stub": stub, "event_id": event_id, "revision": revision, "state": state}
                    report.rows_removed += 1 if run.dry else run.connection.execute(shrink, given).rowcount
            if len(rows) < BATCH_STATES:
                break
            last = rows[-1].event_id
        if unreadable:
            report.left.append(f"{len(unreadable)} states cannot be read, the first is that of {unreadable[0]}")
        return report


def partitions_of(connection: Connection, table: Table) -> Iterator[Partition]:
    """The days that a divided table has, oldest first."""
    with connection.begin():
        rows = connection.execute(
            text(
                "SELECT child.relname, obj_description(child.oid, 'pg_class'), pg_total_relation_size(child.oid), "
                "greatest(child.reltuples, pg_stat_get_live_tuples(child.oid), 0)::bigint "
                "FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid "
                "WHERE inhparent = CAST(:table AS regclass) ORDER BY child.relname"
            ),
            {"table": table.fullname},
        ).all()
    for name, comment, size, estimated in rows:
        named, made = _PARTITION.fullmatch(name), _MADE.fullmatch(comment or "")
        if named is not None:  # anything else is somebody's own, and none of our business
            made_at = None if made is None else datetime.fromisoformat(made[1]).astimezone(UTC)
            yield Partition(name, date.fromisoformat(named[1]), made_at, size, estimated)


def removed(run: Run, table: Table, condition: ColumnElement[bool]) -> int:
    """Removes the rows of a condition, a batch a transaction; how many. In a dry run only counts them."""
    if run.dry:
        with run.connection.begin():
            return run.connection.scalar(select(func.count()).select_from(table).where(condition)) or 0
    place: ColumnElement[Any] = literal_column("ctid")
    batch = select(place).select_from(table).where(condition).limit(BATCH_ROWS)
    statement = table.delete().where(place == func.any(func.array(batch.scalar_subquery())))
    total = 0
    while True:
        with run.connection.begin():
            gone = run.connection.execute(statement).rowcount
        total += gone
        if gone < BATCH_ROWS:
            return total


def _coming(run: Run) -> Iterator[date]:
    for ahead in range(run.days_ahead + 1):
        yield day_of(run.now + timedelta(days=ahead))


def _make(connection: Connection, table: Table, days: Sequence[date]) -> None:
    with connection.begin():
        connection.execute(
            text(f"SELECT {table.schema}.keep_days(CAST(:tables AS text[]), CAST(:days AS date[]))"),
            {"tables": [table.name], "days": list(days)},
        )


def _dropped(connection: Connection, table: Table, partition: str) -> bool:
    """Drops one partition; False when the table was in use at every attempt."""
    attempts = Retrying(
        stop=stop_after_attempt(LOCK_ATTEMPTS),
        wait=wait_random(0.05, 0.5),
        retry=retry_if_exception(_is_in_use),
        reraise=True,
    )
    try:
        attempts(_drop, connection, f'"{table.schema}"."{partition}"')
    except OperationalError as error:
        if _is_in_use(error):
            return False
        raise
    return True


def _drop(connection: Connection, partition: str) -> None:
    with connection.begin():
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
        # Somebody else may have dropped it since we looked. The file itself goes after the commit, without the lock.
        connection.execute(text(f"DROP TABLE IF EXISTS {partition}"))


def _is_in_use(error: BaseException) -> bool:
    return isinstance(error, OperationalError) and isinstance(error.orig, LockNotAvailable)

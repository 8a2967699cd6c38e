"""Tables that are divided by day of event time, and how a writer makes sure that its days are there.

Each day of such a table is a partition of its own, called `…_pYYYYMMDD` (UTC), so that a day whose time is over is
dropped whole. Retention makes the coming days ahead; a writer whose rows are of another day (a backfill, a replay, a
service whose job never ran) makes it itself, in the transaction of its rows. See docs/decisions/0010.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime

from sqlalchemy import MetaData, Table, text
from sqlalchemy.ext.asyncio import AsyncConnection


def by_day(column: str) -> str:
    """The option `postgresql_partition_by` of a table that is divided by day of this column."""
    return f'RANGE ("{column}")'


def is_divided(table: Table) -> bool:
    """Whether the table is declared with `by_day`."""
    return table.dialect_options["postgresql"]["partition_by"] is not None


def day_of(moment: datetime) -> date:
    """The day, in UTC, to whose partition a moment belongs."""
    return moment.astimezone(UTC).date()


class DayPartitions:
    """The days of one schema's divided tables."""

    def __init__(self, metadata: MetaData) -> None:
        """The tables may be declared afterwards."""
        self._metadata = metadata
        # The function runs as the schema's owner: a service may write rows and make no tables.
        self._keep = text(f"SELECT {metadata.schema}.keep_days(CAST(:tables AS text[]), CAST(:days AS date[]))")

    async def keep(self, connection: AsyncConnection, moments: Iterable[datetime]) -> None:
        """Makes the partitions of these moments that are missing. Nothing is made, or locked, when all are there.

        Asked for each batch again: a day may be dropped, and one that was made in a transaction that failed is gone.
        """
        days = sorted({day_of(moment) for moment in set(moments)})
        if days:
            tables = sorted(table.name for table in self._metadata.tables.values() if is_divided(table))
            await connection.execute(self._keep, {"tables": tables, "days": days})

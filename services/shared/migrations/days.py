"""Dividing a table by day, as migrations do it. A function here is as frozen as the migrations that call it."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

# ruff: noqa: S608 - the only names put into these statements are those of our own schemas, tables and columns

#: A week, so that code which does not yet make its own days has them while it is replaced.
_DAYS_AHEAD = 7


def create_keep_days_v1(schema: str) -> None:
    """The function by which a service, which may make no tables, gets the days it writes to.

    It makes, for each of these divided tables, the partitions of the given days that are missing. A partition is made
    beside its table and then attached: that takes SHARE UPDATE EXCLUSIVE, which stops neither readers nor writers; only
    somebody else who makes or drops a day of the same table waits until we commit. Its comment says when it was made,
    because what is written late is kept as long as what was written in time.
    """
    op.execute(
        f"""
CREATE FUNCTION {schema}.keep_days(tables text[], days date[]) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    made integer := 0;
    divided text;
    day date;
    partition text;
BEGIN
    FOREACH divided IN ARRAY tables LOOP
        FOREACH day IN ARRAY days LOOP
            partition := divided || to_char(day, '"_p"YYYYMMDD');
            CONTINUE WHEN to_regclass(format('{schema}.%I', partition)) IS NOT NULL;
            EXECUTE format('LOCK TABLE {schema}.%I IN SHARE UPDATE EXCLUSIVE MODE', divided);
            -- Whoever held the lock before us may have made the same day.
            CONTINUE WHEN to_regclass(format('{schema}.%I', partition)) IS NOT NULL;
            EXECUTE format('CREATE TABLE {schema}.%I (LIKE {schema}.%I INCLUDING ALL)', partition, divided);
            EXECUTE format(
                'ALTER TABLE {schema}.%I ATTACH PARTITION {schema}.%I FOR VALUES FROM (%L) TO (%L)',
                divided, partition, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC'
            );
            EXECUTE format('COMMENT ON TABLE {schema}.%I IS %L', partition, 'made ' || now()::text);
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END
$body$"""
    )
    op.execute(f"REVOKE ALL ON FUNCTION {schema}.keep_days(text[], date[]) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {schema}.keep_days(text[], date[]) TO {schema}")


def drop_keep_days_v1(schema: str) -> None:
    """The way back of `create_keep_days_v1`."""
    op.execute(f"DROP FUNCTION {schema}.keep_days(text[], date[])")


def divide_by_day_v1(schema: str, table: str, column: str, key: Sequence[str]) -> None:
    """Puts a table divided by day of `column` in the place of one that is whole, with its rows and the primary key.

    Other indexes are not taken along; the migration makes those that are still wanted, here or afterwards. The table is
    locked meanwhile.
    """
    columns = _columns(schema, table)
    _set_aside(schema, table)
    op.execute(
        f"CREATE TABLE {schema}.{table} (LIKE {schema}.{table}_before INCLUDING DEFAULTS INCLUDING STORAGE, "
        f'CONSTRAINT {table}_pkey PRIMARY KEY ({_names(key)})) PARTITION BY RANGE ("{column}")'
    )
    op.execute(
        f"SELECT {schema}.keep_days(ARRAY['{table}'], ARRAY(SELECT DISTINCT (\"{column}\" AT TIME ZONE 'UTC')::date "
        f"FROM {schema}.{table}_before UNION SELECT (now() AT TIME ZONE 'UTC')::date + day "
        f"FROM generate_series(0, {_DAYS_AHEAD}) AS day))"
    )
    op.execute(f"INSERT INTO {schema}.{table} ({columns}) SELECT {columns} FROM {schema}.{table}_before")
    op.execute(f"DROP TABLE {schema}.{table}_before")


def merge_days_v1(schema: str, table: str, key: Sequence[str]) -> None:
    """The way back of `divide_by_day_v1`: one whole table with the rows of all days."""
    columns = _columns(schema, table)
    _set_aside(schema, table)
    op.execute(
        f"CREATE TABLE {schema}.{table} (LIKE {schema}.{table}_before INCLUDING DEFAULTS INCLUDING STORAGE, "
        f"CONSTRAINT {table}_pkey PRIMARY KEY ({_names(key)}))"
    )
    op.execute(f"INSERT INTO {schema}.{table} ({columns}) SELECT {columns} FROM {schema}.{table}_before")
    op.execute(f"DROP TABLE {schema}.{table}_before")


def _set_aside(schema: str, table: str) -> None:
    op.execute(f"LOCK TABLE {schema}.{table} IN ACCESS EXCLUSIVE MODE")
    op.execute(f"ALTER TABLE {schema}.{table} RENAME CONSTRAINT {table}_pkey TO {table}_before_pkey")
    op.execute(f"ALTER TABLE {schema}.{table} RENAME TO {table}_before")


def _columns(schema: str, table: str) -> str:
    return _names([column["name"] for column in sa.inspect(op.get_bind()).get_columns(table, schema)])


def _names(columns: Sequence[str]) -> str:
    return ", ".join(f'"{column}"' for column in columns)

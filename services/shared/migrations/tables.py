"""What the migrations of several services make alike. A function here is as frozen as the migrations that call it:
a change to the tables is a new function, called by a new migration of every service.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql


def create_stage_tables_v1(schema: str) -> None:
    """The four tables of a stage, as `services.shared.tables.stage_tables` first declared them."""
    op.create_table(
        "position",
        sa.Column("partition", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("stream_identity", sa.Text, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        schema=schema,
    )
    op.create_table(
        "event_state",
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("partition", sa.SmallInteger, nullable=False),
        sa.Column("applied_revision", sa.BigInteger, nullable=False),
        sa.Column("awaiting_keyframe", sa.Boolean, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
        schema=schema,
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("partition", sa.SmallInteger, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        schema=schema,
    )
    op.create_table(
        "dead_letter",
        sa.Column("stream_identity", sa.Text, primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("partition", sa.SmallInteger, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("noted_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        schema=schema,
    )


def drop_stage_tables_v1(schema: str) -> None:
    """The way back of `create_stage_tables_v1`."""
    for table in ("dead_letter", "outbox", "event_state", "position"):
        op.drop_table(table, schema=schema)


def add_traceparent_v1(schema: str) -> None:
    """A message in the outbox keeps its trace. Without a default the table is not rewritten."""
    op.add_column("outbox", sa.Column("traceparent", sa.Text), schema=schema)


def drop_traceparent_v1(schema: str) -> None:
    """The way back of `add_traceparent_v1`."""
    op.drop_column("outbox", "traceparent", schema=schema)


def create_stage_cycles_v1(schema: str) -> None:
    """A stage's share of each poll, as `services.shared.cycles.cycles_table` first declared it."""
    op.create_table(
        "cycles",
        sa.Column("sport_key", sa.Text, primary_key=True),
        sa.Column("observed_at", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("worker", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("messages", sa.Integer, nullable=False),
        sa.Column("counts", postgresql.JSONB, nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp()),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp()),
        schema=schema,
    )
    op.create_index("cycles_by_time", "cycles", ["observed_at"], schema=schema)


def drop_stage_cycles_v1(schema: str) -> None:
    """The way back of `create_stage_cycles_v1`."""
    op.drop_table("cycles", schema=schema)


def keep_what_was_published_v1(schema: str) -> None:
    """How far each partition's outbox is published, and what became of a dead letter.

    Suits the code before it, which removes what it publishes and knows neither: what that left is published again.
    """
    op.create_table(
        "outbox_position",
        sa.Column("partition", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("stream_identity", sa.Text, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("published_id", sa.BigInteger, nullable=False),
        schema=schema,
    )
    op.add_column("dead_letter", sa.Column("settled_at", sa.DateTime(timezone=True)), schema=schema)
    op.add_column("dead_letter", sa.Column("settlement", sa.Text), schema=schema)


def forget_what_was_published_v1(schema: str) -> None:
    """The way back of `keep_what_was_published_v1`. What is kept would be published again, so it goes too."""
    op.execute(
        f"DELETE FROM {schema}.outbox AS message USING {schema}.outbox_position AS held "  # noqa: S608 - our own schema
        "WHERE held.partition = message.partition AND message.id <= held.published_id"
    )
    op.drop_column("dead_letter", "settlement", schema=schema)
    op.drop_column("dead_letter", "settled_at", schema=schema)
    op.drop_table("outbox_position", schema=schema)

"""What the migrations of several services make alike. A function here is as frozen as the migrations that call it:
a change to the tables is a new function, called by a new migration of every service.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


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

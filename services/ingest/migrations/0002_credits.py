"""What is spent at the provider and by whose leave, how often each sport is asked and why, and who watches what."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SCHEMA = "ingest"
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "credit_budgets",
        sa.Column("period", sa.Text, primary_key=True),
        sa.Column("begins", sa.Date, primary_key=True),
        sa.Column("spent", sa.BigInteger, nullable=False),
        sa.Column("provider_remaining", sa.BigInteger),
        schema=SCHEMA,
    )
    op.create_table(
        "credit_reservations",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("reserved_at", MOMENT, nullable=False),
        sa.Column("term", sa.BigInteger, nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("sport_key", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("forecast", sa.Integer, nullable=False),
        sa.Column("cost", sa.Integer),
        sa.Column("settled_at", MOMENT),
        schema=SCHEMA,
    )
    op.create_index("credit_reservations_by_time", "credit_reservations", ["reserved_at"], schema=SCHEMA)
    op.create_table(
        "cadences",
        sa.Column("sport_key", sa.Text, primary_key=True),
        sa.Column("decided_at", MOMENT, nullable=False),
        sa.Column("asks", sa.Text, nullable=False),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("interval_seconds", sa.Double, nullable=False),
        sa.Column("limited_by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "watched_events",
        sa.Column("watcher", sa.Text, primary_key=True),
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("watched_at", MOMENT, nullable=False, server_default=sa.func.now()),
        schema=SCHEMA,
    )


def downgrade() -> None:
    """Drops the tables."""
    for table in ("watched_events", "cadences", "credit_reservations", "credit_budgets"):
        op.drop_table(table, schema=SCHEMA)

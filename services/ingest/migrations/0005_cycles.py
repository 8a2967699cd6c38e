"""How each poll went and what it cost, and the trace of a message that waits to be published."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from services.shared.migrations.tables import add_traceparent_v1, drop_traceparent_v1

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SCHEMA = "ingest"
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Adds both."""
    op.create_table(
        "cycles",
        sa.Column("sport_key", sa.Text, primary_key=True),
        sa.Column("observed_at", MOMENT, primary_key=True),
        sa.Column("observed_until", MOMENT, nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("completed_at", MOMENT, nullable=False),
        sa.Column("duration_ms", sa.Integer, nullable=False),
        sa.Column("target_interval_seconds", sa.Double, nullable=False),
        sa.Column("calls", sa.Integer, nullable=False),
        sa.Column("requests_last", sa.Integer),
        sa.Column("requests_used_delta", sa.Integer),
        sa.Column("requests_remaining", sa.Integer),
        sa.Column("requests_limit", sa.Integer),
        sa.Column("events_processed", sa.Integer, nullable=False),
        sa.Column("quotes_seen", sa.Integer, nullable=False),
        sa.Column("quotes_changed", sa.Integer, nullable=False),
        sa.Column("snapshots_inserted", sa.Integer, nullable=False),
        sa.Column("degraded", sa.Boolean, nullable=False),
        sa.Column("reasons", postgresql.ARRAY(sa.Text), nullable=False),
        schema=SCHEMA,
    )
    op.create_index("cycles_by_time", "cycles", ["observed_at"], schema=SCHEMA)
    add_traceparent_v1(SCHEMA)


def downgrade() -> None:
    """Removes both."""
    drop_traceparent_v1(SCHEMA)
    op.drop_table("cycles", schema=SCHEMA)

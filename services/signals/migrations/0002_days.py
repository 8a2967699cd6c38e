"""Suppressions divided by the day on which they began; no index is kept for retention alone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from services.shared.migrations.days import create_keep_days_v1, divide_by_day_v1, drop_keep_days_v1, merge_days_v1

revision = "signals_0002"
down_revision = "signals_0001"
branch_labels = None
depends_on = None

SCHEMA = "signals"


def upgrade() -> None:
    """Divides. A span's beginning is part of its id, so both together are as unique as the id."""
    create_keep_days_v1(SCHEMA)
    # Only retention used it, which goes by the span's beginning now.
    op.drop_column("suppression", "inserted_at", schema=SCHEMA)
    divide_by_day_v1(SCHEMA, "suppression", "first_seen_at", ["first_seen_at", "id"])
    op.create_index("suppression_of_event", "suppression", ["event_id", "first_seen_at"], schema=SCHEMA)
    # Retention finds its place by position, with which the time of publishing rises.
    op.drop_index("signal_published", "signal", schema=SCHEMA)


def downgrade() -> None:
    """A whole table again, with its rows; they count as inserted now."""
    op.create_index("signal_published", "signal", ["published_at"], schema=SCHEMA)
    op.drop_index("suppression_of_event", "suppression", schema=SCHEMA)
    merge_days_v1(SCHEMA, "suppression", ["id"])
    op.add_column(
        "suppression",
        sa.Column("inserted_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        schema=SCHEMA,
    )
    op.create_index("suppression_by_time", "suppression", ["first_seen_at", "id"], schema=SCHEMA)
    op.create_index("suppression_of_event", "suppression", ["event_id", "first_seen_at"], schema=SCHEMA)
    op.create_index("suppression_inserted", "suppression", ["inserted_at"], schema=SCHEMA)
    drop_keep_days_v1(SCHEMA)

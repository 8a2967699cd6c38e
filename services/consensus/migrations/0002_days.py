"""Consensus rows and quote history divided by day; since when a game is known; which games somebody quotes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from services.shared.migrations.days import create_keep_days_v1, divide_by_day_v1, drop_keep_days_v1, merge_days_v1

revision = "consensus_0002"
down_revision = "consensus_0001"
branch_labels = None
depends_on = None

SCHEMA = "consensus"
SNAPSHOTS_KEY = ["event_id", "observed_at", "market", "player"]
QUOTES_KEY = ["event_id", "market", "player", "book", "observed_at"]


def upgrade() -> None:
    """Divides, and says of each game since when it is known."""
    create_keep_days_v1(SCHEMA)
    divide_by_day_v1(SCHEMA, "consensus_snapshots", "observed_at", SNAPSHOTS_KEY)
    divide_by_day_v1(SCHEMA, "quote_history", "observed_at", QUOTES_KEY)
    # Null for what code before this migration writes: then the whole past is searched.
    op.add_column("games", sa.Column("first_observed_at", sa.DateTime(timezone=True), nullable=True), schema=SCHEMA)
    op.execute(
        f"UPDATE {SCHEMA}.games SET first_observed_at = known.since FROM (SELECT event_id, min(observed_at) AS since "  # noqa: S608 - our own schema
        f"FROM {SCHEMA}.quote_history GROUP BY event_id) AS known WHERE known.event_id = games.event_id"
    )
    op.create_index(
        "games_quoted", "games", ["commence_time", "event_id"], schema=SCHEMA, postgresql_where=sa.text("books > 0")
    )


def downgrade() -> None:
    """Whole tables again, with their rows."""
    op.drop_index("games_quoted", "games", schema=SCHEMA)
    op.drop_column("games", "first_observed_at", schema=SCHEMA)
    merge_days_v1(SCHEMA, "quote_history", QUOTES_KEY)
    merge_days_v1(SCHEMA, "consensus_snapshots", SNAPSHOTS_KEY)
    drop_keep_days_v1(SCHEMA)

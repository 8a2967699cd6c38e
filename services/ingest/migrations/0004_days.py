"""Snapshots and disappearances divided by day; one index each, and none that changes with every poll."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from services.shared.migrations.days import create_keep_days_v1, divide_by_day_v1, drop_keep_days_v1, merge_days_v1

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SCHEMA = "ingest"
DISAPPEARANCES_KEY = ["event_id", "market", "player", "book", "observed_at"]


def upgrade() -> None:
    """Divides, and swaps the indexes."""
    create_keep_days_v1(SCHEMA)
    # The snapshot's id is a hash of exactly these columns, so they are as unique, and in this order they are what a
    # history of an event is read by. Two indexes, one of them in the order of a hash, become one.
    divide_by_day_v1(
        SCHEMA, "odds_snapshots", "observed_at", ["event_id", "observed_at", "market", "player", "book", "outcome"]
    )
    divide_by_day_v1(SCHEMA, "disappearances", "observed_at", DISAPPEARANCES_KEY)
    # The old one held the time of the last poll: every poll wrote it anew for every game.
    op.drop_index("games_by_sport", "games", schema=SCHEMA)
    op.create_index("games_present", "games", ["sport_key"], schema=SCHEMA, postgresql_where=sa.text("gone IS false"))
    op.create_index("polls_by_time", "polls", ["observed_at"], schema=SCHEMA)


def downgrade() -> None:
    """Whole tables again, with their rows."""
    op.drop_index("polls_by_time", "polls", schema=SCHEMA)
    op.drop_index("games_present", "games", schema=SCHEMA)
    op.create_index("games_by_sport", "games", ["sport_key", "observed_at"], schema=SCHEMA)
    merge_days_v1(SCHEMA, "disappearances", DISAPPEARANCES_KEY)
    merge_days_v1(SCHEMA, "odds_snapshots", ["id", "observed_at"])
    op.create_index(
        "odds_snapshots_by_event", "odds_snapshots", ["event_id", "market", "book", "observed_at"], schema=SCHEMA
    )
    drop_keep_days_v1(SCHEMA)

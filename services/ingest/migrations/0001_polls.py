"""What ingest keeps: games, prices as they changed, how each poll went, and who may poll."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from services.shared.migrations.tables import create_stage_tables_v1, drop_stage_tables_v1

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "ingest"
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Makes every table."""
    create_stage_tables_v1(SCHEMA)
    op.create_table(
        "games",
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("sport_key", sa.Text, nullable=False),
        sa.Column("home_team", sa.Text, nullable=False),
        sa.Column("away_team", sa.Text, nullable=False),
        sa.Column("commence_time", MOMENT),
        sa.Column("first_seen_at", MOMENT, nullable=False),
        sa.Column("observed_at", MOMENT, nullable=False),
        sa.Column("gone", sa.Boolean, nullable=False),
        schema=SCHEMA,
    )
    op.create_index("games_by_sport", "games", ["sport_key", "observed_at"], schema=SCHEMA)
    op.create_table(
        "game_starts",
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("observed_at", MOMENT, primary_key=True),
        sa.Column("commence_time", MOMENT),
        schema=SCHEMA,
    )
    op.create_table(
        "odds_snapshots",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("observed_at", MOMENT, primary_key=True),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("book", sa.Text, nullable=False),
        sa.Column("market", sa.Text, nullable=False),
        sa.Column("player", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("price", sa.Double, nullable=False),
        sa.Column("line", sa.Double),
        sa.Column("last_update", MOMENT),
        sa.Column("changed_after", MOMENT),
        sa.Column("changed_by", MOMENT),
        sa.Column("link", sa.Text),
        sa.Column("limit", sa.Double),
        sa.Column("sid", sa.Text),
        schema=SCHEMA,
    )
    op.create_index(
        "odds_snapshots_by_event", "odds_snapshots", ["event_id", "market", "book", "observed_at"], schema=SCHEMA
    )
    op.create_table(
        "disappearances",
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("market", sa.Text, primary_key=True),
        sa.Column("player", sa.Text, primary_key=True),
        sa.Column("book", sa.Text, primary_key=True),
        sa.Column("observed_at", MOMENT, primary_key=True),
        sa.Column("last_seen_at", MOMENT, nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "quarantined_books",
        sa.Column("book", sa.Text, primary_key=True),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("first_seen_at", MOMENT, nullable=False),
        sa.Column("last_seen_at", MOMENT, nullable=False),
        sa.Column("quotes", sa.BigInteger, nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "polls",
        sa.Column("sport_key", sa.Text, primary_key=True),
        sa.Column("observed_at", MOMENT, primary_key=True),
        sa.Column("failure", sa.Text, nullable=False),
        sa.Column("events", sa.Integer, nullable=False),
        sa.Column("quotes", sa.Integer, nullable=False),
        sa.Column("changes", sa.Integer, nullable=False),
        sa.Column("snapshots", sa.Integer, nullable=False),
        sa.Column("credits_last", sa.Integer),
        sa.Column("credits_remaining", sa.Integer),
        schema=SCHEMA,
    )
    op.create_table(
        "feed_health",
        sa.Column("sport_key", sa.Text, primary_key=True),
        sa.Column("observed_at", MOMENT),
        sa.Column("polled_at", MOMENT),
        sa.Column("clock_rate", sa.Double, nullable=False),
        sa.Column("expected_interval_seconds", sa.Double, nullable=False),
        sa.Column("consecutive_failures", sa.Integer, nullable=False),
        sa.Column("last_failure", sa.Text, nullable=False),
        sa.Column("credits_remaining", sa.Integer),
        schema=SCHEMA,
    )
    op.create_table(
        "book_health",
        sa.Column("sport_key", sa.Text, primary_key=True),
        sa.Column("book", sa.Text, primary_key=True),
        sa.Column("last_update", MOMENT),
        sa.Column("quotes", sa.Integer, nullable=False),
        sa.Column("events", sa.Integer, nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "tallies",
        sa.Column("sport_key", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("reason", sa.Text, primary_key=True),
        sa.Column("count", sa.BigInteger, nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "keyframe_requests",
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("requested_at", MOMENT, nullable=False, server_default=sa.func.now()),
        schema=SCHEMA,
    )
    op.create_table(
        "backfills",
        sa.Column("sport_key", sa.Text, primary_key=True),
        sa.Column("since", MOMENT, primary_key=True),
        sa.Column("until", MOMENT, primary_key=True),
        sa.Column("next_date", MOMENT),
        sa.Column("timestamp", MOMENT),
        sa.Column("gaps", sa.ARRAY(sa.Double), nullable=False),
        sa.Column("responses", sa.Integer, nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "poller_lease",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("term", sa.BigInteger, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        schema=SCHEMA,
    )


def downgrade() -> None:
    """Drops every table."""
    for table in (
        "poller_lease",
        "backfills",
        "keyframe_requests",
        "tallies",
        "book_health",
        "feed_health",
        "polls",
        "quarantined_books",
        "disappearances",
        "odds_snapshots",
        "game_starts",
        "games",
    ):
        op.drop_table(table, schema=SCHEMA)
    drop_stage_tables_v1(SCHEMA)

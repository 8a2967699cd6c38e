"""Games, consensus and its history, what each book quoted, and the stage's own tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from services.shared.migrations.tables import create_stage_tables_v1, drop_stage_tables_v1

revision = "consensus_0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "consensus"


def upgrade() -> None:
    create_stage_tables_v1(SCHEMA)
    op.create_table(
        "games",
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("sport_key", sa.Text, nullable=False),
        sa.Column("home_team", sa.Text, nullable=False),
        sa.Column("away_team", sa.Text, nullable=False),
        sa.Column("commence_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("in_play", sa.Boolean, nullable=False),
        sa.Column("markets", postgresql.ARRAY(sa.Text), nullable=False),
        sa.Column("books", sa.Integer, nullable=False),
        schema=SCHEMA,
    )
    op.create_index("games_by_start", "games", ["commence_time", "event_id"], schema=SCHEMA)
    op.create_index("games_by_sport_and_start", "games", ["sport_key", "commence_time", "event_id"], schema=SCHEMA)
    op.create_table(
        "consensus_snapshots",
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("observed_at", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("market", sa.Text, primary_key=True),
        sa.Column("player", sa.Text, primary_key=True),
        sa.Column("sport_key", sa.Text, nullable=False),
        sa.Column("consensus_line", sa.Float, nullable=True),
        sa.Column("fair_line", sa.Float, nullable=True),
        sa.Column("fair_probability", sa.Float, nullable=True),
        sa.Column("consensus_price", sa.Float, nullable=True),
        sa.Column("dispersion", sa.Float, nullable=True),
        sa.Column("dispersion_mad", sa.Float, nullable=True),
        sa.Column("books", sa.Integer, nullable=False),
        sa.Column("clusters", sa.Integer, nullable=False),
        sa.Column("devig_method", sa.Text, nullable=False),
        sa.Column("in_play", sa.Boolean, nullable=False),
        sa.Column("excluded", postgresql.JSONB, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("weights", postgresql.JSONB, nullable=False),
        sa.Column("heartbeat", sa.Boolean, nullable=False),
        sa.Column("config_hash", sa.Text, nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "quote_history",
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("market", sa.Text, primary_key=True),
        sa.Column("player", sa.Text, primary_key=True),
        sa.Column("book", sa.Text, primary_key=True),
        sa.Column("observed_at", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("line", sa.Float, nullable=True),
        sa.Column("price", sa.Float, nullable=True),
        sa.Column("price_other", sa.Float, nullable=True),
        sa.Column("fair_probability", sa.Float, nullable=True),
        schema=SCHEMA,
    )
    op.create_table(
        "current_market",
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("market", sa.Text, primary_key=True),
        sa.Column("player", sa.Text, primary_key=True),
        sa.Column("sport_key", sa.Text, nullable=False),
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("view", sa.LargeBinary, nullable=False),
        schema=SCHEMA,
    )
    op.create_index(
        "current_market_by_sport", "current_market", ["sport_key", "event_id", "market", "player"], schema=SCHEMA
    )


def downgrade() -> None:
    for table in ("current_market", "quote_history", "consensus_snapshots", "games"):
        op.drop_table(table, schema=SCHEMA)
    drop_stage_tables_v1(SCHEMA)

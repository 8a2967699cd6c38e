"""The feed, what was held back from it, and the configurations behind it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from services.shared.migrations.tables import create_stage_tables_v1, drop_stage_tables_v1

revision = "signals_0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "signals"


def upgrade() -> None:
    create_stage_tables_v1(SCHEMA)
    op.create_table(
        "configuration",
        sa.Column("config_hash", sa.Text, primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "signal",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("feed_position", sa.BigInteger, nullable=False, unique=True),
        sa.Column("fact_id", sa.Text, nullable=False),
        sa.Column("fact_rank", sa.SmallInteger, nullable=False),
        sa.Column("sport_key", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("market", sa.Text, nullable=False),
        sa.Column("player", sa.Text, nullable=False),
        sa.Column("signal_type", sa.Text, nullable=False),
        sa.Column("direction", sa.Text, nullable=False),
        sa.Column("tier", sa.Text, nullable=False),
        sa.Column("time_bucket", sa.Text, nullable=False),
        sa.Column("books", postgresql.ARRAY(sa.Text), nullable=False),
        sa.Column("composite_score", sa.Double, nullable=False),
        sa.Column("strength", sa.Integer, nullable=False),
        sa.Column("velocity", sa.Double),
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("config_hash", sa.Text, sa.ForeignKey(f"{SCHEMA}.configuration.config_hash"), nullable=False),
        sa.Column("basic", sa.LargeBinary, nullable=False),
        sa.Column("full", sa.LargeBinary, nullable=False),
        sa.Column("explanation", sa.LargeBinary, nullable=False),
        schema=SCHEMA,
    )
    op.create_index("signal_by_score", "signal", ["composite_score", "feed_position"], schema=SCHEMA)
    op.create_index("signal_by_time", "signal", ["observed_at", "feed_position"], schema=SCHEMA)
    op.create_index("signal_of_event", "signal", ["event_id", "observed_at"], schema=SCHEMA)
    op.create_index("signal_of_fact", "signal", ["fact_id", "fact_rank"], schema=SCHEMA)
    op.create_index("signal_books", "signal", ["books"], schema=SCHEMA, postgresql_using="gin")
    op.create_index("signal_published", "signal", ["published_at"], schema=SCHEMA)
    op.create_table(
        "suppression",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("sport_key", sa.Text, nullable=False),
        sa.Column("market", sa.Text, nullable=False),
        sa.Column("player", sa.Text, nullable=False),
        sa.Column("signal_type", sa.Text, nullable=False),
        sa.Column("direction", sa.Text, nullable=False),
        sa.Column("book", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("inserted_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        schema=SCHEMA,
    )
    op.create_index("suppression_by_time", "suppression", ["first_seen_at", "id"], schema=SCHEMA)
    op.create_index("suppression_of_event", "suppression", ["event_id", "first_seen_at"], schema=SCHEMA)
    op.create_index("suppression_inserted", "suppression", ["inserted_at"], schema=SCHEMA)
    op.create_table(
        "feed",
        sa.Column("singleton", sa.Boolean, sa.CheckConstraint("singleton", name="feed_has_one_row"), primary_key=True),
        sa.Column("epoch", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("trimmed_position", sa.BigInteger, nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True)),
        schema=SCHEMA,
    )
    # The feed's epoch: drawn once, so that cursors of another database are known for what they are.
    op.execute(
        f"INSERT INTO {SCHEMA}.feed (singleton, epoch, position, trimmed_position) "  # noqa: S608 - our own name
        "VALUES (true, left(md5(gen_random_uuid()::text), 16), 0, 0)"
    )


def downgrade() -> None:
    for table in ("feed", "suppression", "signal", "configuration"):
        op.drop_table(table, schema=SCHEMA)
    drop_stage_tables_v1(SCHEMA)

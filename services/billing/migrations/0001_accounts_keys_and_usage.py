"""Accounts, keys, the access table, and the ledger of usage with everything that is summed from it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from services.shared.migrations.days import create_keep_days_v1, divide_by_day_v1, drop_keep_days_v1
from services.shared.migrations.tables import (
    add_traceparent_v1,
    create_stage_tables_v1,
    drop_stage_tables_v1,
    keep_what_was_published_v1,
)

revision = "billing_0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "billing"
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    create_stage_tables_v1(SCHEMA)
    add_traceparent_v1(SCHEMA)
    keep_what_was_published_v1(SCHEMA)
    create_keep_days_v1(SCHEMA)
    _accounts()
    _usage()
    _ledger()


def downgrade() -> None:
    for table in (
        *("usage_unrated", "usage_anomaly", "usage_clock", "usage_rollup", "usage_day", "usage_ledger"),
        *("usage_notice", "usage_period", "idempotency", "access_table", "api_key", "account"),
    ):
        op.drop_table(table, schema=SCHEMA)
    drop_keep_days_v1(SCHEMA)
    op.drop_table("outbox_position", schema=SCHEMA)
    drop_stage_tables_v1(SCHEMA)


def _accounts() -> None:
    op.create_table(
        "account",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("api_access_enabled", sa.Boolean, nullable=False),
        sa.Column("api_plan_code", sa.Text, nullable=False),
        sa.Column("api_usage_soft_limit", sa.Integer, nullable=False),
        sa.Column("api_overage_rate_cents", sa.Integer, nullable=False),
        sa.Column("standing", sa.Text, nullable=False),
        sa.Column("rate_class", sa.Text, nullable=False),
        sa.Column("period_anchor", MOMENT, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        schema=SCHEMA,
    )
    op.create_index("account_by_revision", "account", ["revision"], schema=SCHEMA)
    op.create_table(
        "api_key",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("account_id", sa.Text, sa.ForeignKey(f"{SCHEMA}.account.id"), nullable=False),
        sa.Column("lineage", sa.Text, nullable=False),
        sa.Column("replaces", sa.Text, sa.ForeignKey(f"{SCHEMA}.api_key.id")),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("live", sa.Boolean, nullable=False),
        sa.Column("pepper_version", sa.SmallInteger, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("hint", sa.Text, nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text), nullable=False),
        sa.Column("allowed_addresses", postgresql.ARRAY(sa.Text), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT),
        sa.Column("last_used_at", MOMENT),
        sa.Column("revoked_at", MOMENT),
        sa.Column("revoked_reason", sa.Text),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("pepper_version", "hash"),
        schema=SCHEMA,
    )
    op.create_index("api_key_by_revision", "api_key", ["revision"], schema=SCHEMA)
    op.create_index("api_key_of_account", "api_key", ["account_id", "created_at"], schema=SCHEMA)
    op.create_table(
        "access_table",
        sa.Column(
            "singleton", sa.Boolean, sa.CheckConstraint("singleton", name="access_table_has_one_row"), primary_key=True
        ),
        sa.Column("epoch", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        schema=SCHEMA,
    )
    # Drawn once, so that whoever kept a copy of another database's table knows it for what it is.
    op.execute(
        f"INSERT INTO {SCHEMA}.access_table (singleton, epoch, revision) "  # noqa: S608 - our own name
        "VALUES (true, left(md5(gen_random_uuid()::text), 16), 0)"
    )
    op.create_table(
        "idempotency",
        sa.Column("caller", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("request_digest", sa.LargeBinary, nullable=False),
        sa.Column("response", sa.LargeBinary, nullable=False),
        sa.Column("noted_at", MOMENT, nullable=False, server_default=sa.func.now()),
        schema=SCHEMA,
    )
    op.create_index("idempotency_by_time", "idempotency", ["noted_at"], schema=SCHEMA)


def _usage() -> None:
    op.create_table(
        "usage_period",
        sa.Column("account_id", sa.Text, sa.ForeignKey(f"{SCHEMA}.account.id"), primary_key=True),
        sa.Column("period_start", MOMENT, primary_key=True),
        sa.Column("period_end", MOMENT, nullable=False),
        sa.Column("soft_limit", sa.Integer, nullable=False),
        sa.Column("overage_rate_cents", sa.Integer, nullable=False),
        sa.Column("used_units", sa.BigInteger, nullable=False),
        sa.Column("overage_units", sa.BigInteger, nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "usage_notice",
        sa.Column("account_id", sa.Text, primary_key=True),
        sa.Column("period_start", MOMENT, primary_key=True),
        sa.Column("threshold_percent", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("reached_at", MOMENT, nullable=False),
        sa.Column("used_units", sa.BigInteger, nullable=False),
        sa.Column("included_units", sa.BigInteger, nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "usage_day",
        sa.Column("account_id", sa.Text, primary_key=True),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("key_id", sa.Text, primary_key=True),
        sa.Column("period_start", MOMENT, primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("units", sa.BigInteger, nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "usage_rollup",
        sa.Column("account_id", sa.Text, primary_key=True),
        sa.Column("hour", MOMENT, primary_key=True),
        sa.Column("period_start", MOMENT, primary_key=True),
        sa.Column("units", sa.BigInteger, nullable=False),
        sa.Column("overage_units", sa.BigInteger, nullable=False),
        sa.Column("late_units", sa.BigInteger, nullable=False),
        sa.Column("sealed_at", MOMENT),
        schema=SCHEMA,
    )
    op.create_index(
        "usage_rollup_unsealed", "usage_rollup", ["hour"], schema=SCHEMA, postgresql_where=sa.text("sealed_at IS NULL")
    )
    op.create_table(
        "usage_clock",
        sa.Column(
            "singleton", sa.Boolean, sa.CheckConstraint("singleton", name="usage_clock_has_one_row"), primary_key=True
        ),
        sa.Column("sealed_until", MOMENT, nullable=False),
        schema=SCHEMA,
    )
    op.execute(
        f"INSERT INTO {SCHEMA}.usage_clock (singleton, sealed_until) "  # noqa: S608 - our own name
        "VALUES (true, date_trunc('hour', now() - interval '1 hour', 'UTC'))"
    )
    op.create_table(
        "usage_anomaly",
        sa.Column("account_id", sa.Text, primary_key=True),
        sa.Column("hour", MOMENT, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("units", sa.BigInteger, nullable=False),
        sa.Column("noted_at", MOMENT, nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "usage_unrated",
        sa.Column("request_id", sa.Text, primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("line", sa.LargeBinary, nullable=False),
        sa.Column("noted_at", MOMENT, nullable=False, server_default=sa.func.now()),
        schema=SCHEMA,
    )


def _ledger() -> None:
    key = ["started_at", "request_id", "part"]
    op.create_table(
        "usage_ledger",
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("part", sa.SmallInteger, nullable=False),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("status", sa.SmallInteger, nullable=False),
        sa.Column("units", sa.SmallInteger, nullable=False),
        sa.Column("overage_units", sa.SmallInteger, nullable=False),
        sa.Column("period_start", MOMENT, nullable=False),
        sa.Column("billed_hour", MOMENT, nullable=False),
        sa.Column("late", sa.Boolean, nullable=False),
        sa.Column("gateway", sa.Text, nullable=False),
        sa.Column("recorded_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint(*key, name="usage_ledger_pkey"),
        schema=SCHEMA,
    )
    divide_by_day_v1(SCHEMA, "usage_ledger", "started_at", key)
    op.create_index(
        "usage_ledger_of_account", "usage_ledger", ["account_id", "started_at", "request_id", "part"], schema=SCHEMA
    )

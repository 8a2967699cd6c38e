"""The tables of billing."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
)
from sqlalchemy.dialects.postgresql import ARRAY

from services.shared.days import DayPartitions, by_day
from services.shared.tables import stage_tables

metadata = MetaData(schema="billing")
#: Of the five, billing uses the outbox and its position: it says things on the bus, and reads nothing from it.
stage = stage_tables(metadata)
days = DayPartitions(metadata)

account = Table(
    "account",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("email", Text, nullable=False),
    Column("api_access_enabled", Boolean, nullable=False),
    Column("api_plan_code", Text, nullable=False),
    Column("api_usage_soft_limit", Integer, nullable=False),
    #: Cents for 1,000 units.
    Column("api_overage_rate_cents", Integer, nullable=False),
    #: GOOD, GRACE, SUSPENDED.
    Column("standing", Text, nullable=False),
    Column("rate_class", Text, nullable=False),
    Column("period_anchor", DateTime(timezone=True), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    #: The access table's revision at which it last changed, its usage included.
    Column("revision", BigInteger, nullable=False),
    Index("account_by_revision", "revision"),
)

api_key = Table(
    "api_key",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account_id", Text, ForeignKey("billing.account.id"), nullable=False),
    #: The first of the keys that this one succeeded by rotation; itself where none.
    Column("lineage", Text, nullable=False),
    Column("replaces", Text, ForeignKey("billing.api_key.id")),
    Column("name", Text, nullable=False),
    Column("live", Boolean, nullable=False),
    Column("pepper_version", SmallInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("hint", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("allowed_addresses", ARRAY(Text), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True)),
    Column("last_used_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
    #: revoked, rotated, leaked; null for a key that is not revoked.
    Column("revoked_reason", Text),
    Column("revision", BigInteger, nullable=False),
    UniqueConstraint("pepper_version", "hash"),
    Index("api_key_by_revision", "revision"),
    Index("api_key_of_account", "account_id", "created_at"),
)

#: One row: what the access table is, and its newest revision. Whoever changes an account or a key takes the next one
#: last in his transaction, so that revisions become visible in their order.
access_table = Table(
    "access_table",
    metadata,
    Column("singleton", Boolean, CheckConstraint("singleton", name="access_table_has_one_row"), primary_key=True),
    Column("epoch", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
)

#: What a caller's idempotency key led to, without any secret.
idempotency = Table(
    "idempotency",
    metadata,
    #: The account, or the service of ours, that called.
    Column("caller", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("method", Text, nullable=False),
    Column("request_digest", LargeBinary, nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("noted_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("idempotency_by_time", "noted_at"),
)

#: A period of an account in which something was counted, with the limit that holds in it.
usage_period = Table(
    "usage_period",
    metadata,
    Column("account_id", Text, ForeignKey("billing.account.id"), primary_key=True),
    Column("period_start", DateTime(timezone=True), primary_key=True),
    Column("period_end", DateTime(timezone=True), nullable=False),
    Column("soft_limit", Integer, nullable=False),
    Column("overage_rate_cents", Integer, nullable=False),
    Column("used_units", BigInteger, nullable=False),
    Column("overage_units", BigInteger, nullable=False),
)

usage_notice = Table(
    "usage_notice",
    metadata,
    Column("account_id", Text, primary_key=True),
    Column("period_start", DateTime(timezone=True), primary_key=True),
    Column("threshold_percent", SmallInteger, primary_key=True, autoincrement=False),
    Column("reached_at", DateTime(timezone=True), nullable=False),
    Column("used_units", BigInteger, nullable=False),
    Column("included_units", BigInteger, nullable=False),
)

#: Every served call, and every stretch of a stream: what all sums are made of.
usage_ledger = Table(
    "usage_ledger",
    metadata,
    Column("started_at", DateTime(timezone=True), nullable=False),
    Column("request_id", Text, nullable=False),
    #: 0 for a call; of a stream the number of the stretch, from 0.
    Column("part", SmallInteger, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("units", SmallInteger, nullable=False),
    Column("overage_units", SmallInteger, nullable=False),
    Column("period_start", DateTime(timezone=True), nullable=False),
    Column("billed_hour", DateTime(timezone=True), nullable=False),
    Column("late", Boolean, nullable=False),
    Column("gateway", Text, nullable=False),
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    # The time is part of the key because the table is divided by it; a request has one time, so its id alone decides.
    PrimaryKeyConstraint("started_at", "request_id", "part"),
    Index("usage_ledger_of_account", "account_id", "started_at", "request_id", "part"),
    postgresql_partition_by=by_day("started_at"),
)

#: Counters by key and day (UTC). A day in which a period ends and the next one begins is there for both.
usage_day = Table(
    "usage_day",
    metadata,
    Column("account_id", Text, primary_key=True),
    Column("day", Date, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("period_start", DateTime(timezone=True), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("units", BigInteger, nullable=False),
)

#: What is billed for one hour of one period. Sealed: nothing is added any more, and it may be sent.
usage_rollup = Table(
    "usage_rollup",
    metadata,
    Column("account_id", Text, primary_key=True),
    Column("hour", DateTime(timezone=True), primary_key=True),
    Column("period_start", DateTime(timezone=True), primary_key=True),
    Column("units", BigInteger, nullable=False),
    Column("overage_units", BigInteger, nullable=False),
    #: Of `units`, those of an earlier hour that became known after that one was sealed.
    Column("late_units", BigInteger, nullable=False),
    Column("sealed_at", DateTime(timezone=True)),
    Index("usage_rollup_unsealed", "hour", postgresql_where="sealed_at IS NULL"),
)

#: Hours that are closed for every account: `sealed_until` is where the open ones begin.
usage_clock = Table(
    "usage_clock",
    metadata,
    Column("singleton", Boolean, CheckConstraint("singleton", name="usage_clock_has_one_row"), primary_key=True),
    Column("sealed_until", DateTime(timezone=True), nullable=False),
)

usage_anomaly = Table(
    "usage_anomaly",
    metadata,
    Column("account_id", Text, primary_key=True),
    Column("hour", DateTime(timezone=True), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("units", BigInteger, nullable=False),
    Column("noted_at", DateTime(timezone=True), nullable=False),
)

#: Lines that could not be counted: of no account that we know, or of an impossible time. For somebody to look at.
usage_unrated = Table(
    "usage_unrated",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("line", LargeBinary, nullable=False),
    Column("noted_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

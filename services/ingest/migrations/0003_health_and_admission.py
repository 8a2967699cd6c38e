"""More about how a feed is doing, and the operators' decisions about books that the code does not know."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SCHEMA = "ingest"
ROLE = "ingest"
MOMENT = sa.DateTime(timezone=True)
NOTHING = sa.text("'{}'")

BOOK_HEALTH = (
    ("observed_at", MOMENT, None),
    ("seen_at", MOMENT, None),
    ("quoted_until", MOMENT, None),
    ("asked", sa.Boolean, sa.false()),
    ("recent_quotes", sa.Double, sa.text("0")),
    ("recent_changes", sa.Double, sa.text("0")),
)

COMPARISON = (
    ("compared_at", MOMENT, None),
    ("compared_quotes", sa.Integer, sa.text("0")),
    ("spread_points", sa.Double, None),
    ("total_points", sa.Double, None),
    ("h2h_probability", sa.Double, None),
    ("closest_book", sa.Text, sa.text("''")),
    ("closest_share", sa.Double, None),
)


def upgrade() -> None:
    """Adds columns with defaults, so that yesterday's code goes on writing, and the log that is only written to."""
    op.add_column("feed_health", sa.Column("failed_at", MOMENT), schema=SCHEMA)
    for table, columns in (("book_health", BOOK_HEALTH), ("quarantined_books", COMPARISON)):
        for name, kind, default in columns:
            column = sa.Column(name, kind, nullable=default is None, server_default=default)
            op.add_column(table, column, schema=SCHEMA)
    op.add_column(
        "polls", sa.Column("books_revision", sa.Integer, nullable=False, server_default=sa.text("0")), schema=SCHEMA
    )
    for name in ("sports", "markets"):
        op.add_column(
            "quarantined_books",
            sa.Column(name, sa.ARRAY(sa.Text), nullable=False, server_default=NOTHING),
            schema=SCHEMA,
        )
    op.create_table(
        "book_decisions",
        sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("book", sa.Text, nullable=False),
        sa.Column("before", sa.Text, nullable=False),
        sa.Column("after", sa.Text, nullable=False),
        sa.Column("effective_from", MOMENT, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("decided_at", MOMENT, nullable=False, server_default=sa.func.now()),
        schema=SCHEMA,
    )
    op.execute(sa.text(f"REVOKE UPDATE, DELETE, TRUNCATE ON {SCHEMA}.book_decisions FROM {ROLE}"))


def downgrade() -> None:
    """Takes it all away again."""
    op.drop_table("book_decisions", schema=SCHEMA)
    for name in ("sports", "markets"):
        op.drop_column("quarantined_books", name, schema=SCHEMA)
    op.drop_column("polls", "books_revision", schema=SCHEMA)
    for table, columns in (("quarantined_books", COMPARISON), ("book_health", BOOK_HEALTH)):
        for name, _, _ in columns:
            op.drop_column(table, name, schema=SCHEMA)
    op.drop_column("feed_health", "failed_at", schema=SCHEMA)

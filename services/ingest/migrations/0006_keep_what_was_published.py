"""What was published stays in the outbox for a while, so that a stream that was made again can be filled again."""

from __future__ import annotations

from services.shared.migrations.tables import forget_what_was_published_v1, keep_what_was_published_v1

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SCHEMA = "ingest"


def upgrade() -> None:
    keep_what_was_published_v1(SCHEMA)


def downgrade() -> None:
    forget_what_was_published_v1(SCHEMA)

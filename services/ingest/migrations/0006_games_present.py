"""The games of a sport are looked up by whether they are there; when they were seen last changes with every poll."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0001"
branch_labels = None
depends_on = None

SCHEMA = "ingest"


def upgrade() -> None:
    """Indexes the games that the last poll showed, which is how the poller looks for them."""
    op.drop_index("games_by_sport", "games", schema=SCHEMA)
    op.create_index("games_present", "games", ["sport_key"], schema=SCHEMA, postgresql_where=sa.text("NOT gone"))


def downgrade() -> None:
    """Makes the old index again."""
    op.drop_index("games_present", "games", schema=SCHEMA)
    op.create_index("games_by_sport", "games", ["sport_key", "observed_at"], schema=SCHEMA)

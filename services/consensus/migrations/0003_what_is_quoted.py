"""`current_market` only says what is quoted: what it is worth is made of the states of the events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "consensus_0003"
down_revision = "consensus_0002"
branch_labels = None
depends_on = None

SCHEMA = "consensus"


def upgrade() -> None:
    """Drops what is not written any more."""
    op.drop_column("current_market", "view", schema=SCHEMA)
    op.drop_column("current_market", "observed_at", schema=SCHEMA)


def downgrade() -> None:
    """Makes the columns again, empty: what was in them comes with the next keyframe of each event."""
    op.add_column("current_market", sa.Column("observed_at", sa.DateTime(timezone=True)), schema=SCHEMA)
    op.add_column("current_market", sa.Column("view", sa.LargeBinary), schema=SCHEMA)

"""What each poll led to here, and the trace of a message that waits to be published."""

from __future__ import annotations

from services.shared.migrations.tables import (
    add_traceparent_v1,
    create_stage_cycles_v1,
    drop_stage_cycles_v1,
    drop_traceparent_v1,
)

revision = "signals_0005"
down_revision = "signals_0002"
branch_labels = None
depends_on = None

SCHEMA = "signals"


def upgrade() -> None:
    """Adds both."""
    create_stage_cycles_v1(SCHEMA)
    add_traceparent_v1(SCHEMA)


def downgrade() -> None:
    """Removes both."""
    drop_traceparent_v1(SCHEMA)
    drop_stage_cycles_v1(SCHEMA)

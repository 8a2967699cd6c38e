"""What billing keeps how long."""

from __future__ import annotations

from collections.abc import Sequence

from services.billing import tables
from services.billing.config import Config
from services.shared.keeping import Days, Kept, Rows


def kept(config: Config) -> Sequence[Kept]:
    """Every table that grows with the calls, with its time. Accounts, keys, periods, notices and roll-ups stay: they
    are few, and what was billed is explained by them."""
    dead_letter, unrated, idempotency = tables.stage.dead_letter, tables.usage_unrated, tables.idempotency
    return (
        Days(tables.usage_ledger, config.billing_ledger_retention_days),
        Rows(unrated, unrated.c.noted_at, config.billing_unrated_retention_days),
        Rows(idempotency, idempotency.c.noted_at, config.billing_idempotency_retention_days),
        Rows(dead_letter, dead_letter.c.noted_at, config.billing_dead_letters_retention_days),
    )

"""What ingest keeps how long."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec.structs import replace

from services.ingest import store
from services.ingest.config import Config
from services.shared.keeping import Days, Kept, Rows, States

#: Whoever asked for a keyframe asks again with every message that it cannot apply.
KEYFRAME_REQUEST_DAYS = 1.0


def kept(config: Config) -> Sequence[Kept]:
    """Every table that grows, with its time. Finished backfills are no such table: the row of one is all that keeps
    the same command from buying the same past again."""
    return (
        Days(store.odds_snapshots, config.ingest_snapshots_retention_days),
        Days(store.disappearances, config.ingest_snapshots_retention_days),
        Rows(store.cycles, store.cycles.c.observed_at, config.ingest_polls_retention_days),
        Rows(store.credit_reservations, store.credit_reservations.c.reserved_at, config.ingest_polls_retention_days),
        Rows(store.polls, store.polls.c.observed_at, config.ingest_polls_retention_days),
        Rows(store.stage.dead_letter, store.stage.dead_letter.c.noted_at, config.ingest_dead_letters_retention_days),
        Rows(store.keyframe_requests, store.keyframe_requests.c.requested_at, KEYFRAME_REQUEST_DAYS),
        States(store.stage.event_state, config.ingest_states_retention_days, forgotten),
    )


def forgotten(stored: bytes, before: datetime) -> bytes | None:
    """The state of an event that was last observed, and was gone, before a time, without its quotes.

    An event that is not gone stays: when its sport is polled again, its end has still to be told.
    """
    state = store.state_from(stored)
    if not state.gone or state.observed_at >= before or not (state.quotes or state.absent):
        return None
    return store.StateRows().row(replace(state, keys=(), quotes=(), seen_at=(), readings=(), told=(), absent=()))

"""What the signals service keeps how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select, update

from services.shared.keeping import Days, Kept, Report, Rows, Run, States, removed
from services.signals import store, wire
from services.signals.config import Config


def kept(config: Config) -> Sequence[Kept]:
    """Every table that grows, with its time. Configurations stay: there are few, and old signals are explained by
    them."""
    dead_letter = store.stage.dead_letter
    return (
        Signals(config.signals_retention_days),
        Days(store.suppression, config.signals_suppressions_retention_days),
        Rows(dead_letter, dead_letter.c.noted_at, config.signals_dead_letters_retention_days),
        Rows(store.cycles, store.cycles.c.observed_at, config.signals_cycles_retention_days),
        States(store.stage.event_state, config.signals_states_retention_days, forgotten),
    )


def forgotten(stored: bytes, before: datetime) -> bytes | None:
    """The state of an event that was last observed before a time, as it was before its first update."""
    state = wire.load_state(stored)
    return None if state is None or state.observed_at >= before else wire.dump_state(None)


@dataclass(frozen=True, slots=True)
class Signals:
    """The feed, by when its signals were published. A cursor from before what is left is answered `truncated`."""

    kept_days: float

    def keep(self, run: Run) -> Report:
        """Removes the oldest signals: one stretch from the beginning, as positions and times of publishing rise
        together. First the feed says up to where they are gone, then they go, so that no reader finds a hole."""
        report = Report(store.signal.fullname, self.kept_days)
        if self.kept_days == 0:
            return report
        trimmed = self._newest_before(run)
        if trimmed is None:
            return report
        if not run.dry:
            gone = func.greatest(store.feed.c.trimmed_position, trimmed)
            with run.connection.begin():
                run.connection.execute(update(store.feed).values(trimmed_position=gone))
        report.rows_removed = removed(run, store.signal, store.signal.c.feed_position <= trimmed)
        return report

    def _newest_before(self, run: Run) -> int | None:
        """The highest position of a signal whose time is over, found by halving: no index by time is needed for it."""
        before, column = run.before(self.kept_days), store.signal.c
        first_behind = select(column.feed_position, column.published_at).order_by(column.feed_position).limit(1)
        with run.connection.begin():
            low, high = 0, run.connection.scalar(select(store.feed.c.position)) or 0
            found = None
            while low < high:
                middle = (low + high) // 2
                row = run.connection.execute(first_behind.where(column.feed_position > middle)).one_or_none()
                if row is None or row.published_at >= before:
                    high = middle
                else:
                    found = low = row.feed_position
        return found

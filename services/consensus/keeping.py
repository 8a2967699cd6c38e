"""What consensus keeps how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import exists, update

from services.consensus import store
from services.consensus.config import Config
from services.consensus.events import dump_state, load_state
from services.consensus.model import EventState
from services.shared.keeping import Days, Kept, Report, Rows, Run, States, removed


def kept(config: Config) -> Sequence[Kept]:
    """Every table that grows, with its time. Games stay: they are a few hundred bytes each, and what finds the rest."""
    silent_days = config.consensus_states_retention_days
    return (
        Days(store.consensus_snapshots, config.consensus_snapshots_retention_days),
        Days(store.quote_history, config.consensus_quotes_retention_days),
        Rows(store.stage.dead_letter, store.stage.dead_letter.c.noted_at, config.consensus_dead_letters_retention_days),
        Rows(store.cycles, store.cycles.c.observed_at, config.consensus_cycles_retention_days),
        States(store.stage.event_state, silent_days, forgotten),
        SilentMarkets(silent_days),
        SilentGames(silent_days),
    )


def forgotten(stored: bytes, before: datetime) -> bytes | None:
    """The state of an event that was last observed before a time: how many messages it has led to, and no more."""
    state = load_state(stored)
    if not state.coverage or state.coverage[-1].observed_at >= before:
        return None
    return dump_state(EventState(revision=state.revision))


@dataclass(frozen=True, slots=True)
class SilentMarkets:
    """Present markets of events that nobody has observed for long: nobody told their end, and they are no present."""

    kept_days: float

    def keep(self, run: Run) -> Report:
        """Removes them."""
        report = Report(store.current_market.fullname, self.kept_days)
        if self.kept_days:
            games, market = store.games.c, store.current_market.c
            silent = exists().where(games.event_id == market.event_id, games.observed_at < run.before(self.kept_days))
            report.rows_removed = removed(run, store.current_market, silent)
        return report


@dataclass(frozen=True, slots=True)
class SilentGames:
    """Games that nobody has observed for long and that would be listed as not over for ever."""

    kept_days: float

    def keep(self, run: Run) -> Report:
        """Says of them that nobody quotes them. The rows stay, and none counts as removed."""
        report = Report(store.games.fullname, 0)
        if self.kept_days and not run.dry:
            games = store.games.c
            silent = (games.books > 0) & (games.observed_at < run.before(self.kept_days))
            with run.connection.begin():
                run.connection.execute(update(store.games).where(silent).values(books=0, markets=[]))
        return report

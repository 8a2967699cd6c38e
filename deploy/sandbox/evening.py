"""The evening that test keys read: which games, when, and what the provider answered each minute. Pure.

It comes from the simulated market, because what a provider answered may not be handed on. Its times are fixed, so that
a filter by time finds the same whenever it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from deploy.simulator.market import Market
from deploy.simulator.server import asked, odds_shown
from services.consensus.board import BoardRules
from services.consensus.config import Config as ConsensusConfig
from services.shared.identity import configuration_hash
from services.signals.rules.settings import RuleSettings

#: A Thursday, 15:00 in New York: the first game begins a quarter of an hour later.
BEGINS_AT = datetime(2026, 1, 15, 20, 0, tzinfo=UTC)
CADENCE = timedelta(seconds=60)
#: What each answer was asked for.
QUERY = {"regions": "us", "markets": "h2h,spreads,totals"}
#: Raised when the same seed makes another evening, by a change of the market or of the rules that no setting tells of.
EDITION = 1


def board_rules() -> BoardRules:
    """How the evening is priced: as by default, whatever the services beside are set to."""
    return ConsensusConfig.model_construct().board_rules()


def rule_settings() -> RuleSettings:
    """By what its signals were found: as by default, whatever the services beside are set to."""
    return RuleSettings()


@dataclass(frozen=True, slots=True)
class Evening:
    """One recorded evening."""

    seed: int
    games: int
    minutes: int

    @property
    def ends_at(self) -> datetime:
        """The newest observation."""
        return BEGINS_AT + timedelta(minutes=self.minutes)

    @property
    def name(self) -> str:
        """16 hex digits that stand for everything the evening is made from: equal names, equal evenings."""
        return configuration_hash(
            {
                "evening": asdict(self),
                "begins_at": BEGINS_AT.isoformat(),
                "edition": EDITION,
                "consensus": board_rules().config_hash,
                "signals": rule_settings().config_hash,
            }
        )

    def answers(self) -> Iterator[tuple[datetime, list[dict[str, Any]]]]:
        """What the provider answered, and when, from the first to the last."""
        market = Market(self.seed, BEGINS_AT)
        games = [market.game(number) for number in range(self.games)]
        want = asked(QUERY)
        for minute in range(self.minutes + 1):
            at = BEGINS_AT + minute * CADENCE
            boards = [game.board(at) for game in games if game.listed_at <= at < game.ends_at]
            boards.sort(key=lambda board: (board.commence_time, board.id))
            yield at, [odds_shown(board, want) for board in boards]

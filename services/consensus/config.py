"""The settings of consensus, from the environment."""

from __future__ import annotations

from dataclasses import asdict
from typing import ClassVar

from pydantic import Field

from services.consensus.board import BoardRules
from services.consensus.pricing import PricingRules
from services.shared.config import SHARED_PREFIX, RetentionDays, ServiceConfig
from services.shared.identity import configuration_hash
from services.shared.odds import MarketKind, MarketModel


class Config(ServiceConfig):
    """Read once, in main."""

    prefixes: ClassVar[tuple[str, ...]] = (SHARED_PREFIX, "CONSENSUS_")

    grpc_port: int = Field(default=50052, ge=0, le=65535)
    metrics_port: int = Field(default=9102, ge=0, le=65535)
    #: Fewer clusters than this make no consensus.
    consensus_min_books: int = Field(default=4, ge=1)
    #: An unchanged market's row is repeated after this much event time.
    consensus_heartbeat_seconds: float = Field(default=600.0, gt=0)
    #: How far a book must stand from the others to be called dislocated: in points, points and probability.
    consensus_dislocation_spread: float = Field(default=1.0, gt=0)
    consensus_dislocation_total: float = Field(default=2.0, gt=0)
    consensus_dislocation_probability: float = Field(default=0.03, gt=0, lt=1)
    #: A quote this many times as far from this many other clusters is implausible.
    consensus_implausible_multiple: float = Field(default=4.0, gt=0)
    consensus_implausible_clusters: int = Field(default=3, ge=1)
    #: Messages that are folded in one transaction.
    consensus_batch_size: int = Field(default=500, ge=1)
    #: Where ingest answers, host:port; it is asked for a keyframe when a message was missed. Empty: wait for the next.
    consensus_ingest_address: str = ""
    #: How long retention keeps things: consensus rows, what each book quoted, messages that could not be read, and what
    #: is remembered of a game that nobody observes any more.
    consensus_snapshots_retention_days: RetentionDays = 400.0
    consensus_quotes_retention_days: RetentionDays = 400.0
    consensus_dead_letters_retention_days: RetentionDays = 30.0
    consensus_cycles_retention_days: RetentionDays = 90.0
    consensus_states_retention_days: RetentionDays = 30.0

    def board_rules(self) -> BoardRules:
        """How markets are priced and repeated, under the name that everything published carries."""
        pricing = PricingRules(
            market_model=MarketModel(consensus_min_books=self.consensus_min_books),
            dislocation_threshold={
                MarketKind.SPREAD: self.consensus_dislocation_spread,
                MarketKind.TOTAL: self.consensus_dislocation_total,
                MarketKind.H2H: self.consensus_dislocation_probability,
            },
            implausible_multiple=self.consensus_implausible_multiple,
            implausible_clusters=self.consensus_implausible_clusters,
        )
        settings = {"pricing": asdict(pricing), "heartbeat_seconds": self.consensus_heartbeat_seconds}
        return BoardRules(pricing, self.consensus_heartbeat_seconds, configuration_hash(settings))

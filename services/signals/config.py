"""Settings of the signals service. Every number of the rules is one; all of them are part of the configuration hash."""

from __future__ import annotations

from dataclasses import fields
from typing import ClassVar

from pydantic import Field, field_validator

from services.shared.config import RetentionDays, ServiceConfig
from services.shared.odds import MarketModel
from services.signals.feed import FeedLimits
from services.signals.rules.settings import WINDOW_SCALES, RuleSettings

_RULES = RuleSettings()


class Config(ServiceConfig):
    """What the rules decide by, and how the feed is served. The rules' defaults are written once, in `RuleSettings`."""

    prefixes: ClassVar[tuple[str, ...]] = (
        *ServiceConfig.prefixes,
        "SIGNALS_",
        "MOVE_",
        "KEY_CROSS_",
        "NBA_",
        "SYNC_",
        "STEAM_",
        "DISLOCATION_",
    )

    grpc_port: int = Field(default=50053, ge=0, le=65535)
    metrics_port: int = Field(default=9103, ge=0, le=65535)

    #: Which cadence the windows are cut for.
    signals_profile: str = _RULES.profile
    #: Where ingest answers, so that a gap need not wait for the next keyframe by itself; empty: it waits.
    signals_ingest_address: str = ""
    #: Where billing answers, so that the open streams of a key end with it; empty: they go on.
    signals_billing_address: str = ""
    #: Where the gateway gets the feed's pages by plain HTTP, at a third of what they cost over gRPC; 0: nowhere.
    signals_feed_host: str = "127.0.0.1"
    signals_feed_port: int = Field(default=0, ge=0, le=65535)
    #: How many streams there may be, and how many of them one account may have.
    signals_max_streams: int = Field(default=256, ge=1)
    signals_max_streams_of_one: int = Field(default=16, ge=1)
    signals_heartbeat_seconds: float = Field(default=15.0, gt=0)
    #: Just under the gateway's own limit of an hour, so that it is we who say why a stream ends.
    signals_stream_seconds: float = Field(default=3540.0, gt=0)
    #: How long retention keeps things: signals, which is also how far back a stream may resume; what was held back;
    #: messages that could not be read; what is remembered of a game that nobody observes any more.
    signals_retention_days: RetentionDays = 400.0
    signals_suppressions_retention_days: RetentionDays = 30.0
    signals_dead_letters_retention_days: RetentionDays = 30.0
    signals_cycles_retention_days: RetentionDays = 90.0
    signals_states_retention_days: RetentionDays = 30.0

    #: The consensus service's setting of the same name: part of what made a signal.
    consensus_min_books: int = Field(default=_RULES.model.consensus_min_books, ge=1)

    move_window_minutes: float = Field(default=_RULES.move_window_minutes, gt=0)
    move_window_minutes_total: float = Field(default=_RULES.move_window_minutes_total, gt=0)
    move_min_books: int = Field(default=_RULES.move_min_books, ge=1)
    move_min_spread: float = Field(default=_RULES.move_min_spread, gt=0)
    move_min_total: float = Field(default=_RULES.move_min_total, gt=0)
    move_min_h2h: float = Field(default=_RULES.move_min_h2h, gt=0, lt=1)
    key_cross_min_mass: float = Field(default=_RULES.key_cross_min_mass, gt=0, lt=1)
    nba_key_numbers: tuple[int, ...] = _RULES.nba_key_numbers
    sync_window_minutes: float = Field(default=_RULES.sync_window_minutes, gt=0)
    sync_min_books: int = Field(default=_RULES.sync_min_books, ge=1)
    sync_min_h2h: float = Field(default=_RULES.sync_min_h2h, gt=0, lt=1)
    sync_cooldown_seconds: float = Field(default=_RULES.sync_cooldown_seconds, ge=0)
    steam_window_minutes: float = Field(default=_RULES.steam_window_minutes, gt=0)
    steam_min_books: int = Field(default=_RULES.steam_min_books, ge=1)
    steam_min_move_spread: float = Field(default=_RULES.steam_min_move_spread, gt=0)
    steam_min_move_total: float = Field(default=_RULES.steam_min_move_total, gt=0)
    steam_max_against: int = Field(default=_RULES.steam_max_against, ge=0)
    steam_cooldown_seconds: float = Field(default=_RULES.steam_cooldown_seconds, ge=0)
    steam_max_per_event: int = Field(default=_RULES.steam_max_per_event, ge=1)
    dislocation_min_others: int = Field(default=_RULES.dislocation_min_others, ge=1)
    dislocation_min_spread: float = Field(default=_RULES.dislocation_min_spread, gt=0)
    dislocation_min_total: float = Field(default=_RULES.dislocation_min_total, gt=0)
    dislocation_min_h2h: float = Field(default=_RULES.dislocation_min_h2h, gt=0, lt=1)
    dislocation_end_share: float = Field(default=_RULES.dislocation_end_share, gt=0, le=1)
    dislocation_cooldown_seconds: float = Field(default=_RULES.dislocation_cooldown_seconds, ge=0)
    dislocation_max_per_event: int = Field(default=_RULES.dislocation_max_per_event, ge=1)

    @field_validator("signals_profile")
    @classmethod
    def _known_profile(cls, profile: str) -> str:
        if profile not in WINDOW_SCALES:
            raise ValueError(f"is one of {', '.join(WINDOW_SCALES)}")
        return profile

    @field_validator("nba_key_numbers", mode="before")
    @classmethod
    def _measured_margins(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        measured = _RULES.key_number_shares["basketball_nba"]
        margins = [part.strip() for part in value.split(",")]
        if not all(margin.isdigit() and int(margin) in measured for margin in margins):
            raise ValueError(f'is written like "3,7"; measured margins are {min(measured)} to {max(measured)}')
        return tuple(sorted({int(margin) for margin in margins}))

    def rule_settings(self) -> RuleSettings:
        """What the rules take, with what is given here in place of their defaults."""
        given = {field.name: getattr(self, field.name) for field in fields(RuleSettings) if hasattr(self, field.name)}
        market_model = MarketModel(consensus_min_books=self.consensus_min_books)
        return RuleSettings(profile=self.signals_profile, model=market_model, **given)

    def feed_limits(self) -> FeedLimits:
        """How the feed is served."""
        return FeedLimits(
            open_streams=self.signals_max_streams,
            streams_of_one=self.signals_max_streams_of_one,
            heartbeat_seconds=self.signals_heartbeat_seconds,
            stream_seconds=self.signals_stream_seconds,
        )

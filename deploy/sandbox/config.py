"""The settings of the sandbox, from the environment."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from deploy.sandbox.evening import Evening
from services.shared.config import SHARED_PREFIX, ServiceConfig
from services.signals.feed import FeedLimits


class Config(ServiceConfig):
    """Read once, in main. The database is one of its own, with the schemas of the three services that answer."""

    prefixes: ClassVar[tuple[str, ...]] = (SHARED_PREFIX, "SANDBOX_")

    grpc_port: int = Field(default=50055, ge=0, le=65535)
    metrics_port: int = Field(default=9108, ge=0, le=65535)
    #: Which evening: of this seed, so many games, and so many minutes long. Another one takes the place of the one that
    #: is there at the next start.
    sandbox_seed: int = 4
    sandbox_games: int = Field(default=6, ge=1, le=12)
    sandbox_minutes: int = Field(default=225, ge=10, le=540)
    #: A stream that is opened without a cursor is given a signal this often.
    sandbox_signal_seconds: float = Field(default=1.0, gt=0, le=60)
    #: Where billing answers, so that the open streams of a key end with it; empty: they go on.
    sandbox_billing_address: str = ""
    sandbox_max_streams: int = Field(default=64, ge=1)
    sandbox_heartbeat_seconds: float = Field(default=15.0, gt=0)
    #: Just under the gateway's own limit of an hour, so that it is we who say why a stream ends.
    sandbox_stream_seconds: float = Field(default=3540.0, gt=0)
    #: How far this process steps back behind the others of its machine.
    sandbox_niceness: int = Field(default=10, ge=0, le=19)

    @property
    def evening(self) -> Evening:
        """What is recorded."""
        return Evening(self.sandbox_seed, self.sandbox_games, self.sandbox_minutes)

    def feed_limits(self) -> FeedLimits:
        """How the stream is served."""
        return FeedLimits(
            open_streams=self.sandbox_max_streams,
            heartbeat_seconds=self.sandbox_heartbeat_seconds,
            stream_seconds=self.sandbox_stream_seconds,
        )

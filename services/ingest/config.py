"""Settings of ingest: where the provider is, what to ask it for, how often, and when to give up."""

from __future__ import annotations

from typing import ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from services.ingest.bookmakers import canonical_book
from services.ingest.cadence import Cadence
from services.ingest.costs import Endpoint, forecast
from services.shared.config import SHARED_PREFIX, CommaSeparated, RetentionDays, ServiceConfig

#: The provider's own hosts. Another company is called almost the same, and a key sent there is a key lost.
PROVIDER_HOSTS = ("api.the-odds-api.com", "ipv6-api.the-odds-api.com")
#: The smallest plan that is paid for. Whoever has a larger one says so; the free one ends sooner by itself.
SMALLEST_PLAN_CREDITS = 20_000
#: A day may spend a twentieth of a month: one and a half times its even share, since some nights have more games.
DAYS_OF_A_MONTH = 20
#: Books and the region that the provider reads twice as often as the others.
EXCHANGES = frozenset(
    {
        "us_ex",
        "betfair_ex_au",
        "betfair_ex_eu",
        "betfair_ex_uk",
        "betopenly",
        "kalshi",
        "matchbook",
        "novig",
        "polymarket",
        "prophetx",
        "smarkets",
    }
)
LOOK_ALIKES = ("the-odds-api.com", "theoddsapi.com", "odds-api.com", "oddsapi.com")


class Config(ServiceConfig):
    """What ingest needs to know."""

    prefixes: ClassVar[tuple[str, ...]] = (SHARED_PREFIX, "ODDS_API_", "INGEST_")

    grpc_port: int = Field(default=50051, ge=0, le=65535)
    metrics_port: int = Field(default=9101, ge=0, le=65535)

    #: Without a key nothing is asked of the provider; another base URL, such as a simulator's, may do without one.
    odds_api_key: SecretStr | None = None
    odds_api_base_url: str = "https://api.the-odds-api.com"
    odds_api_sports: CommaSeparated = ("basketball_nba",)
    odds_api_markets: CommaSeparated = ("h2h", "spreads", "totals")
    #: Markets that are sold event by event only, such as player_points: one call an event, soonest first.
    odds_api_event_markets: CommaSeparated = ()
    odds_api_regions: CommaSeparated = ("us",)
    #: Bookmakers by name, of any region; ten cost what one region does. Given, they replace the regions.
    odds_api_bookmakers: CommaSeparated = ()
    #: Always this long between two polls of a sport; without it `cadence` decides by what is on and what is left.
    odds_api_poll_interval_seconds: float | None = Field(default=None, ge=1.0)
    #: Seconds between two polls by what is on: a game tomorrow, within six, three and one hours, about to begin, late,
    #: watched in play; and between two looks at the list of games, which are free, while nothing is on.
    odds_api_early_seconds: float = Field(default=1800.0, ge=1.0)
    odds_api_far_seconds: float = Field(default=900.0, ge=1.0)
    odds_api_approach_seconds: float = Field(default=300.0, ge=1.0)
    odds_api_near_seconds: float = Field(default=60.0, ge=1.0)
    odds_api_close_seconds: float = Field(default=60.0, ge=1.0)
    odds_api_late_seconds: float = Field(default=60.0, ge=1.0)
    odds_api_in_play_seconds: float = Field(default=40.0, ge=1.0)
    odds_api_idle_seconds: float = Field(default=300.0, ge=1.0)
    #: How long before a tip its closing price is asked for.
    odds_api_capture_lead_seconds: float = Field(default=45.0, ge=0.0)
    #: Credits that may be spent in a month and in a day, in UTC. By default the provider's smallest paid plan and a
    #: twentieth of the month; a stand-in for the provider costs nothing and has no limit.
    odds_api_month_credits: int | None = Field(default=None, ge=0)
    odds_api_day_credits: int | None = Field(default=None, ge=0)
    #: The provider's limit; a stand-in has none.
    odds_api_requests_per_second: float = Field(default=30.0, gt=0)
    #: The provider's Date header may differ from our clock by this much before it is reported.
    odds_api_clock_skew_seconds: float = Field(default=10.0, gt=0)
    odds_api_http_timeout_seconds: float = Field(default=25.0, gt=0)
    #: Attempts in all, the first included.
    odds_api_retry_attempts: int = Field(default=3, ge=1, le=10)
    #: Pause before the second attempt; each further one doubles it, with jitter.
    odds_api_retry_backoff_seconds: float = Field(default=0.5, ge=0)
    #: How long the provider is left alone after three calls in a row have failed; doubled while it goes on failing.
    odds_api_circuit_seconds: float = Field(default=60.0, gt=0)
    #: Events asked for those in one cycle, at most.
    odds_api_max_events_per_cycle: int = Field(default=40, ge=0)
    #: The provider's past costs ten times its present, so it must be switched on.
    odds_api_historical_enabled: bool = False
    #: How far back a backfill reaches when it is not told.
    odds_api_historical_lookback_days: int = Field(default=7, ge=1)
    #: Where time comes from: our own clock, or the provider's Date header, which a simulator sends in its own time.
    odds_api_clock: Literal["system", "provider"] = "system"
    #: How much faster the provider's time runs than ours; only a simulator's does. Pauses are divided by it.
    odds_api_clock_rate: float = Field(default=1.0, gt=0)

    #: A poller that has not renewed its lease for this long may be replaced.
    ingest_lease_seconds: float = Field(default=10.0, ge=1.0)
    #: Responses of a backfill that are kept in one transaction, at most.
    ingest_backfill_batch: int = Field(default=16, ge=1)

    #: How long retention keeps things: snapshots and disappearances, the log of polls, messages that could not be read,
    #: and what is remembered of a game that is gone.
    ingest_snapshots_retention_days: RetentionDays = 400.0
    ingest_polls_retention_days: RetentionDays = 90.0
    ingest_dead_letters_retention_days: RetentionDays = 30.0
    ingest_states_retention_days: RetentionDays = 30.0

    @field_validator("odds_api_base_url")
    @classmethod
    def _is_the_provider(cls, value: str) -> str:
        """Refuses what looks like the provider and is not; any other address is somebody's explicit choice."""
        try:
            parts = urlsplit(value.rstrip("/"))
            host = parts.hostname or ""
        except ValueError:
            raise ValueError("is no address") from None
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.username:
            raise ValueError("is an http or https address without a user or a query")
        if host in PROVIDER_HOSTS:
            if parts.scheme != "https" or parts.port not in (None, 443):
                raise ValueError("the provider is asked over https: the key is in the address")
        elif any(host == name or host.endswith(f".{name}") for name in LOOK_ALIKES):
            raise ValueError(f"is not the provider, whose host is {PROVIDER_HOSTS[0]}")
        return value.rstrip("/").removesuffix("/v4")

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if not self.odds_api_markets:
            raise ValueError("ODDS_API_MARKETS names no market")
        if not self.odds_api_regions and not self.odds_api_bookmakers:
            raise ValueError("neither ODDS_API_REGIONS nor ODDS_API_BOOKMAKERS names anything")
        return self

    @property
    def is_live_provider(self) -> bool:
        """Whether calls go to the provider itself, where they cost credits."""
        return urlsplit(self.odds_api_base_url).hostname in PROVIDER_HOSTS

    @property
    def limits(self) -> tuple[int | None, int | None]:
        """Credits of a day and of a month; None is no limit."""
        month = self.odds_api_month_credits
        if month is None and self.is_live_provider:
            month = SMALLEST_PLAN_CREDITS
        day = self.odds_api_day_credits
        return (month // DAYS_OF_A_MONTH if day is None and month is not None else day), month

    @property
    def cadence(self) -> Cadence:
        """How often is asked in each phase."""
        return Cadence(
            fixed=self.odds_api_poll_interval_seconds,
            idle=self.odds_api_idle_seconds,
            early=self.odds_api_early_seconds,
            far=self.odds_api_far_seconds,
            approach=self.odds_api_approach_seconds,
            near=self.odds_api_near_seconds,
            close=self.odds_api_close_seconds,
            late=self.odds_api_late_seconds,
            in_play=self.odds_api_in_play_seconds,
            capture_lead=self.odds_api_capture_lead_seconds,
            exchanges=not EXCHANGES.isdisjoint(self.odds_api_bookmakers or self.odds_api_regions),
        )

    def cost(self, endpoint: Endpoint, markets: int) -> int:
        """The most credits that a call for so many markets can cost, of the books or regions of the settings."""
        return forecast(endpoint, markets, len(self.odds_api_regions), len(self.odds_api_bookmakers))

    @property
    def asked_books(self) -> tuple[str, ...]:
        """The bookmakers asked for, by the keys under which their quotes are kept; empty for every book."""
        return tuple(canonical_book(book) or book for book in self.odds_api_bookmakers)

    @property
    def polls(self) -> bool:
        """Whether there is anyone to ask: the provider with a key, or another server."""
        return self.odds_api_key is not None or not self.is_live_provider

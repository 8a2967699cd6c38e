"""Every number that the rules decide by. All of them, with the market's tables, make the configuration hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from services.shared.identity import configuration_hash
from services.shared.odds import MarketKind, MarketModel

RULES_VERSION = "v1"

#: How far each profile stretches the windows, so that they suit a cadence. Thresholds and cooldowns stay.
WINDOW_SCALES: Mapping[str, float] = {"live": 1.0, "sampled-5m": 1.25, "sampled-15m": 3.2, "sampled-2h": 14.0}


def _key_number_shares() -> dict[str, dict[int, float]]:
    # Share of NBA games that the favourite wins by exactly k, among those whose closing line was within 1.5 of k:
    # 16,476 games, 2007-08 to 2019-20. To be measured again on our own scores.
    shares = (0.0249, 0.0317, 0.0372, 0.0328, 0.0405, 0.0370, 0.0468, 0.0440, 0.0392, 0.0405, 0.0348, 0.0372)
    return {"basketball_nba": dict(enumerate(shares, start=1))}


@dataclass(frozen=True)  # without slots, because the hash is kept beside the fields
class RuleSettings:
    """Thresholds, windows, cooldowns and caps. Raises ValueError for a profile that does not exist.

    Windows are minutes as the live profile has them; `window_seconds` stretches them. Spreads and totals count in
    points, h2h in probability.
    """

    profile: str = "live"
    model: MarketModel = field(default_factory=MarketModel)

    move_window_minutes: float = 10.0
    move_window_minutes_total: float = 15.0
    move_min_books: int = 4
    move_min_spread: float = 0.5
    move_min_total: float = 1.0
    move_min_h2h: float = 0.015

    key_cross_min_mass: float = 0.03
    #: The margins that count as key numbers in NBA spreads.
    nba_key_numbers: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8, 10)
    key_number_version: str = "2020-nba"
    #: By sport: share of games decided by exactly this margin when the line stands near it. No sport, no KEY_CROSS.
    key_number_shares: Mapping[str, Mapping[int, float]] = field(default_factory=_key_number_shares)

    sync_window_minutes: float = 5.0
    sync_min_books: int = 3
    sync_min_h2h: float = 0.006
    sync_cooldown_seconds: float = 300.0

    steam_window_minutes: float = 3.0
    steam_min_books: int = 4
    steam_min_move_spread: float = 0.5
    steam_min_move_total: float = 1.0
    steam_max_against: int = 1
    steam_cooldown_seconds: float = 900.0
    steam_max_per_event: int = 4

    dislocation_min_others: int = 5
    dislocation_min_spread: float = 1.0
    dislocation_min_total: float = 2.0
    dislocation_min_h2h: float = 0.03
    #: An episode ends below this share of its threshold.
    dislocation_end_share: float = 0.75
    dislocation_cooldown_seconds: float = 900.0
    dislocation_max_per_event: int = 6

    #: Caps count what was published in this span before an observation.
    cap_minutes: float = 60.0
    #: A window starts at the newest observation that is at least this share of it old.
    window_start_share: float = 0.9
    #: The longest that a move, or one change in it, may have taken, as a share of the window.
    elapsed_share: float = 1.1
    #: A quote outlives its last poll by this many intervals, and by no less than the floor.
    alive_intervals: float = 3.0
    alive_floor_seconds: float = 180.0

    tier_high: float = 75.0
    tier_medium: float = 55.0

    def __post_init__(self) -> None:
        if self.profile not in WINDOW_SCALES:
            raise ValueError(f"no profile {self.profile!r}: one of {', '.join(WINDOW_SCALES)}")

    def window_seconds(self, minutes: float) -> float:
        """A window's length under the profile."""
        return minutes * 60.0 * WINDOW_SCALES[self.profile]

    def move_window_seconds(self, kind: MarketKind) -> float:
        """MOVE's and KEY_CROSS's window: longer for totals, which books reprice more slowly."""
        return self.window_seconds(
            self.move_window_minutes_total if kind is MarketKind.TOTAL else self.move_window_minutes
        )

    def longest_window_seconds(self) -> float:
        """What bounds the memory of an event."""
        return self.window_seconds(
            max(
                self.move_window_minutes,
                self.move_window_minutes_total,
                self.sync_window_minutes,
                self.steam_window_minutes,
            )
        )

    def longest_cooldown_seconds(self) -> float:
        """How long what was said of a market must be remembered after the market has gone."""
        return max(self.sync_cooldown_seconds, self.steam_cooldown_seconds, self.dislocation_cooldown_seconds)

    def move_threshold(self, kind: MarketKind) -> float:
        """MOVE's threshold, by which SYNC and STEAM are scored too."""
        if kind is MarketKind.H2H:
            return self.move_min_h2h
        return self.move_min_spread if kind is MarketKind.SPREAD else self.move_min_total

    def step(self, kind: MarketKind) -> float:
        """The least change by which a book counts as having moved: any of a line, but h2h prices tremble."""
        return self.sync_min_h2h if kind is MarketKind.H2H else 0.0

    def steam_threshold(self, kind: MarketKind) -> float:
        """STEAM's threshold; it has none in h2h, where it is not looked for."""
        return self.steam_min_move_spread if kind is MarketKind.SPREAD else self.steam_min_move_total

    def dislocation_threshold(self, kind: MarketKind) -> float:
        """How far from the others a book stands apart."""
        if kind is MarketKind.H2H:
            return self.dislocation_min_h2h
        return self.dislocation_min_spread if kind is MarketKind.SPREAD else self.dislocation_min_total

    def alive_seconds(self, expected_interval_seconds: float) -> float:
        """How long a quote outlives the last poll that asked for it."""
        return max(self.alive_intervals * expected_interval_seconds, self.alive_floor_seconds)

    def key_numbers(self, sport_key: str) -> Mapping[int, float]:
        """Key margins of a sport with their shares; empty where nobody has measured them."""
        shares = self.key_number_shares.get(sport_key, {})
        return {margin: share for margin, share in shares.items() if margin in self.nba_key_numbers}

    def configuration(self) -> dict[str, Any]:
        """Everything behind the hash, as it is shown to whoever asks for an explanation."""
        return {"rules_version": RULES_VERSION, "window_scale": WINDOW_SCALES[self.profile], **asdict(self)}

    @cached_property
    def config_hash(self) -> str:
        """Names the configuration in every signal's id."""
        return configuration_hash(self.configuration())

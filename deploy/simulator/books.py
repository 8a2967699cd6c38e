"""Who quotes in the simulated market, and each one's habits.

Margins and reading intervals are those of the recorded WNBA series of July 2026 (medians by book); reaction times and
the shares of what goes wrong are chosen, within what those recordings allow.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BookProfile:
    """One bookmaker's habits. Times in seconds."""

    key: str
    title: str
    #: Sum of implied probabilities minus 1, on a head-to-head market and on points.
    margin_h2h: float
    margin_points: float
    #: How often the provider reads it; its quotes carry the time of the last reading.
    read_interval: float
    #: Median time to follow news.
    reaction: float
    #: Share of the market's steps that it sleeps through for a long while.
    sleeps_through: float
    #: Times a day that it disappears from an event for a few minutes.
    outages_a_day: float
    #: It opens an event this many hours before the start.
    opens_hours: float
    #: Books with the same feed move as one.
    feed: str


BOOKS = (
    BookProfile("betonlineag", "BetOnline.ag", 0.040, 0.047, 64, 25, 0.02, 0.15, 24, "betonlineag"),
    BookProfile("lowvig", "LowVig.ag", 0.040, 0.038, 64, 25, 0.02, 0.15, 24, "betonlineag"),
    BookProfile("draftkings", "DraftKings", 0.043, 0.0476, 70, 40, 0.03, 0.10, 24, "draftkings"),
    BookProfile("fanduel", "FanDuel", 0.050, 0.0476, 30, 35, 0.03, 0.05, 24, "fanduel"),
    BookProfile("betmgm", "BetMGM", 0.046, 0.0471, 75, 70, 0.05, 0.30, 8, "betmgm"),
    BookProfile("williamhill_us", "Caesars", 0.046, 0.0476, 110, 80, 0.06, 0.50, 24, "williamhill_us"),
    BookProfile("betrivers", "BetRivers", 0.053, 0.0540, 64, 60, 0.05, 0.20, 7, "betrivers"),
    BookProfile("fanatics", "Fanatics", 0.045, 0.0476, 68, 55, 0.04, 0.15, 8, "fanatics"),
    BookProfile("bovada", "Bovada", 0.049, 0.0471, 120, 90, 0.06, 0.40, 6, "bovada"),
    BookProfile("mybookieag", "MyBookie.ag", 0.050, 0.0476, 120, 150, 0.10, 0.80, 5, "mybookieag"),
)

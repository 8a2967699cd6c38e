"""What a call to the provider will cost in credits, before it is made. Pure.

The provider charges a region-equivalent per market: a region, or ten bookmakers begun. Empty answers are free, so these
are the most that a call can cost; `x-requests-last` says what it did.
"""

from __future__ import annotations

from enum import StrEnum

#: The past costs this many times the present.
HISTORICAL_FACTOR = 10
BOOKMAKERS_PER_REGION = 10


class Endpoint(StrEnum):
    """What can be asked of the provider."""

    SPORTS = "sports"
    EVENTS = "events"
    ODDS = "odds"
    EVENT_ODDS = "event_odds"
    EVENT_MARKETS = "event_markets"
    SCORES = "scores"
    HISTORICAL_ODDS = "historical_odds"
    HISTORICAL_EVENTS = "historical_events"
    HISTORICAL_EVENT_ODDS = "historical_event_odds"


def forecast(
    endpoint: Endpoint, markets: int = 1, regions: int = 1, bookmakers: int = 0, days_from: int | None = None
) -> int:
    """The most credits one call can cost. Bookmakers, when any are named, replace the regions.

    For scores `days_from` is how far back finished games are asked for; None asks for none.
    """
    sources = -(-bookmakers // BOOKMAKERS_PER_REGION) if bookmakers else regions
    match endpoint:
        case Endpoint.SPORTS | Endpoint.EVENTS:
            return 0
        case Endpoint.EVENT_MARKETS | Endpoint.HISTORICAL_EVENTS:
            return 1
        case Endpoint.SCORES:
            return 1 if days_from is None else 2
        case Endpoint.ODDS | Endpoint.EVENT_ODDS:
            return markets * sources
        case Endpoint.HISTORICAL_ODDS | Endpoint.HISTORICAL_EVENT_ODDS:
            return HISTORICAL_FACTOR * markets * sources

"""What calls are forecast to cost."""

from __future__ import annotations

from typing import Any

import pytest

from services.ingest.costs import Endpoint, forecast


@pytest.mark.parametrize(
    ("endpoint", "asked", "credits"),
    [
        (Endpoint.SPORTS, {}, 0),
        (Endpoint.EVENTS, {}, 0),
        (Endpoint.ODDS, {"markets": 3, "regions": 1}, 3),
        (Endpoint.ODDS, {"markets": 3, "regions": 2}, 6),
        (Endpoint.ODDS, {"markets": 3, "regions": 2, "bookmakers": 10}, 3),
        (Endpoint.ODDS, {"markets": 3, "bookmakers": 11}, 6),
        (Endpoint.EVENT_ODDS, {"markets": 2, "bookmakers": 1}, 2),
        (Endpoint.EVENT_MARKETS, {}, 1),
        (Endpoint.SCORES, {}, 1),
        (Endpoint.SCORES, {"days_from": 3}, 2),
        (Endpoint.HISTORICAL_ODDS, {"markets": 3, "regions": 2}, 60),
        (Endpoint.HISTORICAL_EVENTS, {}, 1),
        (Endpoint.HISTORICAL_EVENT_ODDS, {"markets": 1, "bookmakers": 12}, 20),
    ],
)
def test_a_call_costs_what_the_provider_says(endpoint: Endpoint, asked: dict[str, Any], credits: int) -> None:
    assert forecast(endpoint, **asked) == credits

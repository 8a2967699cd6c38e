"""Each failure that the simulator can be told to show is the one that the client knows by that name."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from deploy.provider import served
from deploy.simulator.mischief import KINDS, Mischief
from deploy.simulator.server import opened_now
from services.ingest import provider as provider_module
from services.ingest.config import Config
from services.ingest.provider import OddsApi, ProviderFailure, open_session
from services.ingest.testing import SPORT
from services.shared.clock import utc_now
from services.shared.testing import settings

#: What one poll comes to: the failure's kind, or that there is an answer.
SHOWN = {
    "key": "key_refused",
    "credits": "out_of_credits",
    "sport": "not_found",
    "market": "answered for h2h,spreads",
    "request": "invalid_request",
    "rate": "rate_limited",
    "down": "unavailable",
    "silent": "unavailable",
    "garbage": "unreadable_body",
    "half": "unavailable",
    "skew": "answered for h2h,spreads,totals",
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_failure_of_the_simulator_is_what_it_is_called(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_module, "FREQUENCY_PAUSE_SECONDS", 0.001)
    application = Mischief(kind).added_to(opened_now(utc_now, 1, 1.0).application())
    skews = provider_module.clock_skews_total._value.get()
    async with served(application, 0) as url, open_session() as session:
        config = settings(
            Config,
            odds_api_key=SecretStr("key"),
            odds_api_base_url=url,
            odds_api_http_timeout_seconds=0.2 if kind == "silent" else 20.0,
            # The simulated market opens at a full minute.
            odds_api_clock_skew_seconds=600.0,
            odds_api_retry_backoff_seconds=0.001,
        )
        api = OddsApi(session, config)
        try:
            shown = f"answered for {','.join((await api.odds(SPORT)).markets)}"
        except ProviderFailure as failure:
            shown = failure.kind
        if kind == "credits":
            assert len((await api.events(SPORT)).value) > 0
    assert shown == SHOWN[kind]
    assert (provider_module.clock_skews_total._value.get() > skews) == (kind == "skew")


async def test_only_a_share_fails_when_a_share_is_asked_for() -> None:
    application = Mischief("down", share=0.5).added_to(opened_now(utc_now, 1, 1.0).application())
    async with served(application, 0) as url, open_session() as session:
        api = OddsApi(session, settings(Config, odds_api_key=SecretStr("key"), odds_api_base_url=url))
        answers = []
        for _ in range(20):
            async with api._session.get(f"{url}/v4/sports", params={"apiKey": "key"}) as response:
                answers.append(response.status)
    assert set(answers) == {200, 503}

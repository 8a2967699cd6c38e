"""The client against a server on a real socket: what it asks, and what it makes of each kind of answer."""

from __future__ import annotations

import logging
import traceback
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from services.ingest import provider as provider_module
from services.ingest.config import Config
from services.ingest.normalize import Rejection, normalize
from services.ingest.provider import (
    HistoricalUnavailable,
    InvalidRequest,
    KeyRefused,
    NotFound,
    OddsApi,
    OutOfCredits,
    ProviderFailure,
    Quota,
    RateLimited,
    Unavailable,
    UnreadableBody,
    open_session,
)
from services.ingest.testing import SPORT, START, FakeProvider, Reply, a_book, an_event, moneyline
from services.shared.testing import settings

KEY = "planted-key-0123456789"


def a_refusal(status: int, code: str | None = None, message: str = "no") -> Reply:
    """An error body of the provider's."""
    return Reply({"message": message} | ({} if code is None else {"error_code": code}), status)


@pytest.fixture
async def api(provider: FakeProvider) -> AsyncIterator[OddsApi]:
    """The client, aimed at the test's provider, with next to no pauses."""
    async with open_session() as session:
        yield OddsApi(session, config_for(provider))


def config_for(provider: FakeProvider, **given: object) -> Config:
    """Settings that ask the test's provider."""
    return settings(
        Config,
        odds_api_key=SecretStr(KEY),
        odds_api_base_url=provider.url,
        odds_api_retry_backoff_seconds=0.001,
        **given,
    )


async def test_odds_are_asked_for_with_everything_that_is_kept(api: OddsApi, provider: FakeProvider) -> None:
    provider.will_say([an_event(a_book("draftkings", moneyline()))])
    answer = await api.odds(SPORT)
    (request,) = provider.requests
    assert request.path == "/v4/sports/basketball_nba/odds"
    assert request.headers["Accept-Encoding"] == "gzip"
    assert dict(request.query) == {
        "apiKey": KEY,
        "regions": "us",
        "markets": "h2h,spreads,totals",
        "oddsFormat": "decimal",
        "dateFormat": "iso",
        "includeLinks": "true",
        "includeSids": "true",
        "includeBetLimits": "true",
    }
    assert len(normalize(answer.value).events) == 1


async def test_bookmakers_replace_the_regions(provider: FakeProvider) -> None:
    provider.will_say([])
    async with open_session() as session:
        await OddsApi(session, config_for(provider, odds_api_bookmakers=("pinnacle", "fanduel"))).odds(SPORT)
    query = provider.requests[0].query
    assert query["bookmakers"] == "pinnacle,fanduel"
    assert "regions" not in query


@pytest.mark.parametrize(
    ("headers", "quota"),
    [
        ({}, Quota(None, None, None)),
        (
            {"x-requests-remaining": "-772", "x-requests-used": "20772", "x-requests-last": "3"},
            Quota(-772, 20772, 3),
        ),
        ({"x-requests-remaining": "9.0", "x-requests-used": "many"}, Quota(9, None, None)),
    ],
)
async def test_the_quota_is_what_the_headers_say_or_unknown(
    api: OddsApi, provider: FakeProvider, headers: dict[str, str], quota: Quota
) -> None:
    provider.will_say(Reply([], headers=headers))
    assert (await api.odds(SPORT)).quota == quota


@pytest.mark.parametrize(("headers", "spent"), [({}, 3), ({"x-requests-last": "0"}, 0), ({"x-requests-last": "5"}, 5)])
async def test_credits_are_counted_as_reported_and_else_as_forecast(
    api: OddsApi, provider: FakeProvider, headers: dict[str, str], spent: int
) -> None:
    counter = provider_module.credits_total.labels("odds")
    before = counter._value.get()
    provider.will_say(Reply([], headers=headers))
    await api.odds(SPORT)
    assert counter._value.get() - before == spent


async def test_the_answers_own_date_is_read(api: OddsApi, provider: FakeProvider) -> None:
    provider.will_say(Reply([], headers={"Date": "Thu, 15 Jan 2026 18:00:00 GMT"}))
    assert (await api.odds(SPORT)).dated == START


@pytest.mark.parametrize(
    ("reply", "kind", "attempts"),
    [
        (a_refusal(401, "INVALID_KEY"), KeyRefused, 1),
        (a_refusal(401), KeyRefused, 1),
        (a_refusal(401, "OUT_OF_USAGE_CREDITS"), OutOfCredits, 1),
        (a_refusal(401, "HISTORICAL_UNAVAILABLE_ON_FREE_USAGE_PLAN"), HistoricalUnavailable, 1),
        (a_refusal(404, "EVENT_NOT_FOUND"), NotFound, 1),
        (a_refusal(422, "MISSING_REGION"), InvalidRequest, 1),
        (Reply("", 302, {"Location": "http://elsewhere.invalid/"}), InvalidRequest, 1),
        (a_refusal(500), Unavailable, 3),
        (Reply("<html>bad gateway</html>", 502), Unavailable, 3),
        (Reply('[{"id": "cut o'), UnreadableBody, 3),
        (Reply(""), UnreadableBody, 3),
    ],
)
async def test_every_refusal_is_of_its_kind_and_only_passing_ones_are_tried_again(
    api: OddsApi, provider: FakeProvider, reply: Reply, kind: type[ProviderFailure], attempts: int
) -> None:
    provider.will_say(reply)
    with pytest.raises(kind) as caught:
        await api.odds(SPORT)
    assert type(caught.value) is kind
    assert len(provider.requests) == attempts


async def test_a_failure_that_passes_is_outlived(api: OddsApi, provider: FakeProvider) -> None:
    provider.will_say(a_refusal(503), Reply([an_event()]))
    assert len(normalize((await api.odds(SPORT)).value).events) == 1


async def test_too_many_calls_wait_before_the_next(
    api: OddsApi, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_module, "FREQUENCY_PAUSE_SECONDS", 0.2)
    provider.will_say(a_refusal(429, "EXCEEDED_FREQ_LIMIT"))
    with pytest.raises(RateLimited):
        await api.odds(SPORT)
    first, *_, last = provider.asked_at
    assert last - first >= 0.4


async def test_a_server_that_is_not_there_is_unavailable(provider: FakeProvider) -> None:
    config = config_for(provider).model_copy(update={"odds_api_base_url": "http://127.0.0.1:9"})
    async with open_session() as session:
        with pytest.raises(Unavailable):
            await OddsApi(session, config).odds(SPORT)


async def test_a_server_that_does_not_answer_in_time_is_unavailable(provider: FakeProvider) -> None:
    provider.will_be_silent()
    async with open_session() as session:
        with pytest.raises(Unavailable, match="TimeoutError"):
            await OddsApi(session, config_for(provider, odds_api_http_timeout_seconds=0.05)).odds(SPORT)


@pytest.mark.parametrize(
    "message", ["Invalid markets: totals", "Markets not supported by this endpoint: totals,player_points"]
)
async def test_a_market_that_is_refused_is_dropped_and_stays_dropped(
    api: OddsApi, provider: FakeProvider, message: str
) -> None:
    provider.will_say(a_refusal(422, "INVALID_MARKET", message), Reply([]))
    assert (await api.odds(SPORT)).markets == ("h2h", "spreads")
    await api.odds(SPORT)
    assert [request.query["markets"] for request in provider.requests] == [
        "h2h,spreads,totals",
        "h2h,spreads",
        "h2h,spreads",
    ]


async def test_a_refusal_that_names_no_market_of_ours_is_a_failure(api: OddsApi, provider: FakeProvider) -> None:
    provider.will_say(a_refusal(422, "INVALID_MARKET", "Invalid markets: nonsense"))
    with pytest.raises(InvalidRequest):
        await api.odds(SPORT)
    assert len(provider.requests) == 1


async def test_a_bare_nan_costs_one_quote_and_not_the_answer(api: OddsApi, provider: FakeProvider) -> None:
    provider.will_say(Reply([an_event(a_book("draftkings", moneyline(float("nan"))), a_book("betmgm", moneyline()))]))
    seen = normalize((await api.odds(SPORT)).value)
    assert [quote.book for quote in seen.events[0].quotes] == ["betmgm"]
    assert seen.rejected == {Rejection.PRICE_NOT_A_NUMBER: 1, Rejection.ONE_SIDED: 1}


@pytest.mark.parametrize(
    "reply",
    [
        a_refusal(401, "INVALID_KEY", f"the key {KEY} is wrong"),
        a_refusal(500, None, f"GET /v4/sports?apiKey={KEY}"),
        Reply('[{"id": "cut o'),
    ],
)
async def test_the_key_is_in_no_failure_and_no_log(
    api: OddsApi,
    provider: FakeProvider,
    reply: Reply,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    provider.will_say(reply)
    with pytest.raises(ProviderFailure) as caught:
        await api.odds(SPORT)
    said = "".join(traceback.format_exception(caught.value, chain=True)) + repr(caught.value) + caplog.text
    assert caught.value.__context__ is None
    assert KEY not in said + "".join(capfd.readouterr())


async def test_sports_events_scores_and_markets_are_typed(api: OddsApi, provider: FakeProvider) -> None:
    sport = {"key": SPORT, "group": "B", "title": "NBA", "description": "", "active": True, "has_outrights": False}
    event = {"id": "e", "sport_key": SPORT, "commence_time": "2026-01-15T18:00:00Z", "home_team": "L", "away_team": "C"}
    provider.will_say(
        [sport, {"key": "broken"}],
        [{**event, "home_rotation": None}],
        [{**event, "completed": True, "scores": [{"name": "L", "score": "101"}], "last_update": None}],
        Reply({**event, "bookmakers": [{"key": "fanduel", "markets": [{"key": "h2h"}]}]}),
    )
    assert [sport.key for sport in (await api.sports()).value] == [SPORT]
    assert (await api.events(SPORT)).value[0].commence_time == START
    (score,) = (await api.scores(SPORT, days_from=1)).value
    assert score.scores is not None
    assert score.scores[0].score == "101"
    assert (await api.event_markets(SPORT, "e")).value.bookmakers[0].markets[0].key == "h2h"
    assert [request.path.removeprefix("/v4/sports") for request in provider.requests] == [
        "",
        "/basketball_nba/events",
        "/basketball_nba/scores",
        "/basketball_nba/events/e/markets",
    ]


async def test_the_past_comes_with_its_neighbours(api: OddsApi, provider: FakeProvider) -> None:
    provider.remembers([(START, [an_event()]), (START.replace(hour=19), [])])
    page = (await api.historical_odds(SPORT, START.replace(minute=30))).value
    assert (page.timestamp, page.previous_timestamp, page.next_timestamp) == (START, None, START.replace(hour=19))
    assert provider.requests[0].query["date"] == "2026-01-15T18:30:00Z"

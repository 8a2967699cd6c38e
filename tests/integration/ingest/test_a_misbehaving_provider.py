"""What the poller does about each kind of failure: what it asks again, spends and says, and how long it waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from stratum.ingest.v1 import ingest_service_pb2 as pb
from stratum.ingest.v1.events_pb2 import EventObserved

from services.ingest import poller as poller_module
from services.ingest import provider as provider_module
from services.ingest import store
from services.ingest.api import IngestApi
from services.ingest.backfill import Backfill
from services.ingest.config import Config
from services.ingest.poller import Poller, acquire
from services.ingest.provider import HistoricalUnavailable, KeyRefused, OddsApi, open_session
from services.ingest.recorder import Recorder
from services.ingest.testing import SPORT, START, FakeProvider, Reply, a_book, an_event, minutes, spreads
from services.shared.bus import OBSERVATIONS, Bus
from services.shared.clock import utc_now
from services.shared.database import Database
from services.shared.outbox import Outbox
from services.shared.testing import eventually, settings, stored

MONTH = 100
UNLIMITED = {"odds_api_month_credits": None, "odds_api_day_credits": None}
PRICED = [an_event(a_book("draftkings", spreads(-5.5)), commence_time=START + timedelta(hours=6))]


def a_refusal(status: int, code: str, message: str = "no", **headers: str) -> Reply:
    """An error body of the provider's."""
    return Reply({"message": message, "error_code": code}, status, {**DATED, **headers})


DATED = {"Date": START.strftime("%a, %d %b %Y %H:%M:%S GMT")}
ANSWER = Reply(PRICED, headers={**DATED, "x-requests-last": "3"})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_module, "FREQUENCY_PAUSE_SECONDS", 0.001)


class Asking:
    """A poller with a lease and a budget of a hundred credits, and what it leaves behind."""

    def __init__(self, config: Config, api: OddsApi, database: Database, outbox: Outbox, recorder: Recorder) -> None:
        self.config = config
        self.api = api
        self.database = database
        self.outbox = outbox
        self.recorder = recorder
        self.poller = Poller(config, api, database, outbox, "here")

    async def poll(self) -> float:
        """One poll; the pause after it."""
        return await self.poller.poll(self.recorder, SPORT)

    async def health(self) -> tuple[int, str]:
        """Failures since the last success, and the last one's kind."""
        async with self.database.begin() as connection:
            (health,) = await store.load_health(connection, ())
        return health.consecutive_failures, health.last_failure

    async def one(self, statement: str) -> Any:
        """A value of the database."""
        async with self.database.begin() as connection:
            return await connection.scalar(text(statement))

    async def spent(self) -> int:
        """Credits of the month."""
        return int(await self.one("SELECT coalesce(max(spent), 0) FROM ingest.credit_budgets WHERE period = 'month'"))


Make = Callable[..., Any]


@pytest.fixture
async def make(provider: FakeProvider, database: Database, outbox: Outbox) -> AsyncIterator[Make]:
    """Makes a poller with some settings over those of the test."""
    async with open_session() as session:

        async def made(**given: Any) -> Asking:
            config = settings(
                Config,
                **{
                    "odds_api_key": SecretStr("key"),
                    "odds_api_base_url": provider.url,
                    "odds_api_poll_interval_seconds": 60.0,
                    "odds_api_retry_backoff_seconds": 0.001,
                    "odds_api_http_timeout_seconds": 2.0,
                    "odds_api_month_credits": MONTH,
                    "odds_api_day_credits": MONTH,
                    "odds_api_clock": "provider",
                    **given,
                },
            )
            lease = await acquire(database, "here", 60.0)
            assert lease is not None
            return Asking(
                config, OddsApi(session, config), database, outbox, Recorder(database, outbox, lease, 60.0, 1.0)
            )

        yield made


@pytest.mark.parametrize(
    ("reply", "kind", "calls", "credits", "pause"),
    [
        (a_refusal(404, "UNKNOWN_SPORT", **{"x-requests-last": "0"}), "not_found", 1, 0, 900.0),
        (a_refusal(422, "INVALID_REGION"), "invalid_request", 1, 3, 900.0),
        (a_refusal(401, "OUT_OF_USAGE_CREDITS"), "out_of_credits", 1, 3, 900.0),
        (a_refusal(429, "EXCEEDED_FREQ_LIMIT"), "rate_limited", 3, 9, 30.0),
        (Reply("<html>bad gateway</html>", 502), "unavailable", 3, 9, 0.0),
        (Reply(PRICED, breaks_after=0), "unavailable", 3, 9, 0.0),
        (Reply(PRICED, headers={"x-requests-last": "3"}, breaks_after=40), "unavailable", 3, 9, 0.0),
        (Reply('[{"id": "cut o', headers={"x-requests-last": "2"}), "unreadable_body", 3, 6, 0.0),
        (Reply("I am a teapot, not JSON"), "unreadable_body", 3, 9, 0.0),
    ],
)
async def test_a_failure_is_noted_paid_for_and_followed_by_its_pause(
    provider: FakeProvider, make: Make, reply: Reply, kind: str, calls: int, credits: int, pause: float
) -> None:
    provider.will_say(reply)
    asking = await make()
    assert await asking.poll() == pause
    assert (len(provider.requests), await asking.spent()) == (calls, credits)
    assert await asking.health() == (1, kind)


async def test_a_call_that_times_out_keeps_its_forecast_for_every_attempt(provider: FakeProvider, make: Make) -> None:
    provider.will_be_silent()
    asking = await make(odds_api_http_timeout_seconds=0.05)
    await asking.poll()
    assert (len(provider.requests), await asking.spent()) == (3, 9)
    assert await asking.health() == (1, "unavailable")


@pytest.mark.parametrize("code", ["MISSING_KEY", "INVALID_KEY", "DEACTIVATED_KEY"])
async def test_a_refused_key_is_critical_and_fatal(
    provider: FakeProvider, make: Make, code: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    provider.will_say(a_refusal(401, code))
    asking = await make()
    with pytest.raises(KeyRefused):
        await asking.poll()
    assert await asking.health() == (1, "key_refused")
    assert "critical" in caplog.text.lower() + "".join(capfd.readouterr()).lower()


async def test_a_plan_without_the_past_loses_the_past_only(
    provider: FakeProvider, make: Make, database: Database, outbox: Outbox
) -> None:
    provider.will_say(a_refusal(401, "HISTORICAL_UNAVAILABLE_ON_FREE_USAGE_PLAN"), ANSWER)
    asking = await make(odds_api_historical_enabled=True)
    api = asking.api
    with pytest.raises(HistoricalUnavailable):
        await api.event_odds("/historical", "game", ["h2h"])
    for _ in range(2):
        with pytest.raises(HistoricalUnavailable):
            await api.historical_odds(SPORT, START)
    assert len(provider.requests) == 1
    await asking.poll()
    assert await asking.health() == (0, "")


async def test_a_walk_through_the_past_spends_from_the_same_budget_ten_times_as_much(
    provider: FakeProvider, make: Make, database: Database, outbox: Outbox
) -> None:
    provider.remembers((START + minutes(15 * number), PRICED) for number in range(6))
    asking = await make(odds_api_historical_enabled=True)
    async with database.begin() as connection:
        await connection.execute(text("UPDATE ingest.poller_lease SET expires_at = clock_timestamp()"))
    walk = Backfill(asking.config, asking.api, database, outbox, "walker")
    with pytest.raises(provider_module.BudgetExhausted):
        await walk.run(SPORT, START, START + minutes(75), lambda _: None)
    assert (len(provider.requests), await asking.spent()) == (3, 90)


async def test_a_market_that_is_refused_is_dropped_and_the_next_call_is_reserved_for_less(
    provider: FakeProvider, make: Make
) -> None:
    provider.will_say(a_refusal(422, "INVALID_MARKET", "Invalid markets: totals", **{"x-requests-last": "0"}), ANSWER)
    asking = await make()
    await asking.poll()
    async with asking.database.begin() as connection:
        rows = await connection.execute(text("SELECT forecast, cost FROM ingest.credit_reservations ORDER BY id"))
        assert [tuple(row) for row in rows] == [(3, 0), (2, 3)]
    assert await asking.health() == (0, "")


async def test_a_provider_that_keeps_failing_is_left_alone_and_found_again_by_a_free_question(
    provider: FakeProvider, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = Reply({}, 503)
    provider.will_say(*[down] * 10, Reply([]), ANSWER)
    asking = await make(odds_api_circuit_seconds=0.2)
    for _ in range(3):
        await asking.poll()
    assert (len(provider.requests), await asking.spent()) == (9, 27)
    pause = await asking.poll()
    assert 0.0 < pause <= 0.2
    assert (len(provider.requests), await asking.health()) == (9, (4, "circuit_open"))

    async def half_open() -> bool:
        return await asking.poll() == 0.0

    # The first question after the pause is the free list of sports, which fails too; after twice the pause both answer.
    await eventually(half_open)
    assert [request.path for request in provider.requests[9:]] == ["/v4/sports"]
    assert await asking.spent() == 27
    await eventually(answered(asking))
    assert [request.path for request in provider.requests[10:]] == ["/v4/sports", f"/v4/sports/{SPORT}/odds"]
    assert await asking.health() == (0, "")


def answered(asking: Asking) -> Callable[[], Any]:
    """Polls, and says whether there was an answer."""

    async def ask() -> bool:
        await asking.poll()
        return await asking.health() == (0, "")

    return ask


async def test_without_credits_in_the_budget_nobody_is_asked_and_health_says_why(
    provider: FakeProvider, make: Make
) -> None:
    provider.will_say(ANSWER)
    asking = await make(odds_api_month_credits=5)
    for _ in range(3):
        await asking.poll()
    assert (len(provider.requests), await asking.spent()) == (1, 3)
    assert await asking.health() == (1, "budget_exhausted")


@pytest.mark.parametrize(("ahead", "skewed"), [(3600.0, 1), (-3600.0, 1), (2.0, 0)])
async def test_a_clock_that_differs_is_counted_and_ours_is_used(
    provider: FakeProvider, make: Make, bus: Bus, ahead: float, skewed: int
) -> None:
    now = utc_now()
    date = (now + timedelta(seconds=ahead)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    provider.will_say(Reply(PRICED, headers={"Date": date}))
    asking = await make(odds_api_clock="system")
    before = provider_module.clock_skews_total._value.get()
    await asking.poll()
    assert provider_module.clock_skews_total._value.get() - before == skewed
    (delivery,) = await stored(bus, OBSERVATIONS)
    observed_at = EventObserved.FromString(delivery.payload).event.observed_at.ToDatetime(START.tzinfo)
    assert abs((observed_at - now).total_seconds()) < 60.0


async def test_readings_from_the_future_are_counted(provider: FakeProvider, make: Make) -> None:
    ahead = an_event(a_book("draftkings", spreads(-5.5, last_update=START + minutes(5))), a_book("betmgm", spreads(-5)))
    provider.will_say(Reply([ahead], headers=DATED))
    asking = await make()
    counter = poller_module.future_readings_total.labels(SPORT)
    before = counter._value.get()
    await asking.poll()
    assert counter._value.get() - before == 1


@asynccontextmanager
async def running(asking: Asking) -> AsyncIterator[None]:
    """The poller's own loop, from taking the lease on."""
    async with asking.database.begin() as connection:
        await connection.execute(text("UPDATE ingest.poller_lease SET expires_at = clock_timestamp()"))
    task = asyncio.create_task(Poller(asking.config, asking.api, asking.database, asking.outbox, "loop").run())
    try:
        yield
    finally:
        if task.done():
            task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_when_the_provider_says_that_credits_are_spent_only_what_is_free_is_asked_until_it_says_otherwise(
    provider: FakeProvider, make: Make
) -> None:
    none = Reply(PRICED, headers={**DATED, "x-requests-remaining": "0"})
    some = Reply(PRICED, headers={**DATED, "x-requests-remaining": "500"})
    provider.will_say(a_refusal(401, "OUT_OF_USAGE_CREDITS"), none, none, some)
    asking = await make(odds_api_clock_rate=20_000.0)
    async with running(asking):

        async def asked_again() -> bool:
            return len(provider.requests) >= 5

        await eventually(asked_again)
    paths = [request.path.rpartition("/")[2] for request in provider.requests[:5]]
    assert paths == ["odds", "events", "events", "events", "odds"]


async def test_the_interval_that_is_told_is_the_one_that_is_kept(provider: FakeProvider, make: Make, bus: Bus) -> None:
    provider.will_say(ANSWER)
    asking = await make(odds_api_poll_interval_seconds=None, odds_api_clock_rate=9000.0, **UNLIMITED)
    async with running(asking):

        async def told() -> bool:
            return len(await stored(bus, OBSERVATIONS)) >= 3

        await eventually(told)
    assert [request.path.rpartition("/")[2] for request in provider.requests[:3]] == ["events", "odds", "odds"]
    first = EventObserved.FromString((await stored(bus, OBSERVATIONS))[0].payload)
    # A game in six hours: a quarter of an hour, which is a tenth of a second here.
    assert first.event.expected_interval_seconds == 900.0
    assert provider.asked_at[2] - provider.asked_at[1] >= 0.1
    assert await asking.one("SELECT reason FROM ingest.cadences") == "far"


async def test_a_game_in_play_is_asked_for_once_somebody_watches_it(
    provider: FakeProvider, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller_module, "WATCH_SECONDS", 0.02)
    begun = an_event(a_book("draftkings", spreads(-5.5)), commence_time=START - minutes(60))
    provider.will_say(Reply([begun], headers=DATED))
    asking = await make(odds_api_poll_interval_seconds=None, odds_api_idle_seconds=3600.0, **UNLIMITED)
    api = IngestApi(asking.database, (SPORT,), polls=True)
    async with running(asking):

        async def is_asked(what: str) -> bool:
            return any(request.path.endswith(what) for request in provider.requests)

        await eventually(lambda: is_asked("/events"))
        assert not await is_asked("/odds")
        await api.SetWatchedEvents(pb.SetWatchedEventsRequest(watcher="alerts", event_ids=["game"]), None)  # type: ignore[arg-type]  # no context is used
        await eventually(lambda: is_asked("/odds"))
    (watched,) = (await api.ListWatchedEvents(pb.ListWatchedEventsRequest(), None)).events  # type: ignore[arg-type]  # no context is used
    assert (watched.event_id, list(watched.watchers)) == ("game", ["alerts"])

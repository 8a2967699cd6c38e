"""The simulated and the replayed provider over HTTP: answers, costs, refusals, and time."""

import io
import json
import tarfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from aiohttp import ClientSession, ClientTimeout

from deploy.provider import served
from deploy.recording import open_recording
from deploy.replay_provider import ReplayProvider
from deploy.simulator.market import Market
from deploy.simulator.server import AcceleratedClock, SimulatedProvider

OPENED_AT = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
ODDS = "/v4/sports/basketball_nba/odds"
BODY = b'[{"id": "a", "sport_key": "basketball_wnba", "odd": NaN}]'


class Wall:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = OPENED_AT

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
async def simulated(wall: Wall) -> AsyncIterator[ClientSession]:
    provider = SimulatedProvider(Market(1, OPENED_AT), AcceleratedClock(wall, OPENED_AT, OPENED_AT, 30.0))
    async with (
        served(provider.application(), 0) as url,
        ClientSession(url, timeout=ClientTimeout(total=30)) as session,
    ):
        yield session


@pytest.fixture
async def replayed(tmp_path: Path) -> AsyncIterator[ClientSession]:
    with tarfile.open(tmp_path / "a.tar.xz", "w:xz") as archive:
        info = tarfile.TarInfo("1.json")
        info.size = len(BODY)
        archive.addfile(info, io.BytesIO(BODY))
    (tmp_path / "INDEX.tsv").write_text("utc\tarchive\tmember\n2026-07-15T12:00:00Z\ta.tar.xz\t1.json\n")
    with open_recording(tmp_path) as recording:
        async with (
            served(ReplayProvider(recording).application(), 0) as url,
            ClientSession(url, timeout=ClientTimeout(total=30)) as session,
        ):
            yield session


def asking(**parameters: str) -> dict[str, str]:
    return {"apiKey": "k", "regions": "us", "markets": "h2h,spreads,totals", **parameters}


async def test_odds_cost_markets_times_regions_and_come_compressed(simulated: ClientSession) -> None:
    async with simulated.get(ODDS, params=asking(regions="us,eu"), headers={"Accept-Encoding": "gzip"}) as answer:
        games = await answer.json()

        assert answer.headers["Content-Encoding"] == "gzip"
        assert answer.headers["x-requests-last"] == "6"
        assert answer.headers["x-requests-used"] == "6"
    assert len(games) >= 10
    assert {market["key"] for market in games[0]["bookmakers"][0]["markets"]} <= {"h2h", "spreads", "totals"}


async def test_spread_outcomes_carry_their_own_signed_points(simulated: ClientSession) -> None:
    async with simulated.get(ODDS, params=asking(markets="spreads")) as answer:
        games = await answer.json()

    points = [
        [outcome["point"] for outcome in market["outcomes"]]
        for game in games
        for book in game["bookmakers"]
        for market in book["markets"]
    ]
    assert points
    assert all(home + away == 0 for home, away in points)


async def test_american_odds_are_the_same_prices(simulated: ClientSession) -> None:
    async with simulated.get(ODDS, params=asking(oddsFormat="american", markets="h2h")) as answer:
        american = (await answer.json())[0]["bookmakers"][0]["markets"][0]["outcomes"][0]["price"]
    async with simulated.get(ODDS, params=asking(markets="h2h")) as answer:
        decimal = (await answer.json())[0]["bookmakers"][0]["markets"][0]["outcomes"][0]["price"]

    assert abs(american) >= 100
    assert decimal == pytest.approx(1 + american / 100 if american > 0 else 1 - 100 / american, abs=0.005)


async def test_time_passes_faster_than_on_the_wall(simulated: ClientSession, wall: Wall) -> None:
    wall.now += timedelta(seconds=2)

    async with simulated.get(ODDS, params=asking()) as answer:
        assert parsedate_to_datetime(answer.headers["Date"]) == OPENED_AT + timedelta(seconds=60)


async def test_named_bookmakers_win_over_regions_and_ten_cost_one(simulated: ClientSession) -> None:
    async with simulated.get(ODDS, params=asking(regions="us,eu,uk", bookmakers="fanduel,pinnacle")) as answer:
        games = await answer.json()

        assert answer.headers["x-requests-last"] == "3"
    assert {book["key"] for game in games for book in game["bookmakers"]} == {"fanduel"}


async def test_unix_dates_are_integers_and_links_come_when_asked_for(simulated: ClientSession) -> None:
    wanted = asking(dateFormat="unix", includeLinks="true", includeSids="true", includeBetLimits="true")
    async with simulated.get(ODDS, params=wanted) as answer:
        game = (await answer.json())[0]

    outcome = game["bookmakers"][0]["markets"][0]["outcomes"][0]
    assert isinstance(game["commence_time"], int)
    assert {"link", "sid", "bet_limit"} <= outcome.keys()


async def test_a_single_event_is_an_object_and_a_concluded_one_is_not_found(simulated: ClientSession) -> None:
    async with simulated.get("/v4/sports/basketball_nba/events", params={"apiKey": "k"}) as answer:
        event_id = (await answer.json())[0]["id"]
        assert answer.headers["x-requests-last"] == "0"
    async with simulated.get(f"/v4/sports/basketball_nba/events/{event_id}/odds", params=asking()) as answer:
        assert (await answer.json())["id"] == event_id
    async with simulated.get(f"/v4/sports/basketball_nba/events/{'0' * 32}/odds", params=asking()) as answer:
        assert (answer.status, (await answer.json())["error_code"]) == (404, "EVENT_NOT_FOUND")


async def test_scores_of_running_games_are_strings(simulated: ClientSession) -> None:
    async with simulated.get("/v4/sports/basketball_nba/scores", params={"apiKey": "k", "daysFrom": "1"}) as answer:
        scores = await answer.json()

        assert answer.headers["x-requests-last"] == "2"
    running = [score for score in scores if score["scores"] is not None]
    assert all(isinstance(side["score"], str) for score in running for side in score["scores"])
    assert any(score["scores"] is None for score in scores)


@pytest.mark.parametrize(
    ("path", "parameters", "status", "code"),
    [
        (ODDS, {"regions": "us"}, 401, "MISSING_KEY"),
        ("/v4/sports/chess/odds", asking(), 404, "UNKNOWN_SPORT"),
        (ODDS, {"apiKey": "k"}, 422, "MISSING_REGION"),
        (ODDS, asking(regions="mars"), 422, "INVALID_REGION"),
        (ODDS, asking(markets="h2h,player_points"), 422, "INVALID_MARKET"),
        (ODDS, asking(oddsFormat="fractional"), 422, "INVALID_ODDS_FORMAT"),
        (ODDS, asking(commenceTimeFrom="tomorrow"), 422, "INVALID_COMMENCE_TIME_FROM"),
        ("/v4/sports/basketball_nba/scores", {"apiKey": "k", "daysFrom": "9"}, 422, "INVALID_SCORES_DAYS_FROM"),
    ],
)
async def test_a_refusal_has_the_providers_shape(
    simulated: ClientSession, path: str, parameters: dict[str, str], status: int, code: str
) -> None:
    async with simulated.get(path, params=parameters) as answer:
        body = await answer.json()

        assert answer.status == status
        assert body["error_code"] == code
        assert {"message", "details_url"} <= body.keys()
        assert "Date" in answer.headers


async def test_the_past_is_answered_with_the_recorded_bytes(replayed: ClientSession) -> None:
    wanted = asking(date="2026-07-15T12:34:56Z")
    async with replayed.get("/v4/historical/sports/basketball_wnba/odds", params=wanted) as answer:
        body = await answer.read()

        assert answer.headers["x-requests-last"] == "30"
    assert BODY in body
    envelope = json.loads(body)
    assert envelope["timestamp"] == "2026-07-15T12:00:00Z"
    assert envelope["next_timestamp"] is None


@pytest.mark.parametrize(
    ("sport", "parameters", "status", "code"),
    [
        ("basketball_wnba", {"date": "2026-07-15T12:00:00Z"}, 401, "MISSING_KEY"),
        ("basketball_nba", asking(date="2026-07-15T12:00:00Z"), 404, "UNKNOWN_SPORT"),
        ("basketball_wnba", asking(), 422, "MISSING_HISTORICAL_TIMESTAMP"),
        ("basketball_wnba", asking(date="yesterday"), 422, "INVALID_HISTORICAL_TIMESTAMP"),
        ("basketball_wnba", asking(date="2020-01-01T00:00:00Z"), 422, "INVALID_HISTORICAL_TIMESTAMP"),
    ],
)
async def test_what_the_past_refuses(
    replayed: ClientSession, sport: str, parameters: dict[str, str], status: int, code: str
) -> None:
    async with replayed.get(f"/v4/historical/sports/{sport}/odds", params=parameters) as answer:
        assert (answer.status, (await answer.json())["error_code"]) == (status, code)

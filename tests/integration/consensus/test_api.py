"""What consensus answers, through gRPC and the real database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status
from sqlalchemy import insert
from stratum.consensus.v1 import consensus_service_pb2 as pb
from stratum.consensus.v1.consensus_service_pb2_grpc import ConsensusServiceStub, add_ConsensusServiceServicer_to_server

from services.consensus import store, wire
from services.consensus.api import ConsensusApi
from services.consensus.board import BoardRules
from services.consensus.events import ConsensusFold
from services.consensus.model import Observation
from services.consensus.store import ConsensusStore
from services.consensus.testing import EVENT, H2H, NOW, SPREADS, TOTALS, Feed
from services.shared.database import Database
from services.shared.server import Interceptor
from services.shared.testing import channel_to

RULES = BoardRules(config_hash="test")
FIVE = {"betmgm": -6.0, "caesars": -6.0, "draftkings": -6.5, "fanduel": -6.5, "pinnacle": -6.0}


@pytest.fixture
async def database(database_for: Any) -> Database:
    return await database_for("consensus")


@pytest.fixture
async def consensus(database: Database) -> AsyncIterator[ConsensusServiceStub]:
    server = grpc.aio.server(interceptors=[Interceptor(default_deadline_seconds=10, guard=None)])
    add_ConsensusServiceServicer_to_server(ConsensusApi(ConsensusStore(database), RULES), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with channel_to(port) as channel:
        yield ConsensusServiceStub(channel)
    await server.stop(None)


async def known(database: Database, *observations: Observation) -> None:
    """The observations, folded and stored."""
    fold = ConsensusFold(RULES)
    rows, states = [], {}
    for seen in observations:
        outcome = fold.step(states.get(seen.event_id, fold.load(None)), seen)
        states[seen.event_id] = outcome.state
        rows.extend(outcome.rows)
    async with database.begin() as connection:
        await fold.write(connection, rows)
        for event_id, state in states.items():
            await connection.execute(
                insert(store.stage.event_state).values(
                    event_id=event_id, partition=0, applied_revision=1, awaiting_keyframe=False, state=fold.dump(state)
                )
            )


def a_game(event_id: str = EVENT, **options: Any) -> Feed:
    feed = Feed(event_id=event_id, **options)
    feed.board(SPREADS, FIVE)
    feed.board(TOTALS, dict.fromkeys(FIVE, 220.5))
    for book in FIVE:
        feed.quote(H2H, book, None, 1.5, 2.7)
    return feed


def at(moment: datetime) -> Timestamp:
    return wire.timestamp(moment)


async def refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = rpc_status.from_call(caught.value)
    info = ErrorInfo()
    status.details[0].Unpack(info)
    return caught.value.code(), info.reason


async def walked(call: Callable[[str], Awaitable[Any]], field: str) -> list[Any]:
    """Every item of a list, page after page."""
    items, token = [], ""
    while True:
        page = await call(token)
        items.extend(getattr(page, field))
        token = page.next_page_token
        if not token:
            return items


async def test_the_newest_consensus_of_each_market(consensus: ConsensusServiceStub, database: Database):
    feed = a_game()
    first = feed.observe()
    feed.quote(SPREADS, "pinnacle", -7.0)
    feed.quote(SPREADS, "betmgm", -7.0)
    await known(database, first, feed.observe())
    answer = await consensus.ListConsensus(pb.ListConsensusRequest())
    assert [one.market for one in answer.consensus] == ["h2h", "spreads", "totals"]
    spreads = answer.consensus[1]
    assert (spreads.event_id, spreads.consensus_line, spreads.books, spreads.note) == (EVENT, -6.5, 5, "")
    assert wire.moment(spreads.observed_at) == NOW + timedelta(minutes=1)
    assert answer.next_page_token == ""


@pytest.mark.parametrize(
    ("request_", "found"),
    [
        (pb.ListConsensusRequest(market=["totals"]), [("a", "totals"), ("b", "totals")]),
        (pb.ListConsensusRequest(market=["totals", "h2h"], event_id=["b"]), [("b", "h2h"), ("b", "totals")]),
        (pb.ListConsensusRequest(sport_key=["basketball_wnba"], market=["h2h"]), [("b", "h2h")]),
        (
            pb.ListConsensusRequest(sport_key=["basketball_nba", "basketball_wnba"], market=["h2h"]),
            [("a", "h2h"), ("b", "h2h")],
        ),
        (pb.ListConsensusRequest(event_id=["nobody"]), []),
    ],
)
async def test_consensus_is_filtered(
    consensus: ConsensusServiceStub, database: Database, request_: pb.ListConsensusRequest, found: list[tuple[str, str]]
):
    await known(database, a_game("a").observe(), a_game("b", sport_key="basketball_wnba").observe())
    answer = await consensus.ListConsensus(request_)
    assert [(one.event_id, one.market) for one in answer.consensus] == found


async def test_pages_of_consensus_hold_everything_once(consensus: ConsensusServiceStub, database: Database):
    await known(database, *[a_game(event_id).observe() for event_id in "abcde"])

    async def page(token: str) -> pb.ListConsensusResponse:
        return await consensus.ListConsensus(pb.ListConsensusRequest(page_size=4, page_token=token))

    items = await walked(page, "consensus")
    assert [(one.event_id, one.market) for one in items] == [
        (event_id, market) for event_id in "abcde" for market in ("h2h", "spreads", "totals")
    ]


async def test_a_market_that_everybody_left_is_not_current(consensus: ConsensusServiceStub, database: Database):
    feed = a_game()
    first = feed.observe()
    for book in FIVE:
        feed.drop(TOTALS, book)
    await known(database, first, feed.observe())
    answer = await consensus.ListConsensus(pb.ListConsensusRequest())
    assert [one.market for one in answer.consensus] == ["h2h", "spreads"]
    history = await consensus.ListConsensusHistory(pb.ListConsensusHistoryRequest(event_id=EVENT, market=["totals"]))
    assert [one.note for one in history.consensus] == ["", "too_few_books"]


def a_moving_game() -> tuple[Feed, list[Observation]]:
    feed = a_game()
    seen = [feed.observe()]
    for minute in range(1, 31):
        feed.quote(SPREADS, "betmgm", -6.0 - (minute % 4) / 2)
        seen.append(feed.observe())
    return feed, seen


async def test_history_is_oldest_first_and_pages_hold_everything_once(
    consensus: ConsensusServiceStub, database: Database
):
    _, seen = a_moving_game()
    await known(database, *seen)

    async def page(token: str) -> pb.ListConsensusHistoryResponse:
        return await consensus.ListConsensusHistory(
            pb.ListConsensusHistoryRequest(event_id=EVENT, page_size=7, page_token=token)
        )

    items = await walked(page, "consensus")
    places = [(wire.moment(one.observed_at), one.market) for one in items]
    assert places == sorted(set(places))
    # Steady markets are repeated every ten minutes, and say so.
    assert [(one.market, one.heartbeat) for one in items if one.market != "spreads"] == [
        ("h2h", False), ("totals", False), *[("h2h", True), ("totals", True)] * 3,
    ]  # fmt: skip


async def test_history_is_cut_by_since_until_and_what_was_known(consensus: ConsensusServiceStub, database: Database):
    _, seen = a_moving_game()
    await known(database, *seen)

    async def minutes(**bounds: Timestamp) -> tuple[int, int]:
        answer = await consensus.ListConsensusHistory(
            pb.ListConsensusHistoryRequest(event_id=EVENT, market=["spreads"], page_size=500, **bounds)
        )
        times = [(wire.moment(one.observed_at) - NOW).total_seconds() / 60 for one in answer.consensus]
        return int(min(times)), int(max(times))

    ten, twenty = at(NOW + timedelta(minutes=10)), at(NOW + timedelta(minutes=20))
    assert await minutes(since=ten) == (10, 30)
    assert await minutes(until=twenty) == (0, 20)
    assert await minutes(since=ten, until=twenty) == (10, 20)
    assert await minutes(as_of=ten) == (0, 10)
    assert await minutes(until=twenty, as_of=ten) == (0, 10)


async def test_games_are_listed_soonest_first(consensus: ConsensusServiceStub, database: Database):
    await known(
        database,
        a_game("late", commence_time=NOW + timedelta(hours=9)).observe(),
        a_game("unknown", commence_time=None).observe(),
        a_game("soon", commence_time=NOW + timedelta(hours=1)).observe(),
        a_game("begun", commence_time=NOW - timedelta(minutes=1)).observe(),
        a_game("elsewhere", commence_time=NOW + timedelta(hours=2), sport_key="basketball_wnba").observe(),
    )

    async def page(token: str) -> pb.ListGamesResponse:
        return await consensus.ListGames(pb.ListGamesRequest(page_size=1, page_token=token))

    games = await walked(page, "games")
    assert [game.event_id for game in games] == ["begun", "soon", "elsewhere", "late", "unknown"]
    assert [game.in_play for game in games] == [True, False, False, False, False]
    assert (games[1].home_team, list(games[1].markets), games[1].books) == ("Home", ["h2h", "spreads", "totals"], 5)
    assert not games[4].HasField("commence_time")
    nba = await consensus.ListGames(
        pb.ListGamesRequest(
            sport_key=["basketball_nba"], since=at(NOW + timedelta(hours=1)), until=at(NOW + timedelta(hours=9))
        )
    )
    assert [game.event_id for game in nba.games] == ["soon"]


async def test_a_game_that_is_over_is_listed_only_where_its_time_is_asked_for(
    consensus: ConsensusServiceStub, database: Database
):
    begun = NOW - timedelta(hours=3)
    over = a_game("over", commence_time=begun)
    first = over.observe()
    over.quotes.clear()
    await known(database, first, over.observe(), a_game("soon", commence_time=NOW + timedelta(hours=1)).observe())

    unasked = await consensus.ListGames(pb.ListGamesRequest())
    asked = await consensus.ListGames(pb.ListGamesRequest(since=at(begun)))

    assert [game.event_id for game in unasked.games] == ["soon"]
    assert [game.event_id for game in asked.games] == ["over", "soon"]


async def test_a_game_shows_what_each_book_quotes_now_and_since_when(
    consensus: ConsensusServiceStub, database: Database
):
    feed = a_game()
    seen = [feed.observe(), feed.observe()]
    feed.quote(SPREADS, "pinnacle", -7.0, 1.8, 2.1)
    seen.append(feed.observe())
    feed.quote(SPREADS, "fanduel", -7.0)
    seen.append(feed.observe())
    await known(database, *seen)
    answer = await consensus.GetGame(pb.GetGameRequest(event_id=EVENT, market=["spreads"]))
    (market,) = answer.markets
    assert (market.key.market, market.consensus.books) == ("spreads", 5)
    by_book = {quote.view.quote.book: quote for quote in market.books}
    pinnacle = by_book["pinnacle"]
    assert list(by_book) == sorted(FIVE)
    assert (pinnacle.view.quote.line, pinnacle.american, pinnacle.american_other) == (-7.0, -125, 110)
    assert (pinnacle.value_age_seconds, pinnacle.read_age_seconds) == (60.0, 20.0)
    assert by_book["betmgm"].value_age_seconds == 180.0
    assert pinnacle.view.others.clusters == 4
    series = {series.book: [(point.line, point.gone) for point in series.points] for series in market.book_series}
    assert series["pinnacle"] == [(-6.0, False), (-7.0, False)]
    assert [point.line for point in market.consensus_series] == [-6.0, -6.5, -6.5]


async def test_a_game_shows_where_a_book_went(consensus: ConsensusServiceStub, database: Database):
    feed = a_game()
    seen = [feed.observe()]
    feed.drop(SPREADS, "pinnacle")
    seen.append(feed.observe())
    feed.quote(SPREADS, "pinnacle", -6.0)
    seen.append(feed.observe())
    await known(database, *seen)
    answer = await consensus.GetGame(pb.GetGameRequest(event_id=EVENT, market=["spreads"]))
    series = next(series for series in answer.markets[0].book_series if series.book == "pinnacle")
    assert [point.gone for point in series.points] == [False, True, False]
    assert not series.points[1].HasField("price")


async def test_a_game_that_is_over_keeps_its_series(consensus: ConsensusServiceStub, database: Database):
    feed = a_game()
    first = feed.observe()
    feed.quotes.clear()
    await known(database, first, feed.observe())
    answer = await consensus.GetGame(pb.GetGameRequest(event_id=EVENT))
    assert [market.key.market for market in answer.markets] == ["h2h", "spreads", "totals"]
    assert (answer.game.books, list(answer.game.markets), answer.game.in_play) == (0, [], False)
    assert all(not market.books and market.consensus.note == "too_few_books" for market in answer.markets)
    assert [point.gone for point in answer.markets[0].consensus_series] == [False, True]


async def test_a_long_series_is_thinned_to_five_hundred_points(consensus: ConsensusServiceStub, database: Database):
    feed = Feed(commence_time=NOW + timedelta(days=2))
    feed.board(SPREADS, FIVE)
    seen = [feed.observe()]
    for minute in range(1200):
        feed.quote(SPREADS, "betmgm", -7.0 - minute % 2)
        seen.append(feed.observe())
    await known(database, *seen)
    (market,) = (await consensus.GetGame(pb.GetGameRequest(event_id=EVENT))).markets
    series = next(series for series in market.book_series if series.book == "betmgm")
    assert len(series.points) == len(market.consensus_series) == 500
    times = [wire.moment(point.observed_at) for point in series.points]
    assert (times[0], times[-1]) == (NOW, feed.now)
    recent = await consensus.GetGame(pb.GetGameRequest(event_id=EVENT, since=at(feed.now - timedelta(minutes=5))))
    assert len(recent.markets[0].consensus_series) == 6


UNKNOWN = (grpc.StatusCode.NOT_FOUND, "EVENT_NOT_FOUND")
WRONG = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
WRONG_TOKEN = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")


@pytest.mark.parametrize(
    ("method", "request_", "expected"),
    [
        ("GetGame", pb.GetGameRequest(event_id="nobody"), UNKNOWN),
        ("GetGame", pb.GetGameRequest(), WRONG),
        ("GetGame", pb.GetGameRequest(event_id=EVENT, since=Timestamp(seconds=10**15)), WRONG),
        ("ListConsensusHistory", pb.ListConsensusHistoryRequest(event_id="nobody"), UNKNOWN),
        ("ListConsensusHistory", pb.ListConsensusHistoryRequest(), WRONG),
        ("ListConsensus", pb.ListConsensusRequest(page_size=501), WRONG),
        ("ListConsensus", pb.ListConsensusRequest(page_size=-1), WRONG),
        ("ListConsensus", pb.ListConsensusRequest(page_token="!"), WRONG_TOKEN),
        ("ListConsensus", pb.ListConsensusRequest(sport_key=[""]), WRONG),
        ("ListConsensus", pb.ListConsensusRequest(event_id=["a\0"]), WRONG),
        ("ListConsensus", pb.ListConsensusRequest(market=["\0"]), WRONG),
        ("ListConsensusHistory", pb.ListConsensusHistoryRequest(event_id="\0"), WRONG),
        ("ListConsensusHistory", pb.ListConsensusHistoryRequest(event_id=EVENT, market=[""]), WRONG),
        ("ListConsensusHistory", pb.ListConsensusHistoryRequest(event_id=EVENT, player="\0"), WRONG),
        ("GetGame", pb.GetGameRequest(event_id="a\0b"), WRONG),
        ("GetGame", pb.GetGameRequest(event_id=EVENT, market=["\0"]), WRONG),
        ("ListGames", pb.ListGamesRequest(sport_key=["", "\0"]), WRONG),
        ("ListGames", pb.ListGamesRequest(page_size=501), WRONG),
        ("ListGames", pb.ListGamesRequest(page_token="YWJj"), WRONG_TOKEN),
    ],
)
async def test_a_wrong_request_is_told_why(
    consensus: ConsensusServiceStub, method: str, request_: Any, expected: tuple[grpc.StatusCode, str]
):
    assert await refusal(getattr(consensus, method)(request_)) == expected


async def test_a_page_token_is_good_for_its_own_filters_only(consensus: ConsensusServiceStub, database: Database):
    await known(database, a_game().observe())
    first = await consensus.ListConsensus(pb.ListConsensusRequest(page_size=1))
    other = pb.ListConsensusRequest(page_size=1, market=["totals"], page_token=first.next_page_token)
    assert await refusal(consensus.ListConsensus(other)) == WRONG_TOKEN

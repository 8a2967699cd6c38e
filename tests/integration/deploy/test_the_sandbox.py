"""The recorded evening that test keys read: how it gets into its database, and what is answered from it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import grpc.aio
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from stratum.consensus.v1 import consensus_service_pb2 as consensus
from stratum.consensus.v1.consensus_service_pb2_grpc import ConsensusServiceStub
from stratum.ingest.v1 import ingest_service_pb2 as ingest
from stratum.ingest.v1.ingest_service_pb2_grpc import IngestServiceStub
from stratum.signals.v1 import signals_service_pb2 as signals
from stratum.signals.v1.signal_pb2 import SignalType
from stratum.signals.v1.signals_service_pb2_grpc import SignalsServiceStub

from deploy import schema
from deploy.children import Program
from deploy.local.postgres import PostgresServer
from deploy.local.process import free_port
from deploy.sandbox.config import Config
from deploy.sandbox.evening import BEGINS_AT, Evening
from deploy.sandbox.filling import fill
from deploy.sandbox.serving import PacedFeed
from services.consensus import store as consensus_store
from services.ingest import store as ingest_store
from services.shared.config import ServiceConfig
from services.shared.database import Database, open_database
from services.shared.testing import PRINCIPAL_KEYS, as_partner, channel_to, eventually
from services.signals import store as signals_store
from services.signals.cursor import Cursor
from services.signals.feed import Ended, FeedLimits, More, Opened
from services.signals.store import Filters, SignalStore

ROOT = Path(__file__).parents[3]
TEMPLATE = "template_sandbox"
#: Enough for signals, and quickly made.
SMALL = Evening(seed=4, games=3, minutes=30)
SIGNALS, CONSENSUS = "stratum.signals.v1.SignalsService", "stratum.consensus.v1.ConsensusService"
INGEST = "stratum.ingest.v1.IngestService"
#: When a database noted something, by its own clock: all that may differ between two of the same evening.
CLOCKS = {"polled_at", "expires_at"}
_numbers = count(1)

Connect = Callable[..., psycopg.Connection]


@pytest.fixture(scope="module")
def connect(postgres_server: PostgresServer, passwords: dict[str, str]) -> Connect:
    """As the superuser into a database of the server, which has one with empty schemas to copy from."""
    schema.upgrade_sandbox(postgres_server.url(), passwords, TEMPLATE)

    def connected(database: str, **options: Any) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1",
            port=postgres_server.port,
            user="postgres",
            password=postgres_server.password,
            dbname=database,
            **options,
        )

    return connected


@contextmanager
def copied(connect: Connect, name: str) -> Iterator[str]:
    """A database with empty schemas for as long as the block runs."""
    with connect("postgres", autocommit=True) as connection:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        connection.execute(statement.format(sql.Identifier(name), sql.Identifier(TEMPLATE)))
    try:
        yield name
    finally:
        with connect("postgres", autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


Empty = Callable[..., Any]


@pytest.fixture
async def empty(postgres_server: PostgresServer, passwords: dict[str, str], connect: Connect) -> AsyncIterator[Empty]:
    """`await empty()`: a database of its own for this test, as the sandbox's login sees it."""
    async with AsyncExitStack() as stack:

        async def fresh(**settings: Any) -> Database:
            name = stack.enter_context(copied(connect, f"sandbox_{next(_numbers)}"))
            url = schema.service_url(postgres_server.url(), schema.SANDBOX, passwords, name)
            config = ServiceConfig(database_url=SecretStr(url), **settings)
            return await stack.enter_async_context(open_database(config))

        yield fresh


async def rows_of(database: Database, *but: str) -> dict[str, list[str]]:
    """Every row of every table of the three schemas, in some order, without these columns."""
    found: dict[str, list[str]] = {}
    async with database.begin() as connection:
        for store in (ingest_store, consensus_store, signals_store):
            for table in store.metadata.sorted_tables:
                read = [column for column in table.columns if column.name not in (*CLOCKS, *but)]
                rows = await connection.execute(table.select().with_only_columns(*read))
                found[table.fullname] = sorted(map(repr, rows))
    return found


async def signals_in(database: Database) -> int:
    async with database.begin() as connection:
        return int(await connection.scalar(text("SELECT count(*) FROM signals.signal")))


async def test_two_fillings_give_the_same_rows(empty: Empty):
    one, other = await empty(), await empty()
    await fill(one, SMALL)
    await fill(other, SMALL)
    assert await signals_in(one) > 10
    assert await rows_of(one) == await rows_of(other)


async def test_a_database_that_holds_the_evening_is_left_alone(empty: Empty):
    database = await empty()
    assert await fill(database, SMALL)
    before = await rows_of(database)
    told: list[int] = []
    assert not await fill(database, SMALL, lambda done, _: told.append(done))
    assert told == []
    assert await rows_of(database) == before


async def test_a_filling_that_dies_leaves_nothing_and_the_next_one_is_whole(empty: Empty):
    database, whole = await empty(), await empty()
    nothing = await rows_of(database)

    def die(done: int, of: int) -> None:
        if done == of - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await fill(database, SMALL, die)
    assert await rows_of(database) == nothing
    await fill(database, SMALL)
    await fill(whole, SMALL)
    assert await rows_of(database) == await rows_of(whole)


async def test_another_evening_takes_the_place_of_the_one_that_is_there(empty: Empty):
    database, whole = await empty(), await empty()
    await fill(database, Evening(seed=5, games=2, minutes=20))
    await fill(database, SMALL)
    await fill(whole, SMALL)
    assert await rows_of(database) == await rows_of(whole)


async def test_of_two_that_fill_at_once_one_does(empty: Empty):
    database = await empty()
    assert sorted(await asyncio.gather(fill(database, SMALL), fill(database, SMALL))) == [False, True]


async def test_who_waits_too_long_for_another_filling_is_told_and_nothing_happens(empty: Empty):
    database = await empty(database_lock_timeout_seconds=0.1)
    nothing = await rows_of(database)
    async with database.begin() as other:
        await other.execute(text("SELECT * FROM signals.feed FOR UPDATE"))
        with pytest.raises(OperationalError, match="lock timeout"):
            await fill(database, SMALL)
    assert await rows_of(database) == nothing


async def test_everything_of_the_evening_is_dated_by_its_own_time(empty: Empty):
    database = await empty()
    await fill(database, SMALL)
    async with database.begin() as connection:
        published = await connection.execute(
            text(
                "SELECT min(published_at), max(published_at), bool_and(published_at = observed_at) FROM signals.signal"
            )
        )
        first, last, at_once = published.one()
    assert BEGINS_AT <= first <= last <= SMALL.ends_at
    assert at_once


async def test_a_stream_at_its_pace_ends_when_the_process_does(empty: Empty):
    database = await empty()
    await fill(database, SMALL)
    feed = PacedFeed(SignalStore(database), FeedLimits(), signal_seconds=0.01)
    items = []
    async for item in feed.follow(Filters(), full=False, after=None):
        items.append(item)
        if isinstance(item, More):
            feed.drain()
    assert [type(item) for item in items] == [Opened, More, Ended]
    assert items[-1] == Ended("draining")


async def test_the_evening_that_partners_get_has_every_type_that_fires_and_a_game_to_come(empty: Empty):
    database = await empty()
    evening = Config().evening
    await fill(database, evening)
    async with database.begin() as connection:
        counted = await connection.execute(text("SELECT signal_type, count(*) FROM signals.signal GROUP BY 1"))
        by_type = {row.signal_type: row.count for row in counted}
        tips = await connection.execute(text("SELECT commence_time FROM consensus.games"))
        to_come = [tip for (tip,) in tips if tip > evening.ends_at]
    fire = set(SignalType.Value.keys()) - {"UNSPECIFIED", "LIVE_SHOCK"}
    assert set(by_type) == fire
    assert sum(by_type.values()) >= 60
    assert len(to_come) == 1


async def test_the_sandboxs_login_enters_no_other_database(
    postgres_server: PostgresServer, passwords: dict[str, str], connect: Connect
):
    schema.prepare(postgres_server.url(), passwords, "prepared_beside_the_sandbox")
    for role, database in ((schema.SANDBOX, "prepared_beside_the_sandbox"), ("signals", TEMPLATE)):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(
                host="127.0.0.1",
                port=postgres_server.port,
                user=role,
                password=passwords[role],
                dbname=database,
            )


# The process as it is run.


class Sandbox:
    """A running sandbox, asked as the gateway asks for a partner."""

    def __init__(self, port: int, program: Program) -> None:
        self.port = port
        self.program = program

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            yield channel

    async def health(self) -> int:
        async with self.channel() as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=SIGNALS), wait_for_ready=True, timeout=30.0)
            return int(answer.status)

    async def ask(self, stub: Any, method: str, request: Any) -> Any:
        service = {SignalsServiceStub: SIGNALS, ConsensusServiceStub: CONSENSUS, IngestServiceStub: INGEST}[stub]
        async with self.channel() as channel:
            metadata = as_partner(f"{service}/{method}", test=True)
            return await getattr(stub(channel), method)(request, metadata=metadata, timeout=30.0)

    async def listed(self, **asked: Any) -> list[dict[str, Any]]:
        answer = await self.ask(SignalsServiceStub, "ReadSignals", signals.ListSignalsRequest(**asked))
        found: list[dict[str, Any]] = json.loads(answer.data)["signals"]
        return found

    async def streamed(self, pieces: int, **asked: Any) -> list[str]:
        async with self.channel() as channel:
            metadata = as_partner(f"{SIGNALS}/StreamSignals", test=True)
            call = SignalsServiceStub(channel).StreamSignals(signals.StreamSignalsRequest(**asked), metadata=metadata)
            async with asyncio.timeout(30.0):
                return [(await call.read()).data.decode() for _ in range(pieces)]


@pytest.fixture(scope="module")
def sandbox(
    postgres_server: PostgresServer, passwords: dict[str, str], connect: Connect, tmp_path_factory: Any
) -> Iterator[Sandbox]:
    """A sandbox of the small evening, for all the tests that only read."""
    with copied(connect, "sandbox_served") as database:
        url = schema.service_url(postgres_server.url(), schema.SANDBOX, passwords, database)
        running = started(url, tmp_path_factory.mktemp("sandbox") / "sandbox.log")
        try:
            yield running
        finally:
            running.program.stop()


def started(database_url: str, log: Path) -> Sandbox:
    port, metrics_port = free_port(), free_port()
    program = Program(
        [sys.executable, "-m", "deploy.sandbox"],
        log,
        {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}",
            "STRATUM_DATABASE_URL": database_url,
            "STRATUM_PRINCIPAL_KEYS": PRINCIPAL_KEYS,
            "STRATUM_GRPC_PORT": str(port),
            "STRATUM_METRICS_PORT": str(metrics_port),
            "SANDBOX_SEED": str(SMALL.seed),
            "SANDBOX_GAMES": str(SMALL.games),
            "SANDBOX_MINUTES": str(SMALL.minutes),
            "SANDBOX_SIGNAL_SECONDS": "0.05",
            "SANDBOX_HEARTBEAT_SECONDS": "0.2",
        },
        ready_url=f"http://127.0.0.1:{metrics_port}/readyz",
    )
    program.start()
    return Sandbox(port, program)


@pytest.fixture
async def served(sandbox: Sandbox) -> Sandbox:
    """The same once its evening is there."""
    await eventually(partial(asyncio.to_thread, sandbox.program.ready), within=60.0)
    return sandbox


async def test_it_says_that_the_evening_is_being_prepared_until_it_is_there(
    postgres_server: PostgresServer, passwords: dict[str, str], connect: Connect, tmp_path: Path
):
    with copied(connect, "sandbox_locked") as database, connect(database) as other:
        other.execute("SELECT * FROM signals.feed FOR UPDATE")
        url = schema.service_url(postgres_server.url(), schema.SANDBOX, passwords, database)
        sandbox = started(url, tmp_path / "sandbox.log")
        try:
            assert await sandbox.health() == health_pb2.HealthCheckResponse.NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await sandbox.listed()
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
            assert "recorded evening is being prepared" in (refused.value.details() or "")
            other.rollback()

            async def serves() -> bool:
                return await sandbox.health() == health_pb2.HealthCheckResponse.SERVING

            await eventually(serves, within=60.0)
            assert await sandbox.listed()
        finally:
            sandbox.program.stop()


async def test_signals_are_read_by_time(served: Sandbox):
    everything = await served.listed(page_size=500)
    middle = datetime(2026, 1, 15, 20, 15, tzinfo=UTC)
    request = signals.ListSignalsRequest(page_size=500)
    request.since.FromDatetime(middle)
    answer = await served.ask(SignalsServiceStub, "ReadSignals", request)
    since = json.loads(answer.data)["signals"]
    assert 0 < len(since) < len(everything)
    assert {signal["id"] for signal in since} == {
        signal["id"] for signal in everything if datetime.fromisoformat(signal["observed_at"]) >= middle
    }


async def test_a_signal_is_shown_with_who_holds_its_line_at_the_evenings_end(served: Sandbox):
    asked = [signals.GetSignalRequest(id=signal["id"]) for signal in await served.listed()]
    answers = [await served.ask(SignalsServiceStub, "GetSignal", request) for request in asked]
    assert {answer.holding_observed_at.ToDatetime(UTC) for answer in answers} == {SMALL.ends_at}
    assert any(answer.books_holding_now for answer in answers)


async def test_a_signal_is_explained(served: Sandbox):
    (first, *_) = await served.listed()
    answer = await served.ask(SignalsServiceStub, "ExplainSignal", signals.ExplainSignalRequest(id=first["id"]))
    assert answer.signal.id == first["id"]
    assert json.loads(answer.configuration)


async def test_what_was_held_back_is_listed(served: Sandbox):
    answer = await served.ask(SignalsServiceStub, "ListSuppressions", signals.ListSuppressionsRequest())
    assert answer.suppressions


async def test_markets_are_read_as_they_were_at_a_time(served: Sandbox):
    now = await served.ask(ConsensusServiceStub, "ListConsensus", consensus.ListConsensusRequest())
    assert len(now.consensus) == 9  # three markets of three games
    request = consensus.ListConsensusHistoryRequest(event_id=now.consensus[0].event_id)
    request.as_of.FromDatetime(BEGINS_AT)
    then = await served.ask(ConsensusServiceStub, "ListConsensusHistory", request)
    assert {row.observed_at.ToDatetime(UTC) for row in then.consensus} == {BEGINS_AT}


async def test_games_are_listed_and_shown_whole(served: Sandbox):
    listed = await served.ask(ConsensusServiceStub, "ListGames", consensus.ListGamesRequest())
    assert len(listed.games) == SMALL.games
    request = consensus.GetGameRequest(event_id=listed.games[-1].event_id)
    game = await served.ask(ConsensusServiceStub, "GetGame", request)
    assert {market.key.market for market in game.markets} == {"h2h", "spreads", "totals"}
    assert all(market.books for market in game.markets)


async def test_nobody_polls_the_feed_and_its_health_is_that_of_the_evenings_end(served: Sandbox):
    (sport,) = (await served.ask(IngestServiceStub, "GetFeedHealth", ingest.GetFeedHealthRequest())).sports
    assert sport.status == ingest.SportHealth.Status.IDLE
    assert sport.observed_at.ToDatetime(UTC) == SMALL.ends_at
    assert sport.age_seconds == 0
    assert sport.books


@pytest.mark.parametrize(
    ("stub", "method", "request_of"),
    [
        (SignalsServiceStub, "ListSignals", signals.ListSignalsRequest),
        (IngestServiceStub, "AdmitBook", ingest.AdmitBookRequest),
        (IngestServiceStub, "RequestKeyframes", ingest.RequestKeyframesRequest),
    ],
)
async def test_what_is_not_reached_over_http_is_refused_even_to_our_own_services(
    served: Sandbox, stub: Any, method: str, request_of: Any
):
    async with channel_to(served.port) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await getattr(stub(channel), method)(request_of(), timeout=30.0)
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert b"TEST_KEY" in dict(refused.value.trailing_metadata() or ())["grpc-status-details-bin"]


async def test_a_call_that_nobody_vouches_for_is_not_let_in(served: Sandbox):
    async with served.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await SignalsServiceStub(channel).ReadSignals(signals.ListSignalsRequest(), timeout=30.0)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_a_stream_without_a_cursor_begins_with_the_evening_and_gives_one_signal_after_another(served: Sandbox):
    opened, *one_by_one = await served.streamed(4)
    assert f"id: {Cursor(SMALL.name, 0)}\n" in opened
    for number, piece in enumerate(one_by_one, start=1):
        assert piece.count("event: signal") == 1
        assert f"id: {Cursor(SMALL.name, number)}\n" in piece


async def test_a_stream_goes_on_behind_a_cursor_at_once_and_then_beats(served: Sandbox):
    count = len(await served.listed(page_size=500))
    opened, rest, beat = await served.streamed(3, after=str(Cursor(SMALL.name, 10)))
    assert f"id: {Cursor(SMALL.name, 10)}\n" in opened
    assert rest.count("event: signal") == count - 10
    assert beat == f": hb\nid: {Cursor(SMALL.name, count)}\n\n"


async def test_a_stream_to_its_end_has_given_every_signal_once(served: Sandbox):
    everything = await served.listed(page_size=500)
    _, *pieces, beat = await served.streamed(len(everything) + 2)
    shown = [json.loads(line[6:])["id"] for piece in pieces for line in piece.splitlines() if line.startswith("data: ")]
    assert sorted(shown) == sorted(signal["id"] for signal in everything)
    assert len(set(shown)) == len(shown)
    assert beat.startswith(": hb\n")

"""`stratum deadletters` on real servers: a message that could not be read goes back through, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from deploy import schema
from deploy.dead_letters import Became, NoSuchLetterError, open_office
from deploy.home import Home, Living, Ports
from deploy.local.nats import NatsServer
from deploy.local.postgres import PostgresServer
from services.consensus import store as consensus_store
from services.consensus.config import Config as ConsensusConfig
from services.consensus.events import ConsensusFold
from services.consensus.model import Observation
from services.ingest import store as ingest_store
from services.ingest.changes import Coverage, Poll
from services.ingest.normalize import normalize
from services.ingest.poller import acquire
from services.ingest.provider import Quota
from services.ingest.recorder import Answered, Recorder
from services.ingest.testing import SPORT, START, a_book, an_event, minutes, spreads
from services.shared.bus import MARKETS, OBSERVATIONS, Bus
from services.shared.config import ServiceConfig
from services.shared.database import Database, open_database
from services.shared.errors import Malformed
from services.shared.outbox import Outbox
from services.shared.stage import Arrival, Stage
from services.shared.tasks import end_tasks
from services.shared.testing import eventually

BOOKS = ("draftkings", "fanduel", "betmgm", "bovada", "betrivers")
RULES = ConsensusConfig().board_rules()


class Blind(ConsensusFold):
    """Today's code, which cannot read the second message of an event."""

    def decode(self, payload: bytes) -> Arrival[Observation]:
        arrival = super().decode(payload)
        if arrival.revision == 2:
            raise Malformed("a field that nobody expected")
        return arrival


@dataclass(frozen=True)
class Running:
    """A stack as the command line finds it: a home, with ingest's and consensus's databases in it."""

    home: Home
    living: Living
    ingest: Database
    consensus: Database
    outbox: Outbox
    bus: Bus

    async def polled(self, number: int) -> None:
        """Ingest keeps the answer of that minute, in which every book has moved, and tells nobody yet."""
        lease = await acquire(self.ingest, f"poll {number}", 0.001)
        assert lease is not None
        body = [an_event(*(a_book(book, spreads(-5.5 - number / 2)) for book in BOOKS))]
        poll = Poll(SPORT, START + minutes(number), 60.0, Coverage(("h2h", "spreads", "totals")), normalize(body))
        await Recorder(self.ingest, self.outbox, lease, 0.001, rate=1.0).record([Answered(poll, Quota(), body)])

    @asynccontextmanager
    async def working(self, fold: ConsensusFold, database: Database | None = None) -> AsyncIterator[Stage]:
        """Consensus runs for the block."""
        stage = Stage(
            "consensus", database or self.consensus, self.bus, fold, OBSERVATIONS, MARKETS, consensus_store.stage
        )
        task = asyncio.create_task(stage.run())
        try:
            yield stage
        finally:
            await end_tasks([task])

    async def stratum(self, *arguments: str) -> tuple[int, str]:
        """The command `stratum deadletters …`: how it ended and what it said, in one line."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "deploy.cli", "deadletters", *arguments, "--home", str(self.home.folder)),
            env={**os.environ, "COLUMNS": "200"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        return process.returncode or 0, " ".join(said.decode().split())


@pytest.fixture
def living_home(
    server_folder: Path, postgres_server: PostgresServer, nats_server: NatsServer, passwords: dict[str, str]
) -> Iterator[Home]:
    """A home in which somebody lives: the session's servers, with the schemas of all services."""
    home = Home(server_folder)
    home.make()
    home.keep_secret("passwords.json", json.dumps(passwords))
    schema.upgrade(postgres_server.url(), passwords)
    ports = replace(
        Ports(), postgres=postgres_server.port, nats=nats_server.port, nats_monitor=nats_server.monitor_port
    )
    home.tell(Living(os.getpid(), psutil.Process().create_time(), ports, "a test", ready=True, processes={}))
    yield home
    home.state.unlink()
    with psycopg.connect(
        host="127.0.0.1",
        port=postgres_server.port,
        user="postgres",
        password=postgres_server.password,
        dbname="postgres",
        autocommit=True,
    ) as connection:
        connection.execute(f"DROP DATABASE {schema.DATABASE} WITH (FORCE)")


@pytest.fixture
async def running(
    living_home: Home, postgres_server: PostgresServer, passwords: dict[str, str], bus: Bus
) -> AsyncIterator[Running]:
    """The stack that lives there."""

    def config(service: str) -> ServiceConfig:
        return ServiceConfig(database_url=SecretStr(schema.service_url(postgres_server.url(), service, passwords)))

    async with open_database(config("ingest")) as ingest, open_database(config("consensus")) as consensus:
        living = living_home.living()
        assert living is not None
        yield Running(
            living_home, living, ingest, consensus, Outbox(ingest, bus, ingest_store.stage, OBSERVATIONS), bus
        )


async def kept(database: Database) -> list[list[tuple[object, ...]]]:
    """Everything that consensus made of the observations."""
    found = []
    async with database.begin() as connection:
        for table in ("consensus_snapshots", "quote_history", "games", "current_market"):
            rows = await connection.execute(text(f"SELECT * FROM consensus.{table}"))
            found.append(sorted((tuple(row) for row in rows), key=repr))
    return found


async def test_a_message_goes_back_through_when_the_code_that_reads_it_is_mended(
    running: Running, database_for: Callable[[str], Awaitable[Database]]
) -> None:
    for number in range(4):
        await running.polled(number)
    await running.outbox.publish()
    async with running.working(Blind(RULES)) as stage:
        await eventually(stage.drained)

    ended, said = await running.stratum("list")
    assert ended == 0
    assert all(word in said for word in ("consensus/2", "OBSERVATIONS", "a field that nobody expected", "event waits"))
    async with running.working(ConsensusFold(RULES)) as stage:
        assert await running.stratum("replay", "consensus/2") == (
            0,
            "consensus/2: healed: the missing message and all that waited behind it were applied",
        )
        await eventually(stage.drained)

    undisturbed = await database_for("consensus")
    async with running.working(ConsensusFold(RULES), undisturbed) as stage:
        await eventually(stage.drained)
    rows = await kept(running.consensus)
    assert rows == await kept(undisturbed)
    assert all(rows)


async def test_a_message_that_was_garbled_on_its_way_is_taken_from_its_producer_again(running: Running) -> None:
    garbled = text("UPDATE ingest.outbox SET payload = :payload WHERE message_id LIKE '%2' RETURNING payload")
    for number in range(3):
        await running.polled(number)
    async with running.ingest.begin() as connection:
        original = await connection.scalar(text("SELECT payload FROM ingest.outbox WHERE message_id LIKE '%2'"))
        await connection.execute(garbled, {"payload": b"\xff\xff garbled"})
    await running.outbox.publish()
    async with running.ingest.begin() as connection:
        await connection.execute(garbled, {"payload": original})
    async with running.working(ConsensusFold(RULES)) as stage:
        await eventually(stage.drained)
        _, shown = await running.stratum("show", "consensus/2")
        assert "ff ff 20 67 61 72 62 6c 65 64" in shown
        assert "has applied revision 1 of the event, which waits" in shown
        async with open_office(running.home, running.living) as office:
            assert [await office.put_back(found) for found in await office.listed()] == [Became.HEALED]
            assert await office.listed() == []
    async with running.consensus.begin() as connection:
        assert await connection.scalar(text("SELECT applied_revision FROM consensus.event_state")) == 3


async def test_a_letter_that_nobody_needs_is_dropped_with_the_reason_and_kept(running: Running) -> None:
    await running.polled(0)
    await running.outbox.publish()
    async with running.consensus.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO consensus.dead_letter (stream_identity, sequence, partition, event_id, reason, payload) "
                "VALUES ('a stream', 7, 0, 'game', 'no such thing', 'x')"
            )
        )
    assert await running.stratum("drop", "consensus/7", "--reason", "a test message") == (0, "consensus/7: dropped.")
    async with open_office(running.home, running.living) as office:
        assert await office.listed() == []
        assert [found.letter.settlement for found in await office.listed(settled=True)] == ["dropped: a test message"]
        with pytest.raises(NoSuchLetterError, match="no dead letter consensus/8"):
            await office.find("consensus/8")
        with pytest.raises(NoSuchLetterError, match="write it like consensus/1234"):
            await office.find("alerts/1")


async def test_an_event_that_a_keyframe_has_healed_is_left_as_it_is(running: Running) -> None:
    for number in (0, 1, 11):
        await running.polled(number)
    await running.outbox.publish()
    async with running.working(Blind(RULES)) as stage:
        await eventually(stage.drained)
    async with open_office(running.home, running.living) as office:
        (found,) = await office.listed()
        assert await office.put_back(found) is Became.GONE_ON

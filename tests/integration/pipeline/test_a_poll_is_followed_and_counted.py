"""A poll on its way through all three services: followed, by a receiver that speaks OTLP, and counted by each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Table, select

from deploy.traces import Collector, Trace, as_svg, as_text, collecting
from services.consensus import store as consensus_store
from services.consensus.config import Config as ConsensusConfig
from services.consensus.events import ConsensusFold
from services.ingest import store as ingest_store
from services.ingest.config import Config
from services.ingest.cycles import Cycles
from services.ingest.poller import Poller, acquire
from services.ingest.provider import OddsApi, open_session
from services.ingest.recorder import Recorder
from services.ingest.testing import SPORT, START, FakeProvider, Reply, a_book, an_event, minutes, spreads
from services.shared import tracing
from services.shared.bus import MARKETS, OBSERVATIONS, SIGNALS, Bus
from services.shared.config import ServiceConfig
from services.shared.cycles import CycleLog, Share, Tallies, add
from services.shared.database import Database
from services.shared.outbox import Outbox
from services.shared.stage import Stage
from services.shared.tasks import end_tasks
from services.shared.testing import eventually, settings, stored
from services.signals import store as signal_store
from services.signals.config import Config as SignalsConfig
from services.signals.events import SignalEvents

#: Watched for so many minutes, every window has a start.
STEADY = 16
BOOKS = ("betmgm", "bovada", "draftkings", "fanatics", "fanduel", "williamhill_us")


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    """A receiver, and everything followed while the test runs."""
    async with collecting() as (url, running):
        assert tracing.configure("pipeline", settings(ServiceConfig, trace_endpoint=url, trace_ratio=1.0))
        yield running
        tracing.close()


@asynccontextmanager
async def stages(bus: Bus, consensus: Database, signals: Database) -> AsyncIterator[None]:
    """Consensus and signals at work."""
    board = ConsensusFold(settings(ConsensusConfig).board_rules())
    rules = SignalEvents(settings(SignalsConfig).rule_settings(), lambda: None)
    tables, feed = consensus_store, signal_store
    tasks = [
        asyncio.create_task(stage.run())
        for stage in (
            Stage("consensus", consensus, bus, board, OBSERVATIONS, MARKETS, tables.stage, cycles=tables.cycles),
            Stage("signals", signals, bus, rules, MARKETS, SIGNALS, feed.stage, cycles=feed.cycles),
        )
    ]
    yield
    await end_tasks(tasks)


def a_reply(line: float, moment: Any) -> Reply:
    books = [a_book(book, spreads(line, last_update=moment)) for book in BOOKS]
    headers = {"Date": moment.strftime("%a, %d %b %Y %H:%M:%S GMT"), "x-requests-last": "3", "x-requests-used": "3"}
    return Reply([an_event(*books, commence_time=START + timedelta(hours=3))], headers=headers)


@pytest.fixture
async def polled(
    bus: Bus, database_for: Callable[[str], Awaitable[Database]]
) -> AsyncIterator[tuple[Callable[[], Awaitable[None]], Database, Database]]:
    """The pipeline, and what polls once: six books at −5.5 for a quarter of an hour, and then all of them at −8.5."""
    ingest, consensus, signals = [await database_for(name) for name in ("ingest", "consensus", "signals")]
    async with FakeProvider() as provider, open_session() as session, stages(bus, consensus, signals):
        steady = [a_reply(-5.5, START + minutes(number)) for number in range(STEADY)]
        provider.will_say(*steady, a_reply(-8.5, START + minutes(STEADY)))
        config = settings(
            Config,
            odds_api_key=SecretStr("k3y"),
            odds_api_base_url=provider.url,
            odds_api_clock="provider",
            odds_api_poll_interval_seconds=60.0,
        )
        outbox = Outbox(ingest, bus, ingest_store.stage, OBSERVATIONS)
        poller = Poller(config, OddsApi(session, config), ingest, outbox, "here")
        lease = await acquire(ingest, "here", 30.0)
        assert lease is not None
        cycles = Cycles(ingest)
        recorder = Recorder(ingest, outbox, lease, 30.0, 1.0, cycles)

        async def poll() -> None:
            async with cycles.cycle(SPORT):
                await poller.poll(recorder, SPORT)

        yield poll, consensus, signals


async def test_one_trace_goes_from_the_providers_call_to_the_published_signal(
    collector: Collector, polled: tuple[Callable[[], Awaitable[None]], Database, Database], bus: Bus
) -> None:
    poll, _, _ = polled
    for _ in range(STEADY + 1):
        await poll()
    sent = await eventually(lambda: stored(bus, SIGNALS))

    async def arrived() -> Trace | None:
        return next((t for t in collector.traces.values() if "publish SIGNALS" in {s.name for s in t.spans}), None)

    trace = await eventually(arrived)
    parents = {span.span_id: span for span in trace.spans}
    chain = [next(span for span in trace.spans if span.name == "publish SIGNALS")]
    while chain[-1].parent_id in parents:
        chain.append(parents[chain[-1].parent_id])
    assert [span.name for span in chain] == ["publish SIGNALS", "signals batch", "consensus batch", "record", "poll"]
    assert {"provider call", "normalize", "publish OBSERVATIONS", "publish MARKETS", "fold", "write"} <= {
        span.name for span in trace.spans
    }
    assert all(delivery.traceparent.split("-")[1] == trace.trace_id for delivery in sent)
    call = next(span for span in trace.spans if span.name == "provider call")
    assert call.attributes["url.path"] == f"/v4/sports/{SPORT}/odds"
    assert (call.attributes["http.response.status_code"], call.attributes["credits"]) == (200, 3)
    drawn, picture = as_text(trace), as_svg(trace)
    assert "k3y" not in drawn + picture
    assert drawn.splitlines()[2].split()[4:6] == ["pipeline", "poll"]


async def test_what_is_not_followed_carries_nothing(
    polled: tuple[Callable[[], Awaitable[None]], Database, Database], bus: Bus
) -> None:
    poll, _, _ = polled
    await poll()
    sent = await eventually(lambda: stored(bus, MARKETS))
    assert {each.traceparent for each in [*sent, *await stored(bus, OBSERVATIONS)]} == {None}


async def test_each_service_counts_its_share_of_a_poll(
    polled: tuple[Callable[[], Awaitable[None]], Database, Database],
) -> None:
    poll, consensus, signals = polled
    await poll()
    await poll()

    async def counted() -> list[list[tuple[Any, ...]]] | None:
        found = [await shares(consensus, consensus_store.cycles), await shares(signals, signal_store.cycles)]
        return found if [len(rows) for rows in found] == [2, 2] else None

    at_consensus, at_signals = await eventually(counted)
    polls = [START, START + minutes(1)]
    assert at_consensus == [
        (polls[0], 1, {"consensus_points_written": 1}),
        (polls[1], 1, {"consensus_points_written": 0}),
    ]
    assert at_signals == [(moment, 1, {"signals_created_total": 0}) for moment in polls]


async def shares(database: Database, cycles: Table) -> list[tuple[Any, ...]]:
    """What a stage has counted of each poll."""
    columns = (cycles.c.observed_at, cycles.c.messages, cycles.c.counts)
    async with database.begin() as connection:
        return [tuple(row) for row in await connection.execute(select(*columns).order_by(cycles.c.observed_at))]


async def test_batches_of_one_poll_add_up_and_workers_stay_apart(
    database_for: Callable[[str], Awaitable[Database]],
) -> None:
    database = await database_for("signals")
    for worker, counts in ((0, {"MOVE": 1}), (0, {"MOVE": 2, "STEAM": 1}), (8, {"MOVE": 5})):
        tallies: Tallies = {}
        add(tallies, Share(SPORT, START, counts))
        async with database.begin() as connection:
            await CycleLog("signals", worker, signal_store.cycles).write(connection, tallies)
    told = [(messages, counts) for _, messages, counts in await shares(database, signal_store.cycles)]
    assert sorted(told, key=lambda row: row[0]) == [(1, {"MOVE": 5}), (2, {"MOVE": 3, "STEAM": 1})]

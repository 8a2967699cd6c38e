"""An outage of the feed through the real stages: health says so while it lasts, and nothing is concluded from it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from pydantic import SecretStr
from sqlalchemy import func, select

from services.consensus import store as consensus_store
from services.consensus.board import BoardRules
from services.consensus.events import ConsensusFold
from services.ingest import store as ingest_store
from services.ingest.config import Config
from services.ingest.health import Judgement, ReasonKind, Status, judge
from services.ingest.poller import Poller, acquire
from services.ingest.provider import OddsApi, open_session
from services.ingest.recorder import Recorder
from services.ingest.testing import SPORT, START, FakeProvider, Reply, a_book, an_event, minutes, spreads
from services.shared.bus import MARKETS, OBSERVATIONS, SIGNALS, Bus
from services.shared.database import Database
from services.shared.outbox import Outbox
from services.shared.stage import Stage
from services.shared.testing import eventually, settings
from services.signals import store as signals_store
from services.signals.events import SignalEvents
from services.signals.rules import RuleSettings

BOOKS = ("draftkings", "fanduel", "betmgm", "bovada", "betrivers", "fanatics")
# Fewer failures than open the circuit, which would ask something free before the next poll.
STEADY_POLLS, FAILED_POLLS, POLLS_AFTER = 12, 2, 4
BACK_AT = START + minutes(STEADY_POLLS - 1 + 40)


def answer(moment: datetime, line: float) -> Reply:
    """What the provider says at a moment, at which it has just read every book."""
    books = [a_book(book, spreads(line, last_update=moment)) for book in BOOKS]
    return Reply([an_event(*books)], headers={"Date": moment.strftime("%a, %d %b %Y %H:%M:%S GMT")})


@asynccontextmanager
async def stages(bus: Bus, consensus: Database, signals: Database) -> AsyncIterator[list[Stage[Any, Any]]]:
    """Consensus and signals at work."""
    working: list[Stage[Any, Any]] = [
        Stage("consensus", consensus, bus, ConsensusFold(BoardRules()), OBSERVATIONS, MARKETS, consensus_store.stage),
        Stage(
            "signals",
            signals,
            bus,
            SignalEvents(RuleSettings(), received=lambda: None),
            MARKETS,
            SIGNALS,
            signals_store.stage,
        ),
    ]
    tasks = [asyncio.create_task(stage.run()) for stage in working]
    try:
        yield working
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def judged(database: Database, minutes_later: float) -> Judgement:
    """What a partner is told so many minutes after the newest successful poll."""
    async with database.begin() as connection:
        (feed,) = await ingest_store.load_health(connection, ())
    assert feed.polled_at is not None
    return judge(feed, True, feed.polled_at + minutes(minutes_later))


async def test_an_outage_is_visible_while_it_lasts_and_makes_no_signal_when_it_ends(
    database_for: Callable[[str], Awaitable[Database]], bus: Bus
) -> None:
    ingest, consensus, signals = [await database_for(name) for name in ("ingest", "consensus", "signals")]
    outbox = Outbox(ingest, bus, ingest_store.stage, OBSERVATIONS)
    lease = await acquire(ingest, "here", 60.0)
    assert lease is not None
    recorder = Recorder(ingest, outbox, lease, 60.0, rate=1.0)
    async with FakeProvider() as provider, open_session() as session:
        provider.will_say(
            *(answer(START + minutes(number), -5.5) for number in range(STEADY_POLLS)),
            *[Reply({"message": "no"}, 503)] * FAILED_POLLS,
            *(answer(BACK_AT + minutes(number), -7.5) for number in range(POLLS_AFTER)),
        )
        config = settings(
            Config,
            odds_api_key=SecretStr("key"),
            odds_api_base_url=provider.url,
            odds_api_clock="provider",
            odds_api_poll_interval_seconds=60.0,
            odds_api_retry_attempts=1,
        )
        poller = Poller(config, OddsApi(session, config), ingest, outbox, "here")

        async def poll(times: int) -> None:
            for _ in range(times):
                await poller.poll(recorder, SPORT)

        await poll(STEADY_POLLS)
        assert (await judged(ingest, 0.0)).status is Status.OK
        await poll(FAILED_POLLS)
        assert (await judged(ingest, 1.0)).status is Status.DEGRADED
        assert (await judged(ingest, 2.5)).status is Status.LATE
        outage = await judged(ingest, 4.0)
        assert outage.status is Status.STALE
        assert [(reason.kind, reason.detail) for reason in outage.reasons][1:] == [
            (ReasonKind.POLL_FAILED, "unavailable")
        ]
        await poll(POLLS_AFTER)
        assert (await judged(ingest, 0.0)).status is Status.OK

    async with stages(bus, consensus, signals) as working:
        for stage in working:
            await eventually(stage.drained, within=30.0)

    async with signals.begin() as connection:
        assert await connection.scalar(select(func.count()).select_from(signals_store.signal)) == 0
        log = signals_store.suppression.c
        rows = await connection.execute(
            select(log.signal_type, log.reason, log.count, log.first_seen_at, log.last_seen_at).order_by(
                log.signal_type
            )
        )
        # A window of STEAM begins behind the outage after three observations; the others' still do not.
        assert [tuple(row) for row in rows] == [
            ("KEY_CROSS", "stale_feed", 4, BACK_AT, BACK_AT + minutes(3)),
            ("MULTIBOOK_SYNC", "stale_feed", 4, BACK_AT, BACK_AT + minutes(3)),
            ("STEAM", "stale_feed", 3, BACK_AT, BACK_AT + minutes(2)),
        ]

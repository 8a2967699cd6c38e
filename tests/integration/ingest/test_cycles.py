"""A poll cycle's row: what it saw, what it cost, and what went wrong in it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from structlog.testing import capture_logs

from services.ingest.config import Config
from services.ingest.cycles import Cycles
from services.ingest.poller import Poller, acquire
from services.ingest.provider import KeyRefused, OddsApi, open_session
from services.ingest.recorder import Recorder
from services.ingest.testing import SPORT, START, FakeProvider, Reply, a_book, an_event, minutes, spreads, totals
from services.shared.database import Database
from services.shared.outbox import Outbox
from services.shared.testing import settings


def a_reply(minute: int, line: float = -5.5, **told: int) -> Reply:
    headers = {f"x-requests-{name}": str(value) for name, value in told.items()}
    body = [an_event(a_book("draftkings", spreads(line)), commence_time=START + timedelta(hours=6))]
    return Reply(body, headers={"Date": f"{START + minutes(minute):%a, %d %b %Y %H:%M:%S GMT}", **headers})


async def cycled(
    provider: FakeProvider, database: Database, outbox: Outbox, count: int, **given: Any
) -> list[dict[str, Any]]:
    """So many cycles one after another; their rows, oldest first."""
    config = settings(
        Config,
        odds_api_key=SecretStr("key"),
        odds_api_base_url=provider.url,
        odds_api_retry_attempts=1,
        odds_api_clock="provider",
        **given,
    )
    lease = await acquire(database, "here", 30.0)
    assert lease is not None
    async with open_session() as session:
        cycles = Cycles(database)
        recorder = Recorder(database, outbox, lease, 30.0, 1.0, cycles)
        poller = Poller(config, OddsApi(session, config), database, outbox, "here")
        for _ in range(count):
            async with cycles.cycle(SPORT):
                await poller.poll(recorder, SPORT)
    return await rows(database)


async def rows(database: Database) -> list[dict[str, Any]]:
    async with database.begin() as connection:
        found = await connection.execute(text("SELECT * FROM ingest.cycles ORDER BY completed_at"))
        return [dict(row) for row in found.mappings()]


async def test_a_cycle_says_what_it_saw_and_what_it_cost(
    provider: FakeProvider, database: Database, outbox: Outbox
) -> None:
    provider.will_say(
        a_reply(0, last=3, used=100, remaining=19_900), a_reply(1, -6.5, last=3, used=103, remaining=19_897)
    )
    with capture_logs() as lines:
        first, second = await cycled(provider, database, outbox, 2)
    assert (first["observed_at"], first["snapshots_inserted"], first["events_processed"]) == (START, 2, 1)
    assert (second["requests_last"], second["requests_used_delta"]) == (3, 3)
    assert (second["requests_remaining"], second["requests_limit"]) == (19_897, 20_000)
    assert (second["degraded"], second["reasons"], second["calls"]) == (False, [], 1)
    assert second["started_at"] <= second["completed_at"]
    told = [line for line in lines if line["event"] == "cycle"]
    assert [line["cycle_id"] for line in told] == [f"{SPORT}@2026-01-15T18:0{minute}:00.000Z" for minute in (0, 1)]
    assert told[1]["requests_used_delta"] == 3


async def test_credits_that_somebody_else_spent_show_in_the_keys_own_count(
    provider: FakeProvider, database: Database, outbox: Outbox
) -> None:
    provider.will_say(a_reply(0, last=3, used=100), a_reply(1, last=3, used=133), a_reply(2, last=3, used=3))
    _, spent, new_month = await cycled(provider, database, outbox, 3)
    assert (spent["requests_last"], spent["requests_used_delta"]) == (3, 33)
    assert new_month["requests_used_delta"] == 3


async def test_what_the_provider_did_not_say_is_not_known(
    provider: FakeProvider, database: Database, outbox: Outbox
) -> None:
    provider.will_say(a_reply(0))
    (row,) = await cycled(provider, database, outbox, 1)
    assert [row[f"requests_{name}"] for name in ("last", "used_delta", "remaining", "limit")] == [None] * 4


async def test_a_failed_poll_is_a_degraded_cycle_with_its_reason(
    provider: FakeProvider, database: Database, outbox: Outbox
) -> None:
    provider.will_say(a_reply(0), Reply([], headers=a_reply(1, last=0).headers), Reply(status=503))
    well, empty, failed = await cycled(provider, database, outbox, 3)
    assert (well["degraded"], empty["degraded"], failed["degraded"]) == (False, True, True)
    assert (empty["reasons"], empty["requests_last"]) == (["empty_body"], 0)
    assert (failed["reasons"], failed["snapshots_inserted"]) == (["unavailable"], 0)


async def test_a_refused_key_ends_the_cycle_and_is_told(
    provider: FakeProvider, database: Database, outbox: Outbox
) -> None:
    provider.will_say(Reply({"error_code": "INVALID_KEY"}, status=401))
    with pytest.raises(KeyRefused):
        await cycled(provider, database, outbox, 1)
    (row,) = await rows(database)
    assert row["reasons"] == ["key_refused"]


async def test_calls_for_single_events_belong_to_their_sports_cycle(
    provider: FakeProvider, database: Database, outbox: Outbox
) -> None:
    event = an_event(a_book("draftkings", totals(220.5)), commence_time=START + timedelta(hours=6))
    provider.will_say(a_reply(0, last=3), Reply(event, headers={**a_reply(1).headers, "x-requests-last": "1"}))
    (row,) = await cycled(provider, database, outbox, 1, odds_api_event_markets=("totals",))
    assert (row["calls"], row["requests_last"], row["events_processed"]) == (2, 4, 1)
    assert row["observed_until"] == START + minutes(1)

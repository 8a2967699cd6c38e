"""The partners' client against the whole system, as a partner has it: a key, an address, and nothing else."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import pytest_asyncio
from stratum_client import (
    AsyncClient,
    AuthenticationError,
    Client,
    InvalidRequestError,
    NotFoundError,
    Signal,
    models,
)

from deploy.accounts import Partner as Account
from deploy.stack import Stack
from services.shared.testing import eventually

EXAMPLE = Path(__file__).resolve().parents[2] / "clients" / "python" / "examples" / "follow.py"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(stack: Stack, account: Account) -> AsyncIterator[AsyncClient]:
    """A partner's client, once there is something to read."""
    async with AsyncClient(account.key, stack.gateway_url) as made:

        async def some_signals() -> bool:
            return len(await made.signals().page()) > 5

        await eventually(some_signals, within=120)
        yield made


async def test_the_feed_is_read_page_by_page_by_score(client: AsyncClient) -> None:
    signals = [signal async for signal in client.signals(page_size=3).all(limit=6)]
    assert len({signal.id for signal in signals}) == 6
    assert all(one.composite_score >= other.composite_score for one, other in pairwise(signals))
    assert all(signal.tier.is_known and signal.signal_type.is_known for signal in signals)


async def test_every_paid_answer_tells_limits_and_usage(client: AsyncClient) -> None:
    await client.signals().page()
    assert client.limits is not None
    assert client.limits.per_seconds
    assert 0 <= client.limits.remaining < client.limits.limit
    assert client.usage_seen is not None
    assert client.usage_seen.period_end is not None


async def test_a_signal_is_explained(client: AsyncClient) -> None:
    first = (await client.signals().page()).items[0]
    assert (await client.signal(first.id)).signal.id == first.id
    explained = await client.explain(first.id)
    assert explained.steps
    assert explained.signal.config_hash == explained.config_hash


async def test_the_market_behind_the_feed(client: AsyncClient) -> None:
    first = (await client.signals().page()).items[0]
    game = await client.game(first.event_id)
    assert game.game.event_id == first.event_id
    assert any(market.consensus.books for market in game.markets)
    assert [one async for one in client.games().all(limit=1)]
    assert [one async for one in client.consensus(event_id=first.event_id).all(limit=1)]
    assert [one async for one in client.consensus_history(first.event_id).all(limit=1)]
    await client.suppressions().page()
    assert all(isinstance(sport, models.SportHealth) for sport in await client.health())


async def test_the_account_is_ones_own(client: AsyncClient) -> None:
    plan = await client.plan()
    (key,) = [key for key in await client.keys() if key.mode == models.ApiKeyMode.LIVE]
    assert (plan.api_access_enabled, key.account_id, key.status) == (True, plan.account_id, "ACTIVE")
    quote = await client.quote("/api/v1/intel/signals?tier=HIGH")
    assert (quote.billable, quote.units) == (True, 1)


async def test_what_was_used_is_counted_and_listed(client: AsyncClient) -> None:
    await client.signals().page()
    request_id = client.request_id

    async def counted() -> bool:
        return request_id in [entry.request_id async for entry in client.ledger().all(limit=500)]

    await eventually(counted, within=30)
    assert (await client.usage()).used_units > 0
    exported = b"".join([piece async for piece in client.ledger_export()])
    assert str(request_id).encode() in exported


async def test_a_page_that_has_not_changed_is_not_sent_again(
    stack: Stack, client: AsyncClient, account: Account
) -> None:
    first = (await client.signals().page()).items[0]
    async with AsyncClient(account.key, stack.gateway_url, remember=8) as remembering:
        asked = remembering.signals(event_id=first.event_id, until=first.observed_at + timedelta(microseconds=1))

        async def the_same_object_twice() -> bool:
            one, other = await asked.page(), await asked.page()
            return bool(one.items) and one.items is other.items

        await eventually(the_same_object_twice, within=30)


async def test_the_stream_brings_new_signals_and_resumes_behind_any(stack: Stack, client: AsyncClient) -> None:
    async with asyncio.timeout(120), client.watch() as stream:
        seen = [item async for item in _first_signals(stream, 3)]
    async with asyncio.timeout(60), client.watch(after=seen[0].cursor) as again:
        assert [item.id async for item in _first_signals(again, 2)] == [item.id for item in seen[1:]]


async def _first_signals(stream: AsyncIterator[object], count: int) -> AsyncIterator[Signal]:
    async for item in stream:
        assert isinstance(item, Signal)
        yield item
        count -= 1
        if count == 0:
            return


async def test_refusals_are_what_they_are(stack: Stack, client: AsyncClient, account: Account) -> None:
    with pytest.raises(NotFoundError) as missing:
        await client.signal("k5zq3wd6j2v4y7mhn2p6r5s2t3u4x5aa")
    assert missing.value.reason == "SIGNAL_NOT_FOUND"
    assert missing.value.request_id == client.request_id
    with pytest.raises(InvalidRequestError):
        await client.signals(page_size=501).page()
    mistyped = account.key[:-1] + ("1" if account.key.endswith("0") else "0")
    async with AsyncClient(mistyped, stack.gateway_url) as stranger:
        with pytest.raises(AuthenticationError):
            await stranger.signals().page()
        with pytest.raises(AuthenticationError):
            await anext(stranger.watch())


async def test_a_waiting_client_reads_the_same(stack: Stack, client: AsyncClient, account: Account) -> None:
    def read() -> models.GetSignalResponse:
        with Client(account.key, stack.gateway_url) as waiting:
            return waiting.signal(first.id)

    first = (await client.signals().page()).items[0]
    assert (await asyncio.to_thread(read)).signal.id == first.id


async def test_the_example_runs_as_the_readme_says(stack: Stack, client: AsyncClient, account: Account) -> None:
    environment = {
        "STRATUM_API_KEY": account.key,
        "STRATUM_URL": stack.gateway_url,
        "FOLLOW": "2",
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(EXAMPLE.parents[1] / "src"),
    }
    running = await asyncio.create_subprocess_exec(
        sys.executable, EXAMPLE, env=environment, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(running.communicate(), 120)
    assert running.returncode == 0
    assert "units used" in out.decode()
    assert len(out.decode().splitlines()) > 3

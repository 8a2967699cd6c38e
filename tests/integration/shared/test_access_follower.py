"""A table that is kept current."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from stratum.billing.v1.events_pb2 import AccountEvent

from deploy.local.process import free_port
from gateway.testing import StandIns
from services.shared.access_follower import AccessFollower, channel_to_billing
from services.shared.bus import open_spoken
from services.shared.config import ServiceConfig
from services.shared.keyring import Keyring
from services.shared.tasks import end_tasks
from services.shared.testing import RING, eventually


@pytest.fixture
async def billing():
    stand_ins = StandIns()
    stand_ins.table.account("acct")
    stand_ins.table.key("key", "acct")
    await stand_ins.start()
    yield stand_ins
    await stand_ins.stop()


@asynccontextmanager
async def following(port, spoken=None, every_seconds=0.05, ring=RING):
    """A follower at work."""
    async with channel_to_billing(f"127.0.0.1:{port}", "tests", ring) as channel:
        follower = AccessFollower(channel, spoken, every_seconds)
        running = asyncio.create_task(follower.run())
        try:
            yield follower
        finally:
            await end_tasks([running])


def knows(follower, billing):
    async def check():
        return follower.table.is_filled and follower.table.revision == billing.table.revision

    return check


async def test_it_takes_the_whole_table_and_then_what_changes(billing):
    async with following(billing.port) as follower:
        await eventually(knows(follower, billing))
        billing.table.revoke("key")
        await eventually(knows(follower, billing))
        assert follower.table.by_id("key").revoked
        assert follower.age_seconds < 5


async def test_who_waits_is_told_of_each_change_and_of_nothing_else(billing):
    async with following(billing.port) as follower:
        seen = await asyncio.wait_for(follower.changed(), 10)
        waiting = asyncio.create_task(follower.changed(seen))
        before = follower.confirmed_at

        async def asked_again():
            return follower.confirmed_at > before

        await eventually(asked_again)
        assert not waiting.done()
        billing.table.revoke("key")
        assert await asyncio.wait_for(waiting, 10) == seen + 1
        assert follower.table.by_id("key").revoked


async def test_another_database_is_another_table(billing):
    async with following(billing.port) as follower:
        await eventually(knows(follower, billing))
        billing.table.epoch = "second"
        billing.table.account("acct")

        async def taken_over():
            return follower.table.epoch == "second"

        await eventually(taken_over)


async def test_it_goes_on_with_what_it_has_while_billing_is_away_and_says_how_old_that_is(billing):
    async with following(billing.port) as follower:
        await eventually(knows(follower, billing))
        await billing.stop()
        confirmed_at = follower.confirmed_at

        async def grows_old():
            return follower.age_seconds > 0.3

        await eventually(grows_old)
        assert follower.table.by_id("key") is not None
        assert follower.confirmed_at >= confirmed_at

        again = StandIns(billing.port)
        again.table = billing.table
        billing.table.revoke("key")
        await again.start()
        await eventually(knows(follower, billing), within=15)
        await again.stop()


async def test_without_billing_there_is_no_table():
    async with following(free_port()) as follower:
        assert not await follower.ask()
        assert not follower.table.is_filled
        assert follower.age_seconds == float("inf")


async def test_who_cannot_vouch_for_itself_gets_no_table(billing):
    async with following(billing.port, ring=Keyring.parse(f"1:{'6b' * 32}")) as follower:
        assert not await follower.ask()
        assert not follower.table.is_filled


async def test_the_bus_wakes_it_up(billing, nats_server):
    config = ServiceConfig(nats_url=nats_server.url, nats_monitor_url=nats_server.monitor_url)
    async with (
        open_spoken(config) as spoken,
        open_spoken(config) as other,
        following(billing.port, spoken, every_seconds=60.0) as follower,
    ):
        await eventually(knows(follower, billing))
        await other.connected()
        billing.table.revoke("key")
        event = AccountEvent()
        event.access_changed.revision = billing.table.revision

        async def woken():
            await other.say("accounts.acct", b"\xff what nobody can read")
            await other.say("accounts.acct", event.SerializeToString())
            return await knows(follower, billing)()

        await eventually(woken)


async def test_it_begins_with_a_table_from_earlier_and_says_from_when(billing):
    async with channel_to_billing(f"127.0.0.1:{free_port()}", "tests", RING) as channel:
        follower = AccessFollower(channel, clock=lambda: 1000.0)
        follower.begin_with(billing.table.answer(0), 400.0)
        assert (follower.age_seconds, follower.table.by_id("key").key_id) == (600.0, "key")

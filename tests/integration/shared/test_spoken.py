"""What is said on the bus and kept nowhere."""

import asyncio

import pytest

from deploy.local.nats import NatsServer
from deploy.local.process import free_port
from services.shared.bus import ACCOUNTS, BusError, Outgoing, open_bus, open_spoken
from services.shared.config import ServiceConfig
from services.shared.testing import eventually


def told_where(server):
    return ServiceConfig(nats_url=server.url, nats_monitor_url=server.monitor_url)


class Ears:
    """Keeps what is heard."""

    def __init__(self):
        self.heard = []

    async def hear(self, message):
        self.heard.append(message.data)

    async def answer(self, message):
        await message.respond(b"yes")

    def have(self, *payloads):
        async def check():
            return self.heard == list(payloads)

        return check


async def test_who_listens_hears_what_is_said(nats_server):
    async with open_spoken(told_where(nats_server)) as one, open_spoken(told_where(nats_server)) as other:
        ears = Ears()
        async with one.hearing("a.*", ears.hear):
            await other.connected()
            await eventually(lambda: said(other, "a.b", b"hello", ears))
        before = list(ears.heard)
        await other.say("a.b", b"too late")
        await other.say("a.b", b"too late")
        assert ears.heard == before


async def said(spoken, subject, payload, ears):
    """Says it until it was heard: a subscription takes a moment to be known."""
    await spoken.say(subject, payload)
    return payload in ears.heard


async def test_what_is_published_to_a_stream_is_heard_as_it_is_published(nats_server):
    async with open_bus(told_where(nats_server)) as bus:
        await bus.delete_stream(ACCOUNTS)
        await bus.ensure_stream(ACCOUNTS)
        ears = Ears()
        async with bus.spoken.hearing("accounts.>", ears.hear):
            await bus.publish(ACCOUNTS, [Outgoing("acct_1", "acct_1:1", b"one")])
            await bus.publish(ACCOUNTS, [Outgoing("acct_2", "acct_2:1", b"two"), Outgoing("acct_2", "acct_2:2", b"3")])
            await eventually(ears.have(b"one", b"two", b"3"))
        await bus.delete_stream(ACCOUNTS)


async def test_a_question_is_answered_by_whoever_listens(nats_server):
    async with open_spoken(told_where(nats_server)) as one, open_spoken(told_where(nats_server)) as other:
        await other.connected()
        with pytest.raises(BusError, match="no responders"):
            await other.ask("question", b"?", 1.0)
        async with one.hearing("question", Ears().answer):

            async def answered():
                try:
                    return await other.ask("question", b"?", 1.0) == b"yes"
                except BusError:
                    return False

            await eventually(answered)


async def test_without_a_broker_nothing_waits_and_nothing_is_said(tmp_path):
    port, monitor = free_port(), free_port()
    config = ServiceConfig(nats_url=f"nats://127.0.0.1:{port}", nats_monitor_url=f"http://127.0.0.1:{monitor}")
    async with open_spoken(config) as spoken:
        assert not spoken.is_connected
        with pytest.raises(BusError, match="not connected"):
            await spoken.say("a", b"lost")
        with pytest.raises(BusError, match="not connected"):
            await spoken.ask("a", b"lost", 1.0)

        # And it is there as soon as there is one.
        with await asyncio.to_thread(lambda: NatsServer(tmp_path / "nats", port, monitor)) as server:
            ears = Ears()
            await asyncio.wait_for(spoken.connected(), 10)
            async with spoken.hearing("a", ears.hear):
                await eventually(lambda: said(spoken, "a", b"heard", ears))
            assert server.url == config.nats_url


async def test_who_listens_goes_on_when_the_broker_is_back(tmp_path):
    with NatsServer(tmp_path / "nats") as server:
        async with open_spoken(told_where(server)) as spoken:
            ears = Ears()
            async with spoken.hearing("a", ears.hear):
                await eventually(lambda: said(spoken, "a", b"before", ears))
                server.stop()
                server.start()
                await eventually(lambda: heard_again(spoken, ears))


async def heard_again(spoken, ears):
    if spoken.is_connected:
        await spoken.say("a", b"after")
    return b"after" in ears.heard

"""The bus against a real broker: order, partitions, repeats, full streams, and durability that is checked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from deploy.local.nats import NatsServer
from services.shared.bus import (
    OBSERVATIONS,
    Bus,
    BusError,
    Outgoing,
    StreamMovedError,
    StreamSpec,
    open_bus,
    partition_of,
)
from services.shared.config import ServiceConfig
from services.shared.testing import eventually, stored

EVENTS = [f"{number:032x}" for number in range(40)]


def messages(count: int, first: int = 0) -> list[Outgoing]:
    return [
        Outgoing(EVENTS[number % len(EVENTS)], f"message:{number}", f"payload {number}".encode())
        for number in range(first, first + count)
    ]


def connected(bus: Bus) -> Callable[[], Awaitable[bool]]:
    async def condition() -> bool:
        try:
            await bus.check_connected()
        except BusError:
            return False
        return True

    return condition


async def test_what_is_published_is_read_in_the_same_order(bus: Bus):
    await bus.publish(OBSERVATIONS, messages(1234))
    found = await stored(bus, OBSERVATIONS)
    assert [delivery.payload for delivery in found] == [message.payload for message in messages(1234)]
    assert [delivery.sequence for delivery in found] == list(range(1, 1235))


async def test_the_broker_partitions_as_we_do(bus: Bus):
    await bus.publish(OBSERVATIONS, messages(40))
    for delivery in await stored(bus, OBSERVATIONS):
        assert delivery.partition == partition_of(delivery.event_id)


async def test_a_reader_of_some_partitions_gets_those_alone(bus: Bus):
    await bus.publish(OBSERVATIONS, messages(200))
    mine = {3, 4}
    expected = [message.payload for message in messages(200) if partition_of(message.event_id) in mine]
    async with bus.read(OBSERVATIONS, 0, tuple(mine)) as reader:
        found: list[bytes] = []
        while len(found) < len(expected):
            found.extend(delivery.payload for delivery in await reader.next_batch(500, 5.0))
        assert found == expected
        assert await reader.next_batch(500, 0.05) == []


async def test_a_batch_with_a_known_message_stores_the_others_once(bus: Bus):
    await bus.publish(OBSERVATIONS, messages(10))
    await bus.publish(OBSERVATIONS, messages(20, first=5))
    found = [delivery.payload for delivery in await stored(bus, OBSERVATIONS)]
    assert found == [message.payload for message in messages(25)]


async def test_a_message_reaches_a_waiting_reader_at_once(bus: Bus):
    async with bus.read(OBSERVATIONS, 0) as reader:
        assert await reader.next_batch(500, 0.05) == []
        await bus.publish(OBSERVATIONS, messages(1))
        assert len(await reader.next_batch(500, 2.0)) == 1


async def test_a_window_smaller_than_the_backlog_loses_nothing(bus: Bus):
    await bus.publish(OBSERVATIONS, messages(300))
    async with bus.read(OBSERVATIONS, 0, window=7) as reader:
        found: list[bytes] = []
        while len(found) < 300:
            batch = await reader.next_batch(5, 5.0)
            assert 1 <= len(batch) <= 5
            found.extend(delivery.payload for delivery in batch)
    assert found == [message.payload for message in messages(300)]


async def test_a_full_stream_refuses_and_keeps_what_it_has(bus: Bus):
    small = StreamSpec("SMALL", max_bytes=8_000)
    await bus.delete_stream(small)
    await bus.ensure_stream(small)
    with pytest.raises(BusError, match="SMALL does not take"):
        await bus.publish(small, messages(400))
    found = [delivery.payload for delivery in await stored(bus, small)]
    assert found == [message.payload for message in messages(len(found))]
    assert 0 < len(found) < 400


async def test_a_reader_breaks_off_when_its_stream_is_removed(bus: Bus):
    async with bus.read(OBSERVATIONS, 0) as reader:
        assert await reader.next_batch(1, 0.05) == []
        await bus.delete_stream(OBSERVATIONS)
        with pytest.raises(BusError):
            await reader.next_batch(1, 30.0)


async def test_a_stream_made_again_has_another_identity(bus: Bus):
    before = await bus.stream_state(OBSERVATIONS)
    assert (await bus.ensure_stream(OBSERVATIONS)).identity == before.identity
    await bus.delete_stream(OBSERVATIONS)
    assert (await bus.ensure_stream(OBSERVATIONS)).identity != before.identity


async def test_limits_are_brought_up_to_date_without_losing_messages(bus: Bus):
    await bus.publish(OBSERVATIONS, messages(3))
    await bus.ensure_stream(StreamSpec("OBSERVATIONS", max_bytes=1024**2))
    assert len(await stored(bus, OBSERVATIONS)) == 3


async def test_a_broker_that_syncs_is_ready(bus: Bus):
    await bus.check_syncs_writes()


async def test_a_broker_that_does_not_sync_is_not_ready(tmp_path: Path):
    with NatsServer(tmp_path, syncs_writes=False) as server:
        config = ServiceConfig(nats_url=server.url, nats_monitor_url=server.monitor_url)
        async with open_bus(config) as opened:
            with pytest.raises(BusError, match="sync_interval: always"):
                await opened.check_syncs_writes()


async def test_a_restart_of_the_broker_ends_the_reader_and_keeps_the_messages(tmp_path: Path):
    with NatsServer(tmp_path) as server:
        config = ServiceConfig(nats_url=server.url, nats_monitor_url=server.monitor_url)
        async with open_bus(config) as opened:
            await opened.ensure_stream(OBSERVATIONS)
            await opened.publish(OBSERVATIONS, messages(50))
            async with opened.read(OBSERVATIONS, 0) as reader:
                taken = 0
                while taken < 50:
                    taken += len(await reader.next_batch(50, 5.0))
                server.kill()
                with pytest.raises(BusError):
                    await reader.next_batch(50, 30.0)
                server.start()
            await eventually(connected(opened))
            assert len(await stored(opened, OBSERVATIONS)) == 50


@pytest.mark.parametrize("count", [1, 3])
async def test_nothing_is_stored_where_the_stream_does_not_end_as_expected(bus: Bus, count: int):
    with pytest.raises(StreamMovedError):
        await bus.publish(OBSERVATIONS, messages(count), expected_last=7)
    assert (await bus.stream_state(OBSERVATIONS)).last_sequence == 0
    assert await bus.publish(OBSERVATIONS, messages(count), expected_last=0) == count


async def test_what_the_broker_knows_already_does_not_break_the_expected_order(bus: Bus):
    await bus.publish(OBSERVATIONS, messages(2))
    assert await bus.publish(OBSERVATIONS, messages(4), expected_last=2) == 4

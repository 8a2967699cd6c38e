"""A stream that fills up: what was applied leaves it, what was not stays, and its limit follows the setting."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import text

from deploy.local.nats import NatsServer
from services.shared.bus import (
    ALL_PARTITIONS,
    OBSERVATIONS,
    Bus,
    BusError,
    Outgoing,
    StreamSpec,
    open_bus,
    partition_of,
)
from services.shared.config import ServiceConfig
from services.shared.database import Database
from services.shared.room import make_room
from services.shared.testing import stored
from services.signals.store import stage

NARROW = StreamSpec("NARROW", max_bytes=20_000)


@pytest.fixture
async def database(database_for: Callable[[str], Awaitable[Database]]) -> Database:
    return await database_for("signals")


@pytest.fixture
async def narrow(bus: Bus) -> str:
    """A narrow stream that holds thirty messages of two events; its identity."""
    await bus.delete_stream(NARROW)
    await bus.ensure_stream(NARROW)
    await bus.publish(NARROW, [Outgoing(f"event{n % 2}", str(n), b"x" * 400) for n in range(30)])
    return (await bus.stream_state(NARROW)).identity


async def stand_at(database: Database, identity: str, sequence: int) -> None:
    async with database.begin() as connection:
        await connection.execute(
            text("INSERT INTO signals.position SELECT generate_series(0, 15), :identity, :sequence"),
            {"identity": identity, "sequence": sequence},
        )


async def test_what_was_applied_leaves_a_stream_that_is_half_full(database: Database, bus: Bus, narrow: str):
    await stand_at(database, narrow, 20)
    assert await make_room(database, bus, stage, NARROW)
    assert [message.sequence for message in await stored(bus, NARROW)] == list(range(21, 31))


async def test_a_share_of_the_partitions_clears_no_others(database: Database, bus: Bus, narrow: str):
    await stand_at(database, narrow, 20)
    mine = partition_of("event0")
    assert await make_room(database, bus, stage, NARROW, [mine])
    left = await stored(bus, NARROW)
    assert [message.sequence for message in left if message.event_id == "event0"] == [21, 23, 25, 27, 29]
    assert len([message for message in left if message.event_id == "event1"]) == 15


async def test_positions_in_another_stream_clear_nothing(database: Database, bus: Bus, narrow: str):
    await stand_at(database, "another", 20)
    assert not await make_room(database, bus, stage, NARROW)
    assert len(await stored(bus, NARROW)) == 30


async def test_a_stream_made_anew_while_it_is_cleared_is_given_up_for_its_producer_to_fill_again(
    database: Database, bus: Bus, narrow: str, monkeypatch: pytest.MonkeyPatch
):
    clear = bus.remove_read

    async def made_anew_meanwhile(*given: Any) -> None:
        await bus.delete_stream(NARROW)
        await bus.ensure_stream(NARROW)
        await bus.publish(NARROW, [Outgoing("event0", str(n), b"not read yet") for n in range(30)])
        await clear(*given)

    monkeypatch.setattr(bus, "remove_read", made_anew_meanwhile)
    await stand_at(database, narrow, 20)
    assert not await make_room(database, bus, stage, NARROW)
    with pytest.raises(BusError, match="does not answer"):
        await bus.stream_state(NARROW)


async def test_a_stream_with_room_is_left_alone(database: Database, bus: Bus):
    await bus.publish(OBSERVATIONS, [Outgoing("event", "1", b"x")])
    await stand_at(database, (await bus.stream_state(OBSERVATIONS)).identity, 1)
    assert not await make_room(database, bus, stage, OBSERVATIONS, ALL_PARTITIONS)


async def test_a_setting_lowers_the_limit_of_a_stream(nats_server: NatsServer, bus: Bus):
    config = ServiceConfig(
        nats_url=nats_server.url, nats_monitor_url=nats_server.monitor_url, nats_stream_max_bytes=2000
    )
    await bus.delete_stream(NARROW)
    async with open_bus(config) as small:
        await small.ensure_stream(NARROW)
        with pytest.raises(BusError, match="maximum bytes exceeded"):
            await small.publish(NARROW, [Outgoing("event", str(n), b"x" * 400) for n in range(30)])

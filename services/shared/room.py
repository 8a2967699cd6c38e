"""Room in a stream: its one reader removes what it has applied, once the stream is half full.

A stream is kept by size and age and refuses what does not fit, so nothing unread is ever dropped to make room. Left to
age alone, a stream that was filled in an hour would hold up its producer for a week. What is removed here was committed
by the stage that reads the stream; what a lost stream needs again is in its producer's outbox.

Each stream has one reader (OBSERVATIONS: consensus, MARKETS: signals), whose workers share its partitions. A second
kind of reader would have to be asked as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NoReturn

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from services.shared.bus import ALL_PARTITIONS, Bus, BusError, StreamSpec
from services.shared.database import Database
from services.shared.logging import logger
from services.shared.tables import StageTables

log = logger(__name__)

LOOK_SECONDS = 1.0
#: Below this share of its limit a stream is left alone: what is in it can still be looked at.
LEFT_ALONE = 0.5


async def keep_room(
    database: Database, bus: Bus, tables: StageTables, source: StreamSpec, partitions: Sequence[int]
) -> NoReturn:
    """Looks every second, for ever. A look that fails is made up for by the next."""
    while True:
        try:
            await make_room(database, bus, tables, source, partitions)
        except (BusError, SQLAlchemyError) as error:
            log.info("room could not be made", stream=source.name, error=type(error).__name__)
        await asyncio.sleep(LOOK_SECONDS)


async def make_room(
    database: Database, bus: Bus, tables: StageTables, source: StreamSpec, partitions: Sequence[int] = ALL_PARTITIONS
) -> bool:
    """Removes what these partitions' stage has committed, if the stream is half full; says whether it did."""
    position = tables.position.c
    async with database.begin() as connection:
        held = (
            await connection.execute(
                select(position.partition, position.stream_identity, position.sequence).where(
                    position.partition.in_(partitions)
                )
            )
        ).all()
    # Asked after the positions were read: a position of another stream says nothing of this one.
    stream = await bus.stream_state(source)
    if stream.filled < LEFT_ALONE or any(row.stream_identity != stream.identity for row in held):
        return False
    if not held or max(row.sequence for row in held) < stream.first_sequence:
        return False
    if len(held) == len(ALL_PARTITIONS):
        await bus.remove_read(source, min(row.sequence for row in held))
    else:
        for row in held:
            await bus.remove_read(source, row.sequence, row.partition)
    if (await bus.stream_state(source)).identity != stream.identity:
        # It was made anew in between, so what went may not have been read: its producer shall fill another one.
        await bus.delete_stream(source)
        return False
    log.info("made room", stream=source.name, filled=round(stream.filled, 3))
    return True

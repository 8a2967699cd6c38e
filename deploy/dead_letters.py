"""`stratum deadletters`: messages that a service could not read, shown and put back through the running stack."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import Enum

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import DecodeError, Message
from pydantic import SecretStr
from stratum.consensus.v1.events_pb2 import MarketsUpdated
from stratum.ingest.v1.events_pb2 import EventObserved

from deploy import schema
from deploy.home import Home, Living
from deploy.local.postgres import PostgresServer
from deploy.terminal import ToldError
from services.consensus import store as consensus_store
from services.ingest import store as ingest_store
from services.shared.bus import MARKETS, OBSERVATIONS, Bus, StreamSpec, open_bus
from services.shared.config import ServiceConfig
from services.shared.database import open_database
from services.shared.dead_letters import DeadLetter, DeadLetters, Standing, put_back
from services.shared.outbox import Outbox
from services.shared.tables import StageTables
from services.signals import store as signals_store

READ_WITHIN_SECONDS = 30.0
LOOK_SECONDS = 0.1
HEX_WIDTH = 16
HEX_LINES = 64
ADDRESS = re.compile(r"(?P<service>[a-z]+)/(?P<sequence>\d+)(?:@(?P<identity>\S+))?")


class NoSuchLetterError(ToldError):
    """There is no such dead letter. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a service's messages come from: who sends them, over which stream, and what they are."""

    source: StreamSpec
    tables: StageTables
    producer: str
    producers_tables: StageTables
    message: type[Message]


ROUTES: Mapping[str, Route] = {
    "consensus": Route(OBSERVATIONS, consensus_store.stage, "ingest", ingest_store.stage, EventObserved),
    "signals": Route(MARKETS, signals_store.stage, "consensus", consensus_store.stage, MarketsUpdated),
}


class Became(Enum):
    """What became of a letter that was put back."""

    HEALED = "healed: the missing message and all that waited behind it were applied"
    GONE_ON = "not needed: the event had gone on by itself, with a keyframe or the missing message"
    UNREADABLE = "still not readable: it is a new dead letter now; put it back when the code that reads it is mended"
    WAITING = "still waiting: what was missing is no longer kept, so the event goes on with its next keyframe"
    UNREAD = f"published, and not read within {READ_WITHIN_SECONDS:.0f} s: look at `stratum status`"


@dataclass(frozen=True, slots=True)
class Found:
    """A dead letter and whose it is."""

    service: str
    letter: DeadLetter

    @property
    def address(self) -> str:
        """How it is named on the command line."""
        return f"{self.service}/{self.letter.sequence}"


class Office:
    """The dead letters of every stage of one stack, each reached with its own service's login."""

    def __init__(self, bus: Bus, letters: Mapping[str, DeadLetters], producers: Mapping[str, Outbox]) -> None:
        self._bus = bus
        self._letters = letters
        self._producers = producers

    async def listed(self, settled: bool = False) -> list[Found]:
        """What waits, by service and age; with `settled` also what somebody was done with."""
        return [
            Found(service, letter)
            for service, letters in self._letters.items()
            for letter in await letters.listed(settled)
        ]

    async def find(self, address: str) -> Found:
        """One by its address, `service/sequence`. Raises NoSuchLetterError."""
        written = ADDRESS.fullmatch(address)
        if written is None or written["service"] not in self._letters:
            raise NoSuchLetterError(f"{address} is no address of a dead letter: write it like consensus/1234")
        service = written["service"]
        found = await self._letters[service].at(int(written["sequence"]), written["identity"] or "")
        if not found:
            raise NoSuchLetterError(
                f"there is no dead letter {address}. See them with `stratum deadletters list --all`"
            )
        if len(found) > 1:
            which = ", ".join(f"{address}@{letter.stream_identity}" for letter in found)
            raise NoSuchLetterError(
                f"the stream was made anew, and each has a dead letter {address}: say which: {which}"
            )
        return Found(service, found[0])

    async def standing(self, found: Found) -> Standing:
        """How far the service is with the letter's event."""
        return await self._letters[found.service].standing(found.letter.event_id)

    async def drop(self, found: Found, reason: str) -> None:
        """Nobody needs it any more. It stays to be looked at, with the reason."""
        await self._letters[found.service].settle(found.letter, f"dropped: {reason}")

    async def put_back(self, found: Found) -> Became:
        """Puts one back through and waits until its service has read it. Raises BusError."""
        letters, event_id = self._letters[found.service], found.letter.event_id
        before = await letters.standing(event_id)
        if not before.waits:
            await letters.settle(found.letter, "gone on by itself")
            return Became.GONE_ON
        producer = self._producers[found.service]
        already = await self._bus.stream_state(producer.target)
        await put_back(found.letter, before, producer, self._bus)
        stream = await self._bus.stream_state(producer.target)
        deadline = time.monotonic() + READ_WITHIN_SECONDS
        while not await letters.has_read(event_id, stream.identity, stream.last_sequence):
            if time.monotonic() > deadline:
                return Became.UNREAD
            await asyncio.sleep(LOOK_SECONDS)
        again = [
            one
            for one in await letters.listed()
            if one.event_id == event_id
            and (one.stream_identity, one.sequence > already.last_sequence) == (stream.identity, True)
        ]
        if again:
            await letters.settle(found.letter, "put back, and not readable again")
            return Became.UNREADABLE
        if (await letters.standing(event_id)).waits:
            return Became.WAITING
        await letters.settle(found.letter, "put back")
        return Became.HEALED


@asynccontextmanager
async def open_office(place: Home, living: Living) -> AsyncIterator[Office]:
    """The office of the stack that lives in a home."""
    ports, passwords = living.ports, place.passwords()
    server = PostgresServer(place.database_folder(), ports.postgres)
    nats_url, monitor_url = f"nats://127.0.0.1:{ports.nats}", f"http://127.0.0.1:{ports.nats_monitor}"

    def config(service: str) -> ServiceConfig:
        url = schema.service_url(server.url(), service, passwords)
        return ServiceConfig(database_url=SecretStr(url), nats_url=nats_url, nats_monitor_url=monitor_url)

    async with AsyncExitStack() as opened:
        databases = {
            service: await opened.enter_async_context(open_database(config(service))) for service in schema.PIPELINE
        }
        bus = await opened.enter_async_context(open_bus(config("ingest")))
        yield Office(
            bus,
            {name: DeadLetters(databases[name], route.tables) for name, route in ROUTES.items()},
            {
                name: Outbox(databases[route.producer], bus, route.producers_tables, route.source)
                for name, route in ROUTES.items()
            },
        )


def decoded(found: Found) -> str | None:
    """The message as JSON; None where it cannot be read as one."""
    message = ROUTES[found.service].message()
    try:
        message.ParseFromString(found.letter.payload)
    except DecodeError:
        return None
    return MessageToJson(message, preserving_proto_field_name=True) if message.ListFields() else None


def hexadecimal(payload: bytes) -> Sequence[str]:
    """The bytes, sixteen a line, with what of them can be printed; at most the first 64 lines."""
    lines = []
    for start in range(0, min(len(payload), HEX_WIDTH * HEX_LINES), HEX_WIDTH):
        part = payload[start : start + HEX_WIDTH]
        printable = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start:06x}  {part.hex(' '):<{3 * HEX_WIDTH - 1}}  {printable}")
    left = len(payload) - HEX_WIDTH * HEX_LINES
    return [*lines, f"… and {left} bytes more"] if left > 0 else lines

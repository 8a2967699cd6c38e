"""The buckets of all keys, and how a second authorisation server comes to know them.

Whoever decides tells, four times a second, which of the buckets that it took from are not full; the other one keeps the
emptier of what it heard and what it knew. Who starts asks first. So neither the end of the active server nor a restart
gives anybody a full bucket: what was taken in the last quarter of a second before a crash is all that can be forgotten.
Nothing waits for the bus: without it each server goes by what it knows itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NoReturn
from uuid import uuid4

import msgspec
from nats.aio.msg import Msg

from gateway.authz.limits import NANOSECONDS, Limit, Taken, take
from services.shared.bus import BusError, Spoken
from services.shared.logging import logger

log = logger(__name__)

TOLD = "authz.buckets"
ASKED = "authz.buckets.asked"
TELL_SECONDS = 0.25
ASK_SECONDS = 1.0
AGAIN_SECONDS = 5.0
#: What fits into one message of the bus: an id and a time are some forty bytes.
IN_ONE_MESSAGE = 15_000
#: No bucket takes longer to fill, in nanoseconds. Who says so has a wrong clock, and would lock a key out until then.
LONGEST = 86_400 * NANOSECONDS
#: Lineages that are known at once. Each has a key in the table, so this is a bound and no limit.
AT_MOST = 1_000_000


class _Said(msgspec.Struct, array_like=True):
    sender: str
    #: When each bucket will be full, in nanoseconds since 1970.
    full_at: dict[str, int]


class Buckets:
    """When the bucket of each lineage of keys will be full. One that is not here is full."""

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self._full_at: dict[str, int] = {}
        #: Those that we took from: the ones that only we can tell of.
        self._own: set[str] = set()

    def __len__(self) -> int:
        """How many are not known to be full."""
        return len(self._full_at)

    def take(self, lineage: str, limit: Limit) -> Taken:
        """Takes one request out of a lineage's bucket, if there is one in it."""
        taken = take(limit, self._full_at.get(lineage, 0), self._clock())
        # Also of a refused one: a moment that a wrong clock has put far ahead counts as empty, and fills from now on.
        if taken.allowed or taken.full_at < self._full_at[lineage]:
            self._full_at[lineage] = taken.full_at
            self._own.add(lineage)
        return taken

    def hear(self, full_at: dict[str, int]) -> None:
        """Takes in what another server knows: of each bucket the emptier one counts, if there can be such a one."""
        now = self._clock()
        for lineage, moment in full_at.items():
            if now + LONGEST > moment > max(now, self._full_at.get(lineage, 0)) and (
                lineage in self._full_at or len(self._full_at) < AT_MOST
            ):
                self._full_at[lineage] = moment

    def forget_full(self) -> None:
        """Drops the buckets that are full by now."""
        now = self._clock()
        for lineage in [lineage for lineage, moment in self._full_at.items() if moment <= now]:
            del self._full_at[lineage]
            self._own.discard(lineage)

    def own(self) -> dict[str, int]:
        """The buckets that we took from."""
        return {lineage: self._full_at[lineage] for lineage in self._own}

    def emptiest(self, count: int) -> dict[str, int]:
        """The buckets that take longest to fill, whoever took from them."""
        return dict(sorted(self._full_at.items(), key=lambda item: -item[1])[:count])


class Telling:
    """Tells of our buckets, listens to the other server's, and answers it when it starts."""

    def __init__(self, buckets: Buckets, spoken: Spoken, every_seconds: float = TELL_SECONDS) -> None:
        self._buckets = buckets
        self._spoken = spoken
        self._every = every_seconds
        self._name = uuid4().hex
        #: Set when the other server was asked, whether or not there is one.
        self.asked = asyncio.Event()

    async def run(self) -> NoReturn:
        """Never returns. While the broker is away, nothing is told and nothing is heard."""
        while True:
            try:
                async with self._spoken.hearing(TOLD, self._heard):
                    await self._ask()
                    async with self._spoken.hearing(ASKED, self._answer):
                        while True:
                            self._buckets.forget_full()
                            await self.tell()
                            await asyncio.sleep(self._every)
            except BusError as error:
                log.warning("the buckets are not shared", error=str(error))
            await asyncio.sleep(AGAIN_SECONDS)

    async def tell(self) -> None:
        """Tells of our own buckets now, if anybody can hear it."""
        if not self._spoken.is_connected:
            return
        try:
            for part in _parts(self._buckets.own(), IN_ONE_MESSAGE):
                await self._spoken.say(TOLD, self._said(part))
        except BusError as error:
            log.warning("the buckets were not told", error=str(error))

    async def _ask(self) -> None:
        try:
            answer = await self._spoken.ask(ASKED, self._said({}), ASK_SECONDS)
            self._take(answer)
        except BusError as error:
            log.info("nobody tells of the buckets", error=str(error))
        self.asked.set()

    async def _answer(self, message: Msg) -> None:
        if message.reply:
            await message.respond(self._said(self._buckets.emptiest(IN_ONE_MESSAGE)))

    async def _heard(self, message: Msg) -> None:
        self._take(message.data)

    def _take(self, data: bytes) -> None:
        try:
            said = msgspec.msgpack.decode(data, type=_Said)
        except msgspec.DecodeError:
            log.warning("what was said of the buckets cannot be read")
            return
        if said.sender != self._name:
            self._buckets.hear(said.full_at)

    def _said(self, full_at: dict[str, int]) -> bytes:
        return msgspec.msgpack.encode(_Said(self._name, full_at))


def _parts(full_at: dict[str, int], size: int) -> Iterator[dict[str, int]]:
    remaining = iter(full_at.items())
    while part := dict(islice(remaining, size)):
        yield part

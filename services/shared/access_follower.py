"""Keeps an access table current: asks billing what changed, every two seconds and as soon as the bus says so.

The bus only wakes us up: without it a change is known at the next asking. While billing is away the table stays what it
was, and says how old it is. Every call has a deadline, and after a failure the pause grows to five seconds and no more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, NoReturn, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from stratum.billing.v1.access_service_pb2 import GetAccessTableRequest, GetAccessTableResponse
from stratum.billing.v1.access_service_pb2_grpc import AccessServiceStub
from stratum.billing.v1.events_pb2 import AccountEvent

from services.shared import client
from services.shared.access import AccessTable, Applied
from services.shared.bus import ACCOUNTS, BusError, Spoken
from services.shared.keyring import Keyring
from services.shared.logging import logger

log = logger(__name__)

EVERY_SECONDS = 2.0
DEADLINE_SECONDS = 2.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 5.0
#: A whole table of a hundred thousand keys.
_LARGEST_ANSWER = 64 * 1024 * 1024


class AccessFollower:
    """A table, and what keeps it current."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        spoken: Spoken | None = None,
        every_seconds: float = EVERY_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`channel` leads to billing, and vouches for us. Without `spoken` changes are known at the next asking."""
        self.table = AccessTable()
        #: When billing last said that the table is the newest, in seconds since 1970; 0: never.
        self.confirmed_at = 0.0
        self._stub = cast(Any, AccessServiceStub)(channel)
        self._spoken = spoken
        self._every = every_seconds
        self._clock = clock
        self._changes = 0
        self._changed = asyncio.Condition()
        self._wake = asyncio.Event()
        self._failures = 0

    @property
    def age_seconds(self) -> float:
        """How long ago billing last said that the table is the newest; infinite while it never did."""
        return max(0.0, self._clock() - self.confirmed_at) if self.confirmed_at else float("inf")

    def begin_with(self, answer: GetAccessTableResponse, confirmed_at: float) -> None:
        """Takes a whole table that was kept from earlier, for as long as billing does not answer."""
        self.table.apply(answer)
        self.confirmed_at = confirmed_at

    async def changed(self, seen: int = 0) -> int:
        """The number of the newest change to the table, as soon as it is above `seen`: pass back what it gave last."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._changes > seen)
            return self._changes

    async def ask(self) -> bool:
        """Asks billing once, and says whether it answered."""
        try:
            answer = await self._answer(self.table.revision)
            if (applied := self.table.apply(answer)) is Applied.ASK_ALL:
                applied = self.table.apply(await self._answer(0))
        except grpc.aio.AioRpcError as error:
            if not self._failures:
                log.warning("billing does not say what changed", code=error.code().name, said=error.details())
            self._failures += 1
            return False
        if self._failures:
            log.info("billing says again what changed", failures=self._failures)
        self._failures = 0
        if applied is Applied.ASK_ALL:
            return False  # no answer to "all of it" is a part; whoever sent one will have to be mended
        self.confirmed_at = self._clock()
        if applied is Applied.CHANGED:
            async with self._changed:
                self._changes += 1
                self._changed.notify_all()
        return True

    async def run(self) -> NoReturn:
        """Never returns: asks for ever."""
        async with asyncio.TaskGroup() as tasks:
            if self._spoken is not None:
                tasks.create_task(self._listen(self._spoken))
            while True:
                # Whoever is woken while it asks asks again: the answer may be from before the change.
                self._wake.clear()
                answered = await self.ask()
                pause = self._every if answered else self._pause()
                try:
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    def _pause(self) -> float:
        # Whoever never had an answer keeps others waiting, and asks sooner.
        first = self._every if self.confirmed_at else min(self._every, FIRST_PAUSE_SECONDS)
        return float(min(LONGEST_PAUSE_SECONDS, first * 2 ** (self._failures - 1)))

    async def _answer(self, after_revision: int) -> GetAccessTableResponse:
        request = GetAccessTableRequest(after_revision=after_revision)
        return cast(GetAccessTableResponse, await self._stub.GetAccessTable(request, timeout=DEADLINE_SECONDS))

    async def _listen(self, spoken: Spoken) -> NoReturn:
        while True:
            try:
                async with spoken.hearing(f"{ACCOUNTS.root}.>", self._hear):
                    await asyncio.Event().wait()
            except BusError as error:
                log.warning("changes are not heard", error=str(error))
            await asyncio.sleep(LONGEST_PAUSE_SECONDS)

    async def _hear(self, message: Msg) -> None:
        try:
            event = AccountEvent.FromString(message.data)
        except DecodeError:
            log.warning("an event of accounts cannot be read", subject=message.subject)
            return
        if event.HasField("access_changed") and event.access_changed.revision > self.table.revision:
            self._wake.set()


def channel_to_billing(address: str, service: str, ring: Keyring) -> grpc.aio.Channel:
    """A channel to billing for one of our own, such as `authz`."""
    return client.channel(
        address,
        service,
        ring,
        options=[
            ("grpc.max_receive_message_length", _LARGEST_ANSWER),
            # As soon as billing is back, and not after gRPC's own two minutes.
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 2_000),
        ],
    )

"""What billing says on the bus: kept in the transaction that decided it, published as soon as that is committed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import NoReturn

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection
from stratum.billing.v1.events_pb2 import AccessChanged, AccountEvent, KeyRevoked

from services.billing import store, wire
from services.billing.model import ApiKey
from services.shared.bus import BusError, Outgoing
from services.shared.logging import logger
from services.shared.outbox import Outbox

log = logger(__name__)

Clock = Callable[[], datetime]

#: So often the outbox is looked at without anybody having said that something is in it: another process may have put
#: it there, or the stream may be another one by now.
LOOK_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 10.0


def access_changed(account_id: str, revision: int, at: datetime) -> AccountEvent:
    """An account, or one of its keys, is another in the access table from this revision on."""
    return AccountEvent(
        id=f"{account_id}:access:{revision}",
        account_id=account_id,
        at=wire.timestamp(at),
        access_changed=AccessChanged(revision=revision),
    )


def key_revoked(key: ApiKey, at: datetime, found_at: str = "") -> AccountEvent:
    """A key opens nothing any more. `found_at`: where a leaked one was found, as its finder said."""
    return AccountEvent(
        id=f"{key.id}:revoked",
        account_id=key.account_id,
        at=wire.timestamp(at),
        key_revoked=KeyRevoked(key_id=key.id, reason=key.revoked_reason or "", found_at=found_at),
    )


class AccountEvents:
    """The way out for account events, and the loop that publishes them."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._committed = asyncio.Event()

    async def changed(self, connection: AsyncConnection, account_ids: Sequence[str]) -> None:
        """Gives accounts that the caller holds (`store.lock_accounts`) the access table's next revision: for what the
        table tells of an account and no row of its own holds, such as what was used.

        Nothing is said on the bus. Whoever follows the table asks every two seconds anyway, which is soon enough for
        what was used; and an event for each account of each batch would fill the stream, which nobody empties, within
        hours, so that what has to be known at once (a revocation) and what is said once (a notice) stayed behind.
        """
        if account_ids:
            await store.touch_accounts(connection, account_ids, await store.next_revision(connection))

    async def say(self, connection: AsyncConnection, event: AccountEvent) -> None:
        """Keeps one event in the caller's transaction, as `add` does."""
        await self.add(connection, [event])

    async def add(self, connection: AsyncConnection, events: Sequence[AccountEvent]) -> None:
        """Keeps events in the caller's transaction, which has its turn from then on (`store.take_turn`)."""
        if events:
            await store.take_turn(connection)
            await self._outbox.add(
                connection, [Outgoing(event.account_id, event.id, wire.serialized(event)) for event in events]
            )

    def committed(self) -> None:
        """Says that a transaction which added something is committed, so that nobody waits for the next look."""
        self._committed.set()

    async def run(self) -> NoReturn:
        """Publishes for ever: at once when something was committed here, and every second besides. After a failure it
        waits, ten seconds at most, whoever calls; nothing is lost meanwhile."""
        failures = 0
        while True:
            self._committed.clear()
            try:
                await self._outbox.publish()
                failures = 0
            except (BusError, SQLAlchemyError) as error:
                failures += 1
                pause = min(LONGEST_PAUSE_SECONDS, 0.1 * 2.0 ** min(failures, 10))
                log.warning("could not publish", failures=failures, pause_seconds=pause, error=type(error).__name__)
                await asyncio.sleep(pause)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._committed.wait()

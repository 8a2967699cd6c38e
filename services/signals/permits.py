"""Whether the reader of an open stream may go on: the gateway asked only when the stream began."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from stratum.common.v1.error_reason_pb2 import ErrorReason

from services.shared import contracts
from services.shared.access_follower import AccessFollower, channel_to_billing
from services.shared.bus import Spoken
from services.shared.keyring import Keyring
from services.shared.principal import Principal

_STREAM = "stratum.signals.v1.SignalsService/StreamSignals"


class Permits:
    """What billing says of the keys that opened streams here."""

    def __init__(self, follower: AccessFollower | None) -> None:
        """Without a follower every stream goes on: nobody is there who could say otherwise."""
        self._follower = follower
        self._method = contracts.by_full_name()[_STREAM]

    def refusal_of(self, reader: Principal | None) -> Callable[[], str | None]:
        """Asked again and again, says why this reader may not go on: the reason that a new call would be refused with.

        Our own services may always, and so may everybody while no table was ever heard of: whoever cannot be judged was
        let in by somebody who could.
        """
        follower = self._follower
        if follower is None or reader is None or not reader.key_id:
            return lambda: None

        def refusal() -> str | None:
            if not follower.table.is_filled:
                return None
            ended = follower.table.ended(reader.key_id, self._method, time.time())
            return None if ended is None else ErrorReason.Value.Name(ended.reason)

        return refusal

    def background(self, wake: Callable[[], None]) -> list[Coroutine[Any, Any, NoReturn]]:
        """What has to run beside the server: it keeps up with billing, and calls `wake` whenever rights changed."""
        return [] if self._follower is None else [self._follower.run(), _waking(self._follower, wake)]


async def _waking(follower: AccessFollower, wake: Callable[[], None]) -> NoReturn:
    seen = rights = 0
    while True:
        seen = await follower.changed(seen)
        if follower.table.rights_revision != rights:
            rights = follower.table.rights_revision
            wake()


@asynccontextmanager
async def following(
    billing_address: str, name: str, ring: Keyring, spoken: Spoken
) -> AsyncIterator[AccessFollower | None]:
    """What keeps up with the table of keys, for one of our own called `name`; None without an address."""
    if not billing_address:
        yield None
        return
    async with channel_to_billing(billing_address, name, ring) as channel:
        yield AccessFollower(channel, spoken)

"""How an operator's command asks a service: with a deadline, and with a sentence where it gets no answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, cast

import grpc
import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_status import rpc_status

from deploy.terminal import ToldError

DEADLINE_SECONDS = 15.0


class AskingError(ToldError):
    """The service refused, or cannot be reached."""


async def asked(call: Callable[..., Awaitable[Any]], request: object, service: str, address: str, **more: Any) -> Any:
    """The answer to a call of `service` at `address`; `more` goes with the call. Raises AskingError."""
    try:
        return await call(request, timeout=DEADLINE_SECONDS, **more)
    except grpc.aio.AioRpcError as error:
        # A service gives a reason with everything that it says itself; without one it said nothing.
        if error.code() is grpc.StatusCode.UNAVAILABLE and rpc_status.from_call(cast(Any, error)) is None:
            raise AskingError(
                f"{service} does not answer at {address}. See `stratum status`, or give --{service}."
            ) from None
        raise AskingError(error.details() or error.code().name) from None


def stamp(moment: datetime) -> Timestamp:
    """A moment as messages carry it."""
    written = Timestamp()
    written.FromDatetime(moment)
    return written


def shown(moment: Timestamp, precision: str = "seconds") -> str:
    """A moment for a person."""
    return moment.ToDatetime(UTC).isoformat(timespec=precision).replace("+00:00", "Z")

"""A call that changes something, made once however often it is repeated: decided by a row that only one can insert."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Self, TypeVar

from google.protobuf.message import Message
from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from stratum.common.v1.error_reason_pb2 import ErrorReason
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random

from services.billing import store, wire
from services.shared.database import Database
from services.shared.errors import AlreadyExists, InvalidArgument, Unavailable

HEADER = "idempotency-key"
LONGEST = 255
#: The one field of an answer that is never kept.
SECRET = "secret"  # noqa: S105 - the name of a field
_ATTEMPTS = 3

Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True, slots=True)
class Call:
    """One call that changes something."""

    #: The account, or the service of ours, that calls.
    caller: str
    #: Of the caller's choice; empty for a call that is not to be recognised when it is repeated.
    key: str
    method: str
    digest: bytes

    @classmethod
    def of(cls, caller: str, key: str, request: Message) -> Self:
        """The call that a request is."""
        method = request.DESCRIPTOR.full_name
        return cls(caller, key, method, hashlib.sha256(wire.serialized(request)).digest())


def key_from(metadata: Iterable[tuple[str, str | bytes]] | None, required: bool) -> str:
    """The caller's idempotency key; empty for none. Raises InvalidArgument for none where one is required."""
    given = next((value for name, value in metadata or () if name == HEADER), "")
    key = given if isinstance(given, str) else given.decode("ascii", "replace")
    if not key and required:
        raise InvalidArgument(
            ErrorReason.IDEMPOTENCY_KEY_MISSING, "whatever changes something needs an Idempotency-Key"
        )
    if len(key) > LONGEST or not key.isascii() or not key.isprintable():
        told = f"Idempotency-Key is at most {LONGEST} printable ASCII characters"
        raise InvalidArgument(ErrorReason.INVALID_ARGUMENT, told, field=HEADER)
    return key


class Once:
    """Runs calls, each in one transaction together with the record of what it led to."""

    def __init__(self, database: Database, committed: Callable[[], None]) -> None:
        """`committed` is told after every transaction that may have put something into the outbox."""
        self._database = database
        self._committed = committed

    async def answer(
        self, call: Call, kind: type[Response], work: Callable[[AsyncConnection], Awaitable[Response]]
    ) -> Response:
        """The answer of the work, or, to a repeated call, the one that was given before, without its secret.

        A repeated call that comes while the first is under way waits for it. A call that was refused leaves no record:
        it may be corrected under the same key. Raises AlreadyExists (IDEMPOTENCY_KEY_REUSED) when the key was used for
        another call, and Unavailable when somebody is in the way for long.
        """
        attempts = AsyncRetrying(
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random(0.01, 0.1),
            retry=retry_if_exception(_is_deadlock),
            reraise=True,
        )
        try:
            return await attempts(self._attempt, call, kind, work)
        except DBAPIError as error:
            if isinstance(error.orig, LockNotAvailable | DeadlockDetected):
                told = "another change takes long: nothing was done, repeat the call after a pause"
                raise Unavailable(ErrorReason.UNAVAILABLE, told) from error
            raise

    async def _attempt(
        self, call: Call, kind: type[Response], work: Callable[[AsyncConnection], Awaitable[Response]]
    ) -> Response:
        async with self._database.begin() as connection:
            if call.key:
                noted = await store.claim(connection, call.caller, call.key, call.method, call.digest)
                if noted is not None:
                    return _repeated(call, noted, kind)
            response = await work(connection)
            if call.key:
                await store.note_response(connection, call.caller, call.key, _without_secret(response))
        self._committed()
        return response


def _repeated(call: Call, noted: store.Noted, kind: type[Response]) -> Response:
    if (noted.method, noted.request_digest) != (call.method, call.digest):
        raise AlreadyExists(
            ErrorReason.IDEMPOTENCY_KEY_REUSED, "this Idempotency-Key was used for another call: choose a new one"
        )
    return kind.FromString(noted.response)


def _without_secret(response: Message) -> bytes:
    kept = type(response)()
    kept.CopyFrom(response)
    if SECRET in response.DESCRIPTOR.fields_by_name:
        kept.ClearField(SECRET)
    return wire.serialized(kept)


def _is_deadlock(error: BaseException) -> bool:
    return isinstance(error, DBAPIError) and isinstance(error.orig, DeadlockDetected)

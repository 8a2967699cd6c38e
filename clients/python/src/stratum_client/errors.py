"""What may go wrong, a class for each thing that a program can do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import msgspec

from stratum_client.reasons import ErrorReason

if TYPE_CHECKING:
    from stratum_client.models import RotateOwnKeyResponse


class StratumError(Exception):
    """Everything that this package raises about a call, except for arguments that cannot be: those are ValueErrors."""


class ConnectionFailedError(StratumError):
    """No answer came: no connection, or one that broke, or none in time. Every attempt that there may be was made."""


class UnreadableAnswerError(StratumError):
    """The answer is not what the contract says. `request_id` names the call, where the answer had one."""

    def __init__(self, message: str, request_id: str | None = None) -> None:
        super().__init__(message)
        self.request_id = request_id


class SecretNotGivenError(StratumError):
    """The key was made, and its secret was in an answer that never arrived (or went to an earlier call).

    A secret is given once. `answer.key` is the new key: rotate that one, by its id and with an overlap of `0s`. The old
    key must not be rotated again: that successor would end when the old key does.
    """

    def __init__(self, answer: RotateOwnKeyResponse) -> None:
        super().__init__(f"key {answer.key.id} was made by an earlier call, and its secret is not given again")
        self.answer = answer


class StreamLostError(StratumError):
    """The stream could not be opened again for as long as it was to be tried. `__cause__` is the last failure.

    `cursor` is where to go on: `client.watch(after=error.cursor)`. None before anything was heard.
    """

    def __init__(self, seconds: float, cursor: str | None) -> None:
        super().__init__(f"the stream was lost and did not come back within {seconds:.0f} s")
        self.cursor = cursor


class ApiError(StratumError):
    """The API refused the call, or failed. Programs decide by the class and the `reason`; the message is for people."""

    #: HTTP statuses that are this class.
    statuses: ClassVar[tuple[int, ...]] = ()

    def __init__(
        self,
        status: int,
        *,
        code: int | None = None,
        reason: ErrorReason = ErrorReason.UNSPECIFIED,
        message: str = "",
        metadata: Mapping[str, str] | None = None,
        request_id: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(status, reason, message)
        #: The HTTP status.
        self.status = status
        #: The gRPC status code; None where something in between answered without one.
        self.code = code
        #: Why, in a word.
        self.reason = reason
        #: Why, for a person to read.
        self.message = message
        #: What the reason speaks of, by name: the field, the scope, the signal.
        self.metadata = dict(metadata or {})
        #: The call, as our logs know it.
        self.request_id = request_id
        #: How long to wait before the call may succeed, where the answer says so.
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        told = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.status} {self.reason}: {self.message or 'no reason was given'}{told}"


class InvalidRequestError(ApiError):
    """The call itself is wrong, and will be as often as it is made."""

    statuses = (400, 405, 411, 413, 414, 415, 422, 431)


class AuthenticationError(ApiError):
    """The key is missing, cut off, unknown, expired or revoked."""

    statuses = (401,)


class AccessDeniedError(ApiError):
    """The key is good and may not do this: scope, address, plan, or the account is suspended."""

    statuses = (403,)


class NotFoundError(ApiError):
    """There is no such thing, or no such path."""

    statuses = (404,)


class ConflictError(ApiError):
    """The call does not suit the present state of things: the key is revoked already, the Idempotency-Key was used."""

    statuses = (409,)


class RateLimitedError(ApiError):
    """Faster, or more, than allowed, and there was no time left to wait for it."""

    statuses = (429,)


class ServerError(ApiError):
    """A fault of the API's. Tell us the `request_id`."""

    statuses = (500, 501)


class UnavailableError(ApiError):
    """The API cannot answer now. The call was repeated as often as it may be."""

    statuses = (502, 503, 504)


_BY_STATUS = {
    status: kind
    for kind in (
        InvalidRequestError,
        AuthenticationError,
        AccessDeniedError,
        NotFoundError,
        ConflictError,
        RateLimitedError,
        ServerError,
        UnavailableError,
    )
    for status in kind.statuses
}
#: gRPC's FAILED_PRECONDITION, which HTTP has no status for: it comes as 400.
_FAILED_PRECONDITION = 9


class _Detail(msgspec.Struct, frozen=True):
    reason: ErrorReason = ErrorReason.UNSPECIFIED
    metadata: dict[str, str] = {}


class _Body(msgspec.Struct, frozen=True):
    code: int | None = None
    message: str = ""
    details: tuple[_Detail, ...] = ()
    request_id: str | None = None


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """The error that an answer is, also where something in between wrote it."""
    try:
        said = msgspec.json.decode(body, type=_Body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = _Body(message="the answer is not one of Stratum's")
    detail = said.details[0] if said.details else _Detail()
    kind = _BY_STATUS.get(status) or (ServerError if status >= 500 else InvalidRequestError)
    if said.code == _FAILED_PRECONDITION:
        kind = ConflictError
    return kind(
        status,
        code=said.code,
        reason=detail.reason,
        message=said.message,
        metadata=detail.metadata,
        request_id=said.request_id or headers.get("x-request-id"),
        retry_after_seconds=_seconds(headers.get("retry-after")),
    )


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isascii() and text.isdecimal() and len(text) < 10 else None


def given(answer: RotateOwnKeyResponse) -> RotateOwnKeyResponse:
    """The answer, if it holds the secret. Raises SecretNotGivenError."""
    if not answer.secret:
        raise SecretNotGivenError(answer)
    return answer

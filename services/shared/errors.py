"""What may go wrong that a caller can act on. One class for each gRPC status; everything else is a bug of ours.

Handlers raise these; the interceptor in `server.py` is the only place that turns them into a status.
"""

# ruff: noqa: N818 - they are called as gRPC calls its codes, and read as what happened
from __future__ import annotations

from typing import ClassVar

import grpc
from stratum.common.v1.error_reason_pb2 import ErrorReason

#: The `domain` of every `google.rpc.ErrorInfo` that we send.
DOMAIN = "stratum"


class DomainError(Exception):
    """A refusal that the caller is told in full: its code, its reason, its message and its metadata."""

    code: ClassVar[grpc.StatusCode]

    def __init__(self, reason: ErrorReason.Value.ValueType, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = metadata

    @property
    def reason_name(self) -> str:
        """The reason as it travels: `SIGNAL_NOT_FOUND`."""
        return ErrorReason.Value.Name(self.reason)


class InvalidArgument(DomainError):
    """The request itself is wrong; repeating it cannot help."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(DomainError):
    """What was asked for does not exist."""

    code = grpc.StatusCode.NOT_FOUND


class FailedPrecondition(DomainError):
    """The request is right, but not in the present state."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class AlreadyExists(DomainError):
    """What was to be made is there, or was asked for with other words."""

    code = grpc.StatusCode.ALREADY_EXISTS


class Unauthenticated(DomainError):
    """Nobody knows who is asking."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(DomainError):
    """It is known who is asking, and he may not."""

    code = grpc.StatusCode.PERMISSION_DENIED


class ResourceExhausted(DomainError):
    """The caller has had its share; later it may ask again."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class DeadlineExceeded(DomainError):
    """The call took longer than it was given."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unavailable(DomainError):
    """We, or what we need, cannot answer now; the same call may succeed after a pause."""

    code = grpc.StatusCode.UNAVAILABLE


class Malformed(ValueError):
    """A message that cannot be read, now or ever: it goes to the dead letters instead of being tried again."""

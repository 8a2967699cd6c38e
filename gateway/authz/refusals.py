"""What a refused caller reads: the four fields of every error, as bytes."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
import msgspec
from stratum.common.v1.error_reason_pb2 import ErrorReason

from services.shared.access import Refusal
from services.shared.errors import DOMAIN

_ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
_UNAUTHENTICATED = (401, int(grpc.StatusCode.UNAUTHENTICATED.value[0]))
_FORBIDDEN = (403, int(grpc.StatusCode.PERMISSION_DENIED.value[0]))
#: HTTP status and gRPC code of each reason.
STATUS: Mapping[ErrorReason.Value.ValueType, tuple[int, int]] = {
    ErrorReason.KEY_MISSING: _UNAUTHENTICATED,
    ErrorReason.KEY_MALFORMED: _UNAUTHENTICATED,
    ErrorReason.KEY_UNKNOWN: _UNAUTHENTICATED,
    ErrorReason.KEY_EXPIRED: _UNAUTHENTICATED,
    ErrorReason.KEY_REVOKED: _UNAUTHENTICATED,
    ErrorReason.KEY_IN_QUERY: _UNAUTHENTICATED,
    ErrorReason.ADDRESS_NOT_ALLOWED: _FORBIDDEN,
    ErrorReason.ACCOUNT_SUSPENDED: _FORBIDDEN,
    ErrorReason.NOT_ENTITLED: _FORBIDDEN,
    ErrorReason.SCOPE_MISSING: _FORBIDDEN,
    ErrorReason.TEST_KEY: _FORBIDDEN,
    ErrorReason.RATE_LIMITED: (429, int(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])),
    ErrorReason.ACCESS_UNDECIDED: (503, int(grpc.StatusCode.UNAVAILABLE.value[0])),
}
#: RFC 9110 wants every 401 to say how to do better.
CHALLENGE = (b"www-authenticate", b"Bearer")
JSON = (b"content-type", b"application/json")

KEY_MISSING = Refusal(ErrorReason.KEY_MISSING, "send an API key as Authorization: Bearer", {})
KEY_MALFORMED = Refusal(ErrorReason.KEY_MALFORMED, "what the call carries is no API key", {})
KEY_IN_QUERY = Refusal(
    ErrorReason.KEY_IN_QUERY, "a key must not stand in an address: send it as a header, and replace it", {}
)
ACCESS_UNDECIDED = Refusal(
    ErrorReason.ACCESS_UNDECIDED, "it cannot be decided now whether the key is good; repeat the call after a pause", {}
)


def rate_limited(retry_after_seconds: int) -> Refusal:
    """The key called faster than it may."""
    return Refusal(
        ErrorReason.RATE_LIMITED,
        "the key calls faster than its plan allows",
        {"retry_after_seconds": str(retry_after_seconds)},
    )


def rendered(refusal: Refusal, request_id: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """HTTP status, headers and body of a refusal."""
    status, code = STATUS[refusal.reason]
    body = msgspec.json.encode(
        {
            "code": code,
            "message": refusal.message,
            "details": [
                {
                    "@type": _ERROR_INFO,
                    "reason": ErrorReason.Value.Name(refusal.reason),
                    "domain": DOMAIN,
                    "metadata": {**refusal.metadata, "request_id": request_id},
                }
            ],
            "request_id": request_id,
        }
    )
    headers = [JSON, (b"content-length", b"%d" % len(body))]
    if status == 401:
        headers.append(CHALLENGE)
    return status, headers, body

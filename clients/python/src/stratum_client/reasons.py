"""Why a call was refused, in one word.

Made by clients/python/generate.py from the contracts. Not to be edited.
"""

# ruff: noqa: S105 - no passwords: what a call lacked, or had too much of
from __future__ import annotations

from stratum_client.words import Word


class ErrorReason(Word):
    """Carried as `reason` in the `google.rpc.ErrorInfo` of every error, with domain `stratum`."""

    UNSPECIFIED = "UNSPECIFIED"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    """A field has a value that it cannot have. {"code": 3, "message": "page_size is at most 500",
    "details": [{"reason": "INVALID_ARGUMENT", "metadata": {"field": "page_size"}}]}
    """
    INVALID_PAGE_TOKEN = "INVALID_PAGE_TOKEN"
    """The page token is not one of ours, or belongs to other filters. {"code": 3, "details": [{"reason":
    "INVALID_PAGE_TOKEN"}]}
    """
    INVALID_CURSOR = "INVALID_CURSOR"
    """The cursor to resume from is not one of ours. {"code": 3, "details": [{"reason": "INVALID_CURSOR"}]}"""
    SIGNAL_NOT_FOUND = "SIGNAL_NOT_FOUND"
    """No signal has this id. {"code": 5, "details": [{"reason": "SIGNAL_NOT_FOUND", "metadata":
    {"signal_id": "abc"}}]}
    """
    EVENT_NOT_FOUND = "EVENT_NOT_FOUND"
    """No event has this id. {"code": 5, "details": [{"reason": "EVENT_NOT_FOUND", "metadata": {"event_id":
    "abc"}}]}
    """
    SPORT_NOT_FOUND = "SPORT_NOT_FOUND"
    """The sport is not one that we watch."""
    TOO_MANY_STREAMS = "TOO_MANY_STREAMS"
    """Too many streams are open; try again later. {"code": 8, "details": [{"reason": "TOO_MANY_STREAMS"}]}"""
    UNAVAILABLE = "UNAVAILABLE"
    """The service cannot answer now; repeat the call after a pause. {"code": 14, "details": [{"reason":
    "UNAVAILABLE"}]}
    """
    INTERNAL = "INTERNAL"
    """A fault of ours, logged in full under the request id that came with the answer. {"code": 13,
    "message": "internal error", "details": [{"reason": "INTERNAL"}]}
    """
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    """The call took longer than its deadline."""
    PATH_NOT_FOUND = "PATH_NOT_FOUND"
    """Nothing is found under this path."""
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    """The path exists, and is called in another way: `Allow` says how."""
    REQUEST_TOO_LARGE = "REQUEST_TOO_LARGE"
    """The request's body or headers are larger than any call needs."""
    KEY_MISSING = "KEY_MISSING"
    """The call carries no API key. Send it as `Authorization: Bearer stratum_live_…`. {"code": 16,
    "details": [{"reason": "KEY_MISSING"}]}
    """
    KEY_MALFORMED = "KEY_MALFORMED"
    """What the call carries is no API key: it is cut off, mistyped, or something else. {"code": 16,
    "details": [{"reason": "KEY_MALFORMED"}]}
    """
    KEY_UNKNOWN = "KEY_UNKNOWN"
    """A key that we never issued."""
    KEY_EXPIRED = "KEY_EXPIRED"
    """The key is past its expiry. Use its successor, or ask for a new one."""
    KEY_REVOKED = "KEY_REVOKED"
    """The key was revoked. Ask for a new one."""
    ADDRESS_NOT_ALLOWED = "ADDRESS_NOT_ALLOWED"
    """The key may not be used from this address. Its owner decides from where: `allowed_addresses`."""
    SCOPE_MISSING = "SCOPE_MISSING"
    """The key was not granted the scope that this call needs; `metadata.scope` names it. {"code": 7,
    "details": [{"reason": "SCOPE_MISSING", "metadata": {"scope": "markets:read"}}]}
    """
    NOT_ENTITLED = "NOT_ENTITLED"
    """The account has no access to the API: nothing was bought, or it was ended."""
    ACCOUNT_SUSPENDED = "ACCOUNT_SUSPENDED"
    """The account is suspended. Its owner was told why."""
    RATE_LIMITED = "RATE_LIMITED"
    """The key calls faster than its plan allows. Wait as long as `Retry-After` says. {"code": 8,
    "details": [{"reason": "RATE_LIMITED", "metadata": {"retry_after_seconds": "2"}}]}
    """
    ADDRESS_RATE_LIMITED = "ADDRESS_RATE_LIMITED"
    """The address sends more than any partner needs. Wait as long as `Retry-After` says."""
    KEY_IN_QUERY = "KEY_IN_QUERY"
    """A key stands in the address of the call, where logs and histories keep it. It was not looked at:
    send it as a header, and replace it.
    """
    PRINCIPAL_INVALID = "PRINCIPAL_INVALID"
    """The call does not come from where such calls come from. {"code": 16, "details": [{"reason":
    "PRINCIPAL_INVALID"}]}
    """
    ACCOUNT_NOT_FOUND = "ACCOUNT_NOT_FOUND"
    """No account has this id."""
    KEY_NOT_FOUND = "KEY_NOT_FOUND"
    """The account has no key with this id."""
    IDEMPOTENCY_KEY_MISSING = "IDEMPOTENCY_KEY_MISSING"
    """Whatever changes something carries a header `Idempotency-Key` of the caller's choice, so that it can
    be repeated.
    """
    IDEMPOTENCY_KEY_REUSED = "IDEMPOTENCY_KEY_REUSED"
    """The same `Idempotency-Key` was used for another call."""
    TOO_MANY_KEYS = "TOO_MANY_KEYS"
    """The account has as many keys as it may have, or got as many within a day as it may. Revoke one that
    is not used.
    """
    TEST_KEY = "TEST_KEY"
    """A test key cannot do this: it reads a recorded evening."""
    ACCESS_UNDECIDED = "ACCESS_UNDECIDED"
    """It cannot be decided now whether the key is good, so it counts as not: repeat the call after a
    pause.
    """
    KEY_NOT_ACTIVE = "KEY_NOT_ACTIVE"
    """The key is revoked or expired already, so that it cannot be rotated."""

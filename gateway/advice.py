"""Why a call may be refused: the HTTP status of each reason, whether repeating helps, and what to do about it.

The reasons and what they mean are the contract's own (`stratum.common.v1.ErrorReason`); this is what the contract does
not say. The page of errors and the OpenAPI file are made from both.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from stratum.common.v1.access_pb2 import Access

from services.shared.contracts import Method


@dataclass(frozen=True, slots=True)
class Advice:
    """What a program, or its owner, has to know of one reason."""

    statuses: tuple[int, ...]
    """Under which HTTP statuses it comes; the usual one first."""
    do: str
    """What to do about it, in Markdown."""
    repeat: bool = False
    """Whether the same call may succeed after a pause, with nothing changed."""


#: By what it is about, in the order in which a reader meets it.
GROUPS: dict[str, dict[str, Advice]] = {
    "The key": {
        "KEY_MISSING": Advice(
            (401,),
            "Send the header `Authorization: Bearer` with your key. No other header and no cookie is read for it.",
        ),
        "KEY_MALFORMED": Advice(
            (401,),
            "Copy the key again, whole: `stratum_live_` or `stratum_test_` and 36 letters and digits. Look for a cut "
            "end, quotation marks or a line break. A mistyped key is recognised by its checksum.",
        ),
        "KEY_UNKNOWN": Advice((401,), "Check that the key belongs to this installation; otherwise ask for a new one."),
        "KEY_EXPIRED": Advice(
            (401,),
            "Use the successor that the rotation gave you. Where there is none, ask for a new key: an expired one "
            "cannot be rotated.",
        ),
        "KEY_REVOKED": Advice(
            (401,), "Stop calling with it. Ask for a new key, and find out why: the list of keys says `revoked_reason`."
        ),
        "KEY_IN_QUERY": Advice(
            (401,),
            "Move the key into the header, and [rotate it](authentication.md#rotation) with an overlap of `0s`: it may "
            "stand in the history and logs of whatever the call passed through.",
        ),
        "ADDRESS_NOT_ALLOWED": Advice(
            (403,), "Call from an address of the key's list, or have the address you call from put on it."
        ),
        "SCOPE_MISSING": Advice(
            (403,), "Use a key that has the scope in `metadata.scope`, or ask for one. Scopes of a key never change."
        ),
        "TEST_KEY": Advice(
            (403,), "Use a live key. What a test key reads is described under [Authentication](authentication.md)."
        ),
    },
    "The account": {
        "NOT_ENTITLED": Advice(
            (403,),
            "Ask for access to the API. Calls that are not counted, such as `/api/v1/plan`, go on answering meanwhile.",
        ),
        "ACCOUNT_SUSPENDED": Advice(
            (403,), "The account's owner settles what the notice names. No call is answered until then."
        ),
        "ACCOUNT_NOT_FOUND": Advice(
            (404,), "Partners do not meet it: a key belongs to an account. Tell us the `request_id`."
        ),
    },
    "How fast": {
        "RATE_LIMITED": Advice(
            (429,),
            "Wait for as many seconds as `Retry-After` says, then go on more slowly: "
            "[Limits and metering](limits-and-metering.md). It is not counted.",
            repeat=True,
        ),
        "ADDRESS_RATE_LIMITED": Advice(
            (429,),
            "Wait for as many seconds as `Retry-After` says. Look for a loop that repeats refused calls: this limit is "
            "far above that of any key.",
            repeat=True,
        ),
        "TOO_MANY_STREAMS": Advice(
            (429,),
            "Open one stream with all its filters instead of many, and wait some seconds before you try again. The "
            "feed with `since` bridges the time.",
            repeat=True,
        ),
    },
    "The request": {
        "INVALID_ARGUMENT": Advice(
            (400,), "Read `message`: it names the parameter and what it may be. Unknown parameters are refused too."
        ),
        "INVALID_PAGE_TOKEN": Advice(
            (400,), "Leave every other parameter as it was on the first page, or begin again without `page_token`."
        ),
        "INVALID_CURSOR": Advice(
            (400,), "Send the last `id:` of the stream as it was. Without a cursor the stream begins now."
        ),
        "SIGNAL_NOT_FOUND": Advice((404,), "Take the `id` from the feed. Signals are deleted when their time is over."),
        "EVENT_NOT_FOUND": Advice((404,), "Take the `event_id` from `/api/v1/intel/games` or from a signal."),
        "SPORT_NOT_FOUND": Advice((404,), "Take the `sport_key` from `/api/v1/intel/health`."),
        "KEY_NOT_FOUND": Advice((404,), "Take the `key_id` from `/api/v1/keys`: it is the id, not the key itself."),
        "PATH_NOT_FOUND": Advice((404,), "Compare the path with the [reference](/docs/reference)."),
        "METHOD_NOT_ALLOWED": Advice((405,), "Use the method that the header `Allow` names."),
        "REQUEST_TOO_LARGE": Advice((413, 431), "Send less. A long list of filters is split into several calls."),
    },
    "Changing something": {
        "IDEMPOTENCY_KEY_MISSING": Advice(
            (400,),
            "Send an `Idempotency-Key`: a UUID for each thing that you want done, and the same one when you repeat it.",
        ),
        "IDEMPOTENCY_KEY_REUSED": Advice(
            (409,), "Draw a new `Idempotency-Key`: this one stands for another call of yours."
        ),
        "KEY_NOT_ACTIVE": Advice((400,), "Ask for a new key. Only a key that still opens something can be rotated."),
        "TOO_MANY_KEYS": Advice(
            (400,),
            "Revoke a key that nothing uses: `last_used_at` in the list of keys says when it was last seen. Where the "
            "message speaks of the last day, rotate again tomorrow.",
        ),
    },
    "Our side": {
        "UNAVAILABLE": Advice(
            (503,), "Repeat the call after a second, then after two, four and so on up to a minute.", repeat=True
        ),
        "ACCESS_UNDECIDED": Advice(
            (503,), "Repeat the call after a second. Your key is not at fault, and nothing was counted.", repeat=True
        ),
        "DEADLINE_EXCEEDED": Advice(
            (504, 408),
            "Repeat the call; ask for less (`page_size`, a shorter time) when it happens again.",
            repeat=True,
        ),
        "INTERNAL": Advice((500,), "Tell us the `request_id`. The same call will most likely fail again."),
        "PRINCIPAL_INVALID": Advice(
            (401, 403), "Call the gateway and nothing behind it. If you did, tell us the `request_id`."
        ),
    },
}
BY_REASON = {reason: advice for group in GROUPS.values() for reason, advice in group.items()}

_KEY = ("KEY_MISSING", "KEY_MALFORMED", "KEY_UNKNOWN", "KEY_EXPIRED", "KEY_REVOKED", "KEY_IN_QUERY")
_NOT_FOUND = {
    "GetSignal": "SIGNAL_NOT_FOUND",
    "ExplainSignal": "SIGNAL_NOT_FOUND",
    "GetGame": "EVENT_NOT_FOUND",
    "ListConsensusHistory": "EVENT_NOT_FOUND",
    "QuoteUsage": "PATH_NOT_FOUND",
    "RotateOwnKey": "KEY_NOT_FOUND",
    "RevokeOwnKey": "KEY_NOT_FOUND",
}


def by_status(method: Method, fields: Collection[str]) -> dict[int, list[str]]:
    """Why a call of the method may be refused, by HTTP status: whatever a caller can do something about, or wait for.

    `fields` are the names of the request's fields."""
    found: dict[int, list[str]] = {}
    for reason in _reasons(method, fields):
        found.setdefault(BY_REASON[reason].statuses[0], []).append(reason)
    return dict(sorted(found.items()))


def _reasons(method: Method, fields: Collection[str]) -> list[str]:
    keyed = method.level != Access.Level.PUBLIC
    changes = method.verb == "POST"
    stream = method.name == "StreamSignals"
    said: dict[str, bool] = {
        "INVALID_ARGUMENT": True,
        "INVALID_PAGE_TOKEN": "page_token" in fields,
        "INVALID_CURSOR": stream,
        "IDEMPOTENCY_KEY_MISSING": changes,
        "KEY_NOT_ACTIVE": method.name == "RotateOwnKey",
        **dict.fromkeys(_KEY, keyed),
        "ADDRESS_NOT_ALLOWED": keyed,
        "ACCOUNT_SUSPENDED": keyed,
        "NOT_ENTITLED": method.is_paid,
        "SCOPE_MISSING": keyed,
        "TEST_KEY": method.service == "billing" and keyed,
        _NOT_FOUND.get(method.name, "PATH_NOT_FOUND"): method.name in _NOT_FOUND,
        "IDEMPOTENCY_KEY_REUSED": changes and keyed,
        "RATE_LIMITED": keyed,
        "TOO_MANY_KEYS": method.name == "RotateOwnKey",
        "ADDRESS_RATE_LIMITED": True,
        "TOO_MANY_STREAMS": stream,
        "UNAVAILABLE": True,
        "ACCESS_UNDECIDED": keyed,
    }
    return [reason for reason, possible in said.items() if possible]

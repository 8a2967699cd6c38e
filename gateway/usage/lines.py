"""One line of the access log, and what it means: a call for the ledger, nothing, or something that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from math import floor

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp
from stratum.billing.v1.metering_service_pb2 import UsageLine

#: How often a whole line is looked for inside a broken one: enough for what a crash leaves, and not without end.
MOST_TRIES = 64
_BEGIN = b'{"'
_ABSENT = "-"
_PERIODIC = "DownstreamPeriodic"
#: How the log may say that a key was a test key, and that it was not.
_TEST = frozenset({True, "true", "1", "test"})
_LIVE = frozenset({None, False, "", "-", "false", "0", "live"})


class Nothing(Enum):
    """Why a line that can be read does not concern the ledger."""

    #: Nobody was let in: a public page, or a caller who was refused by the authorisation or before it.
    NOT_ADMITTED = "not admitted"
    #: A call without an answer yet; Envoy writes another line when it has one.
    NOT_ANSWERED = "not answered"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A line that cannot be read, and why, without anything of its content."""

    why: str


Outcome = UsageLine | Nothing | Unreadable


class _Logged(msgspec.Struct):
    at: datetime
    request_id: str | None = None
    method: str | None = None
    path: str | None = None
    status: int | None = None
    milliseconds: int | None = None
    bytes_sent: int | None = None
    account: str | None = None
    key: str | None = None
    test: bool | str | None = None
    kind: str | None = None


_decode = msgspec.json.Decoder(_Logged).decode


def read(line: bytes, gateway: str) -> Outcome:
    """What the line says. A query that should not be in the log does not get any further."""
    try:
        logged = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Unreadable(str(error))
    account, key = _given(logged.account), _given(logged.key)
    request_id, method = _given(logged.request_id), _given(logged.method)
    # Where Envoy refuses a request before it has a route, the log shows the headers as the caller wrote them, and an
    # account that he made up. Who is let in has a route.
    if not (account and method):
        return Nothing.NOT_ADMITTED
    if not logged.status and logged.kind == _PERIODIC:
        return Nothing.NOT_ANSWERED
    if not (key and request_id):
        return Unreadable("an admitted call without its key or its request id")
    if logged.at.tzinfo is None:
        return Unreadable("a time without a zone")
    if logged.test not in _TEST and logged.test not in _LIVE:
        return Unreadable("neither a test key's nor a live one's")
    try:
        return UsageLine(
            request_id=request_id,
            # The time's own microseconds: as a float, the whole of it would not be exact.
            started_at=Timestamp(seconds=floor(logged.at.timestamp()), nanos=logged.at.microsecond * 1000),
            duration_milliseconds=logged.milliseconds or 0,
            account_id=account,
            key_id=key,
            method=method,
            path=_given(logged.path).partition("?")[0],
            status=logged.status or 0,
            bytes_sent=logged.bytes_sent or 0,
            test=logged.test in _TEST,
            gateway=gateway,
        )
    except ValueError:
        return Unreadable("a number that is too large")


def _given(value: str | None) -> str:
    return "" if value is None or value == _ABSENT else value


def read_all(line: bytes, gateway: str) -> list[tuple[bytes, Outcome]]:
    """The same for what stands between two line ends: usually one line.

    A gateway that is killed while it writes leaves the beginning of a line, and the next one goes on right behind it.
    What it wrote is found again: inside a string a quotation mark is escaped, so no caller can write where a line
    begins.
    """
    outcome = read(line, gateway)
    if not isinstance(outcome, Unreadable):
        return [(line, outcome)]
    begin = 0
    for _ in range(MOST_TRIES):
        begin = line.find(_BEGIN, begin + 1)
        if begin < 0:
            break
        rest = read(line[begin:], gateway)
        if not isinstance(rest, Unreadable):
            return [(line[:begin], Unreadable("broken off")), (line[begin:], rest)]
    return [(line, outcome)]

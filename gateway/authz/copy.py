"""The last table on disk, so that a start needs no billing: hashes and no secret, and no older than a day.

One line that says what it is and when billing last confirmed it, signed with the pepper; then the table as billing says
it. The signature also finds a file that was cut off, altered, or made with another pepper, whose hashes fit no key.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from google.protobuf.message import DecodeError
from stratum.billing.v1.access_service_pb2 import GetAccessTableResponse

from services.shared.keyring import Keyring

FORM = "stratum access table 1"
OLDEST_SECONDS = 86_400.0
#: Clocks of two machines that share a disk may be so far apart.
SKEW_SECONDS = 60.0


class NoCopyError(Exception):
    """There is no copy that could be used. The message says why."""


class _Head(msgspec.Struct):
    form: str
    #: When billing last said that it is the newest, in seconds since 1970.
    confirmed_at: float
    pepper: int
    mac: str


def write(path: Path, table: GetAccessTableResponse, confirmed_at: float, peppers: Keyring) -> None:
    """Puts the table in the file's place, whole or not at all; only its owner may read it. Raises OSError."""
    body = table.SerializeToString()
    pepper, mac = peppers.sign(_signed(confirmed_at, body))
    head = msgspec.json.encode(_Head(FORM, confirmed_at, pepper, mac.hex()))
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(head + b"\n" + body)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read(path: Path, peppers: Keyring, now: float) -> tuple[GetAccessTableResponse, float]:
    """The table of the file, and when billing last confirmed it. Raises NoCopyError."""
    try:
        line, _, body = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise NoCopyError(f"it cannot be read: {error.strerror}") from error
    try:
        head = msgspec.json.decode(line, type=_Head)
        mac = bytes.fromhex(head.mac)
    except (msgspec.DecodeError, ValueError) as error:
        raise NoCopyError("it is no copy of the table") from error
    if head.form != FORM or not peppers.signs(_signed(head.confirmed_at, body), head.pepper, mac):
        raise NoCopyError("it was not written with our peppers, or altered since")
    if not -SKEW_SECONDS <= now - head.confirmed_at <= OLDEST_SECONDS:
        raise NoCopyError(f"it is {(now - head.confirmed_at) / 3600:.1f} hours old")
    try:
        return GetAccessTableResponse.FromString(body), head.confirmed_at
    except DecodeError as error:
        raise NoCopyError("its table cannot be read") from error


def _signed(confirmed_at: float, body: bytes) -> bytes:
    return f"{FORM}\n{confirmed_at!r}\n".encode() + body

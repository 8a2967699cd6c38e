"""How far the logs were read, on disk: whole or not at all, and known to be ours.

The file has two places that are written in turn, each with a number and a checksum; the newest whole one counts. They
are overwritten where they lie: a new file in the old one's place would need room, and on a full disk it could then not
even be noted that a log was read and may go.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self
from zlib import crc32

import msgspec

PLACE_BYTES = 32 * 1024
_FORM = b"stratum-usage-offset-1"


class OffsetFileError(Exception):
    """The file is not one that we may go on from. The message says why, and what to do."""


class Position(msgspec.Struct, frozen=True):
    """How far one file was read, and how the file is known again."""

    #: What it was called; only for whoever reads this.
    name: str
    inode: int
    #: Everything before this byte is in the ledger, or kept aside.
    offset: int
    #: The first bytes of the file, and their hash: a number may be given to another file.
    head_bytes: int
    head_sha256: str
    #: Read to its end, and being removed.
    finished: bool = False


class _Kept(msgspec.Struct, frozen=True):
    gateway: str
    log: str
    sequence: int
    positions: tuple[Position, ...] = ()


class OffsetFile:
    """The open file, which no second reader can open meanwhile."""

    def __init__(self, descriptor: int, kept: _Kept) -> None:
        self._descriptor = descriptor
        self._kept = kept

    @classmethod
    def open(cls, path: Path, gateway: str, log: Path) -> Self:
        """Opens it, and makes it where there is none. Raises OffsetFileError, and OSError where it cannot be made."""
        if not path.exists():
            _make(path, _Kept(gateway, str(log), 0))
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            _lock(descriptor, path)
            kept = _newest(os.pread(descriptor, 2 * PLACE_BYTES + 1, 0), path)
            if (kept.gateway, kept.log) != (gateway, str(log)):
                raise OffsetFileError(
                    f"{path} is of the log {kept.log} of the gateway {kept.gateway}, and this is {log} of {gateway}. "
                    "Give each gateway an offset file of its own (USAGE_OFFSET_FILE)."
                )
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor, kept)

    @property
    def positions(self) -> tuple[Position, ...]:
        """What was stored last."""
        return self._kept.positions

    def store(self, positions: Sequence[Position]) -> None:
        """Returns when they are on the disk. Raises OSError, and then what was stored before still holds."""
        kept = _Kept(self._kept.gateway, self._kept.log, self._kept.sequence + 1, tuple(positions))
        place = _written(kept)
        at = kept.sequence % 2 * PLACE_BYTES
        if os.pwrite(self._descriptor, place, at) != len(place):
            raise OSError(None, "the offset was not written whole")
        os.fdatasync(self._descriptor)
        self._kept = kept

    def close(self) -> None:
        """Lets another reader have it."""
        os.close(self._descriptor)


def _written(kept: _Kept) -> bytes:
    body = msgspec.json.encode(kept)
    place = b"%s %08x %s" % (_FORM, crc32(body), body)
    if len(place) >= PLACE_BYTES:
        raise OSError(None, f"there are too many logs ({len(kept.positions)}) to note how far each was read")
    return place.ljust(PLACE_BYTES - 1) + b"\n"


def _read(place: bytes) -> _Kept | None:
    form, _, rest = place.rstrip().partition(b" ")
    checksum, _, body = rest.partition(b" ")
    if form != _FORM or checksum != b"%08x" % crc32(body):
        return None
    return msgspec.json.decode(body, type=_Kept)


def _newest(content: bytes, path: Path) -> _Kept:
    places = [_read(content[:PLACE_BYTES]), _read(content[PLACE_BYTES:])]
    whole = [place for place in places if place is not None]
    if not whole or len(content) != 2 * PLACE_BYTES:
        raise OffsetFileError(
            f"{path} is no offset file of the usage reader, or nothing of it is whole. If it was one, move it away: "
            "the logs are then read from their beginnings, which changes nothing in the ledger. "
            "If it is something else, set USAGE_OFFSET_FILE."
        )
    return max(whole, key=lambda kept: kept.sequence)


def _make(path: Path, kept: _Kept) -> None:
    """Both places are filled, so that their room on the disk is taken now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with new.open("wb") as file:
            file.write(_written(kept) * 2)
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
    finally:
        new.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Returns when the folder's names are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OffsetFileError(f"another reader is at work: it holds {path}") from None

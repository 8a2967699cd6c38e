"""What could not be entered into the ledger, kept for somebody to look at: one JSON object a line."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from errno import ENOSPC
from io import RawIOBase
from pathlib import Path

import msgspec

from services.shared.clock import utc_now


class AsideFullError(Exception):
    """There is more than may be kept. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Aside:
    """A piece of a log, or a line that billing refused."""

    file: str
    inode: int
    #: Where it begins in the file.
    offset: int
    #: `unreadable`, or `refused` by billing.
    kind: str
    why: str
    content: bytes


class AsideFile:
    """A file that is only added to. Whoever has looked at it moves it away; a new one is made then."""

    def __init__(self, path: Path, gateway: str, most_bytes: int) -> None:
        self._path, self._gateway, self._most_bytes = path, gateway, most_bytes
        #: Kept since the offset moved: what fails behind this is done again, and need not be kept again.
        self._kept: set[tuple[int, int]] = set()

    def keep(self, pieces: Sequence[Aside]) -> int:
        """Returns when all are on the disk: how many were new. Raises OSError and AsideFullError."""
        new = [piece for piece in pieces if (piece.inode, piece.offset) not in self._kept]
        if not new:
            return 0
        self._path.parent.mkdir(parents=True, exist_ok=True)
        written = b"".join(self._written(piece) for piece in new)
        with self._path.open("ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size + len(written) > self._most_bytes:
                raise AsideFullError(f"{self._path} is full: look at what is in it, and move it away")
            try:
                _write_whole(file, written)
            except OSError:
                file.truncate(size)  # or each attempt on a full disk would leave another half of a line
                raise
        self._kept.update((piece.inode, piece.offset) for piece in new)
        return len(new)

    def moved(self) -> None:
        """The offset is stored behind everything that was kept."""
        self._kept.clear()

    def _written(self, piece: Aside) -> bytes:
        try:
            content = {"content": piece.content.decode()}
        except UnicodeDecodeError:
            content = {"content_base64": b64encode(piece.content).decode()}
        entry = {
            "noted_at": utc_now(),
            "gateway": self._gateway,
            "file": piece.file,
            "offset": piece.offset,
            "kind": piece.kind,
            "why": piece.why,
            **content,
        }
        return msgspec.json.encode(entry) + b"\n"


def _write_whole(file: RawIOBase, written: bytes) -> None:
    if file.write(written) != len(written):
        raise OSError(ENOSPC, os.strerror(ENOSPC))
    os.fdatasync(file.fileno())

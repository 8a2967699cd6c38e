"""The log's files, by inode and byte offset: what is complete of them is read, and what is torn waits."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from gateway.usage.offset import Position
from services.shared.logging import logger

log = logger(__name__)

#: The most that is read, and held in memory, at once. Also the longest line: what is longer is read in pieces.
READ_BYTES = 512 * 1024
#: A file is known again by its inode and by as many of its first bytes as were read, up to so many.
FINGERPRINT_BYTES = 1024


def complete_lines(data: bytes, longest: int, ended: bool = False) -> list[bytes]:
    """The lines that are whole, each with its line end. `data` begins where a line begins.

    `longest` bytes without a line end are a line, so that nothing grows without bound. Of a file that has `ended`, what
    stands behind the last line end is one too.
    """
    *whole, rest = data.split(b"\n")
    lines = [line + b"\n" for line in whole]
    if rest and (ended or (not lines and len(rest) >= longest)):
        lines.append(rest)
    return lines


@dataclass(slots=True)
class LogFile:
    """One file that is open, whatever it is called by now; it can be read to its end even when its name is gone."""

    descriptor: int
    inode: int
    name: str
    #: Everything before it is in the ledger or kept aside, and that is stored.
    offset: int = 0
    #: The file's first bytes, as many as `offset` says were read.
    head: bytes = field(default=b"", repr=False)
    #: Nothing will be added any more.
    ended: bool = False
    #: Nothing needs to be read of it any more: it may be removed.
    finished: bool = False
    #: Whether some name still leads to it.
    named: bool = True

    def size(self) -> int:
        """Bytes that it has now."""
        return os.fstat(self.descriptor).st_size

    def unread(self) -> int:
        """Bytes behind the offset."""
        return max(0, self.size() - self.offset)

    def read(self) -> bytes:
        """What follows the offset, at most READ_BYTES. A file that was emptied or overwritten is read anew."""
        if self.size() < self.offset or os.pread(self.descriptor, len(self.head), 0) != self.head:
            log.error(
                "a log was truncated: what was not read of it is lost; it is read from its beginning",
                file=self.name,
                read_bytes=self.offset,
            )
            self.offset, self.head = 0, b""
        return os.pread(self.descriptor, READ_BYTES, self.offset)

    def move_to(self, offset: int) -> None:
        """Everything before the offset is stored."""
        self.offset = offset
        if len(self.head) < FINGERPRINT_BYTES:
            self.head = os.pread(self.descriptor, min(offset, FINGERPRINT_BYTES), 0)

    def position(self, offset: int | None = None) -> Position:
        """Where the reading stands, or will stand, as it is stored."""
        offset = self.offset if offset is None else offset
        head = os.pread(self.descriptor, min(offset, FINGERPRINT_BYTES), 0)
        return Position(self.name, self.inode, offset, len(head), sha256(head).hexdigest(), self.finished)

    def close(self) -> None:
        """Lets go of it."""
        os.close(self.descriptor)


class Logs:
    """Every file of one log in its folder, the oldest first, each from where its reading stands."""

    def __init__(
        self, folder: Path, name: str, positions: Sequence[Position], missed: Callable[[], None] = lambda: None
    ) -> None:
        """`missed` is called for each file that was not read to its end and is gone."""
        self.folder, self.name = folder, name
        stem = re.escape(name.removesuffix(".jsonl"))
        self._pattern = re.compile(rf"{stem}(\..+)?\.jsonl(\.\d+)?")
        self._stored = {position.inode: position for position in positions}
        self._missed = missed
        self._files: dict[int, LogFile] = {}
        self._looked = False

    @property
    def path(self) -> Path:
        """The file that Envoy writes now."""
        return self.folder / self.name

    def current(self) -> LogFile | None:
        """The file that has the log's own name; None where there is none."""
        return next((file for file in self._files.values() if file.named and file.name == self.name), None)

    def positions(self, moved: LogFile | None = None, to: int = 0) -> list[Position]:
        """Where the reading of each file stands; of `moved`, where it will stand. Files not begun have no position."""
        return [
            file.position(to if file is moved else None)
            for file in self._files.values()
            if file is moved or file.offset or file.finished
        ]

    def look(self) -> list[LogFile]:
        """The files as they are now, the oldest first and the one that is being written last. Raises OSError."""
        found = dict(self._entries())
        for file in self._files.values():
            file.named = file.inode in found
            if file.named:
                file.name = found[file.inode]
        for inode, name in found.items():
            if inode not in self._files and (opened := self._open(inode, name)):
                self._files[inode] = opened
        if not self._looked:
            self._looked = True
            for position in self._stored.values():
                if not position.finished:
                    self._gone(position.name)
            self._stored.clear()
        return sorted(self._files.values(), key=self._age)

    def forget(self, file: LogFile) -> None:
        """The file is not looked at any more."""
        file.close()
        del self._files[file.inode]

    def close(self) -> None:
        """Lets go of all files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _entries(self) -> Iterator[tuple[int, str]]:
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if self._pattern.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    yield entry.inode(), entry.name

    def _open(self, inode: int, name: str) -> LogFile | None:
        try:
            descriptor = os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None  # renamed since: the next look finds it under its new name
        file = LogFile(descriptor, os.fstat(descriptor).st_ino, name)
        if file.inode != inode:
            file.close()
            return None
        if position := self._stored.pop(inode, None):
            self._go_on(file, position)
        return file

    def _go_on(self, file: LogFile, position: Position) -> None:
        head = os.pread(file.descriptor, position.head_bytes, 0)
        if sha256(head).hexdigest() != position.head_sha256:
            if not position.finished:
                log.error(
                    "a stored position is another file's, which had this inode: this one is read from its beginning",
                    file=file.name,
                    inode=file.inode,
                    was=position.name,
                )
                self._gone(position.name)
        elif file.size() < position.offset:
            self._gone(position.name)
        else:
            file.move_to(position.offset)
            file.finished = position.finished

    def _gone(self, name: str) -> None:
        log.error("a log is gone or cut off that was not known to be read to its end", file=name)
        self._missed()

    def _age(self, file: LogFile) -> tuple[bool, int, str]:
        return (file.named and file.name == self.name, os.fstat(file.descriptor).st_mtime_ns, file.name)


def total_unread(files: Iterable[LogFile]) -> int:
    """Bytes that no answer was stored for."""
    return sum(file.unread() for file in files)

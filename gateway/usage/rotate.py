"""Rotation: the log gets another name, Envoy opens a new one, and the old one is removed when all of it is stored.

The one thread of Envoy's that writes the log also makes the new file, between two writes. So a new file under the
log's name is the proof that nothing will be added to the old one; the time to settle comes on top of it. Without that
proof nothing is removed: Envoy is told again and again, and the old file is read as it grows.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import aiohttp

from gateway.usage import metrics
from gateway.usage.offset import OffsetFile, sync_folder
from gateway.usage.tail import LogFile, Logs
from services.shared.clock import utc_now
from services.shared.logging import logger

log = logger(__name__)

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
ADMIN_SECONDS = 5.0
#: Where the disk is nearly full, as little as this is worth a rotation.
LEAST_BYTES = 1024 * 1024

#: Tells Envoy to open its logs again. Raises aiohttp.ClientError or TimeoutError.
Reopen = Callable[[], Awaitable[None]]


def reopen_at(session: aiohttp.ClientSession, admin_url: str) -> Reopen:
    """Tells the Envoy that has its admin interface there."""

    async def reopen() -> None:
        timeout = aiohttp.ClientTimeout(total=ADMIN_SECONDS)
        async with session.post(f"{admin_url.rstrip('/')}/reopen_logs", timeout=timeout) as answer:
            answer.raise_for_status()

    return reopen


def rotated_name(name: str, at: datetime) -> str:
    """access.jsonl becomes access.20261126T052036.123456Z.jsonl: names in their order are times in theirs."""
    return f"{name.removesuffix('.jsonl')}.{at:%Y%m%dT%H%M%S.%fZ}.jsonl"


@dataclass(slots=True)
class _Watched:
    """A file that is not the log any more: since when nothing was added to it."""

    size: int
    since: float


class Rotation:
    """The life of a log after it was written."""

    def __init__(
        self, logs: Logs, offsets: OffsetFile, rotate_bytes: int, settle_seconds: float, reopen: Reopen | None
    ):
        """Without `reopen` somebody else rotates, and nothing is removed."""
        self._logs, self._offsets = logs, offsets
        self._rotate_bytes, self._settle_seconds = rotate_bytes, settle_seconds
        self._reopen = reopen
        self._ours = re.compile(rf"{re.escape(logs.name.removesuffix('.jsonl'))}\.\d{{8}}T\d{{6}}\.\d{{6}}Z\.jsonl")
        self._watched: dict[int, _Watched] = {}
        self._reopen_after = 0.0
        self._pause = FIRST_PAUSE_SECONDS

    async def step(self, files: Sequence[LogFile], scarce: bool) -> None:
        """Does what is due, a little each time. `scarce`: the disk is nearly full. Raises OSError."""
        now = time.monotonic()
        current = self._logs.current()
        if current is None:
            # The log has no name: our own rename, or somebody's removal. Until Envoy makes a new one it writes on.
            if files and self._reopen is not None and now >= self._reopen_after:
                await self._tell_envoy(self._reopen)
            return
        self._reopen_after, self._pause = 0.0, FIRST_PAUSE_SECONDS
        old = [file for file in files if file is not current]
        for file in old:
            self._watch(file, now)
            if file.ended and not file.unread():
                self._finish(file)
        # One at a time. What others put there stays, and must not keep the log from being rotated.
        waiting = any(file.named and self._ours.fullmatch(file.name) for file in old)
        if self._reopen is not None and not waiting and self._due(current, scarce):
            self._rename(current)
            await self._tell_envoy(self._reopen)

    def _due(self, current: LogFile, scarce: bool) -> bool:
        return current.offset >= (min(LEAST_BYTES, self._rotate_bytes) if scarce else self._rotate_bytes)

    def _rename(self, current: LogFile) -> None:
        name = rotated_name(self._logs.name, utc_now())
        if (self._logs.folder / name).exists():
            return  # two rotations in a microsecond: the next step comes later
        self._logs.path.rename(self._logs.folder / name)
        current.name = name
        sync_folder(self._logs.folder)
        metrics.rotations.inc()
        log.info("rotated", file=name, read_bytes=current.offset)

    async def _tell_envoy(self, reopen: Reopen) -> None:
        try:
            await reopen()
        except (aiohttp.ClientError, TimeoutError) as error:
            metrics.reopen_failures.inc()
            log.warning("Envoy does not open its log again", error=type(error).__name__, again_in_seconds=self._pause)
        # Envoy makes the file with its next line, so an answer is not yet a file: it may have to be told again.
        self._reopen_after = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    def _watch(self, file: LogFile, now: float) -> None:
        size = file.size()
        seen = self._watched.get(file.inode)
        if seen is None or seen.size != size:
            self._watched[file.inode] = _Watched(size, now)
            file.ended = False
        elif now - seen.since >= self._settle_seconds:
            file.ended = True

    def _finish(self, file: LogFile) -> None:
        if not file.named:
            log.info("a log that somebody removed is read to its end", file=file.name)
        elif self._reopen is not None and self._ours.fullmatch(file.name):
            if not file.finished:
                # Stored first: a log that is gone and not known to be read would be reported as lost.
                file.finished = True
                self._offsets.store(self._logs.positions())
            (self._logs.folder / file.name).unlink()
            metrics.removed.inc()
            log.info("removed a log that was read to its end", file=file.name, read_bytes=file.offset)
            file.named = False
            if file.unread():
                log.error("a log grew while it was removed; the rest is read", file=file.name)
                return
        else:
            return  # somebody else rotates, and removes
        self._watched.pop(file.inode, None)
        self._logs.forget(file)
        self._offsets.store(self._logs.positions())

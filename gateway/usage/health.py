"""When somebody has to be called: the disk is nearly full, or the ledger is far behind what was served."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from functools import partial
from pathlib import Path

from gateway.usage import metrics
from services.shared.clock import utc_now
from services.shared.logging import logger

log = logger(__name__)


#: What goes on failing is logged so often.
TELL_AGAIN_AFTER = timedelta(seconds=30)


class NotWellError(Exception):
    """Why the reader is not ready."""


class Room(Enum):
    """How full a disk is."""

    ENOUGH = "enough"
    #: Worth a look.
    SCARCE = "scarce"
    #: Envoy drops lines that it cannot write, and tells nobody: somebody has to come now.
    NONE = "nearly full"


def room(free_ratio: float, warning_ratio: float, least_ratio: float) -> Room:
    """What a disk's free share means."""
    if free_ratio < least_ratio:
        return Room.NONE
    return Room.SCARCE if free_ratio < warning_ratio else Room.ENOUGH


def free_ratio(folder: Path) -> float:
    """The share of a folder's disk that is free for those who are not root. Raises OSError."""
    disk = os.statvfs(folder)
    return disk.f_bavail / disk.f_blocks if disk.f_blocks else 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Beyond which somebody is called."""

    disk_warning_ratio: float
    disk_least_ratio: float
    lag_seconds: float
    lag_bytes: int


class Health:
    """What the reader says of itself: metrics, readiness, and a line in the log when one of them turns."""

    def __init__(self, limits: Limits, folders: Mapping[str, Path]) -> None:
        """`folders`: those whose disks are watched, by what is in them."""
        self._limits = limits
        self._folders = folders
        self._rooms = dict.fromkeys(folders, Room.ENOUGH)
        #: When the oldest call ended that was read and is not in the ledger; None where there is none.
        self._oldest: datetime | None = None
        self._unread = 0
        self._failing: tuple[datetime, str] | None = None
        self._told_at = utc_now()
        self._lagging = False
        metrics.lag_seconds.set_function(self.lag_seconds)
        for of, folder in folders.items():
            metrics.disk_free_ratio.labels(of).set_function(partial(free_ratio, folder))

    def pending(self, oldest: datetime | None, unread: int) -> None:
        """What is about to be sent, and how much is unread with it."""
        self._oldest, self._unread = oldest, unread
        metrics.lag_bytes.set(unread)
        self._tell_lag()

    def failed(self, error: BaseException, words: str) -> None:
        """A batch could not be done, and is begun anew."""
        metrics.failures.labels(type(error).__name__).inc()
        now = utc_now()
        if self._failing is None or now - self._told_at > TELL_AGAIN_AFTER:
            log.warning("a batch failed and is begun anew", error=words)
            self._told_at = now
        self._failing = (self._failing[0] if self._failing else now, words)
        self._tell_lag()

    def done(self) -> None:
        """A batch is stored, or there was none."""
        if self._failing is not None:
            log.info("batches are done again", failed_seconds=round(self._failing_seconds(), 1))
        self._failing = None

    def lag_seconds(self) -> float:
        """Age of the oldest call that was served and is not in the ledger."""
        return max(0.0, (utc_now() - self._oldest).total_seconds()) if self._oldest else 0.0

    def look_at_disks(self) -> bool:
        """Logs what has changed; says whether some disk is nearly full. Raises OSError."""
        for of, folder in self._folders.items():
            ratio = free_ratio(folder)
            found = room(ratio, self._limits.disk_warning_ratio, self._limits.disk_least_ratio)
            if found is not self._rooms[of]:
                say = {Room.ENOUGH: log.info, Room.SCARCE: log.warning, Room.NONE: log.error}[found]
                say(
                    "the room on a disk has changed",
                    of=of,
                    room=found.value,
                    free_ratio=round(ratio, 3),
                    folder=str(folder),
                )
                self._rooms[of] = found
        return Room.NONE in self._rooms.values()

    async def check_disk(self) -> None:
        """Ready while no disk is nearly full."""
        self.look_at_disks()
        full = [of for of, room in self._rooms.items() if room is Room.NONE]
        if full:
            least = f"{self._limits.disk_least_ratio:.0%}"
            raise NotWellError(f"less than {least} of a disk is free: {', '.join(full)}")

    async def check_lag(self) -> None:
        """Ready while the ledger is not far behind."""
        self._tell_lag()
        if problem := self._lag():
            raise NotWellError(problem)

    async def check_batches(self) -> None:
        """Ready while batches can be done, or could a short while ago."""
        if self._failing is not None and self._failing_seconds() > self._limits.lag_seconds:
            raise NotWellError(f"no batch was done for {self._failing_seconds():.0f} s: {self._failing[1]}")

    def _failing_seconds(self) -> float:
        return (utc_now() - self._failing[0]).total_seconds() if self._failing else 0.0

    def _lag(self) -> str:
        if self.lag_seconds() > self._limits.lag_seconds:
            return f"the ledger is {self.lag_seconds():.0f} s behind what was served"
        if self._unread > self._limits.lag_bytes:
            return f"the ledger is {self._unread} bytes of the log behind"
        return ""

    def _tell_lag(self) -> None:
        problem = self._lag()
        if bool(problem) != self._lagging:
            self._lagging = bool(problem)
            if problem:
                log.error("usage lags", problem=problem)
            else:
                log.info("usage has caught up")

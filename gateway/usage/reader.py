"""The reader: a batch is read, sent, and its offset stored after the answer; then the next one.

Nothing is remembered of a batch that fails, wherever it fails: it is read again from the stored offset. Lines that
billing knows already change nothing there, so neither a crash nor a repeat can lose a line or count it twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import grpc.aio
from google.protobuf.json_format import MessageToJson
from stratum.billing.v1.metering_service_pb2 import UsageLine
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from gateway.usage import metrics
from gateway.usage.aside import Aside, AsideFile, AsideFullError
from gateway.usage.health import Health
from gateway.usage.lines import Unreadable, read_all
from gateway.usage.offset import OffsetFile
from gateway.usage.rotate import Rotation
from gateway.usage.sender import Answer, Sender
from gateway.usage.tail import READ_BYTES, LogFile, Logs, complete_lines, total_unread
from services.shared.logging import logger, masked

log = logger(__name__)

FIRST_PAUSE_SECONDS = 0.1
DISK_LOOK_SECONDS = 5.0


@dataclass(slots=True)
class Batch:
    """What was read of one file, up to `end`."""

    file: LogFile
    end: int
    read: int = 0
    lines: list[UsageLine] = field(default_factory=list)
    #: Where each of `lines` begins.
    offsets: list[int] = field(default_factory=list)
    unreadable: list[Aside] = field(default_factory=list)

    def oldest(self) -> datetime | None:
        """When the first call ended; None where there is none."""
        if not self.lines:
            return None
        first = self.lines[0]
        return first.started_at.ToDatetime(UTC) + timedelta(milliseconds=first.duration_milliseconds)


def batch_of(file: LogFile, data: bytes, gateway: str, most_lines: int) -> Batch:
    """The lines of `data`, which follows the file's offset, up to `most_lines` that are for the ledger."""
    batch = Batch(file, file.offset)
    for piece in complete_lines(data, READ_BYTES, file.ended):
        at = batch.end
        for content, outcome in read_all(piece, gateway):
            if isinstance(outcome, UsageLine):
                batch.lines.append(outcome)
                batch.offsets.append(at)
            elif isinstance(outcome, Unreadable) and content.strip():
                batch.unreadable.append(Aside(file.name, file.inode, at, "unreadable", outcome.why, content))
            at += len(content)
        batch.end += len(piece)
        batch.read += 1
        if len(batch.lines) >= most_lines:
            break
    return batch


class Reader:
    """Reads until told to stop, one batch after the other."""

    def __init__(
        self,
        logs: Logs,
        offsets: OffsetFile,
        aside: AsideFile,
        sender: Sender,
        rotation: Rotation,
        health: Health,
        gateway: str,
        batch_lines: int,
        look_seconds: float,
        longest_pause_seconds: float,
    ) -> None:
        self._logs, self._offsets, self._aside = logs, offsets, aside
        self._sender, self._rotation, self._health = sender, rotation, health
        self._gateway, self._batch_lines, self._look_seconds = gateway, batch_lines, look_seconds
        self._longest_pause_seconds = longest_pause_seconds
        self._stopping = asyncio.Event()
        self._disk_looked_at = -DISK_LOOK_SECONDS
        self._scarce = False

    async def run(self, stopping: asyncio.Event) -> None:
        """Returns after the batch during which `stopping` is set."""
        self._stopping = stopping
        # The data is waited for without end, and nothing else: each call has a deadline, each pause a bound, and what
        # waits is a file on the disk. Whoever must know is told by readiness, the log and the lag.
        patiently = AsyncRetrying(
            retry=retry_if_exception_type((grpc.aio.AioRpcError, OSError, AsideFullError)),
            wait=wait_random_exponential(multiplier=FIRST_PAUSE_SECONDS, max=self._longest_pause_seconds),
            stop=lambda _attempt: stopping.is_set(),
            sleep=self._pause,
            before_sleep=self._failed,
            reraise=True,
        )
        while not stopping.is_set():
            try:
                moved: bool = await patiently(self.step)
            except (grpc.aio.AioRpcError, OSError, AsideFullError) as error:
                log.info("left undone, and read again by the next reader", error=_words(error))
                return
            self._health.done()
            if not moved:
                await self._pause(self._look_seconds)

    async def step(self) -> bool:
        """One batch, and what is due of rotation; says whether there was anything to read.

        Raises grpc.aio.AioRpcError, OSError and AsideFullError; nothing has moved then.
        """
        begun = time.monotonic()
        self._look_at_disks(begun)
        files = await asyncio.to_thread(self._logs.look)
        metrics.logs.set(len(files))
        batch = await asyncio.to_thread(self._next, files)
        self._health.pending(batch.oldest() if batch else None, total_unread(files))
        if batch is not None:
            answer = await self._sender.send(batch.lines) if batch.lines else Answer()
            await asyncio.to_thread(self._store, batch, answer)
            _count(batch, answer)
            metrics.batch_seconds.observe(time.monotonic() - begun)
        await self._rotation.step(files, self._scarce)
        return batch is not None

    def _next(self, files: Sequence[LogFile]) -> Batch | None:
        for file in files:
            if file.finished and not file.unread():
                continue
            batch = batch_of(file, file.read(), self._gateway, self._batch_lines)
            if batch.end > file.offset:
                return batch
        return None

    def _store(self, batch: Batch, answer: Answer) -> None:
        refused = [
            Aside(
                batch.file.name,
                batch.file.inode,
                batch.offsets[number],
                "refused",
                why,
                _as_text(batch.lines[number]),
            )
            for number, why in answer.refused
        ]
        for kind, pieces in (("unreadable", batch.unreadable), ("refused", refused)):
            if new := self._aside.keep(pieces):
                metrics.lines_aside.labels(kind).inc(new)
                log.error("lines were kept aside", kind=kind, lines=new, file=batch.file.name, why=pieces[0].why)
        self._offsets.store(self._logs.positions(batch.file, batch.end))
        batch.file.move_to(batch.end)
        self._aside.moved()

    def _look_at_disks(self, now: float) -> None:
        if now - self._disk_looked_at >= DISK_LOOK_SECONDS:
            self._disk_looked_at = now
            self._scarce = self._health.look_at_disks()

    def _failed(self, attempt: RetryCallState) -> None:
        error = attempt.outcome.exception() if attempt.outcome else None
        if error is not None:
            self._health.failed(error, _words(error))

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


def _count(batch: Batch, answer: Answer) -> None:
    metrics.lines_read.inc(batch.read)
    metrics.lines_sent.inc(len(batch.lines))
    for result in ("recorded", "repeated", "conflicting", "unrated"):
        metrics.lines_answered.labels(result).inc(getattr(answer, result))
    if answer.conflicting or answer.unrated:
        log.error("billing has lines to be looked at", conflicting=answer.conflicting, unrated=answer.unrated)


def _as_text(line: UsageLine) -> bytes:
    return MessageToJson(line, preserving_proto_field_name=True, indent=None).encode()


def _words(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return masked(f"{error.code().name}: {error.details()}")
    return masked(f"{type(error).__name__}: {error}")

"""What each process holds in memory, at rest and at work, and how long a service takes until it is ready.

Memory is the proportional set size: what is a process's own, and its part of what several share. Of PostgreSQL it is
that of all its processes together.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from deploy import schema
from deploy.children import Kept, Program
from tests.bench.board import Board, Pattern
from tests.bench.figures import Figure
from tests.bench.pipeline import AS_FAST_AS_IT_GOES, Pipeline
from tests.bench.throughput import feed

MEBIBYTE = 1024.0**2
SAMPLE_SECONDS = 1.0
#: What a service has taken at its start and gives back, or not, is settled by then.
REST_SECONDS = 5.0
SLATE = 15
#: Changed quotes of each board: some minutes of a slate, and about one response of 5,000 events.
CHANGES = 2_000
STARTS = 5
START_DEADLINE_SECONDS = 60.0


async def measure(folder: Path, events: int, pattern: Pattern, say: Callable[[str], None]) -> list[Figure]:
    """Memory at rest, with a slate of 15 events and with `events`; start-up times."""
    figures: list[Figure] = []
    async with Pipeline(folder / "rest", AS_FAST_AS_IT_GOES, gateway=True) as pipeline:
        say("nothing to do: memory at rest")
        await asyncio.sleep(REST_SECONDS)
        rest = _held(pipeline)
        figures += [Figure(f"memory at rest: {name}", held, "MiB") for name, held in rest.items()]
        for service in schema.PIPELINE:
            seconds = await _start_seconds(pipeline.stack.members[service])
            say(f"{service} is ready after {seconds:.2f} s")
            figures.append(
                Figure(f"from the start of the process to ready, median of {STARTS}: {service}", seconds, "s")
            )
    for size in (SLATE, events):
        async with Pipeline(folder / str(size), say=say) as pipeline, _most(pipeline) as most:
            await feed(pipeline, Board(size, pattern=pattern), 0.0, say, least_changes=CHANGES)
        figures += [
            Figure(f"most memory at {size:,} events: {name}", held, "MiB", rest[name], "at rest")
            for name, held in most.items()
        ]
    return figures


@asynccontextmanager
async def _most(pipeline: Pipeline) -> AsyncIterator[dict[str, float]]:
    """The most that each process held at a time, while the block runs."""
    most: dict[str, float] = {}

    async def sample() -> None:
        while True:
            for name, held in (await asyncio.to_thread(_held, pipeline)).items():
                most[name] = max(held, most.get(name, 0.0))
            await asyncio.sleep(SAMPLE_SECONDS)

    sampling = asyncio.create_task(sample())
    try:
        yield most
    finally:
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)


def _held(pipeline: Pipeline) -> dict[str, float]:
    """MiB of each process."""
    return {name: _proportional(kept.runnable.pid) / MEBIBYTE for name, kept in pipeline.stack.members.items()}


def _proportional(pid: int) -> int:
    held = 0
    process = psutil.Process(pid)
    for one in (process, *process.children(recursive=True)):
        try:
            held += one.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue  # a connection that has ended meanwhile
    return held


async def _start_seconds(kept: Kept) -> float:
    """The median time from a process's start to its word that it is ready, over several starts."""
    assert isinstance(kept.runnable, Program)
    found = []
    for _ in range(STARTS):
        before = kept.runnable.pid
        psutil.Process(before).terminate()
        async with asyncio.timeout(START_DEADLINE_SECONDS):
            while kept.runnable.pid == before:
                await asyncio.sleep(0.01)
            started_at = psutil.Process(kept.runnable.pid).create_time()
            while not await asyncio.to_thread(kept.runnable.ready):
                await asyncio.sleep(0.01)
        found.append(time.time() - started_at)
    return statistics.median(found)

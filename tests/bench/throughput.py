"""Changed quotes a second through ingest, consensus and signals, everything durable, against COPY of the same rows.

The first responses only show the board and are not counted. The measured ones follow one another as fast as the poller
asks: each round begins with nothing under way and ends when the last message of the last response has been applied and
published by every stage, so filling and emptying the pipeline is part of the time.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from services.shared.clock import utc_now
from tests.bench.board import Board, Pattern, Response
from tests.bench.copying import seconds_per_row
from tests.bench.figures import Figure
from tests.bench.pipeline import CADENCE_SECONDS, PROVIDER, Pipeline, Spent

CADENCE = timedelta(seconds=CADENCE_SECONDS)
#: A keyframe every ten minutes of events that were first shown in ten waves, a minute apart: a tenth in each response.
WAVES = 10
#: Responses of the first round, at most; its speed says how many the second takes.
FIRST_ROUND = 3
#: Responses held in memory at a time, at most; one of 5,000 events takes about 4 MB.
ROUND = 40
#: A first round that took less than this share of the time is only taken for its speed.
WORTH_COUNTING = 0.3

#: Rows per changed quote that are worth a line.
LEAST_ROWS = 0.005

#: Rows that stay: what COPY is to take, beside the snapshots alone.
LASTING = (
    *("ingest.odds_snapshots", "ingest.disappearances", "ingest.polls", "consensus.consensus_snapshots"),
    *("consensus.quote_history", "signals.signal", "signals.suppression"),
)
#: Rows that are overwritten: each is written again whenever its event or market changes.
STATES = (
    *("ingest.event_state", "ingest.games", "consensus.event_state", "consensus.games", "consensus.current_market"),
    "signals.event_state",
)


@dataclass(frozen=True, slots=True)
class Run:
    """What a measured run came to."""

    changes: int
    responses: int
    seconds: float
    spent: Spent
    opening_seconds: float
    #: By table: rows inserted or changed for each changed quote; empty where they were not counted.
    rows: Mapping[str, float] = field(default_factory=dict)

    def and_also(self, other: Run) -> Run:
        """Both runs together."""
        return Run(
            self.changes + other.changes,
            self.responses + other.responses,
            self.seconds + other.seconds,
            self.spent.and_also(other.spent),
            self.opening_seconds,
        )

    @property
    def per_second(self) -> float:
        """Changed quotes a second."""
        return self.changes / self.seconds


async def measure(
    folder: Path, events: int, seconds: float, pattern: Pattern, say: Callable[[str], None]
) -> list[Figure]:
    """The figures of one board, measured for about `seconds`."""
    board = Board(events, pattern=pattern)
    async with Pipeline(folder, say=say) as pipeline:
        run = await feed(pipeline, board, seconds, say, count_rows=True)
        database_folder = pipeline.home.database_folder()
    say("copying the same rows")
    copied = await asyncio.to_thread(
        seconds_per_row, database_folder, [table for table in (*LASTING, *STATES) if run.rows.get(table)]
    )
    return [*_speed(run, copied), *_costs(run)]


async def feed(
    pipeline: Pipeline,
    board: Board,
    seconds: float,
    say: Callable[[str], None],
    least_changes: int = 0,
    count_rows: bool = False,
) -> Run:
    """Shows the board, then changes it: for about `seconds`, and until at least so many quotes have changed."""
    at = (utc_now() - timedelta(hours=12)).astimezone(UTC).replace(microsecond=0)
    say(f"{board.quotes:,} quotes of {board.events:,} events: showing them first, uncounted")
    opening = await asyncio.to_thread(lambda: list(board.opening(at, CADENCE, WAVES)))
    began = time.monotonic()
    pipeline.give(opening)
    opening_seconds = await pipeline.drained() - began
    say(f"shown after {opening_seconds:.1f} s; now {board.pattern} change in each response")
    at += WAVES * CADENCE
    enough = math.ceil(least_changes / (board.pattern.share * board.quotes))
    counted: Run | None = None
    before = await pipeline.rows_written() if count_rows else Counter[str]()
    changes = 0
    # A response takes about half of the opening's time; where that is long, one must do.
    responses = max(1, enough, min(FIRST_ROUND, round(2 * seconds / opening_seconds)))
    while responses:
        run = await _round(pipeline, board, at, responses, opening_seconds)
        changes += run.changes
        say(f"{run.changes:,} changed quotes in {run.seconds:.1f} s: {run.per_second:,.0f} a second")
        at += responses * CADENCE
        if counted is not None:
            counted = counted.and_also(run)
        elif run.seconds > WORTH_COUNTING * seconds:
            counted = run
        left = seconds - (0.0 if counted is None else counted.seconds)
        responses = min(ROUND, round(left * run.responses / run.seconds)) if left > 0 else 0
    assert counted is not None
    if not count_rows:
        return counted
    written = await pipeline.rows_written() - before
    return replace(counted, rows={table: count / changes for table, count in written.items()})


async def _round(pipeline: Pipeline, board: Board, at: datetime, responses: int, opening_seconds: float) -> Run:
    given: list[Response] = await asyncio.to_thread(lambda: list(board.cycles(at, CADENCE, responses)))
    before = await pipeline.spent()
    began = time.monotonic()
    changes = pipeline.give(given)
    seconds = await pipeline.drained() - began
    return Run(changes, responses, seconds, (await pipeline.spent()).since(before), opening_seconds)


def _speed(run: Run, copied: Mapping[str, float]) -> list[Figure]:
    """The speed, beside what COPY alone would make of the rows that one changed quote leaves behind."""

    def copy_speed(tables: Iterable[str]) -> float:
        return 1 / sum(copied.get(table, 0.0) * run.rows.get(table, 0.0) for table in tables)

    against = {
        "COPY of the snapshots alone": LASTING[:1],
        "COPY of all rows that stay": LASTING,
        "COPY of all rows, overwritten ones too": (*LASTING, *STATES),
    }
    return [
        Figure("changed quotes through the whole pipeline", run.per_second, "quotes/s", copy_speed(tables), name)
        for name, tables in against.items()
    ]


def _costs(run: Run) -> list[Figure]:
    figures = cpu_figures(run)
    figures.append(Figure("bytes on the bus per changed quote", run.spent.bus_bytes / run.changes, "bytes"))
    figures.append(Figure("WAL per changed quote", run.spent.wal_bytes / run.changes, "bytes"))
    for table, count in sorted(run.rows.items()):
        if count >= LEAST_ROWS:
            figures.append(Figure(f"rows per changed quote: {table}", count, "rows"))
    busy = sum(run.spent.cpu_seconds.values()) / run.seconds
    figures.append(Figure("cores that all of it kept busy", busy, "cores", os.cpu_count(), "that there are"))
    figures.append(Figure("responses measured", run.responses, "responses"))
    figures.append(Figure("time measured", run.seconds, "s"))
    figures.append(Figure("time to show the board at first", run.opening_seconds, "s"))
    return figures


def cpu_figures(run: Run) -> list[Figure]:
    """What a changed quote costs each process, and all that do the work together."""
    costs = {name: seconds / run.changes * 1e6 for name, seconds in run.spent.cpu_seconds.items()}
    working = sum(cost for name, cost in costs.items() if name != PROVIDER)
    return [
        Figure("CPU per changed quote: all but the provider", working, "µs"),
        *(Figure(f"CPU per changed quote: {name}", cost, "µs") for name, cost in costs.items()),
    ]

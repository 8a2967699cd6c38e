"""What a changed quote costs as the board grows: the same share of changes at 10, 100, 1,000 and 5,000 events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench.board import Board, Pattern
from tests.bench.figures import Figure
from tests.bench.pipeline import PROVIDER, Pipeline
from tests.bench.throughput import Run, feed

#: What the other sizes are held against.
REFERENCE = 1000
#: Changed quotes of each size, at least.
CHANGES = 10_000


async def measure(folder: Path, sizes: Sequence[int], pattern: Pattern, say: Callable[[str], None]) -> list[Figure]:
    """CPU microseconds a changed quote at each size, by process and in all, beside those at 1,000 events.

    Every size has a fresh stack and enough responses for 10,000 changed quotes, given as fast as the poller asks.
    """
    runs: dict[int, Run] = {}
    for events in sizes:
        async with Pipeline(folder / str(events), say=say) as pipeline:
            runs[events] = await feed(pipeline, Board(events, pattern=pattern), 0.0, say, least_changes=CHANGES)
    reference = _costs(runs[REFERENCE]) if REFERENCE in runs else {}
    return [
        Figure(
            f"CPU per changed quote at {events:,} events: {name}", cost, "µs", reference.get(name), "at 1,000 events"
        )
        for events, run in sorted(runs.items())
        for name, cost in _costs(run).items()
    ]


def _costs(run: Run) -> dict[str, float]:
    costs = {name: seconds / run.changes * 1e6 for name, seconds in run.spent.cpu_seconds.items()}
    return {"all but the provider": sum(cost for name, cost in costs.items() if name != PROVIDER), **costs}

"""`make bench`: every benchmark in one run, printed and written to build/bench.json."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from tests.bench import feed, pipeline
from tests.bench.figures import Figure, write

ROOT = Path(__file__).resolve().parents[2]


async def main(events: int, responses: int) -> None:
    """Measures, prints, writes."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="stratum-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as a user of its own
        figures += await pipeline.measure(folder / "pipeline", events, responses)
        figures += await feed.measure(folder / "feed")
    print()
    for figure in figures:
        print(figure)
    write(figures, ROOT / "build" / "bench.json")
    print("\nwritten to build/bench.json")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="What Stratum costs, as ratios measured side by side in one run.")
    arguments.add_argument("--events", type=int, default=200, help="events on the generated board")
    arguments.add_argument("--responses", type=int, default=60, help="answers of the provider")
    given = arguments.parse_args()
    asyncio.run(main(given.events, given.responses))

"""`make bench [PART=…]`: what Stratum costs. Printed, and written to build/bench.json and build/bench.md."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from services.shared.clock import utc_now
from tests.bench import feed, throughput
from tests.bench.board import Uniform
from tests.bench.figures import Figure, write

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "build" / "bench.json"

Part = Callable[[Path, argparse.Namespace, Callable[[str], None]], Awaitable[list[Figure]]]


async def _throughput(folder: Path, given: argparse.Namespace, say: Callable[[str], None]) -> list[Figure]:
    return await throughput.measure(folder, given.events, given.seconds, Uniform(given.share), say)


async def _feed(folder: Path, given: argparse.Namespace, say: Callable[[str], None]) -> list[Figure]:
    return await feed.measure(folder)


PARTS: Mapping[str, Part] = {"throughput": _throughput, "feed": _feed}


async def main(given: argparse.Namespace) -> None:
    """Measures what was asked for, prints it and keeps it."""
    for name in PARTS if given.part == "all" else [given.part]:
        print(f"\n{name}", flush=True)
        began = time.monotonic()

        def say(sentence: str, began: float = began) -> None:
            print(f"  {time.monotonic() - began:6.1f} s  {sentence}", flush=True)

        with tempfile.TemporaryDirectory(prefix=f"stratum-bench-{name}-") as made:
            folder = Path(made)
            folder.chmod(0o755)  # PostgreSQL runs as a user of its own
            figures = await PARTS[name](folder, given, say)
        for figure in figures:
            print(figure)
        run = {
            "measured at": f"{utc_now():%Y-%m-%d %H:%M}",
            "cores": os.cpu_count(),
            "python": sys.version.split()[0],
            "arguments": " ".join(sys.argv[1:]),
        }
        write(name, figures, RESULTS, run)
    print(f"\nwritten to {RESULTS.relative_to(ROOT)} and {RESULTS.with_suffix('.md').relative_to(ROOT)}")


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="What Stratum costs, as ratios measured side by side in one run. See docs/performance.md.",
    )
    parser.add_argument("part", nargs="?", default="all", choices=["all", *PARTS], help="what to measure")
    parser.add_argument("--events", type=int, default=5000, help="events on the generated board (default 5000)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long throughput is measured (default 60)")
    parser.add_argument("--share", type=float, default=0.05, help="of the quotes, what changes in each response")
    return parser


if __name__ == "__main__":
    asyncio.run(main(arguments().parse_args()))

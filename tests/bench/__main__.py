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
from tests.bench import access, growth, latency, memory, profiling, throughput
from tests.bench.board import Pattern, Uniform
from tests.bench.figures import Figure, write
from tests.bench.recorded import like_recorded

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "build" / "bench.json"
RECORDED = Path("../shared/data/wnba_15m")
EVENTS = 5000
SIZES = (10, 100, 1000, 5000)

Part = Callable[[Path, argparse.Namespace, Callable[[str], None]], Awaitable[list[Figure]]]


async def _throughput(folder: Path, given: argparse.Namespace, say: Callable[[str], None]) -> list[Figure]:
    return await throughput.measure(folder, given.events, given.seconds, _pattern(given), say)


async def _growth(folder: Path, given: argparse.Namespace, say: Callable[[str], None]) -> list[Figure]:
    return await growth.measure(folder, given.sizes, _pattern(given), say)


async def _latency(folder: Path, given: argparse.Namespace, say: Callable[[str], None]) -> list[Figure]:
    return await latency.measure(folder, given.events, given.seconds, _pattern(given), say)


async def _memory(folder: Path, given: argparse.Namespace, say: Callable[[str], None]) -> list[Figure]:
    return await memory.measure(folder, given.events, _pattern(given), say)


async def _access(folder: Path, given: argparse.Namespace, say: Callable[[str], None]) -> list[Figure]:
    return await access.measure(folder, say)


PARTS: Mapping[str, Part] = {
    "throughput": _throughput,
    "growth": _growth,
    "latency": _latency,
    "memory": _memory,
    "access": _access,
}


def _pattern(given: argparse.Namespace) -> Pattern:
    return like_recorded(given.like_recorded, given.share) if given.like_recorded else Uniform(given.share)


async def main(given: argparse.Namespace) -> None:
    """Measures what was asked for, prints it and keeps it."""
    for name in PARTS if given.part == "all" else [given.part]:
        print(f"\n{name}", flush=True)
        busy = os.getloadavg()[0]
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
            "load before": round(busy, 1),
            "python": sys.version.split()[0],
            "arguments": " ".join(sys.argv[1:]),
        }
        write(name, figures, RESULTS, run)
    print(f"\nwritten to {RESULTS.relative_to(ROOT)} and {RESULTS.with_suffix('.md').relative_to(ROOT)}")


def _sizes(written: str) -> tuple[int, ...]:
    return tuple(int(size) for size in written.split(","))


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="What Stratum costs, as ratios measured side by side in one run. See docs/performance.md.",
    )
    parser.add_argument("part", nargs="?", default="all", choices=["all", *PARTS, "profile"], help="what to measure")
    parser.add_argument("--events", type=int, help="events on the generated board (default 5000; for profile 200)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long throughput is measured (default 60)")
    parser.add_argument("--share", type=float, default=0.05, help="of the quotes, what changes in each response")
    parser.add_argument(
        "--like-recorded",
        type=Path,
        nargs="?",
        const=RECORDED,
        metavar="FOLDER",
        help=f"let quotes change together as in a recorded series (default {RECORDED}), not each for itself",
    )
    parser.add_argument("--sizes", type=_sizes, default=SIZES, help="boards of growth (default 10,100,1000,5000)")
    profile = parser.add_argument_group("profile", "where a stage's processor time goes, without servers")
    profile.add_argument("--stage", choices=profiling.STAGES, action="append", help="by default all, one by one")
    profile.add_argument("--responses", type=int, default=10, help="responses that are counted (default 10)")
    profile.add_argument("--functions", type=int, default=0, help="show so many of the costliest functions (cProfile)")
    return parser


def run() -> None:
    """Reads the command line and does what it says."""
    given = arguments().parse_args()
    if given.part == "profile":
        profiling.profile_stages(
            given.events or 200,
            given.responses,
            Uniform(given.share),
            given.stage or profiling.STAGES,
            given.functions,
            print,
        )
    else:
        given.events = given.events or EVENTS
        asyncio.run(main(given))


if __name__ == "__main__":
    run()

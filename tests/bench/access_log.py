"""What the way from the access log into the ledger costs, and what a killed Envoy loses of it.

`python -m tests.bench.access_log kills [20] [0.015]`: Envoy is killed under load again and again; after each kill, the
requests that were answered to the callers and are in no line of the log are counted. The pause of each caller between
two requests decides the load.
`python -m tests.bench.access_log reader [200000]`: the reader's CPU a line, over so many lines that wait for it.
`python -m tests.bench.access_log trickle [100]`: the reader's CPU while so many lines come in a second.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

from gateway.usage.lines import read_all
from gateway.usage.testing import Billing, a_line
from services.shared.testing import eventually
from tests.integration.gateway.conftest import ReaderProcess
from tests.integration.gateway.logging_envoy import FLUSH_MILLISECONDS, Callers, LoggingEnvoy

CONNECTIONS = 16


async def kills(times: int, pause_seconds: float) -> None:
    """Prints a line a kill, and the sum. Each of the callers pauses so long between an answer and its next question."""
    chance = random.Random(1)
    lost_each, rates = [], []
    for number in range(1, times + 1):
        with tempfile.TemporaryDirectory() as folder, LoggingEnvoy(Path(folder)) as envoy:
            callers = Callers(envoy)
            begun = time.monotonic()
            load = asyncio.create_task(callers.run(CONNECTIONS, pause_seconds=pause_seconds))
            await asyncio.sleep(chance.uniform(1.0, 2.0))
            envoy.kill()
            rates.append(len(callers.answered) / (time.monotonic() - begun))
            await load
            content = envoy.log.read_bytes()
            torn = not content.endswith(b"\n")
            found = {
                getattr(outcome, "request_id", "")
                for line in content.splitlines(keepends=True)
                for _, outcome in read_all(line, "bench")
            }
            lost = len(set(callers.answered) - found)
            unanswered = len(found - set(callers.answered) - {""})
            lost_each.append(lost)
            print(
                f"kill {number:2}: {len(callers.answered):6} answered at {rates[-1]:5.0f}/s, {lost:4} in no line "
                f"({1000 * lost / rates[-1]:4.0f} ms of load), {unanswered} in a line and not answered, "
                f"last line {'torn' if torn else 'whole'}"
            )
    milliseconds = [1000 * lost / rate for lost, rate in zip(lost_each, rates, strict=True)]
    print(
        f"{times} kills, flush interval {FLUSH_MILLISECONDS} ms, {statistics.mean(rates):.0f} requests a second: "
        f"lost at most {max(lost_each)}, on average {statistics.mean(lost_each):.1f}, at least {min(lost_each)}; "
        f"that is the last {max(milliseconds):.0f} ms at most, {statistics.mean(milliseconds):.0f} ms on average"
    )


async def reader(lines: int) -> None:
    """Prints the reader's CPU, and that of reading alone."""
    billing = Billing()
    await billing.start()
    with tempfile.TemporaryDirectory() as folder:
        content = b"".join(a_line(f"r{number}") for number in range(lines))
        process = ReaderProcess(Path(folder), billing.port)
        process.start()
        try:
            await process.ready()
            watched = psutil.Process(process.process.pid)
            before, begun = sum(watched.cpu_times()[:2]), time.monotonic()
            (Path(folder) / "access.jsonl").write_bytes(content)

            async def all_there() -> bool:
                return len(billing.ledger) == lines

            await eventually(all_there, 600.0)
            spent, seconds = sum(watched.cpu_times()[:2]) - before, time.monotonic() - begun
        finally:
            process.stop()
            await billing.close()
    print(
        f"{lines} lines of {len(content) // lines} bytes in {seconds:.1f} s ({lines / seconds:.0f} a second, with a "
        f"billing that only remembers): the reader's CPU is {1e6 * spent / lines:.1f} µs a line, all included"
    )


async def trickle(per_second: int, seconds: int) -> None:
    """Prints the reader's CPU while few lines come, as on most days."""
    billing = Billing()
    await billing.start()
    with tempfile.TemporaryDirectory() as folder:
        process = ReaderProcess(Path(folder), billing.port, USAGE_LOOK_SECONDS="0.25")
        process.start()
        try:
            await process.ready()
            watched = psutil.Process(process.process.pid)
            before = sum(watched.cpu_times()[:2])
            for tick in range(seconds * 10):
                with (Path(folder) / "access.jsonl").open("ab") as file:
                    file.write(b"".join(a_line(f"r{tick}-{number}") for number in range(per_second // 10)))
                await asyncio.sleep(0.1)
            spent = sum(watched.cpu_times()[:2]) - before
        finally:
            process.stop()
            await billing.close()
    print(f"{per_second} lines a second for {seconds} s: {100 * spent / seconds:.1f} % of a core")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["kills", *rest]:
            asyncio.run(kills(int(rest[0]) if rest else 20, float(rest[1]) if rest[1:] else 0.0))
        case ["reader", *rest]:
            asyncio.run(reader(int(rest[0]) if rest else 200_000))
        case ["trickle", *rest]:
            asyncio.run(trickle(int(rest[0]) if rest else 100, 20))
        case _:
            sys.exit(__doc__)

"""Runs of one recording: undisturbed, with faults, and with a consumer that stands still; and what each came to."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import nats.errors
import psutil
import psycopg
from sqlalchemy.exc import SQLAlchemyError

from deploy.home import Home, free_ports
from deploy.profiles import profile_for
from deploy.recording import Recording
from deploy.replay import all_drained
from deploy.stack import Recorded, StackSettings
from services.shared.bus import BusError
from tests.faults import schedule
from tests.faults.compare import Difference, Rows, differences, kept_by
from tests.faults.inject import Faults
from tests.faults.proxy import Proxy
from tests.faults.schedule import Fault
from tests.faults.stack import STREAM_BYTES, FaultyStack, Gate, links_of, small_disks

LOOK_SECONDS = 0.25
#: After the last fault everything has to come to rest within this.
REST_SECONDS = 240.0
AWAY = (psycopg.Error, SQLAlchemyError, BusError, nats.errors.Error, aiohttp.ClientError, OSError, TimeoutError)
MEGABYTE = 1024.0**2
#: Nobody shall wait longer than the faults last.
ENVIRONMENT = {"INGEST_LEASE_SECONDS": "1", "ODDS_API_RETRY_BACKOFF_SECONDS": "0.1"}

Say = Callable[[str], None]


class UnrestError(Exception):
    """The pipeline did not come to rest. The message says where it stands."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run with faults came to."""

    seed: int
    tried: Mapping[str, int]
    happened: Mapping[tuple[str, str], int]
    impossible: Mapping[str, str]
    unread_when_remade: int
    restarted_after_full_disk: int
    dead_letters: int
    compared: Mapping[str, int]
    differences: Sequence[Difference]
    restarts: Mapping[str, int]
    seconds: float

    def by_kind(self) -> dict[str, int]:
        """How many of each kind that was tried really happened."""
        counted = Counter(dict.fromkeys(self.tried, 0))
        for (kind, _), number in self.happened.items():
            counted[kind] += number
        return dict(counted)

    @property
    def missing(self) -> list[str]:
        """Kinds that were tried, are possible here, and never happened; for a long run, too few kills as well."""
        counted = self.by_kind()
        missing = [kind for kind, number in counted.items() if not number and kind not in self.impossible]
        if counted[schedule.KILL] < schedule.LEAST_KILLS <= self.tried[schedule.KILL]:
            missing.append(f"{schedule.LEAST_KILLS} kills")
        return missing

    @property
    def good(self) -> bool:
        """Whether everything happened and nothing differs."""
        return not self.missing and not self.differences and all(self.compared.values())


@dataclass(frozen=True, slots=True)
class Stillness:
    """What became of a consumer that stood still while everybody else went on."""

    messages_behind: int
    lag_seen: int
    lag_after: int
    resident_before: float
    resident_after: float
    resident_most: float
    catching_up_seconds: float
    differences: Sequence[Difference]


@dataclass(slots=True)
class Laboratory:
    """One recording, run again and again in folders of its own, always with the same settings."""

    recording: Recording
    folder: Path
    say: Say
    #: What a stream may hold while there are faults: enough to go on, little enough to be filled.
    stream_bytes: int = STREAM_BYTES
    longest_pause_seconds: float = 1.4

    async def undisturbed(self) -> dict[str, Rows]:
        """What the recording leaves when nothing happens."""
        async with self._stack("undisturbed") as (stack, _, gate):
            gate.open_to(1.0)
            await self._at_rest(stack)
            return await kept_by(stack)

    async def disturbed(self, seed: int, counts: Mapping[str, int], undisturbed: Mapping[str, Rows]) -> Outcome:
        """The same with the faults of a seed. Raises UnrestError."""
        began = time.monotonic()
        faults = schedule.drawn(seed, counts, self.longest_pause_seconds)
        home = Home(self.folder / f"seed-{seed}")
        home.make()
        with small_disks(home) as no_disks:
            async with self._stack(
                home.folder.name,
                {"max_wal_size": "96MB", "min_wal_size": "32MB"},
                {"STRATUM_NATS_STREAM_MAX_BYTES": str(self.stream_bytes)},
            ) as (
                stack,
                proxy,
                gate,
            ):
                doing = Faults(stack, proxy, gate, no_disks)
                await doing.prepare()
                await _first_of(stack.failed(), self._all(doing, gate, faults))
                await doing.end()
                gate.open_to(1.0)
                self.say("the last fault is over: waiting until everything has come to rest")
                await self._at_rest(stack)
                kept = await kept_by(stack)
                return Outcome(
                    seed=seed,
                    tried=dict(counts),
                    happened=dict(doing.happened),
                    impossible=doing.impossible,
                    unread_when_remade=doing.unread_when_remade,
                    restarted_after_full_disk=doing.restarted_after_full_disk,
                    dead_letters=await _dead_letters(stack),
                    compared={table: len(rows) for table, rows in kept.items()},
                    differences=differences(undisturbed, kept),
                    restarts={name: kept.restarts for name, kept in stack.members.items()},
                    seconds=time.monotonic() - began,
                )

    async def with_one_standing_still(self, undisturbed: Mapping[str, Rows]) -> Stillness:
        """consensus stops early in the recording and goes on when ingest has walked through all the rest of it."""
        async with self._stack("standing-still") as (stack, _, gate):
            gate.open_to(0.1)
            await _eventually(lambda: _holds(stack, 0.1 * len(self.recording) - 2))
            process = psutil.Process(stack.members["consensus"].runnable.pid)
            before = process.memory_info().rss
            process.suspend()
            gate.open_to(1.0)
            await _eventually(lambda: _true(stack.members["ingest"].finished))
            behind = await _behind(stack)
            process.resume()
            began = time.monotonic()
            lag_seen, most = 0, before
            while not await _quietly(all_drained(stack)):
                lag_seen = max(lag_seen, await _lag(stack) or 0)
                most = max(most, process.memory_info().rss)
            seconds = time.monotonic() - began
            await _eventually(lambda: _no_lag(stack))
            return Stillness(
                messages_behind=behind,
                lag_seen=lag_seen,
                lag_after=await _lag(stack) or 0,
                resident_before=before / MEGABYTE,
                resident_after=process.memory_info().rss / MEGABYTE,
                resident_most=most / MEGABYTE,
                catching_up_seconds=seconds,
                differences=differences(undisturbed, await kept_by(stack)),
            )

    async def _all(self, doing: Faults, gate: Gate, faults: Sequence[Fault]) -> None:
        began = said = time.monotonic()
        for number, fault in enumerate(faults, start=1):
            await asyncio.sleep(fault.pause_seconds)
            gate.open_to(number / (len(faults) + 1))
            await doing.inject(fault)
            if time.monotonic() - said > 10.0 or number == len(faults):
                said = time.monotonic()
                kills = sum(count for (kind, _), count in doing.happened.items() if kind == schedule.KILL)
                self.say(
                    f"{said - began:4.0f} s: fault {number} of {len(faults)}, {kills} kills, "
                    f"{gate.share:.0%} of the recording"
                )

    @asynccontextmanager
    async def _stack(
        self,
        name: str,
        postgres: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> AsyncIterator[tuple[FaultyStack, Proxy, Gate]]:
        gate = Gate(self.recording)
        settings = StackSettings(
            home=Home(self.folder / name),
            ports=free_ports(),
            market=Recorded(self.recording),
            profile=profile_for(self.recording.median_gap_seconds),
            gateway=False,
            postgres=postgres or {},
            environment={**ENVIRONMENT, **(environment or {})},
            keep_ports=True,
        )
        links = links_of(settings.ports)
        stack = FaultyStack(settings, links, gate, lambda _: None)
        stack.home.make()
        stack.clock.write_text("0")
        with Proxy(links) as proxy:
            async with stack:
                yield stack, proxy, gate

    async def _at_rest(self, stack: FaultyStack) -> None:
        async def rest() -> None:
            while not (stack.members["ingest"].finished and await _quietly(all_drained(stack))):
                await asyncio.sleep(LOOK_SECONDS)

        try:
            async with asyncio.timeout(REST_SECONDS):
                await _first_of(stack.failed(), rest())
        except TimeoutError:
            walked = "finished" if stack.members["ingest"].finished else "not finished"
            raise UnrestError(
                f"not at rest after {REST_SECONDS:.0f} s, with ingest {walked}; logs are in {stack.home.logs}"
            ) from None


async def _first_of(*doing: object) -> None:
    tasks = [asyncio.ensure_future(each) for each in doing]  # type: ignore[call-overload]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _quietly(asking: object) -> bool:
    with suppress(*AWAY):
        return bool(await asking)  # type: ignore[misc]
    return False


async def _eventually(asking: Callable[[], object]) -> None:
    async with asyncio.timeout(REST_SECONDS):
        while not await _quietly(asking()):
            await asyncio.sleep(LOOK_SECONDS)


async def _true(value: bool) -> bool:
    return value


async def _holds(stack: FaultyStack, responses: float) -> bool:
    rows = await stack.rows("SELECT coalesce(sum(responses), 0) FROM ingest.backfills")
    return bool(rows[0][0] >= responses)


async def _behind(stack: FaultyStack) -> int:
    rows = await stack.rows(
        "SELECT (SELECT sum(published_id) / 16 FROM ingest.outbox_position), "
        "(SELECT max(sequence) FROM consensus.position)"
    )
    return int(rows[0][0] - rows[0][1])


async def _lag(stack: FaultyStack) -> int | None:
    with suppress(*AWAY):
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session,
            session.get(stack.metrics_url("consensus")) as response,
        ):
            for line in (await response.text()).splitlines():
                if line.startswith("stratum_stage_lag_messages{"):
                    return int(float(line.rpartition(" ")[2]))
    return None


async def _no_lag(stack: FaultyStack) -> bool:
    return await _lag(stack) == 0


async def _dead_letters(stack: FaultyStack) -> int:
    rows = await stack.rows(
        "SELECT (SELECT count(*) FROM consensus.dead_letter) + (SELECT count(*) FROM signals.dead_letter)"
    )
    return int(rows[0][0])

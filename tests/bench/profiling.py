"""Where a stage's processor time goes, without any server: the same code over the same messages, timed by phase.

`python -m tests.bench profile [--stage consensus] [--events 200] [--functions 30]`

A generated board's responses go through what ingest does with a body; its messages through consensus's fold, and
consensus's through the signals' fold. Only the phases of the chosen stages are timed, in processor time, so a busy
machine does not show. What is not here: the drivers of database and bus, and the servers themselves. The statements'
parameters are made and given to a connection that does nothing with them. All chosen stages share one heap here, so
the garbage collector is told apart; to see what one stage's own heap costs it, choose that stage alone.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import pstats
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, Self, cast

from sqlalchemy.ext.asyncio import AsyncConnection

from services.consensus.config import Config as ConsensusConfig
from services.consensus.events import ConsensusFold
from services.consensus.store import stage as consensus_tables
from services.ingest import recorder, store, wire
from services.ingest.body import decode
from services.ingest.changes import Coverage, EventState, Poll
from services.ingest.normalize import Memory, normalize
from services.ingest.provider import Quota
from services.shared.bus import MARKETS as MARKETS_STREAM
from services.shared.bus import OBSERVATIONS, SIGNALS, Outgoing, StreamSpec
from services.shared.outbox import Outbox
from services.shared.stage import Fold, StageTables
from services.signals.config import Config as SignalsConfig
from services.signals.events import SignalEvents
from services.signals.store import stage as signals_tables
from tests.bench.board import MARKETS, SPORT, Board, Pattern

STAGES = ("ingest", "consensus", "signals")
START = datetime(2026, 1, 10, 12, tzinfo=UTC)
CADENCE = timedelta(seconds=60)
WAVES = 10
#: Messages of one transaction.
BATCH = 500


class Collections:
    """Processor seconds that the garbage collector took, which would else be put down to whoever allocated last."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def __call__(self, phase: str, _info: object) -> None:
        """Told by the collector at the begin and the end of each of its runs."""
        if phase == "start":
            self._began = time.process_time()
        else:
            self.seconds += time.process_time() - self._began


COLLECTIONS = Collections()
COLLECTING = "garbage collection, of all the phases"


@dataclass(slots=True)
class Phases:
    """Processor seconds by phase, while `counting`; with a profiler, its functions too."""

    counting: bool = False
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    profiler: cProfile.Profile | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What is done in the block belongs to this phase."""
        if not self.counting:
            yield
            return
        if self.profiler is not None:
            self.profiler.enable()
        began, collected = time.process_time(), COLLECTIONS.seconds
        try:
            yield
        finally:
            collected = COLLECTIONS.seconds - collected
            self.seconds[name] += time.process_time() - began - collected
            self.seconds[COLLECTING] += collected
            if self.profiler is not None:
                self.profiler.disable()


class SilentConnection:
    """Takes every statement with its parameters and does nothing."""

    async def execute(self, *_: object) -> SilentResult:
        """As if it had been done."""
        return SilentResult()

    async def scalar(self, *_: object) -> int:
        """Some number."""
        return 0

    def begin_nested(self) -> AbstractAsyncContextManager[None]:
        """A part of a transaction that is not there."""
        return nullcontext()

    async def get_raw_connection(self) -> SimpleNamespace:
        """The driver's connection, which is as silent."""
        return SimpleNamespace(driver_connection=SimpleNamespace(cursor=SilentCopy))


class SilentCopy:
    """A cursor and what it copies into, in one: takes every row and writes none."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def copy(self, _statement: str) -> Self:
        """Where the rows go."""
        return self

    def set_types(self, _types: Sequence[str]) -> None:
        """How they are written."""

    async def write_row(self, _row: Sequence[object]) -> None:
        """A row."""


class SilentResult:
    """The feed's epoch and position, which is the one thing that a write asks back."""

    def one(self) -> tuple[str, int]:
        """A row."""
        return "0", 1_000_000_000


CONNECTION = cast(AsyncConnection, SilentConnection())


class Ingesting:
    """What ingest does with a body, from its bytes to messages and rows."""

    def __init__(self, phases: Phases) -> None:
        self._phases = phases
        self._memory = Memory()
        self._states: dict[str, EventState] = {}
        self._state_rows = store.StateRows()
        self._outbox = _outbox(store.stage, OBSERVATIONS)
        self.changes = 0

    async def take(self, body: bytes, at: datetime) -> list[Outgoing]:
        """One response."""
        phase = self._phases.phase
        with phase("decode the body"):
            value = decode(body)
        with phase("normalize"):
            seen = normalize(value, SPORT, self._memory)
        poll = Poll(SPORT, at, CADENCE.total_seconds(), Coverage(MARKETS), seen)
        messages: list[Outgoing] = []
        work = recorder._Work(self._states)
        slices = recorder._slices(work, [recorder.Answered(poll, Quota(), value)], frozenset())
        ended = False
        while not ended:
            with phase("find changes"):
                part = next(slices)
            ended = part.last
            with phase("encode messages"):
                told = [wire.outgoing(observation) for observation in part.told]
            with phase("rows and states to parameters"):
                await store.write(CONNECTION, part.rows, self._state_rows)
            with phase("outbox to parameters"):
                await self._outbox.add(CONNECTION, told)
            messages += told
        if self._phases.counting:
            self.changes += sum(row.changes for row in work.polls)
        return messages


class Folding:
    """What a stage does with its messages, in batches as it takes them."""

    def __init__(
        self, fold: Fold[Any, Any], phases: Phases, tables: StageTables, target: StreamSpec, loads: bool
    ) -> None:
        """`loads` times also how long the states take to be read back, as they are when the cache has lost them."""
        self._fold = fold
        self._phases = phases
        self._states: dict[str, Any] = {}
        self._outbox = _outbox(tables, target)
        self._loads = loads

    async def take(self, messages: Sequence[Outgoing]) -> list[Outgoing]:
        """Some messages; what goes on to the next stage."""
        told: list[Outgoing] = []
        for start in range(0, len(messages), BATCH):
            told += await self._batch(messages[start : start + BATCH])
        return told

    async def _batch(self, messages: Sequence[Outgoing]) -> list[Outgoing]:
        phase, fold = self._phases.phase, self._fold
        rows: list[Any] = []
        told: list[Outgoing] = []
        touched: dict[str, Any] = {}
        for message in messages:
            event_id = message.event_id
            if event_id not in self._states:
                self._states[event_id] = fold.load(None)
            with phase("decode messages"):
                arrival = fold.decode(message.payload)
            with phase("step"):
                outcome = fold.step(self._states[event_id], arrival.message)
            self._states[event_id] = touched[event_id] = outcome.state
            rows += outcome.rows
            told += outcome.outgoing
        with phase("states to bytes"):
            stored = [fold.dump(state) for state in touched.values()]
        with phase("rows to parameters"):
            await fold.write(CONNECTION, rows)
        with phase("outbox to parameters"):
            await self._outbox.add(CONNECTION, told)
        if self._loads:
            with phase("(states from bytes: only when the cache has lost them)"):
                for state in stored:
                    fold.load(state)
        return told


def _outbox(tables: StageTables, target: StreamSpec) -> Outbox:
    return Outbox(cast(Any, None), cast(Any, None), tables, target)


@dataclass(frozen=True, slots=True)
class Profile:
    """What came of it: the phases of each stage, and how much went through."""

    phases: dict[str, Phases]
    changes: int
    messages: int
    message_bytes: dict[str, float]
    state_events: int


async def run(events: int, responses: int, pattern: Pattern, stages: Iterable[str], functions: bool = False) -> Profile:
    """Takes a board's opening, uncounted, and then so many responses through the stages, as far as the last chosen."""
    chosen = set(stages)
    phases = {stage: Phases(profiler=cProfile.Profile() if functions else None) for stage in STAGES}
    board = Board(events, pattern=pattern)
    loads = not functions
    ingesting = Ingesting(phases["ingest"])
    consensus = Folding(
        ConsensusFold(ConsensusConfig().board_rules()), phases["consensus"], consensus_tables, MARKETS_STREAM, loads
    )
    signals = Folding(
        SignalEvents(SignalsConfig().rule_settings(), lambda: None), phases["signals"], signals_tables, SIGNALS, loads
    )
    sizes: dict[str, list[int]] = {stage: [] for stage in STAGES}

    async def take(body: bytes, at: datetime) -> int:
        observed = await ingesting.take(body, at)
        if chosen == {"ingest"}:
            return len(observed)
        updated = await consensus.take(observed)
        found = await signals.take(updated) if "signals" in chosen else []
        for stage, messages in zip(STAGES, (observed, updated, found), strict=True):
            sizes[stage] += [len(message.payload) for message in messages] if phases["ingest"].counting else []
        return len(observed)

    opening = list(board.opening(START, CADENCE, WAVES))
    cycles = list(board.cycles(START + WAVES * CADENCE, CADENCE, responses))
    # What is here now is not a service's, and no collection shall look at it.
    gc.collect()
    gc.freeze()
    gc.callbacks.append(COLLECTIONS)
    for response in opening:
        await take(response.plain(), response.at)
    for stage in STAGES:
        phases[stage].counting = True
    messages = 0
    for response in cycles:
        messages += await take(response.plain(), response.at)
    return Profile(
        {stage: phases[stage] for stage in STAGES if stage in chosen},
        ingesting.changes,
        messages,
        {stage: sum(found) / max(1, ingesting.changes) for stage, found in sizes.items()},
        events,
    )


def show(profile: Profile, functions: int, say: Callable[[str], None] = print) -> None:
    """The table of phases in microseconds a changed quote, and the costliest functions if asked for."""
    say(
        f"{profile.changes:,} changed quotes in {profile.messages:,} messages of {profile.state_events:,} events; "
        "µs of processor time for each changed quote (for each message)"
    )
    for stage, phases in profile.phases.items():
        counted = {name: seconds for name, seconds in phases.seconds.items() if not name.startswith("(")}
        say(f"\n{stage:<58}{_cost(sum(counted.values()), profile)}")
        for name, seconds in phases.seconds.items():
            say(f"  {name:<56}{_cost(seconds, profile)}")
        if size := profile.message_bytes[stage]:
            say(f"  {'bytes sent on':<56}{size:>9.0f}")
        if phases.profiler is not None and functions:
            say("")
            pstats.Stats(phases.profiler).sort_stats("tottime").print_stats(functions)


def _cost(seconds: float, profile: Profile) -> str:
    return f"{seconds / profile.changes * 1e6:>9.1f} ({seconds / profile.messages * 1e6:,.1f})"


def profile_stages(
    events: int, responses: int, pattern: Pattern, stages: Sequence[str], functions: int, say: Callable[[str], None]
) -> None:
    """Runs and shows it."""
    show(asyncio.run(run(events, responses, pattern, stages, bool(functions))), functions, say)

"""A recorded series through the real services, as fast as it goes: what came of it, and the signals as a file.

Time is the recording's own throughout. The same recording and configuration give the same bytes every time, whatever
the speed and whoever died meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path

import aiohttp
import grpc.aio
import psycopg
from pydantic import SecretStr
from stratum.signals.v1 import signals_service_pb2 as signals_proto
from stratum.signals.v1.signal_pb2 import Signal
from stratum.signals.v1.signals_service_pb2_grpc import SignalsServiceStub

from deploy.home import Home, free_ports
from deploy.profiles import profile_for
from deploy.recording import Recording
from deploy.stack import Recorded, Stack, StackSettings
from deploy.terminal import ToldError
from services.consensus import store as consensus_store
from services.ingest import store as ingest_store
from services.shared import client
from services.shared.bus import MARKETS, OBSERVATIONS, SIGNALS, open_bus
from services.shared.config import ServiceConfig
from services.shared.database import open_database
from services.shared.outbox import Outbox
from services.shared.stage import drained
from services.signals import store as signals_store
from services.signals.render import replay_lines

LOOK_SECONDS = 0.5
#: A short recording is soon over.
LOOK_TO_KILL_SECONDS = 0.05
PAGE_SIZE = 500
#: Who is killed, and at which share of the recording, when it is to be shown that nothing is lost.
KILLS: Sequence[tuple[str, float]] = (
    ("ingest", 0.10),
    ("consensus", 0.25),
    ("signals", 0.40),
    ("nats", 0.55),
    ("postgres", 0.70),
)
#: What the services may be unable to answer for a moment while one of them is started again.
PASSING = (psycopg.Error, grpc.aio.AioRpcError, aiohttp.ClientError, OSError, TimeoutError)


class ReplayFailedError(ToldError):
    """The recording did not come through whole. The message says what to look at."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a replay is."""

    #: The newest answer that was kept; None before the first.
    at: datetime | None
    responses: int
    #: Messages that each stage has still to work on; None while it cannot be asked.
    lag: Mapping[str, int | None]
    signals: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What came of a replay. Counts of rows unless the name says otherwise."""

    recording: str
    sport_key: str
    profile: str
    responses: int
    failed_responses: Mapping[str, int]
    quotes: int
    changes: int
    snapshots: int
    consensus_rows: int
    signals: int
    signals_by_type_and_tier: Mapping[str, Mapping[str, int]]
    suppressed_by_reason: Mapping[str, int]
    rejected_by_reason: Mapping[str, int]
    dead_letters: int
    killed: Sequence[str]
    wall_seconds: float
    changes_per_second: float
    cpu_seconds: Mapping[str, float]

    def as_json(self) -> str:
        """The summary as indented JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"


@dataclass(slots=True)
class Replay:
    """One run of one recording."""

    recording: Recording
    home: Home
    #: None takes the one that suits the recording's median gap.
    profile: str | None = None
    #: Kill each process once in turn, as a crash would.
    kill: bool = False
    say: Callable[[str], None] = lambda _: None
    show: Callable[[Progress], None] = lambda _: None
    killed: list[str] = field(default_factory=list)

    @property
    def chosen_profile(self) -> str:
        """The profile that the run takes."""
        return self.profile or profile_for(self.recording.median_gap_seconds)

    async def run(self) -> tuple[Summary, list[bytes]]:
        """Runs the whole recording: its summary, and the signals as lines.

        Raises ReplayFailedError, StackFailedError.
        """
        settings = StackSettings(
            home=self.home,
            ports=free_ports(),
            market=Recorded(self.recording),
            profile=self.chosen_profile,
            gateway=False,
        )
        async with Stack(settings, self.say) as stack:
            began = time.monotonic()
            walking = asyncio.create_task(self._until_done(stack))
            failing = asyncio.create_task(stack.failed())
            try:
                done, _ = await asyncio.wait([walking, failing], return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in (walking, failing):
                    task.cancel()
                await asyncio.gather(walking, failing, return_exceptions=True)
            wall_seconds = time.monotonic() - began
            missing = len(self.recording) - (await self._progress(stack)).responses
            if missing:
                raise ReplayFailedError(f"{missing} answers of the recording were not kept: see {self.home.logs}")
            lines = replay_lines(await self._signals(stack))
            return await self._summary(stack, wall_seconds), lines

    async def _until_done(self, stack: Stack) -> None:
        kills = list(KILLS) if self.kill else []
        while True:
            with suppress(*PASSING):
                progress = await self._progress(stack)
                self.show(progress)
                if kills:
                    name, share = kills[0]
                    if progress.responses >= share * len(self.recording) and _all_run(stack):
                        if stack.members[name].finished:
                            raise ReplayFailedError(f"the recording was over before {name} was killed")
                        stack.kill(name)
                        self.killed.append(kills.pop(0)[0])
                        self.say(f"killed {name} (-9) at {share:.0%} of the recording")
                elif stack.members["ingest"].finished and await all_drained(stack):
                    self.show(await self._progress(stack))
                    return
            await asyncio.sleep(LOOK_TO_KILL_SECONDS if kills else LOOK_SECONDS)

    async def _progress(self, stack: Stack) -> Progress:
        rows = await stack.rows(
            "SELECT (SELECT max(timestamp) FROM ingest.backfills), "
            "(SELECT coalesce(sum(responses), 0) FROM ingest.backfills), (SELECT count(*) FROM signals.signal)",
        )
        at, responses, signals = rows[0]
        lags = await asyncio.gather(*(_lag(stack, stage) for stage in ("consensus", "signals")))
        return Progress(at, int(responses), dict(zip(("consensus", "signals"), lags, strict=True)), signals)

    async def _signals(self, stack: Stack) -> list[Signal]:
        found: list[Signal] = []
        token = ""
        async with client.channel(
            f"127.0.0.1:{stack.settings.ports.signals}",
            "replay",
            stack.home.principal_ring(),
            options=[("grpc.max_receive_message_length", 64 * 1024 * 1024)],
        ) as channel:
            stub = SignalsServiceStub(channel)
            for _ in count():
                page = await stub.ListSignals(
                    signals_proto.ListSignalsRequest(
                        order_by=signals_proto.OrderBy.TIME,
                        view=signals_proto.View.FULL,
                        page_size=PAGE_SIZE,
                        page_token=token,
                    ),
                    timeout=60.0,
                )
                found.extend(page.signals)
                token = page.next_page_token
                if not token:
                    break
        return found

    async def _summary(self, stack: Stack, wall_seconds: float) -> Summary:
        polled = await stack.rows(
            "SELECT coalesce(sum(quotes), 0), coalesce(sum(changes), 0), coalesce(sum(snapshots), 0) FROM ingest.polls",
        )
        quotes, changes, snapshots = (int(value) for value in polled[0])
        failures = await stack.rows(
            "SELECT failure, count(*) FROM ingest.polls WHERE failure <> '' GROUP BY 1 ORDER BY 1"
        )
        by_type: dict[str, dict[str, int]] = {}
        for kind, tier, number in await stack.rows(
            "SELECT signal_type, tier, count(*) FROM signals.signal GROUP BY 1, 2 ORDER BY 1, 2"
        ):
            by_type.setdefault(kind, {})[tier] = number
        suppressed = await stack.rows("SELECT reason, count(*) FROM signals.suppression GROUP BY 1 ORDER BY 1")
        rejected = await stack.rows(
            "SELECT reason, sum(count)::int FROM ingest.tallies WHERE name = 'rejected' GROUP BY 1 ORDER BY 1"
        )
        consensus_rows = await stack.rows("SELECT count(*) FROM consensus.consensus_snapshots")
        dead = await stack.rows(
            "SELECT (SELECT count(*) FROM consensus.dead_letter) + (SELECT count(*) FROM signals.dead_letter)",
        )
        return Summary(
            recording=self.recording.folder.name,
            sport_key=self.recording.sport_key,
            profile=self.chosen_profile,
            responses=len(self.recording),
            failed_responses=dict(failures),
            quotes=quotes,
            changes=changes,
            snapshots=snapshots,
            consensus_rows=consensus_rows[0][0],
            signals=sum(sum(tiers.values()) for tiers in by_type.values()),
            signals_by_type_and_tier=by_type,
            suppressed_by_reason=dict(suppressed),
            rejected_by_reason=dict(rejected),
            dead_letters=dead[0][0],
            killed=tuple(self.killed),
            wall_seconds=round(wall_seconds, 2),
            changes_per_second=round(changes / wall_seconds, 1),
            cpu_seconds={name: round(kept.cpu_seconds, 2) for name, kept in stack.members.items()},
        )


async def all_drained(stack: Stack) -> bool:
    """Whether nothing is under way any more: every outbox empty, every message applied."""
    async with open_bus(_config(stack, "ingest")) as bus:
        async with open_database(_config(stack, "ingest")) as database:
            if not await Outbox(database, bus, ingest_store.stage, OBSERVATIONS).is_empty():
                return False
        async with open_database(_config(stack, "consensus")) as database:
            if not await drained(database, bus, consensus_store.stage, OBSERVATIONS, MARKETS):
                return False
        async with open_database(_config(stack, "signals")) as database:
            return await drained(database, bus, signals_store.stage, MARKETS, SIGNALS)


def write_lines(lines: Sequence[bytes], path: Path) -> None:
    """The signals as a file, a line each."""
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def _all_run(stack: Stack) -> bool:
    return all(kept.finished or kept.runnable.running for kept in stack.members.values())


def _config(stack: Stack, service: str) -> ServiceConfig:
    return ServiceConfig(
        database_url=SecretStr(stack.database_url(service)),
        nats_url=stack.nats_url,
        nats_monitor_url=stack.nats_monitor_url,
    )


async def _lag(stack: Stack, stage: str) -> int | None:
    """The stage's own word about how far behind it is."""
    with suppress(*PASSING):
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session,
            session.get(stack.metrics_url(stage)) as response,
        ):
            for line in (await response.text()).splitlines():
                if line.startswith("stratum_stage_lag_messages{"):
                    return int(float(line.rpartition(" ")[2]))
    return None

"""Does each fault to a running stack, and says whether it really happened: a fault that met nobody does not count."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from uuid import uuid4

import nats
import nats.errors
import nats.js.errors
import psutil
import psycopg
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg

from deploy.children import Program
from deploy.local.nats import NatsServer
from deploy.local.process import free_port
from deploy.stack import Recorded
from tests.faults import schedule
from tests.faults.proxy import Proxy
from tests.faults.schedule import Fault
from tests.faults.stack import FaultyStack, Gate

#: Who fills a stream, who reads it, and in which schema the reader keeps where it stands.
WRITER_OF = {"OBSERVATIONS": "ingest", "MARKETS": "consensus", "SIGNALS": "signals"}
READER_OF = {"OBSERVATIONS": "consensus", "MARKETS": "signals"}
#: Where a schema's transactions can be made to fail: a table that each of them writes.
DOOMED_TABLES = {"ingest": "poller_lease", "consensus": "position", "signals": "position"}
TOLD = "this commit fails, as told"
FULL = "maximum bytes exceeded"
NO_SPACE = "no space left on device"
PATIENCE_SECONDS = 25.0
LOOK_SECONDS = 0.05
AWAY = (psycopg.Error, nats.errors.Error, OSError, TimeoutError)

#: What is done with some messages before they are published again.
Order = Callable[[list[RawStreamMsg], Random], list[RawStreamMsg]]

DOOM = """
CREATE SCHEMA faults;
CREATE TABLE faults.doomed (schema text PRIMARY KEY, tickets bigint NOT NULL);
INSERT INTO faults.doomed VALUES ('ingest', 0), ('consensus', 0), ('signals', 0);
CREATE SEQUENCE faults.ingest; CREATE SEQUENCE faults.consensus; CREATE SEQUENCE faults.signals;
SELECT nextval('faults.ingest'), nextval('faults.consensus'), nextval('faults.signals');
CREATE TABLE faults.filler (filler text);
CREATE FUNCTION faults.fail() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE used bigint;
BEGIN
    EXECUTE format('SELECT last_value FROM faults.%I', TG_TABLE_SCHEMA) INTO used;
    IF (SELECT tickets FROM faults.doomed WHERE schema = TG_TABLE_SCHEMA) > used THEN
        PERFORM nextval(format('faults.%I', TG_TABLE_SCHEMA)::regclass);
        RAISE EXCEPTION 'this commit fails, as told (%)', TG_TABLE_SCHEMA;
    END IF;
    RETURN NULL;
END $$;
"""


class Faults:
    """Everything that can be done to one stack, and what of it happened."""

    def __init__(self, stack: FaultyStack, proxy: Proxy, gate: Gate, no_disks: str) -> None:
        """`no_disks` says why disks cannot be filled here; empty where they can."""
        self.happened: Counter[tuple[str, str]] = Counter()
        #: Kinds that this machine does not allow, and why.
        self.impossible = {schedule.FULL_DISK: no_disks} if no_disks else {}
        #: Messages that were in a stream and not yet read when it was made anew.
        self.unread_when_remade = 0
        self.restarted_after_full_disk = 0
        self._stack = stack
        self._proxy = proxy
        self._gate = gate
        self._lasting: set[asyncio.Task[None]] = set()
        self._does: dict[str, Callable[[Fault], Awaitable[bool]]] = {
            schedule.KILL: self._kill,
            schedule.CUT: self._cut,
            schedule.DELAY: self._delay,
            schedule.SLOW: self._slow,
            schedule.STALL: self._stall,
            schedule.COMMIT_FAILED: self._fail_commit,
            schedule.COMMIT_UNANSWERED: self._swallow_commit,
            schedule.REPEATED: self._repeat,
            schedule.DISORDERED: self._disorder,
            schedule.GARBAGE: self._garbage,
            schedule.SECOND_WORKER: self._second_worker,
            schedule.REMADE: self._remake,
            schedule.FULL_STREAM: self._fill_stream,
            schedule.FULL_DISK: self._fill_disk,
            schedule.CLOCK: self._move_clock,
        }
        stack.clock.write_text("0")

    async def prepare(self) -> None:
        """Plants what makes a commit fail when it is told to. Called once, when the stack is up."""
        await self._execute(DOOM)
        for schema, table in DOOMED_TABLES.items():
            await self._execute(
                f"CREATE CONSTRAINT TRIGGER doomed AFTER INSERT OR UPDATE ON {schema}.{table} "
                "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION faults.fail()"
            )

    async def inject(self, fault: Fault) -> None:
        """Does one fault. What lasts goes on beside the next ones; what met nobody is not counted."""
        if fault.kind in self.impossible:
            return
        with suppress(*AWAY, psutil.Error):
            async with asyncio.timeout(3 * PATIENCE_SECONDS):
                if await self._does[fault.kind](fault):
                    self.happened[fault.kind, fault.target] += 1

    async def end(self) -> None:
        """Waits for what lasts, and counts what only the logs can tell."""
        await asyncio.gather(*self._lasting)
        for schema in DOOMED_TABLES:
            failed = _told(self._postgres_log, f"{TOLD} ({schema})")
            if failed:
                self.happened[schedule.COMMIT_FAILED, schema] = failed
        for service in schedule.SERVICES:
            if swallowed := self._proxy.links[f"{service}-postgres"].swallowed:
                self.happened[schedule.COMMIT_UNANSWERED, service] = swallowed
        used = {path.name.rpartition(".used.")[2] for path in self._stack.home.folder.glob("clock.used.*")} - {"0"}
        if used:
            self.happened[schedule.CLOCK, "everybody"] = len(used)

    async def _kill(self, fault: Fault) -> bool:
        kept = self._stack.members[fault.target]
        if kept.finished or not await _until(lambda: kept.runnable.running):
            return False
        kept.kill()
        return True

    async def _cut(self, fault: Fault) -> bool:
        link = self._proxy.links[fault.target]
        if not await _until(lambda: bool(link.open)):
            return False
        link.refusing = True
        number = self._proxy.cut(fault.target)
        await asyncio.sleep(fault.seconds / 4)
        link.refusing = False
        return number > 0

    async def _delay(self, fault: Fault) -> bool:
        return self._disturb(fault, {"delay_seconds": Random(fault.seed).uniform(0.02, 0.3)}, {"delay_seconds": 0.0})

    async def _slow(self, fault: Fault) -> bool:
        slow = {"bytes_per_second": Random(fault.seed).uniform(20_000, 200_000)}
        return self._disturb(fault, slow, {"bytes_per_second": 0.0})

    async def _stall(self, fault: Fault) -> bool:
        # Longer than a reader waits for the broker's heartbeat, now and then.
        lasting = replace(fault, seconds=Random(fault.seed).choice((0.5, 1.5, 4.5)))
        return self._disturb(lasting, {"stalled": True}, {"stalled": False})

    def _disturb(self, fault: Fault, during: dict[str, float | bool], after: dict[str, float | bool]) -> bool:
        async def last() -> None:
            link = self._proxy.links[fault.target]
            before = link.disturbed
            for name, value in during.items():
                setattr(link, name, value)
            await _until(lambda: link.disturbed > before)
            await asyncio.sleep(fault.seconds)
            for name, value in after.items():
                setattr(link, name, value)
            if link.disturbed > before:
                self.happened[fault.kind, fault.target] += 1

        self._lasts(last())
        return False

    def _lasts(self, doing: Awaitable[None]) -> None:
        async def guarded() -> None:
            with suppress(*AWAY, psutil.Error):
                await doing

        task = asyncio.create_task(guarded())
        self._lasting.add(task)

    async def _fail_commit(self, fault: Fault) -> bool:
        async def armed() -> bool:
            await self._execute(
                f"UPDATE faults.doomed SET tickets = (SELECT last_value FROM faults.{fault.target}) + 1 "
                f"WHERE schema = '{fault.target}'"
            )
            return True

        await _sure(armed)
        return False  # the database's log tells at the end

    async def _swallow_commit(self, fault: Fault) -> bool:
        self._proxy.links[f"{fault.target}-postgres"].swallow_commit = True
        return False  # the link tells at the end

    async def _repeat(self, fault: Fault) -> bool:
        return await self._publish_again(fault, lambda found, _: found)

    async def _disorder(self, fault: Fault) -> bool:
        return await self._publish_again(fault, lambda found, random: random.sample(found, len(found)))

    async def _publish_again(self, fault: Fault, order: Order) -> bool:
        return await _sure(lambda: self._copies(fault, order))

    async def _copies(self, fault: Fault, order: Order) -> bool:
        """Publishes up to forty neighbouring messages of a stream again; whether there were any."""
        random = Random(fault.seed)
        self._gate.open_wider(0.01)  # so that there is something in the stream
        async with self._broker() as broker:
            state = (await broker.stream_info(fault.target)).state
            if not state.messages:
                return False
            reach = random.randint(state.first_seq, state.last_seq)
            found = []
            for sequence in range(reach, min(reach + 40, state.last_seq + 1)):
                with suppress(nats.js.errors.NotFoundError):
                    found.append(await broker.get_msg(fault.target, sequence))
            for message in order(found, random):
                root, _, event_id = (message.subject or "").split(".", 2)
                await broker.publish(f"{root}.{event_id}", message.data or b"", headers={"Nats-Msg-Id": uuid4().hex})
            return bool(found)

    async def _garbage(self, fault: Fault) -> bool:
        random = Random(fault.seed)

        async def done() -> bool:
            self._gate.open_wider(0.01)
            async with self._broker() as broker:
                state = (await broker.stream_info(fault.target)).state
                if not state.messages:
                    return False
                message = await broker.get_msg(fault.target, random.randint(state.first_seq, state.last_seq))
                root, _, event_id = (message.subject or "").split(".", 2)
                body = bytearray(message.data or b"\0")
                body[: len(body) // 2] = random.randbytes(len(body) // 2)
                await broker.publish(f"{root}.{event_id}", bytes(body), headers={"Nats-Msg-Id": uuid4().hex})
                return True

        return await _sure(done)

    async def _second_worker(self, fault: Fault) -> bool:
        name = fault.target
        metrics = free_port()
        market = self._stack.settings.market
        assert isinstance(market, Recorded)
        command = [sys.executable, "-m", f"services.{name}"]
        if name == "ingest":
            command += self._stack.backfill_arguments()
        second = Program(
            command,
            self._stack.home.logs / f"{name}-second.log",
            self._stack.environment_of(name)
            | {"STRATUM_GRPC_PORT": str(free_port()), "STRATUM_METRICS_PORT": str(metrics)},
            ready_url=None if name == "ingest" else f"http://127.0.0.1:{metrics}/readyz",
        )
        second.start()

        async def last() -> None:
            try:
                began = time.monotonic()
                while time.monotonic() - began < PATIENCE_SECONDS and second.running:
                    if await asyncio.to_thread(second.ready) and (name != "ingest" or time.monotonic() - began > 3.0):
                        await asyncio.sleep(fault.seconds)
                        if second.running:
                            self.happened[fault.kind, name] += 1
                        return
                    await asyncio.sleep(LOOK_SECONDS)
            finally:
                if second.running:
                    os.kill(second.pid, signal.SIGKILL)
                second.stop()

        self._lasts(last())
        return False

    async def _remake(self, fault: Fault) -> bool:
        """Deletes a stream and everything in it; makes it anew at once, or leaves that to the services."""
        random = Random(fault.seed)
        reader = READER_OF.get(fault.target)
        # While its reader stands still, what is published meanwhile is lost unread.
        async with self._held(reader if random.random() < 0.7 else None):
            await asyncio.sleep(fault.seconds)

            async def done() -> bool:
                self._gate.open_wider(0.01)
                async with self._broker() as broker:
                    info = await broker.stream_info(fault.target)
                    if not info.state.messages:
                        return False
                    unread = await self._unread(reader, info.state.last_seq) if reader else 0
                    await broker.delete_stream(fault.target)
                    self.unread_when_remade += unread
                    if random.random() < 0.5:
                        await broker.add_stream(info.config)
                    return True

            return await _sure(done)

    async def _unread(self, reader: str, last: int) -> int:
        rows = await self._stack.rows(f"SELECT min(sequence) FROM {reader}.position")
        return max(0, last - int(rows[0][0] or 0))

    async def _fill_stream(self, fault: Fault) -> bool:
        """Stops the reader until the stream is full and its writer is refused; then it may read, and make room."""
        writer, reader = WRITER_OF[fault.target], READER_OF[fault.target]
        log = self._stack.home.logs / f"{writer}.log"
        before = _told(log, FULL)

        async with self._held(reader):
            for _ in range(int(PATIENCE_SECONDS / LOOK_SECONDS)):
                if _told(log, FULL) > before:
                    return True
                self._gate.open_wider(0.004)
                await asyncio.sleep(LOOK_SECONDS)
        return False

    async def _fill_disk(self, fault: Fault) -> bool:
        """Fills the disk until the server says so, then gives the room back."""
        folder = self._stack.home.folder / fault.target
        log = self._postgres_log if fault.target == "postgres" else folder / "nats.log"
        before = _told(log, NO_SPACE)
        filling = asyncio.get_running_loop().run_in_executor(None, _filled_until, folder, log, before)
        while not filling.done():
            self._gate.open_wider(0.002)
            with suppress(*AWAY):
                await self._write_something(fault)
            await asyncio.sleep(4 * LOOK_SECONDS)
        happened = await filling
        nats_server = self._stack.members["nats"].runnable
        assert isinstance(nats_server, NatsServer)
        if fault.target == "nats" and nats_server.running and not nats_server.is_healthy():
            # A stream that could not be written takes nothing more until a start: what a liveness probe is for.
            self._stack.kill("nats")
            self.restarted_after_full_disk += 1
        return happened

    async def _write_something(self, fault: Fault) -> None:
        """So that a server notices its full disk even while the pipeline happens to have nothing for it."""
        if fault.target == "postgres":
            await self._execute("INSERT INTO faults.filler SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
        else:
            await self._copies(replace(fault, target="OBSERVATIONS"), lambda found, _: found)

    async def _move_clock(self, fault: Fault) -> bool:
        offset = Random(fault.seed).randrange(-7 * 86_400, 7 * 86_400)
        self._stack.clock.with_suffix(".part").write_text(str(offset))
        self._stack.clock.with_suffix(".part").replace(self._stack.clock)
        return False  # the clock itself tells at the end who read it

    @asynccontextmanager
    async def _held(self, service: str | None) -> AsyncIterator[None]:
        """A service stands still for the block, if it runs."""
        held = psutil.Process(self._stack.members[service].runnable.pid) if service else None
        if held is not None:
            held.suspend()
        try:
            yield
        finally:
            if held is not None:
                with suppress(psutil.Error):
                    held.resume()

    @property
    def _postgres_log(self) -> Path:
        return self._stack.home.database_folder() / "postgres.log"

    async def _execute(self, statement: str) -> None:
        await self._stack.execute(statement)

    @asynccontextmanager
    async def _broker(self) -> AsyncIterator[JetStreamContext]:
        client = await nats.connect(
            self._stack.nats_url, connect_timeout=2, allow_reconnect=False, error_cb=_hear_nothing
        )
        try:
            yield client.jetstream(timeout=2)
        finally:
            await client.close()


async def _hear_nothing(_: Exception) -> None:
    """A broker that is being killed is no news here."""


def _told(log: Path, words: str) -> int:
    with suppress(FileNotFoundError):
        return log.read_text(errors="replace").lower().count(words.lower())
    return 0


def _filled_until(folder: Path, log: Path, before: int) -> bool:
    """Fills a disk and keeps it full until its server has noticed. In a thread: the server must not wait for us."""
    ballast = folder / "ballast"
    deadline = time.monotonic() + PATIENCE_SECONDS
    told = False
    try:
        with ballast.open("wb", buffering=0) as file:
            block = b"\0" * 65_536
            while not told and time.monotonic() < deadline:
                try:
                    while True:
                        file.write(block)
                except OSError:
                    block = block[: max(4096, len(block) // 2)]
                    threading.Event().wait(LOOK_SECONDS)
                told = _told(log, NO_SPACE) > before
    finally:
        ballast.unlink(missing_ok=True)
    return told


async def _until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(LOOK_SECONDS)
    return True


async def _sure(doing: Callable[[], Awaitable[bool]]) -> bool:
    """Tries again while a server is away, as long as patience lasts."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with suppress(*AWAY):
            if await doing():
                return True
        await asyncio.sleep(4 * LOOK_SECONDS)
    return False

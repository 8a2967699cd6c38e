"""The stage against real servers: whatever happens to it, its results are those of one undisturbed run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import msgspec
import pytest
from sqlalchemy import BigInteger, Column, MetaData, Table, Text, create_engine, text
from sqlalchemy.ext.asyncio import AsyncConnection

from deploy.local.nats import NatsServer
from deploy.local.postgres import PostgresServer
from services.shared.bus import MARKETS, OBSERVATIONS, Bus, BusError, StreamSpec
from services.shared.database import Database
from services.shared.errors import Malformed
from services.shared.outbox import Outbox
from services.shared.stage import Arrival, Outcome, Outgoing, Stage, StageTables, drained, stage_tables
from services.shared.tasks import end_tasks
from services.shared.testing import eventually, stored

metadata = MetaData(schema="counting")
tables = stage_tables(metadata)
results = Table(
    "result",
    metadata,
    # Plain inserts go into this table: a message that counts twice breaks its key, and the test with it.
    Column("event_id", Text, primary_key=True),
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("total", BigInteger, nullable=False),
)


class Amount(msgspec.Struct, frozen=True):
    """Adds to an event's total; a keyframe sets it."""

    event_id: str
    revision: int
    previous_revision: int
    amount: int
    keyframe: bool = False


class Total(msgspec.Struct, frozen=True):
    """What the fold remembers of an event."""

    event_id: str = ""
    total: int = 0
    sent: int = 0


class Counting:
    """The smallest fold that has everything: a state, rows, and messages with a revision of their own."""

    def decode(self, payload: bytes) -> Arrival[Amount]:
        try:
            amount = msgspec.json.decode(payload, type=Amount)
        except msgspec.DecodeError as error:
            raise Malformed(str(error)) from None
        return Arrival(amount.event_id, amount.revision, amount.previous_revision, amount.keyframe, amount)

    def load(self, stored: bytes | None) -> Total:
        return Total() if stored is None else msgspec.msgpack.decode(stored, type=Total)

    def dump(self, state: Total) -> bytes:
        return msgspec.msgpack.encode(state)

    def step(self, state: Total, message: Amount) -> Outcome[Total]:
        total = message.amount if message.keyframe else state.total + message.amount
        after = Total(message.event_id, total, state.sent + 1)
        return Outcome(
            after,
            [{"event_id": message.event_id, "revision": message.revision, "total": total}],
            [Outgoing(message.event_id, f"{message.event_id}:{after.sent}", msgspec.json.encode(after))],
        )

    async def write(self, connection: AsyncConnection, rows: Sequence[Any]) -> None:
        await connection.execute(results.insert(), list(rows))


@dataclass
class Series:
    """Messages as a producer would send them; the first of an event is a keyframe."""

    sent: list[Amount] = field(default_factory=list)
    revisions: dict[str, int] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)

    def add(self, event_id: str, amount: int = 1, keyframe: bool = False) -> Amount:
        before = self.revisions.get(event_id, 0)
        self.revisions[event_id] = before + 1
        self.totals[event_id] = self.totals.get(event_id, 0) + amount
        keyframe = keyframe or before == 0
        shown = self.totals[event_id] if keyframe else amount
        self.sent.append(Amount(event_id, before + 1, before, shown, keyframe))
        return self.sent[-1]

    def mixed(self, count: int, events: int = 9, seed: int = 1) -> list[Amount]:
        random = Random(seed)
        return [self.add(f"event{random.randrange(events)}", random.randrange(1, 100)) for _ in range(count)]


def outgoing(messages: Iterable[Amount], attempt: str = "") -> list[Outgoing]:
    return [
        Outgoing(message.event_id, f"{message.event_id}:{message.revision}{attempt}", msgspec.json.encode(message))
        for message in messages
    ]


def undisturbed(messages: Iterable[Amount]) -> tuple[list[tuple[str, int, int]], dict[str, list[bytes]]]:
    """Rows and messages by event, of a run in which nothing happens."""
    fold = Counting()
    states: dict[str, Total] = {}
    rows: list[tuple[str, int, int]] = []
    sent: dict[str, list[bytes]] = {}
    for message in messages:
        outcome = fold.step(states.get(message.event_id, Total()), message)
        states[message.event_id] = outcome.state
        rows.extend((row["event_id"], row["revision"], row["total"]) for row in outcome.rows)
        sent.setdefault(message.event_id, []).extend(out.payload for out in outcome.outgoing)
    return sorted(rows), sent


@pytest.fixture
async def database(database_for: Callable[[str], Awaitable[Database]], postgres_server: PostgresServer) -> Database:
    """A database with the counting service's tables, owned by its owner and used with its own role."""
    fresh = await database_for("counting")
    engine = create_engine(postgres_server.url(database=fresh.engine.url.database or ""))
    with engine.begin() as owner:
        owner.execute(text("SET ROLE counting_owner"))
        metadata.create_all(owner)
    engine.dispose()
    return fresh


@pytest.fixture
async def producer(
    database_for: Callable[[str], Awaitable[Database]], postgres_server: PostgresServer
) -> tuple[Database, StageTables]:
    """The database and the tables of the stage before ours."""
    fresh = await database_for("producing")
    declared = MetaData(schema="producing")
    producing = stage_tables(declared)
    engine = create_engine(postgres_server.url(database=fresh.engine.url.database or ""))
    with engine.begin() as owner:
        owner.execute(text("SET ROLE producing_owner"))
        declared.create_all(owner)
    engine.dispose()
    return fresh, producing


@pytest.fixture
def stage(database: Database, bus: Bus) -> Callable[..., Stage[Amount, Total]]:
    """Makes workers of the counting stage; what is given replaces the usual."""

    def make(**given: Any) -> Stage[Amount, Total]:
        usual: dict[str, Any] = {
            "name": "counting",
            "database": database,
            "bus": bus,
            "fold": Counting(),
            "source": OBSERVATIONS,
            "target": MARKETS,
            "tables": tables,
        }
        return Stage(**{**usual, **given})

    return make


StageMaker = Callable[..., Stage[Amount, Total]]


@asynccontextmanager
async def working(*workers: Stage[Amount, Total]) -> AsyncIterator[None]:
    """The workers run for this block, and end as a process does that is told to."""
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        yield
    finally:
        await end_tasks(tasks)


async def rows_of(database: Database) -> list[tuple[str, int, int]]:
    async with database.begin() as connection:
        found = await connection.execute(text("SELECT event_id, revision, total FROM counting.result"))
        return sorted((row.event_id, row.revision, row.total) for row in found)


async def sent_to(bus: Bus, spec: StreamSpec = MARKETS) -> dict[str, list[bytes]]:
    sent: dict[str, list[bytes]] = {}
    for delivery in await stored(bus, spec):
        sent.setdefault(delivery.event_id, []).append(delivery.payload)
    return sent


async def states_of(database: Database) -> list[tuple[Any, ...]]:
    async with database.begin() as connection:
        found = await connection.execute(
            text("SELECT event_id, partition, applied_revision, awaiting_keyframe, state FROM counting.event_state")
        )
        return sorted(tuple(row) for row in found)


async def assert_undisturbed(database: Database, bus: Bus, messages: Sequence[Amount]) -> None:
    rows, sent = undisturbed(messages)
    assert await rows_of(database) == rows
    assert await sent_to(bus) == sent


async def test_a_message_flows_through_at_once(stage: StageMaker, database: Database, bus: Bus):
    series = Series()
    worker = stage()
    async with working(worker):
        for _ in range(3):
            await bus.publish(OBSERVATIONS, outgoing([series.add("event")]))
            await eventually(worker.drained, within=5.0)
    await assert_undisturbed(database, bus, series.sent)


async def test_a_message_that_comes_twice_counts_once(stage: StageMaker, database: Database, bus: Bus):
    series = Series()
    series.mixed(30)
    await bus.publish(OBSERVATIONS, outgoing(series.sent))
    await bus.publish(OBSERVATIONS, outgoing(series.sent, attempt="again"))
    worker = stage()
    async with working(worker):
        await eventually(worker.drained)
    assert (await bus.stream_state(OBSERVATIONS)).last_sequence == 60
    await assert_undisturbed(database, bus, series.sent)


async def test_a_worker_started_twice_gives_every_result_once(stage: StageMaker, database: Database, bus: Bus):
    series = Series()
    first, second = stage(batch_size=5), stage(batch_size=3)
    async with working(first, second):
        for _ in range(12):
            await bus.publish(OBSERVATIONS, outgoing(series.mixed(25, seed=len(series.sent))))
        await eventually(first.drained, within=60.0)
    await assert_undisturbed(database, bus, series.sent)


async def test_two_workers_share_the_partitions(stage: StageMaker, database: Database, bus: Bus):
    series = Series()
    series.mixed(200, events=40)
    await bus.publish(OBSERVATIONS, outgoing(series.sent))
    even, odd = stage(partitions=range(0, 16, 2)), stage(partitions=range(1, 16, 2))
    async with working(even, odd):
        await eventually(even.drained)
        await eventually(odd.drained)
    assert await drained(database, bus, tables, OBSERVATIONS, MARKETS)
    await assert_undisturbed(database, bus, series.sent)


async def test_partitions_that_change_hands_go_on_where_they_stood(stage: StageMaker, database: Database, bus: Bus):
    series = Series()
    await bus.publish(OBSERVATIONS, outgoing(series.mixed(60, events=20)))
    some = stage(partitions=range(5))
    async with working(some):
        await eventually(some.drained)
    await bus.publish(OBSERVATIONS, outgoing(series.mixed(60, events=20, seed=2)))
    every = stage()
    async with working(every):
        await eventually(every.drained)
    await assert_undisturbed(database, bus, series.sent)


async def test_a_stream_made_again_is_read_from_its_beginning(stage: StageMaker, database: Database, bus: Bus):
    series = Series()
    worker = stage()
    async with working(worker):
        await bus.publish(OBSERVATIONS, outgoing(series.mixed(50)))
        await eventually(worker.drained)
        await bus.delete_stream(OBSERVATIONS)
        await bus.ensure_stream(OBSERVATIONS)
        await bus.publish(OBSERVATIONS, outgoing(series.mixed(20, seed=2)))
        await eventually(worker.drained, within=20.0)
    await assert_undisturbed(database, bus, series.sent)


async def test_a_stream_that_lost_its_end_is_read_again_and_nothing_counts_twice(
    stage: StageMaker, database: Database, bus: Bus
):
    series = Series()
    await bus.publish(OBSERVATIONS, outgoing(series.mixed(30)))
    worker = stage()
    async with working(worker):
        await eventually(worker.drained)
    async with database.begin() as connection:
        # As if 70 more messages had been applied that the broker no longer has.
        await connection.execute(text("UPDATE counting.position SET sequence = sequence + 70"))
    await bus.publish(OBSERVATIONS, outgoing(series.mixed(10, seed=2)))
    async with working(worker):
        await eventually(worker.drained)
    await assert_undisturbed(database, bus, series.sent)


async def test_an_event_with_a_gap_waits_for_its_keyframe_and_no_other_event_does(
    stage: StageMaker, database: Database, bus: Bus
):
    asked: list[str] = []

    async def ask(event_id: str) -> None:
        asked.append(event_id)

    series = Series()
    series.add("broken", 1)
    series.add("whole", 1)
    lost = series.add("broken", 10)
    late = [series.add("broken", 100), series.add("whole", 10)]
    worker = stage(on_gap=ask)
    async with working(worker):
        await bus.publish(OBSERVATIONS, outgoing(message for message in series.sent if message is not lost))
        await eventually(worker.drained)
        assert await rows_of(database) == [("broken", 1, 1), ("whole", 1, 1), ("whole", 2, 11)]
        assert asked == ["broken"]
        healing = [series.add("broken", 1000, keyframe=True), series.add("broken", 10_000)]
        await bus.publish(OBSERVATIONS, outgoing(healing))
        await eventually(worker.drained)
    assert late
    assert [row for row in await rows_of(database) if row[0] == "broken"] == [
        ("broken", 1, 1),
        ("broken", 4, 1111),
        ("broken", 5, 11_111),
    ]
    # Its own revisions go on without a gap: whoever reads us need not know.
    assert [msgspec.json.decode(payload, type=Total).sent for payload in (await sent_to(bus))["broken"]] == [1, 2, 3]


async def test_a_keyframe_call_that_fails_is_made_again_with_the_next_message(
    stage: StageMaker, database: Database, bus: Bus
):
    asked: list[str] = []

    async def refuse(event_id: str) -> None:
        asked.append(event_id)
        raise ConnectionError("nobody answers")

    series = Series()
    series.add("event")
    lost = series.add("event")
    worker = stage(on_gap=refuse)
    async with working(worker):
        for _ in range(3):
            series.add("event")
        await bus.publish(OBSERVATIONS, outgoing(message for message in series.sent if message is not lost))
        await eventually(worker.drained)
        await bus.publish(OBSERVATIONS, outgoing([series.add("event")]))
        await eventually(worker.drained)
    assert asked[0] == "event"
    assert len(asked) >= 2
    assert await rows_of(database) == [("event", 1, 1)]


@pytest.mark.parametrize("batch_size", [1, 7, 500])
async def test_where_a_batch_is_cut_changes_nothing(stage: StageMaker, database: Database, bus: Bus, batch_size: int):
    series = Series()
    series.mixed(250)
    await bus.publish(OBSERVATIONS, outgoing(series.sent))
    worker = stage(batch_size=batch_size)
    async with working(worker):
        await eventually(worker.drained, within=30.0)
    await assert_undisturbed(database, bus, series.sent)
    fold = Counting()
    for event_id, _, revision, awaiting, state in await states_of(database):
        assert revision == series.revisions[event_id]
        assert not awaiting
        assert fold.load(state) == Total(event_id, series.totals[event_id], revision)


async def test_dropping_the_states_before_every_message_changes_nothing(
    stage: StageMaker, database: Database, bus: Bus
):
    series = Series()
    series.mixed(150)
    await bus.publish(OBSERVATIONS, outgoing(series.sent))
    worker = stage(batch_size=1, cached_events=0)
    async with working(worker):
        await eventually(worker.drained, within=30.0)
    await assert_undisturbed(database, bus, series.sent)


async def test_fewer_states_in_memory_than_events_changes_nothing(stage: StageMaker, database: Database, bus: Bus):
    series = Series()
    series.mixed(300, events=30)
    await bus.publish(OBSERVATIONS, outgoing(series.sent))
    worker = stage(batch_size=20, cached_events=4)
    async with working(worker):
        await eventually(worker.drained, within=30.0)
    await assert_undisturbed(database, bus, series.sent)


async def test_what_was_missing_heals_a_gap_when_it_comes_after_all(stage: StageMaker, database: Database, bus: Bus):
    series = Series()
    first, missing, late = (series.add("event", amount) for amount in (1, 10, 100))
    worker = stage()
    async with working(worker):
        await bus.publish(OBSERVATIONS, outgoing([first, late]))
        await eventually(worker.drained)
        assert [awaiting for _, _, _, awaiting, _ in await states_of(database)] == [True]
        await bus.publish(OBSERVATIONS, outgoing([missing, late], attempt="again"))
        await eventually(worker.drained)
    await assert_undisturbed(database, bus, series.sent)


async def sent_by(outbox: Outbox, database: Database, messages: Iterable[Amount]) -> None:
    async with database.begin() as connection:
        await outbox.add(connection, outgoing(messages))
    await outbox.publish()


async def test_what_a_lost_stream_took_with_it_is_published_again(
    stage: StageMaker, database: Database, bus: Bus, producer: tuple[Database, StageTables]
):
    theirs, producing = producer
    outbox = Outbox(theirs, bus, producing, OBSERVATIONS)
    series = Series()
    series.mixed(40)
    # The next to come are keyframes, which would make a reader pass over what is missing before them.
    for event_id in list(series.revisions):
        series.add(event_id, keyframe=True)
    series.mixed(20, seed=2)
    worker = stage()
    await sent_by(outbox, theirs, series.sent[:20])
    async with working(worker):
        await eventually(worker.drained)
    # Nobody has read these when the stream goes, and those that come after find it made anew.
    await sent_by(outbox, theirs, series.sent[20:40])
    await bus.delete_stream(OBSERVATIONS)
    await bus.ensure_stream(OBSERVATIONS)
    assert not await outbox.is_empty()
    async with working(worker):
        await sent_by(outbox, theirs, series.sent[40:])
        assert await outbox.is_empty()
        await eventually(worker.drained)
    await assert_undisturbed(database, bus, series.sent)


async def test_a_stream_made_anew_while_a_stage_starts_is_read_from_its_beginning(
    stage: StageMaker, database: Database, bus: Bus, monkeypatch: pytest.MonkeyPatch
):
    series = Series()
    await bus.publish(OBSERVATIONS, outgoing(series.mixed(20)))
    worker = stage()
    async with working(worker):
        await eventually(worker.drained)
    publish = worker._publish
    series.mixed(40, seed=2)

    async def made_anew_meanwhile() -> None:
        monkeypatch.undo()
        await bus.delete_stream(OBSERVATIONS)
        await bus.ensure_stream(OBSERVATIONS)
        await bus.publish(OBSERVATIONS, outgoing(series.sent[20:]))
        await publish()

    async def all_applied() -> bool:
        return len(await rows_of(database)) == len(series.sent)

    monkeypatch.setattr(worker, "_publish", made_anew_meanwhile)
    async with working(worker):
        await eventually(all_applied)
        await eventually(worker.drained)
    await assert_undisturbed(database, bus, series.sent)


async def test_a_stream_that_nobody_made_again_is_made_by_its_producer(
    bus: Bus, producer: tuple[Database, StageTables]
):
    theirs, producing = producer
    outbox = Outbox(theirs, bus, producing, OBSERVATIONS)
    series = Series()
    series.mixed(30)
    await sent_by(outbox, theirs, series.sent[:20])
    await bus.delete_stream(OBSERVATIONS)
    with pytest.raises(BusError):
        await sent_by(outbox, theirs, series.sent[20:])
    await outbox.publish()
    assert [message.payload for message in await stored(bus, OBSERVATIONS)] == [
        message.payload for message in outgoing(series.sent)
    ]


async def test_an_outbox_keeps_the_newest_of_what_was_published_and_no_more(
    bus: Bus, producer: tuple[Database, StageTables]
):
    theirs, producing = producer
    outbox = Outbox(theirs, bus, producing, OBSERVATIONS, kept_messages=10)
    series = Series()
    series.mixed(35)
    await sent_by(outbox, theirs, series.sent)
    async with theirs.begin() as connection:
        kept = (await connection.execute(text("SELECT message_id FROM producing.outbox ORDER BY id"))).scalars().all()
    assert kept == [message.message_id for message in outgoing(series.sent[-10:])]


@pytest.mark.parametrize("payload", [b"", b"{", msgspec.json.encode(Amount("another", 3, 2, 5))])
async def test_a_malformed_message_is_buried_and_its_event_waits_for_a_keyframe(
    stage: StageMaker, database: Database, bus: Bus, payload: bytes
):
    series = Series()
    series.add("event", 1)
    series.add("event", 10)
    series.add("whole", 1)
    worker = stage()
    async with working(worker):
        await bus.publish(OBSERVATIONS, outgoing(series.sent))
        await bus.publish(OBSERVATIONS, [Outgoing("event", "event:3", payload)])
        broken = series.add("event", 100)
        await bus.publish(OBSERVATIONS, outgoing([replace_revision(broken, 4), series.add("whole", 10)]))
        await eventually(worker.drained)
        async with database.begin() as connection:
            dead = (
                await connection.execute(text("SELECT event_id, sequence, payload FROM counting.dead_letter"))
            ).all()
        assert [(row.event_id, row.sequence, row.payload) for row in dead] == [("event", 4, payload)]
        assert ("event", 4, 111) not in await rows_of(database)
        assert ("whole", 2, 11) in await rows_of(database)
        healing = Amount("event", 5, 4, 1111, keyframe=True)
        await bus.publish(OBSERVATIONS, outgoing([healing]))
        await eventually(worker.drained)
    assert [row for row in await rows_of(database) if row[0] == "event"] == [
        ("event", 1, 1),
        ("event", 2, 11),
        ("event", 5, 1111),
    ]


def replace_revision(message: Amount, revision: int) -> Amount:
    return msgspec.structs.replace(message, revision=revision, previous_revision=revision - 1)


async def test_what_a_dead_worker_left_in_the_outbox_is_published_first(
    stage: StageMaker, database: Database, bus: Bus
):
    left = [Outgoing("event", "event:left", b"left behind")]
    async with database.begin() as connection:
        await Outbox(database, bus, tables, MARKETS).add(connection, left)
    series = Series()
    await bus.publish(OBSERVATIONS, outgoing([series.add("event")]))
    worker = stage()
    async with working(worker):
        await eventually(worker.drained)
    _, sent = undisturbed(series.sent)
    assert (await sent_to(bus))["event"] == [b"left behind", *sent["event"]]


async def test_an_event_that_no_subject_can_name_is_refused_before_it_blocks_the_outbox(database: Database, bus: Bus):
    outbox = Outbox(database, bus, tables, MARKETS)
    async with database.begin() as connection:
        with pytest.raises(ValueError, match="cannot be published"):
            await outbox.add(connection, [Outgoing("two words", "1", b"")])
    assert await outbox.is_empty()


async def test_a_full_stream_stops_the_stage_and_loses_nothing(stage: StageMaker, database: Database, bus: Bus):
    narrow = StreamSpec("NARROW", max_bytes=20_000)
    wide = replace(narrow, max_bytes=10_000_000)
    await bus.delete_stream(narrow)
    series = Series()
    series.mixed(400)
    await bus.publish(OBSERVATIONS, outgoing(series.sent))
    outbox = Outbox(database, bus, tables, narrow)

    async def stuck() -> bool:
        return (await bus.stream_state(narrow)).last_sequence > 0 and not await outbox.is_empty()

    worker = stage(target=narrow, batch_size=50)
    await bus.ensure_stream(narrow)
    async with working(worker):
        await eventually(stuck)
        assert not await worker.drained()
    applied = await rows_of(database)
    # The outbox stands before the next batch: no more was applied than what filled the stream and one batch.
    assert len(applied) < 400
    worker = stage(target=wide)
    async with working(worker):
        await eventually(worker.drained, within=30.0)
    rows, sent = undisturbed(series.sent)
    assert await rows_of(database) == rows
    assert await sent_to(bus, wide) == sent


class WorkerKilled(BaseException):
    """Ends a worker on the spot, as no `except Exception` of its would see."""


class Bomb:
    """Goes off the n-th time that a worker passes a point."""

    def __init__(self, point: str, passes: int) -> None:
        self.point = point
        self.left = passes

    def __call__(self, point: str) -> None:
        if point == self.point:
            self.left -= 1
            if self.left == 0:
                raise WorkerKilled


class MinedFold(Counting):
    def __init__(self, bomb: Bomb) -> None:
        self._bomb = bomb

    def step(self, state: Total, message: Amount) -> Outcome[Total]:
        self._bomb("step")
        return super().step(state, message)

    async def write(self, connection: AsyncConnection, rows: Sequence[Any]) -> None:
        self._bomb("before write")
        await super().write(connection, rows)
        self._bomb("after write")


class MinedDatabase(Database):
    def __init__(self, database: Database, bomb: Bomb) -> None:
        super().__init__(database.engine, database.readers)
        self._bomb = bomb

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        async with super().begin() as connection:
            yield connection
            self._bomb("before commit")
        self._bomb("after commit")


class MinedBus:
    def __init__(self, bus: Bus, bomb: Bomb) -> None:
        self._bus = bus
        self._bomb = bomb

    async def publish(self, spec: StreamSpec, messages: Sequence[Outgoing], expected_last: int | None = None) -> int:
        self._bomb("before publish")
        half = len(messages) // 2
        middle = await self._bus.publish(spec, messages[:half], expected_last)
        self._bomb("in publish")
        last = await self._bus.publish(spec, messages[half:], middle or expected_last)
        self._bomb("after publish")
        return last

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)


POINTS = [
    *[("step", passes) for passes in (1, 30, 99)],
    *[("before write", 1), ("before write", 3), ("after write", 1), ("after write", 3)],
    *[(point, passes) for point in ("before commit", "after commit") for passes in range(1, 9)],
    *[(point, passes) for point in ("before publish", "in publish", "after publish") for passes in (1, 2, 5)],
]


@pytest.mark.parametrize(("point", "passes"), POINTS)
async def test_a_worker_killed_at_any_point_loses_and_doubles_nothing(
    stage: StageMaker, database: Database, bus: Bus, point: str, passes: int
):
    series = Series()
    series.mixed(100)
    await bus.publish(OBSERVATIONS, outgoing(series.sent))
    bomb = Bomb(point, passes)
    doomed = stage(fold=MinedFold(bomb), database=MinedDatabase(database, bomb), bus=MinedBus(bus, bomb), batch_size=15)
    with pytest.raises(WorkerKilled):
        await asyncio.wait_for(doomed.run(), 20.0)
    heir = stage(batch_size=15)
    async with working(heir):
        await eventually(heir.drained)
    await assert_undisturbed(database, bus, series.sent)


async def test_an_error_in_the_rules_blocks_and_is_tried_again_until_it_is_gone(
    stage: StageMaker, database: Database, bus: Bus
):
    class Failing(Counting):
        failures = 3

        def step(self, state: Total, message: Amount) -> Outcome[Total]:
            if message.revision == 5 and self.failures:
                self.failures -= 1
                raise ZeroDivisionError
            return super().step(state, message)

    series = Series()
    for _ in range(10):
        series.add("event")
    await bus.publish(OBSERVATIONS, outgoing(series.sent))
    worker = stage(fold=Failing(), batch_size=3)
    async with working(worker):
        await eventually(worker.drained, within=20.0)
    await assert_undisturbed(database, bus, series.sent)


@pytest.mark.parametrize("server", ["nats", "postgres"])
async def test_a_server_killed_in_the_middle_costs_time_and_nothing_else(
    stage: StageMaker,
    database: Database,
    bus: Bus,
    server: str,
    nats_server: NatsServer,
    postgres_server: PostgresServer,
):
    killed = nats_server if server == "nats" else postgres_server
    series = Series()
    series.mixed(600)
    await bus.publish(OBSERVATIONS, outgoing(series.sent))
    worker = stage(batch_size=10)

    async def begun() -> bool:
        return len(await rows_of(database)) > 50

    async def done() -> bool:
        try:
            return await worker.drained()
        except Exception:
            return False  # the server is not up again yet

    async with working(worker):
        await eventually(begun)
        killed.kill()
        killed.start()
        await eventually(done, within=60.0)
    await assert_undisturbed(database, bus, series.sent)

"""The feed as a stream: it wakes at once, resumes without gap or repeat, says what it cannot give and why it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import grpc.aio
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status
from sqlalchemy import text
from stratum.signals.v1 import signal_pb2 as signals
from stratum.signals.v1 import signals_service_pb2 as service

from services.shared.clock import utc_now
from services.shared.testing import as_partner, eventually
from services.signals import render
from services.signals.cursor import Cursor
from services.signals.feed_testing import a_signal, forget, publish
from services.signals.model import SignalType

WITHIN_SECONDS = 10.0


@dataclass(slots=True)
class Reader:
    """What a browser would make of the stream: its events, its comments, and the id to come back with."""

    call: Any
    content_type: str = ""
    head: bytes = b""
    last_event_id: str = ""
    comments: int = 0
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def signals(self) -> list[str]:
        """Ids of the signals so far."""
        return [said["id"] for kind, said in self.events if kind == "signal"]

    async def until(self, enough: Callable[[Reader], bool]) -> Reader:
        """Reads on until there is enough, or the stream has ended."""
        async with asyncio.timeout(WITHIN_SECONDS):
            while not enough(self):
                piece = await self.call.read()
                if piece is grpc.aio.EOF:
                    break
                self.content_type = piece.content_type
                self.head = self.head or piece.data
                for block in piece.data.decode().split("\n\n"):
                    self._take(block)
        return self

    def _take(self, block: str) -> None:
        kind, data = "", ""
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            self.comments += line.startswith(":")
            match name:
                case "id":
                    self.last_event_id = value
                case "event":
                    kind = value
                case "data":
                    data = value
        if data:
            self.events.append((kind, json.loads(data)))


def nothing_more_comes(_: Reader) -> bool:
    """Never enough: reads to the stream's end."""
    return False


@asynccontextmanager
async def streaming(served: Any, last_event_id: str = "", **asked: Any) -> AsyncIterator[Reader]:
    """A stream that has begun."""
    metadata = (("last-event-id", last_event_id),) if last_event_id else ()
    call = served.ask.StreamSignals(service.StreamSignalsRequest(**asked), metadata=metadata)
    try:
        yield await Reader(call).until(lambda reader: bool(reader.last_event_id))
    finally:
        call.cancel()


async def test_a_stream_begins_with_how_to_come_back(served: Any) -> None:
    async with streaming(served) as reader:
        assert reader.content_type == "text/event-stream"
        assert reader.head.startswith(b"retry: 3000\nid: ")


async def test_a_new_stream_gives_what_comes_after_it_and_nothing_before(served: Any) -> None:
    await publish(served.database, [a_signal("before")])
    async with streaming(served) as reader:
        await publish(served.database, [a_signal("first"), a_signal("second")])
        await reader.until(lambda reader: len(reader.signals) == 2)
    assert reader.signals == ["first", "second"]


async def test_a_signal_arrives_long_before_the_table_would_be_asked_again(serve_feed: Any) -> None:
    served = await serve_feed(poll_seconds=3600.0)
    async with streaming(served) as reader:
        # The first signal shows that the bell hangs; the second is timed.
        await publish(served.database, [a_signal("first")])
        await reader.until(lambda reader: reader.signals == ["first"])
        await publish(served.database, [a_signal("second")])
        async with asyncio.timeout(1.0):
            await reader.until(lambda reader: reader.signals == ["first", "second"])


async def test_what_a_lost_bell_did_not_tell_is_found_by_looking(serve_feed: Any) -> None:
    served = await serve_feed(poll_seconds=0.05)
    await _silence_the_bell(served)
    async with streaming(served) as reader:
        await publish(served.database, [a_signal("quiet")])
        await reader.until(lambda reader: reader.signals == ["quiet"])


async def test_a_stream_line_is_the_signal_as_the_feed_shows_it(served: Any) -> None:
    async with streaming(served) as reader:
        await publish(served.database, [a_signal("one")])
        await reader.until(lambda reader: len(reader.signals) == 1)
    (signal,) = (await served.ask.ListSignals(service.ListSignalsRequest())).signals
    ((_, shown),) = reader.events
    assert shown == json.loads(render.printed(signal.SerializeToString()).json)
    assert shown["cursor"] == reader.last_event_id


async def test_an_interrupted_stream_resumes_without_gap_or_repeat(served: Any) -> None:
    seen: list[str] = []
    cursor = ""
    for turn in range(4):
        async with streaming(served, last_event_id=cursor) as reader:
            await publish(served.database, [a_signal(f"{turn}-while-open-{number}") for number in range(3)])
            await reader.until(lambda reader: any("while-open" in name for name in reader.signals))
        seen.extend(reader.signals)
        cursor = reader.last_event_id
        await publish(served.database, [a_signal(f"{turn}-while-away-{number}") for number in range(150)])
    async with streaming(served, last_event_id=cursor) as reader:
        await reader.until(lambda reader: "3-while-away-149" in reader.signals)
    seen.extend(reader.signals)
    published = [f"{t}-while-{w}-{n}" for t in range(4) for w, m in (("open", 3), ("away", 150)) for n in range(m)]
    assert seen == published


async def test_a_stream_without_signals_yet_can_be_resumed_all_the_same(served: Any) -> None:
    async with streaming(served) as reader:
        cursor = reader.last_event_id
    await publish(served.database, [a_signal("while-away")])
    async with streaming(served, after=cursor) as reader:
        await reader.until(lambda reader: reader.signals == ["while-away"])


async def test_the_header_wins_over_the_parameter(served: Any) -> None:
    await publish(served.database, [a_signal("one"), a_signal("two")])
    epoch = (await served.store.feed_state()).epoch
    async with streaming(served, last_event_id=f"{epoch}-1", after=f"{epoch}-0") as reader:
        await reader.until(lambda reader: len(reader.signals) == 1)
    assert reader.signals == ["two"]


async def test_signals_that_commit_in_another_order_than_they_began_are_all_seen(served: Any) -> None:
    async with streaming(served) as reader:
        async with asyncio.TaskGroup() as writers:
            for number in range(20):
                writers.create_task(publish(served.database, [a_signal(f"signal-{number}")]))
        await reader.until(lambda reader: len(reader.signals) == 20)
    positions = [Cursor.parse(said["cursor"]).position for _, said in reader.events]
    assert positions == sorted(positions)
    assert len(set(reader.signals)) == 20


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"type": [signals.SignalType.STEAM]}, ["steam"]),
        ({"signal_type": [signals.SignalType.STEAM]}, ["steam"]),
        ({"book": ["pinnacle"]}, ["pinnacle"]),
        ({"event_id": ["event-2"]}, ["elsewhere"]),
        ({"min_score": 99.0}, ["loud"]),
    ],
)
async def test_a_stream_can_be_filtered(served: Any, filters: dict[str, Any], found: list[str]) -> None:
    async with streaming(served, **filters) as reader:
        await publish(
            served.database,
            [
                a_signal("usual"),
                a_signal("steam", signal_type=SignalType.STEAM),
                a_signal("pinnacle", books=("pinnacle",)),
                a_signal("elsewhere", event_id="event-2"),
                a_signal("loud", composite_score=99.0),
            ],
        )
        await reader.until(lambda reader: bool(reader.signals))
    assert reader.signals == found


async def test_silence_is_filled_with_heartbeats_that_move_the_readers_place(serve_feed: Any) -> None:
    served = await serve_feed(heartbeat_seconds=0.05)
    async with streaming(served, event_id=["event-of-nobody"]) as reader:
        beginning = reader.last_event_id
        await publish(served.database, [a_signal("for-others")])
        await reader.until(lambda reader: reader.comments >= 2 and reader.last_event_id != beginning)
    assert reader.signals == []
    assert reader.last_event_id.endswith("-1")


async def test_what_retention_took_is_said_and_the_stream_goes_on(served: Any) -> None:
    long_ago = utc_now() - timedelta(days=100)
    await publish(served.database, [a_signal("old-1"), a_signal("old-2")], published_at=long_ago)
    await publish(served.database, [a_signal("kept")])
    epoch = (await served.store.feed_state()).epoch
    assert forget(served.database, kept_days=90) == 2
    async with streaming(served, after=f"{epoch}-1") as reader:
        await reader.until(lambda reader: bool(reader.signals))
    assert reader.events[0] == ("truncated", {"reason": "retention", "cursor": f"{epoch}-2"})
    assert reader.signals == ["kept"]


async def test_a_cursor_right_at_what_retention_took_has_missed_nothing(served: Any) -> None:
    await publish(served.database, [a_signal("old")], published_at=utc_now() - timedelta(days=100))
    await publish(served.database, [a_signal("kept")])
    epoch = (await served.store.feed_state()).epoch
    forget(served.database, kept_days=90)
    async with streaming(served, after=f"{epoch}-1") as reader:
        await reader.until(lambda reader: bool(reader.events))
    assert [kind for kind, _ in reader.events] == ["signal"]


@pytest.mark.parametrize("cursor", ["0123456789abcdef-1", "{epoch}-999"])
async def test_a_cursor_of_another_feed_is_said_and_the_stream_begins_anew(served: Any, cursor: str) -> None:
    await publish(served.database, [a_signal("one")])
    epoch = (await served.store.feed_state()).epoch
    async with streaming(served, after=cursor.format(epoch=epoch)) as reader:
        await reader.until(lambda reader: bool(reader.signals))
    assert reader.events[0] == ("truncated", {"reason": "unknown_feed", "cursor": f"{epoch}-0"})
    assert reader.signals == ["one"]


async def test_an_account_that_takes_all_it_may_leaves_room_for_others(serve_feed: Any) -> None:
    served = await serve_feed(open_streams=4, streams_of_one=2)

    def opened(account_id: str) -> Any:
        metadata = as_partner("stratum.signals.v1.SignalsService/StreamSignals", account_id)
        return served.ask.StreamSignals(service.StreamSignalsRequest(), metadata=metadata)

    calls = [opened("acct_greedy"), opened("acct_greedy")]
    for call in calls:
        assert (await call.read()).data
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await opened("acct_greedy").read()
    assert _reason(refused.value) == "TOO_MANY_STREAMS"
    calls.append(other := opened("acct_modest"))
    assert (await other.read()).data

    calls[0].cancel()

    async def has_room_again() -> bool:
        calls.append(again := opened("acct_greedy"))
        try:
            return bool((await again.read()).data)
        except grpc.aio.AioRpcError:
            return False

    await eventually(has_room_again)
    for call in calls:
        call.cancel()


@pytest.mark.parametrize("cursor", ["nonsense", "0123456789abcdef-", "0123456789ABCDEF-1", "-1", "é"])
async def test_a_cursor_that_is_not_ours_is_refused_before_the_first_byte(served: Any, cursor: str) -> None:
    call = served.ask.StreamSignals(service.StreamSignalsRequest(after=cursor))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call.read()
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert _reason(refused.value) == "INVALID_CURSOR"


async def test_one_stream_too_many_is_refused_until_another_ends(serve_feed: Any) -> None:
    served = await serve_feed(open_streams=1)
    async with streaming(served):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await served.ask.StreamSignals(service.StreamSignalsRequest()).read()
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert _reason(refused.value) == "TOO_MANY_STREAMS"

    async def opens() -> bool:
        call = served.ask.StreamSignals(service.StreamSignalsRequest())
        try:
            return bool((await call.read()).data)
        except grpc.aio.AioRpcError:
            return False
        finally:
            call.cancel()

    assert await eventually(opens)


async def test_a_drain_ends_every_stream_and_says_so(served: Any) -> None:
    async with streaming(served) as one, streaming(served) as other:
        served.feed.drain()
        for reader in (one, other):
            await reader.until(nothing_more_comes)
            assert reader.events == [("end", {"reason": "draining"})]
            assert await reader.call.code() == grpc.StatusCode.OK


async def test_a_stream_that_grows_too_old_says_so(serve_feed: Any) -> None:
    served = await serve_feed(stream_seconds=0.1)
    async with streaming(served) as reader:
        await reader.until(nothing_more_comes)
    assert reader.events == [("end", {"reason": "max_age"})]


async def test_a_fault_ends_the_stream_with_a_word_and_without_its_text(served: Any) -> None:
    async with streaming(served) as reader:
        async with served.database.begin() as connection:
            await connection.execute(text("UPDATE signals.feed SET position = 1"))
            # Bytes that are no signal: what a fault of ours would look like.
            await connection.execute(text(BROKEN_SIGNAL))
            await connection.execute(text("SELECT pg_notify('signals_feed', '1')"))
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await reader.until(nothing_more_comes)
    assert reader.events == [("end", {"reason": "internal"})]
    assert failed.value.code() == grpc.StatusCode.INTERNAL
    assert failed.value.details() == "internal error"


async def test_the_typed_stream_gives_the_same_signals_and_heartbeats(serve_feed: Any) -> None:
    served = await serve_feed(heartbeat_seconds=0.05)
    call = served.ask.WatchSignals(service.WatchSignalsRequest(stream={"view": service.View.FULL}))
    opened = await call.read()
    await publish(served.database, [a_signal("one")])
    found = [item async for item in _some(call, lambda item: item.HasField("signal"))]
    beat = await call.read()
    call.cancel()
    assert opened.heartbeat.cursor.endswith("-0")
    assert found[-1].signal.id == "one"
    assert len(found[-1].signal.books_moved) == 2
    assert beat.heartbeat.cursor == found[-1].signal.cursor


async def test_the_typed_stream_says_what_it_cannot_give(served: Any) -> None:
    request = service.WatchSignalsRequest(stream={"after": "0123456789abcdef-7"})
    call = served.ask.WatchSignals(request)
    first = await call.read()
    call.cancel()
    assert first.truncated.reason == "unknown_feed"


BROKEN_SIGNAL = (
    "WITH made AS (INSERT INTO signals.configuration VALUES ('hash', '{}') RETURNING config_hash) "
    "INSERT INTO signals.signal SELECT 'broken', 1, 'fact', 0, 'sport', 'event', 'spreads', '', 'MOVE', 'OVER', 'LOW', "
    "'OPEN', '{}', 1, 1, 1, now(), now(), 'hash', '\\x0a', '\\x0a', '' FROM made"
)


async def _silence_the_bell(served: Any) -> None:
    async def silenced() -> int:
        async with served.database.begin() as connection:
            killed = await connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE query LIKE 'LISTEN%' AND datname = current_database()"
                )
            )
            return int(killed.rowcount)

    assert await eventually(silenced)


async def _some(call: Any, last: Callable[[Any], bool]) -> AsyncIterator[Any]:
    async with asyncio.timeout(WITHIN_SECONDS):
        while True:
            item = await call.read()
            yield item
            if last(item):
                return


def _reason(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(error)
    assert status is not None
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return str(info.reason)

"""Both clients follow a stream that is cut, ended, silent and refused."""

import asyncio
from collections.abc import Callable

import pytest
from aiohttp import web
from stratum_client import (
    AsyncClient,
    AuthenticationError,
    Client,
    Ended,
    Heartbeat,
    Signal,
    StreamItem,
    StreamLostError,
    Truncated,
)

from tests.integration.client.small_api import KEY, Caller, SmallApi, refuses, says

WATCH = "/api/v1/intel/signals:watch"
OPENING = b"retry: 10\nid: f-1\n\n"


def signal(number: int) -> bytes:
    return b'id: f-%d\nevent: signal\ndata: {"id":"s%d","observed_at":"2026-11-26T12:00:00Z"}\n\n' % (number, number)


def ids(items: list[StreamItem]) -> list[str]:
    return [item.id for item in items if isinstance(item, Signal)]


async def test_signals_arrive_as_they_are_sent(api: SmallApi, caller: Caller) -> None:
    api.behaves(WATCH, api.stream(OPENING, signal(2), signal(3), then="quiet"))
    stream = caller.client.watch(tier=["HIGH"], min_score=60)
    assert ids(await caller.first(stream, 2)) == ["s2", "s3"]
    assert stream.cursor == "f-2"
    assert api.asked[0].query_string == "tier=HIGH&min_score=60"
    assert api.asked[0].headers["accept-encoding"] == "identity"
    await caller.close(stream)
    await asyncio.wait_for(api.hung_up.wait(), 5)


async def test_a_stream_that_is_cut_in_an_event_goes_on_without_gap_or_repeat(api: SmallApi, caller: Caller) -> None:
    api.behaves(
        WATCH,
        api.stream(OPENING, signal(2), signal(3)[:30]),
        refuses(503, "UNAVAILABLE"),
        api.stream(signal(3), b": hb\nid: f-7\n\n"),
        api.stream(signal(8), then="quiet"),
    )
    stream = caller.client.watch()
    assert ids(await caller.first(stream, 3)) == ["s2", "s3", "s8"]
    assert [asked.headers.get("last-event-id") for asked in api.asked] == [None, "f-2", "f-2", "f-7"]
    await caller.close(stream)


async def test_a_connection_that_says_nothing_is_left_for_another(api: SmallApi, caller: Caller) -> None:
    api.behaves(WATCH, api.stream(OPENING, then="quiet"), api.stream(signal(2), then="quiet"))
    stream = caller.client.watch(after="f-0")
    assert ids(await caller.first(stream, 1)) == ["s2"]
    assert [asked.headers.get("last-event-id") for asked in api.asked] == ["f-0", "f-1"]
    assert "after" not in api.asked[0].query
    await caller.close(stream)


async def test_heartbeats_ends_and_gaps_are_told_to_those_who_ask(api: SmallApi, caller: Caller) -> None:
    gap = b'retry: 10\nid: g-5\nevent: truncated\ndata: {"reason":"retention","cursor":"g-5"}\n\n'
    api.behaves(
        WATCH, api.stream(OPENING, b'event: end\ndata: {"reason":"max_age"}\n\n'), api.stream(gap, then="quiet")
    )
    stream = caller.client.watch(heartbeats=True)
    assert await caller.first(stream, 3) == [
        Heartbeat(cursor="f-1"),
        Ended(reason="max_age"),
        Truncated(reason="retention", cursor="g-5"),
    ]
    await caller.close(stream)


async def test_a_key_that_is_revoked_ends_the_stream_for_good(api: SmallApi, caller: Caller) -> None:
    ended = b'event: end\ndata: {"reason":"key_revoked"}\n\n'
    api.behaves(WATCH, api.stream(OPENING, signal(2), ended), refuses(401, "KEY_REVOKED"))
    stream = caller.client.watch()
    assert ids(await caller.first(stream, 1)) == ["s2"]
    with pytest.raises(AuthenticationError) as error:
        await caller.first(stream, 1)
    assert (error.value.reason, len(api.asked)) == ("KEY_REVOKED", 2)


async def test_too_many_streams_are_tried_again(api: SmallApi, caller: Caller) -> None:
    api.behaves(WATCH, refuses(429, "TOO_MANY_STREAMS"), api.stream(signal(2), then="quiet"))
    stream = caller.client.watch()
    assert ids(await caller.first(stream, 1)) == ["s2"]
    await caller.close(stream)


async def test_a_stream_that_does_not_come_back_is_lost_at_last_and_says_where(api: SmallApi, caller: Caller) -> None:
    api.behaves(WATCH, api.stream(OPENING, signal(2)), refuses(503, "UNAVAILABLE"))
    stream = caller.client.watch()
    await caller.first(stream, 1)
    with pytest.raises(StreamLostError) as error:
        await caller.first(stream, 1)
    assert error.value.cursor == "f-2"
    assert len(api.asked) > 5


async def test_what_is_no_stream_is_an_error(api: SmallApi, caller: Caller) -> None:
    api.behaves(WATCH, says())
    with pytest.raises(Exception, match="no stream"):
        await caller.first(caller.client.watch(), 1)


async def test_a_closed_stream_gives_nothing_more(api: SmallApi, caller_with: Callable[..., Caller]) -> None:
    api.behaves(WATCH, api.stream(OPENING, signal(2) + signal(3), then="quiet"))
    caller = caller_with()
    if isinstance(caller.client, Client):
        with caller.client.watch() as stream:
            assert ids(await caller.first(stream, 1)) == ["s2"]
        assert list(stream) == []
    else:
        async with caller.client.watch() as awaited:
            assert ids(await caller.first(awaited, 1)) == ["s2"]
        assert [item async for item in awaited] == []


async def test_whoever_gives_up_waiting_for_the_next_signal_loses_none(api: SmallApi) -> None:
    go_on = asyncio.Event()

    async def late(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(OPENING + signal(2)[:20])
        await go_on.wait()
        await response.write(signal(2)[20:])
        return response

    api.behaves(WATCH, late)
    async with AsyncClient(KEY, api.url) as client, client.watch() as stream:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await anext(stream)
        go_on.set()
        assert ids([await anext(stream)]) == ["s2"]
    assert len(api.asked) == 1


async def test_many_tasks_share_a_client(api: SmallApi) -> None:
    api.behaves(WATCH, api.stream(OPENING, signal(2), then="quiet"))
    api.behaves("/api/v1/intel/signals", says())
    async with AsyncClient(KEY, api.url) as client, asyncio.timeout(10):
        streams = [client.watch() for _ in range(5)]
        items = await asyncio.gather(*(anext(stream) for stream in streams))
        pages = await asyncio.gather(*(client.signals().page() for _ in range(50)))
        await asyncio.gather(*(stream.aclose() for stream in streams))
    assert (ids(items), len(pages)) == (["s2"] * 5, 50)

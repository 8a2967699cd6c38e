"""ReadSignals over a real database: the same page as ListSignals, as JSON, remembered for as long as it is true."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import grpc.aio
import pytest
from google.protobuf.json_format import MessageToDict
from sqlalchemy import text
from stratum.signals.v1 import signals_service_pb2 as service

from services.shared import reply
from services.shared.clock import utc_now
from services.shared.testing import eventually
from services.signals.feed_testing import a_signal, forget, publish


async def ids(served: Any, **asked: Any) -> list[str]:
    body = await served.ask.ReadSignals(service.ListSignalsRequest(**asked))
    return [signal["id"] for signal in json.loads(body.data)["signals"]]


async def certain(served: Any) -> bool:
    return served.feed.place() is not None


async def test_it_is_the_typed_page_as_json(served: Any) -> None:
    await publish(served.database, [a_signal("one", composite_score=70.0), a_signal("two"), a_signal("three")])
    for asked in ({}, {"page_size": 2}, {"view": service.View.FULL}, {"event_id": ["of nobody"]}):
        request = service.ListSignalsRequest(**asked)
        typed = await served.ask.ListSignals(request)
        body = await served.ask.ReadSignals(request)
        shown = MessageToDict(typed, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        assert (json.loads(body.data), body.content_type) == (shown, "application/json")


async def test_a_walk_by_its_tokens_gives_every_signal_once(served: Any) -> None:
    await publish(served.database, [a_signal(f"{number}") for number in range(5)])
    found, token = [], ""
    while True:
        body = await served.ask.ReadSignals(service.ListSignalsRequest(page_size=2, page_token=token))
        page = json.loads(body.data)
        found += [signal["id"] for signal in page["signals"]]
        if not (token := page["next_page_token"]):
            break
    assert sorted(found) == ["0", "1", "2", "3", "4"]


async def test_a_remembered_page_needs_no_database(served: Any) -> None:
    await publish(served.database, [a_signal("one")])

    async def caught_up() -> bool:
        position = (await served.store.feed_state()).position
        return bool(served.feed.place() and served.feed.place().position == position)

    await eventually(caught_up)
    assert await ids(served) == ["one"]
    async with served.database.begin() as connection:
        await connection.execute(text("LOCK TABLE signals.signal IN ACCESS EXCLUSIVE MODE"))
        async with asyncio.timeout(2.0):
            assert await ids(served) == ["one"]
        with pytest.raises(grpc.aio.AioRpcError):
            await served.ask.ReadSignals(service.ListSignalsRequest(page_size=7), timeout=0.5)


async def test_a_new_signal_is_seen_as_soon_as_its_bell_has_rung(served: Any) -> None:
    await publish(served.database, [a_signal("one")])
    for number in range(20):
        name = f"new-{number}"
        await publish(served.database, [a_signal(name, composite_score=80.0 + number / 10)])
        position = (await served.store.feed_state()).position

        async def rung(position: int = position) -> bool:
            return bool(served.feed.place() and served.feed.place().position == position)

        await eventually(rung)
        assert (await ids(served))[0] == name


async def test_what_retention_took_is_gone_from_remembered_pages(serve_feed: Any) -> None:
    served = await serve_feed(poll_seconds=0.1)
    await publish(served.database, [a_signal("one")], utc_now() - timedelta(days=20))
    assert await ids(served) == ["one"]
    forget(served.database, 10.0)

    async def gone() -> bool:
        return await ids(served) == []

    await eventually(gone)


async def test_what_retention_has_said_to_be_gone_is_on_no_page_though_it_is_still_there(serve_feed: Any) -> None:
    served = await serve_feed(poll_seconds=0.1)
    await publish(
        served.database,
        [
            a_signal("old", composite_score=90.0, fact_id="a fact"),
            a_signal("new", composite_score=60.0, fact_id="a fact"),
        ],
    )
    assert await ids(served) == ["old", "new"]
    async with served.database.begin() as connection:
        await connection.execute(text("UPDATE signals.feed SET trimmed_position = 1"))  # as retention begins

    async def known() -> bool:
        return bool(served.feed.place() and served.feed.place().trimmed_position == 1)

    await eventually(known)
    assert await ids(served) == ["new"]
    assert await ids(served, collapse=service.Collapse.FACT) == ["new"]


async def test_while_the_bell_is_broken_every_page_is_read_anew(served: Any) -> None:
    await publish(served.database, [a_signal("one")])
    await eventually(lambda: certain(served))
    assert await ids(served) == ["one"]
    certainty = served.feed.place().certainty
    await end_other_connections(served)
    await publish(served.database, [a_signal("two", composite_score=90.0)])

    async def seen() -> bool:
        return await ids(served) == ["two", "one"]

    await eventually(seen)

    async def certain_anew() -> bool:
        return bool(served.feed.place() and served.feed.place().certainty > certainty)

    await eventually(certain_anew)
    assert await ids(served) == ["two", "one"]


async def test_a_database_that_comes_back_from_an_older_copy_is_believed(serve_feed: Any) -> None:
    served = await serve_feed(poll_seconds=0.1)
    await publish(served.database, [a_signal("one"), a_signal("two")])
    assert set(await ids(served)) == {"one", "two"}
    async with served.database.begin() as connection:
        await connection.execute(text("DELETE FROM signals.signal"))
        await connection.execute(text("UPDATE signals.feed SET position = 0"))

    async def doubted() -> bool:
        return not await certain(served)

    await eventually(doubted)
    assert await ids(served) == []
    await publish(served.database, [a_signal("three"), a_signal("four")])
    assert set(await ids(served)) == {"three", "four"}


async def test_a_connection_that_broke_unseen_is_not_the_callers_concern(served: Any) -> None:
    await publish(served.database, [a_signal("one")])
    assert await ids(served) == ["one"]
    await end_other_connections(served)
    assert await ids(served, page_size=7) == ["one"]


async def test_a_caller_who_has_the_page_is_sent_nothing_until_it_changes(served: Any) -> None:
    await publish(served.database, [a_signal("one")])
    call = served.ask.ReadSignals(service.ListSignalsRequest(market=["spreads"]))
    await call
    etag = dict(await call.initial_metadata())["etag"]

    async def body() -> bytes:
        known = ((reply.IF_NONE_MATCH, etag),)
        answer = await served.ask.ReadSignals(service.ListSignalsRequest(market=["spreads"]), metadata=known)
        return bytes(answer.data)

    assert await body() == b""
    await publish(served.database, [a_signal("elsewhere", market="totals")])
    assert await body() == b""
    await publish(served.database, [a_signal("two")])
    await eventually(body)


async def end_other_connections(served: Any) -> None:
    """Ends every connection to the database but the one that asks for it, as a restart would."""
    async with served.database.begin() as connection:
        await connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()"
            )
        )

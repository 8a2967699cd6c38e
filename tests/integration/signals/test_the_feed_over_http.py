"""The feed by plain HTTP, as the gateway gets it: the same pages, tags, guard and errors as over gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from stratum.signals.v1.signals_service_pb2 import ListSignalsRequest

from deploy.local.process import free_port
from services.shared.asgi import AsgiServer
from services.shared.principal import Guard, Principal
from services.shared.server import Interceptor
from services.shared.testing import RING, eventually, vouched
from services.signals.api import SignalsApi
from services.signals.feed_testing import a_signal, publish
from services.signals.over_http import METHOD, FeedOverHttp
from services.signals.rules.settings import RuleSettings
from services.signals.store import Page, SignalStore

PATH = "/api/v1/intel/signals"


@dataclass(frozen=True, slots=True)
class OverHttp:
    """The running server, and a session at its address."""

    session: aiohttp.ClientSession

    async def get(self, query: str = "", request_id: str = "abc", **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Status, body and headers of an answer to somebody whom the gateway vouches for."""
        who = Principal(
            method=METHOD,
            expires_at=time.time() + 60,
            account_id="acc_1",
            key_id="key_1",
            scopes=("signals:read",),
            request_id="abc",
        )
        given = {**vouched(who), "x-request-id": request_id}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.get(f"{PATH}?{query}", headers=given) as answer:
            return answer.status, await answer.read(), {name.lower(): value for name, value in answer.headers.items()}


@pytest.fixture
async def over_http(served: Any) -> AsyncIterator[OverHttp]:
    """The pages of `served`."""
    port = free_port()
    app = FeedOverHttp(SignalsApi(served.store, served.feed, RuleSettings()), Interceptor(10.0, Guard(RING)))
    server = AsgiServer(app, "127.0.0.1", port, drain_seconds=1.0)
    running = asyncio.create_task(server.serve())

    async def started() -> bool:
        return server.started

    await eventually(started)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        yield OverHttp(session)
    server.stop()
    await running


async def test_a_page_is_byte_by_byte_that_of_grpc(served: Any, over_http: OverHttp) -> None:
    await publish(served.database, [a_signal("one"), a_signal("two", market="totals"), a_signal("three")])
    served.feed.received()
    for query, asked in (("", {}), ("page_size=1", {"page_size": 1}), ("market=totals", {"market": ["totals"]})):
        call = served.ask.ReadSignals(ListSignalsRequest(**asked))
        body, beside = await call, dict(await call.initial_metadata())
        status, data, headers = await over_http.get(query)
        assert (status, data) == (200, body.data)
        assert headers["etag"] == beside["etag"]
        assert headers["content-type"] == "application/json"
        assert "x-data-age" in headers


async def test_what_the_caller_has_is_not_sent_and_the_gateway_is_told(served: Any, over_http: OverHttp) -> None:
    await publish(served.database, [a_signal("one")])
    _, _, headers = await over_http.get()
    status, data, again = await over_http.get(if_none_match=f'W/"older", {headers["etag"]}')
    assert (status, data, again["x-stratum-not-modified"], again["etag"]) == (200, b"", "1", headers["etag"])


@pytest.mark.parametrize(
    ("query", "headers", "status", "error"),
    [
        ("page_size=501", {}, 400, b'{"code":3,"message":"page_size is from 1 to 500, not 501","details":['),
        ("teir=HIGH", {}, 400, b'{"code":3,"message":"malformed request: teir is no parameter of this","details":['),
        ("page_token=abc", {}, 400, b'{"code":3,"message":"page_token is not one of ours","details":['),
        (
            "",
            {"x_stratum_principal": ""},
            401,
            b'{"code":16,"message":"the caller is not who the call says","details":[',
        ),
        (
            "",
            {"request_id": "another"},
            401,
            b'{"code":16,"message":"the caller was let in to another call","details":[',
        ),
    ],
)
async def test_a_refusal_is_the_status_as_the_transcoder_writes_it(
    over_http: OverHttp, query: str, headers: dict[str, str], status: int, error: bytes
) -> None:
    answered, data, _ = await over_http.get(query, **headers)
    assert (answered, data[: len(error)]) == (status, error)
    assert b'"@type":"type.googleapis.com/google.rpc.ErrorInfo"' in data
    assert data.endswith(b"]}")  # where the gateway adds the request's id


class BrokenStore(SignalStore):
    """A store with a fault in it."""

    async def page(self, *_: object, **__: object) -> Page:
        raise RuntimeError("hunter2")


async def test_the_text_of_a_bug_reaches_nobody(served: Any) -> None:
    api = SignalsApi(BrokenStore(served.database), served.feed, RuleSettings())
    sent: list[Any] = []

    async def send(event: Any) -> None:
        sent.append(event)

    async def receive() -> Any:
        raise AssertionError("a GET has no body")

    await FeedOverHttp(api, Interceptor(10.0, guard=None))({"headers": [], "query_string": b""}, receive, send)
    assert sent[0]["status"] == 500
    assert sent[1]["body"].startswith(b'{"code":13,"message":"internal error","details":[')
    assert b"hunter2" not in sent[1]["body"]

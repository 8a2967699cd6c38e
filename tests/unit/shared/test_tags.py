"""What the interceptor says beside an answer, in a server inside this process: headers, tags, nothing twice."""

# ruff: noqa: ARG002 - a handler has the parameters of a handler, whatever it does with them
from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from google.api.httpbody_pb2 import HttpBody
from stratum.signals.v1 import signals_service_pb2 as service
from stratum.signals.v1.signals_service_pb2_grpc import (
    SignalsServiceServicer,
    SignalsServiceStub,
    add_SignalsServiceServicer_to_server,
)

from services.shared import reply
from services.shared.server import Interceptor

OWN = reply.weak(b"what determines it")


class Answers(SignalsServiceServicer):
    """A typed answer, one that is named by its handler, and one for our own services only."""

    def __init__(self) -> None:
        self.steps = ["first"]

    async def ExplainSignal(self, request: Any, context: Any) -> service.ExplainSignalResponse:  # noqa: N802
        reply.say("x-data-age", "2.5")
        return service.ExplainSignalResponse(steps=self.steps)

    async def ReadSignals(self, request: Any, context: Any) -> HttpBody:  # noqa: N802
        reply.tag(OWN)
        return HttpBody(content_type="application/json", data=b"{}")

    async def ListSignals(self, request: Any, context: Any) -> service.ListSignalsResponse:  # noqa: N802
        return service.ListSignalsResponse(next_page_token="further")


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
async def ask(answers: Answers) -> AsyncIterator[Any]:
    server = grpc.aio.server(interceptors=[Interceptor(default_deadline_seconds=5.0, guard=None)])
    add_SignalsServiceServicer_to_server(answers, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield SignalsServiceStub(channel)
    await server.stop(0)


async def said(method: Any, request: Any, if_none_match: str = "") -> tuple[Any, dict[str, str]]:
    """The answer and its headers."""
    call = method(request, metadata=((reply.IF_NONE_MATCH, if_none_match),) if if_none_match else ())
    return await call, dict(await call.initial_metadata())


async def test_a_typed_answer_is_named_by_its_bytes(ask: Any, answers: Answers) -> None:
    answer, headers = await said(ask.ExplainSignal, service.ExplainSignalRequest())
    assert list(answer.steps) == ["first"]
    assert headers["etag"] == reply.weak(answer.SerializeToString())
    answers.steps = ["other"]
    assert (await said(ask.ExplainSignal, service.ExplainSignalRequest()))[1]["etag"] != headers["etag"]


async def test_what_a_handler_says_goes_out_beside_the_answer(ask: Any) -> None:
    _, headers = await said(ask.ExplainSignal, service.ExplainSignalRequest())
    assert headers["x-data-age"] == "2.5"
    assert reply.NOT_MODIFIED not in headers


async def test_an_answer_that_the_caller_has_is_empty_and_says_so(ask: Any) -> None:
    _, headers = await said(ask.ExplainSignal, service.ExplainSignalRequest())
    answer, again = await said(ask.ExplainSignal, service.ExplainSignalRequest(), f'W/"older", {headers["etag"]}')
    assert answer == service.ExplainSignalResponse()
    assert again == {**headers, reply.NOT_MODIFIED: "1"}


async def test_a_body_that_the_caller_has_keeps_its_type_only(ask: Any) -> None:
    body, headers = await said(ask.ReadSignals, service.ListSignalsRequest(), OWN)
    assert (body.content_type, body.data) == ("application/json", b"")
    assert (headers["etag"], headers[reply.NOT_MODIFIED]) == (OWN, "1")


async def test_an_answer_that_has_changed_is_sent_whole(ask: Any) -> None:
    body, headers = await said(ask.ReadSignals, service.ListSignalsRequest(), 'W/"older"')
    assert (body.data, headers["etag"]) == (b"{}", OWN)
    assert reply.NOT_MODIFIED not in headers


async def test_what_our_own_services_ask_has_no_tag(ask: Any) -> None:
    answer, headers = await said(ask.ListSignals, service.ListSignalsRequest(), "*")
    assert answer.next_page_token == "further"
    assert "etag" not in headers

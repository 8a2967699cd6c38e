"""The interceptor, in a server inside this process: what callers are told when something goes wrong."""

# ruff: noqa: ARG002 - a handler has the parameters of a handler, whatever it does with them
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status
from prometheus_client import REGISTRY
from stratum.common.v1.error_reason_pb2 import ErrorReason

from services.shared import errors
from services.shared.server import Interceptor
from services.shared.testing import eventually

SERVICE = "stratum.test.v1.TestService"


class Handlers:
    """Unary and streaming methods that end in every way there is. Requests and answers are bare bytes."""

    def __init__(self) -> None:
        self.finished = asyncio.Event()

    async def fine(self, request: bytes, context: Any) -> bytes:
        return request

    async def refuse(self, request: bytes, context: Any) -> bytes:
        try:
            raise errors.NotFound(ErrorReason.SIGNAL_NOT_FOUND, "no signal abc", signal_id="abc")
        finally:
            self.finished.set()

    async def crash(self, request: bytes, context: Any) -> bytes:
        raise RuntimeError("postgresql://signals:hunter2@db")

    async def dawdle(self, request: bytes, context: Any) -> bytes:
        await asyncio.Event().wait()
        return request

    async def time_out(self, request: bytes, context: Any) -> bytes:
        raise TimeoutError("of something inside, not of the call")

    async def abort(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not here")
        return request

    async def tell_id(self, request: bytes, context: Any) -> bytes:
        return str(structlog.contextvars.get_contextvars()["request_id"]).encode()

    async def count(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(3):
            yield str(number).encode()

    async def count_and_refuse(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"0"
        raise errors.ResourceExhausted(ErrorReason.TOO_MANY_STREAMS, "too many")

    async def count_and_crash(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"0"
        raise RuntimeError("hunter2")

    async def write_and_refuse(self, request: bytes, context: Any) -> None:
        await context.write(b"0")
        raise errors.ResourceExhausted(ErrorReason.TOO_MANY_STREAMS, "too many")


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
async def channel(handlers: Handlers) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(interceptors=[Interceptor(default_deadline_seconds=0.2, guard=None)])
    unary = ("fine", "refuse", "crash", "dawdle", "time_out", "abort", "tell_id")
    streaming = ("count", "count_and_refuse", "count_and_crash", "write_and_refuse")
    methods = {name: grpc.unary_unary_rpc_method_handler(getattr(handlers, name)) for name in unary}
    methods |= {name: grpc.unary_stream_rpc_method_handler(getattr(handlers, name)) for name in streaming}
    methods["read"] = grpc.unary_unary_rpc_method_handler(handlers.fine, request_deserializer=ErrorInfo.FromString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as opened:
        yield opened
    await server.stop(0)


async def call(channel: grpc.aio.Channel, method: str, **given: Any) -> bytes:
    answer: bytes = await channel.unary_unary(f"/{SERVICE}/{method}")(b"hello", **given)
    return answer


async def refusal(channel: grpc.aio.Channel, method: str, **given: Any) -> tuple[grpc.aio.AioRpcError, ErrorInfo]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(channel, method, **given)
    return raised.value, info_of(raised.value)


def info_of(error: grpc.aio.AioRpcError) -> ErrorInfo:
    """The one ErrorInfo of an error; fails if there are none or more."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # an AioRpcError has the methods that are needed
    assert status is not None
    (detail,) = status.details
    info = ErrorInfo()
    assert detail.Unpack(info)
    return info


async def test_an_answer_passes_as_it_is(channel: grpc.aio.Channel):
    assert await call(channel, "fine") == b"hello"


async def test_a_request_whose_text_is_none_is_the_callers_fault(channel: grpc.aio.Channel):
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await channel.unary_unary(f"/{SERVICE}/read")(b"\x0a\x01\xff")
    assert (raised.value.code(), info_of(raised.value).reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")


async def test_a_domain_error_is_told_in_full(channel: grpc.aio.Channel):
    error, info = await refusal(channel, "refuse", metadata=(("x-request-id", "abc-1"),))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "no signal abc"
    assert (info.reason, info.domain) == ("SIGNAL_NOT_FOUND", "stratum")
    assert dict(info.metadata) == {"signal_id": "abc", "request_id": "abc-1"}


async def test_a_handler_that_refuses_has_cleaned_up_before_the_caller_knows(
    channel: grpc.aio.Channel, handlers: Handlers
):
    await refusal(channel, "refuse")
    assert handlers.finished.is_set()


async def test_a_bug_is_logged_whole_and_told_without_a_word_of_it(channel: grpc.aio.Channel):
    with structlog.testing.capture_logs() as logged:
        error, info = await refusal(channel, "crash")
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == "internal error"
    assert info.reason == "INTERNAL"
    assert "hunter2" not in repr(error)
    (line,) = [line for line in logged if line["event"] == "failed"]
    assert "hunter2" in str(line["exc_info"])


async def test_a_call_without_a_deadline_gets_one(channel: grpc.aio.Channel):
    error, info = await refusal(channel, "dawdle")
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert info.reason == "DEADLINE_EXCEEDED"


async def test_a_deadline_of_the_caller_is_the_one_that_counts(channel: grpc.aio.Channel):
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(channel, "dawdle", timeout=0.5)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert loop.time() - began > 0.4


async def test_a_timeout_inside_a_handler_is_a_bug_and_no_deadline(channel: grpc.aio.Channel):
    error, _ = await refusal(channel, "time_out")
    assert error.code() is grpc.StatusCode.INTERNAL


async def test_an_abort_by_the_handler_itself_passes(channel: grpc.aio.Channel):
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(channel, "abort")
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert raised.value.details() == "not here"


async def test_a_request_id_is_kept_through_the_call(channel: grpc.aio.Channel):
    assert await call(channel, "tell_id", metadata=(("x-request-id", "abc-1"),)) == b"abc-1"


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, "a;b"])
async def test_a_missing_or_odd_request_id_is_replaced(channel: grpc.aio.Channel, given: str):
    metadata = (("x-request-id", given),) if given else ()
    minted = (await call(channel, "tell_id", metadata=metadata)).decode()
    assert len(minted) == 32
    assert minted != given


async def test_a_stream_passes_as_it_is(channel: grpc.aio.Channel):
    assert [part async for part in channel.unary_stream(f"/{SERVICE}/count")(b"")] == [b"0", b"1", b"2"]


@pytest.mark.parametrize(
    ("method", "code", "reason"),
    [
        ("count_and_refuse", grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS"),
        ("write_and_refuse", grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS"),
        ("count_and_crash", grpc.StatusCode.INTERNAL, "INTERNAL"),
    ],
)
async def test_an_error_in_a_stream_is_told_like_any_other(
    channel: grpc.aio.Channel, method: str, code: grpc.StatusCode, reason: str
):
    stream = channel.unary_stream(f"/{SERVICE}/{method}")(b"")
    assert await stream.read() == b"0"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stream.read()
    assert raised.value.code() is code
    assert info_of(raised.value).reason == reason
    assert "hunter2" not in repr(raised.value)


@pytest.mark.parametrize(
    ("method", "code"),
    [("fine", "OK"), ("refuse", "NOT_FOUND"), ("crash", "INTERNAL"), ("dawdle", "DEADLINE_EXCEEDED")],
)
async def test_every_end_is_counted_under_its_code(channel: grpc.aio.Channel, method: str, code: str):
    labels = {"method": f"TestService/{method}", "code": code}
    before = REGISTRY.get_sample_value("stratum_requests_total", labels) or 0.0
    await asyncio.gather(call(channel, method), return_exceptions=True)

    async def counted() -> bool:
        return (REGISTRY.get_sample_value("stratum_requests_total", labels) or 0.0) > before

    # The caller has its answer before the server is done with the call.
    assert await eventually(counted)

"""Nothing is followed where nothing is asked for; elsewhere a batch goes on with every trace that meets in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import grpc.aio
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.shared import tracing
from services.shared.config import ServiceConfig
from services.shared.server import Interceptor
from services.shared.testing import settings

ONE, OTHER = f"00-{1:032x}-{1:016x}-01", f"00-{2:032x}-{2:016x}-01"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Everything is followed, and what ended can be looked at."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def names(spans: InMemorySpanExporter) -> list[str]:
    return [span.name for span in spans.get_finished_spans()]


def test_without_an_endpoint_nothing_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tracing.ENDPOINT_VARIABLE, raising=False)
    assert not tracing.configure("test", settings(ServiceConfig))
    with tracing.trace("poll"), tracing.span("record"), tracing.consuming("consensus", "OBSERVATIONS", [ONE]):
        assert (tracing.traceparent(), tracing.trace_id(), tracing.onward(ONE)) == (None, None, None)
    assert tracing.client_interceptors() == []


def test_a_part_is_followed_only_inside_of_what_is_followed(spans: InMemorySpanExporter) -> None:
    with tracing.span("publish"):
        tracing.annotate(messages=1)
    with tracing.trace("poll"), tracing.span("publish"):
        tracing.annotate(messages=3, unknown=None)
    assert names(spans) == ["publish", "poll"]
    assert dict(spans.get_finished_spans()[0].attributes or {}) == {"messages": 3}


async def test_a_coroutine_function_can_be_a_part(spans: InMemorySpanExporter) -> None:
    @tracing.traced("record")
    async def record(number: int) -> int:
        return number + 1

    with tracing.trace("poll"):
        assert await record(1) == 2
    assert names(spans) == ["record", "poll"]


def test_a_failure_ends_a_span_with_its_name_and_not_with_its_text(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="k3y"), tracing.trace("poll"):
        raise ValueError("apiKey=k3y")
    (span,) = spans.get_finished_spans()
    assert span.status.description == "ValueError"
    assert "k3y" not in span.to_json()


def test_a_batch_goes_on_with_every_trace_that_meets_in_it(spans: InMemorySpanExporter) -> None:
    with tracing.consuming("consensus", "OBSERVATIONS", [None, ONE, OTHER, ONE]):
        carried = [tracing.onward(ONE), tracing.onward(OTHER), tracing.onward("another")]
        current = tracing.trace_id()
    assert [None if each is None else int(each.split("-")[1], 16) for each in carried] == [1, 2, None]
    assert current == f"{1:032x}"
    assert tracing.onward(ONE) is None
    for span in spans.get_finished_spans():
        assert span.parent is not None
        (link,) = span.links
        assert {span.context.trace_id, link.context.trace_id} == {1, 2}


@pytest.mark.parametrize("carried", [[None, None], ["no trace at all"], []])
def test_a_batch_that_carries_nothing_is_not_followed(spans: InMemorySpanExporter, carried: list[str | None]) -> None:
    with tracing.consuming("consensus", "OBSERVATIONS", carried):
        assert tracing.traceparent() is None
    assert names(spans) == []


async def test_an_rpc_is_part_of_its_callers_trace(spans: InMemorySpanExporter) -> None:
    server = grpc.aio.server(interceptors=[Interceptor(5.0, guard=None)])
    inside: list[str | None] = []

    async def answer(request: bytes, _context: object) -> bytes:
        inside.append(tracing.trace_id())
        return request

    handler = grpc.method_handlers_generic_handler(
        "stratum.test.v1.T", {"Ask": grpc.unary_unary_rpc_method_handler(answer)}
    )
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", interceptors=tracing.client_interceptors())
        async with channel:
            ask = channel.unary_unary("/stratum.test.v1.T/Ask")
            with tracing.trace("consensus batch"):
                here = tracing.trace_id()
                await ask(b"", timeout=5.0)
            await ask(b"", timeout=5.0)
    finally:
        await server.stop(None)
    assert inside[0] == here
    assert inside[1] not in (here, None)
    # The caller's side of the first call, and the other side of both.
    assert Counter(names(spans)) == {"consensus batch": 1, "T/Ask": 3}

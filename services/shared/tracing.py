"""Traces: one from the provider's call to the published signal, and one span for every unary RPC.

Without an endpoint only OpenTelemetry's small API is imported, and every function here returns at its first line. With
one, the share `trace_ratio` of polls and of RPCs is followed; whoever goes on with a followed one follows it as well.
What is not followed carries nothing: no header, no column, no span.

A message carries its context as the W3C's `traceparent`, which the outbox keeps between commit and publishing. A batch
of messages is one span, child of the first followed message's, with links to the others'; where several traces meet in
a batch each has a span of its own, so that none of them ends there.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import grpc.aio
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from services.shared.config import ServiceConfig

P = ParamSpec("P")
R = TypeVar("R")
Value = str | bool | int | float

#: The W3C's name for a trace's context, in gRPC metadata and in the bus's headers.
TRACEPARENT = "traceparent"
#: Read where the setting is empty, as every other program with OpenTelemetry in it does.
ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
#: Spans wait in memory for the collector; beyond so many they are dropped.
QUEUED_SPANS = 4096
#: At the end of the process the collector gets this long to take the last spans.
CLOSE_SECONDS = 2.0
#: A batch in which more traces meet than this follows the first so many.
TRACES_IN_A_BATCH = 16

_NOTHING: AbstractContextManager[None] = nullcontext()
_tracer: Tracer | None = None
_provider: TracerProvider | None = None
#: In a batch: what a message carried, and what is carried on because of it.
_onward: ContextVar[Mapping[str, str] | None] = ContextVar("onward", default=None)


def configure(service: str, config: ServiceConfig) -> bool:
    """Begins to follow, if an endpoint is set; says whether one is. Called once, by `run`."""
    global _tracer, _provider  # noqa: PLW0603 - one process, one tracer
    endpoint = config.trace_endpoint or os.environ.get(ENDPOINT_VARIABLE, "")
    if not endpoint:
        return False
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - paid for only where traces are sent
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased  # noqa: PLC0415

    resource = Resource.create({"service.name": service, "service.namespace": "stratum"})
    _provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(config.trace_ratio)), resource=resource, shutdown_on_exit=False
    )
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=CLOSE_SECONDS)
    _provider.add_span_processor(BatchSpanProcessor(exporter, QUEUED_SPANS, schedule_delay_millis=1000))
    _tracer = _provider.get_tracer("stratum")
    return True


def close() -> None:
    """Sends what is left, in a short time, and follows nothing more."""
    global _tracer, _provider
    provider, _tracer, _provider = _provider, None, None
    if provider is not None:
        provider.force_flush(round(CLOSE_SECONDS * 1000))
        provider.shutdown()


def span(name: str, **attributes: Value) -> AbstractContextManager[object]:
    """A part of what is being followed; nothing where nothing is."""
    if _tracer is None:
        return _NOTHING
    return _started(name, attributes=attributes) if get_current_span().is_recording() else _NOTHING


def trace(name: str, **attributes: Value) -> AbstractContextManager[object]:
    """The beginning of a trace, if its turn has come to be followed; inside another one, a part of it."""
    return _NOTHING if _tracer is None else _started(name, attributes=attributes)


def traced(name: str) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
    """Makes a coroutine function a part of whatever is being followed when it is called."""

    def decorate(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        async def followed(*args: P.args, **kwargs: P.kwargs) -> R:
            with span(name):
                return await function(*args, **kwargs)

        @wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
            return function(*args, **kwargs) if _tracer is None else followed(*args, **kwargs)

        return called

    return decorate


def annotate(**attributes: Value | None) -> None:
    """Says something about what is being followed; what is None is not known, and left out."""
    if _tracer is None:
        return
    get_current_span().set_attributes({name: value for name, value in attributes.items() if value is not None})


def traceparent() -> str | None:
    """The context to carry on, of what is being followed; None where nothing is."""
    if _tracer is None:
        return None
    return _written(get_current_span())


def trace_id() -> str | None:
    """By what the trace is found, for log lines; None where nothing is followed."""
    carried = traceparent()
    return None if carried is None else carried.split("-")[1]


def consuming(stage: str, stream: str, carried: Sequence[str | None]) -> AbstractContextManager[object]:
    """A batch of messages, by what each carried; nothing where none of them is followed."""
    if _tracer is None:
        return _NOTHING
    distinct = list(dict.fromkeys(context for context in carried if context))
    return _batch(stage, stream, len(carried), distinct[:TRACES_IN_A_BATCH]) if distinct else _NOTHING


def onward(carried: str) -> str | None:
    """What a message is to carry that is sent because of one which carried this; None where its trace ends here."""
    return (_onward.get() or {}).get(carried)


def serving(method: str, metadata: Sequence[tuple[str, str | bytes]]) -> AbstractContextManager[object]:
    """An RPC that is being answered: part of the caller's trace, or the beginning of one."""
    if _tracer is None:
        return _NOTHING
    given = next((value for key, value in metadata if key == TRACEPARENT and isinstance(value, str)), None)
    attributes: dict[str, Value] = {"rpc.system": "grpc", "rpc.method": method}
    return _started(method, context=_read(given) if given else None, kind=SpanKind.SERVER, attributes=attributes)


def client_interceptors() -> list[grpc.aio.ClientInterceptor]:
    """What a channel needs so that the other side goes on with our trace; empty where nothing is followed."""
    return [] if _tracer is None else [_Caller()]


class _Caller(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        if not get_current_span().is_recording():
            return await continuation(client_call_details, request)
        method = client_call_details.method
        name = (method.decode() if isinstance(method, bytes) else method).rpartition(".")[2]
        with _started(name, kind=SpanKind.CLIENT, attributes={"rpc.system": "grpc"}) as here:
            metadata = grpc.aio.Metadata(*(client_call_details.metadata or ()))
            metadata[TRACEPARENT] = _written(here) or ""
            call = await continuation(client_call_details._replace(metadata=metadata), request)
            here.set_attribute("rpc.grpc.status_code", (await call.code()).value[0])
            return call


@contextmanager
def _started(
    name: str,
    *,
    context: Context | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, Value] | None = None,
    links: Sequence[Link] = (),
) -> Iterator[Span]:
    """A span that is the current one; a failure ends it with the error's name, whose text may hold anything."""
    assert _tracer is not None
    with _tracer.start_as_current_span(
        name,
        context=context,
        kind=kind,
        attributes=attributes,
        links=links,
        record_exception=False,
        set_status_on_exception=False,
    ) as started:
        try:
            yield started
        except BaseException as error:
            started.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


@contextmanager
def _batch(stage: str, stream: str, messages: int, distinct: Sequence[str]) -> Iterator[None]:
    contexts = {carried: context for carried in distinct if (context := _read(carried)) is not None}
    links = {carried: Link(get_current_span(context).get_span_context()) for carried, context in contexts.items()}
    attributes: dict[str, Value] = {
        "messaging.system": "nats",
        "messaging.destination.name": stream,
        "messaging.batch.message_count": messages,
    }
    carried_on: dict[str, str] = {}
    with ExitStack() as spans:
        # The last one started is the current one, whose parts the batch's parts become: that of the first message.
        for carried, context in reversed(contexts.items()):
            others = [link for other, link in links.items() if other != carried]
            started = spans.enter_context(
                _started(f"{stage} batch", context=context, kind=SpanKind.CONSUMER, attributes=attributes, links=others)
            )
            if (written := _written(started)) is not None:
                carried_on[carried] = written
        token = _onward.set(carried_on)
        try:
            yield
        finally:
            _onward.reset(token)


def _written(of: Span) -> str | None:
    context = of.get_span_context()
    if not (context.is_valid and context.trace_flags.sampled):
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"


def _read(carried: str) -> Context | None:
    """The context that was carried; None for what is none."""

    context = TraceContextTextMapPropagator().extract({TRACEPARENT: carried})
    return context if get_current_span(context).get_span_context().is_valid else None

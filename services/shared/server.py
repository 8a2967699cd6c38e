"""The one way to run a service: gRPC with health and reflection, metrics beside it, errors told once, a clean end."""

from __future__ import annotations

import asyncio
import gc
import inspect
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from contextvars import Token
from typing import Any, NoReturn, Self, TypeVar
from uuid import uuid4

import grpc
import grpc.aio
import psycopg
import sqlalchemy.exc
import structlog
import uvloop
from aiohttp import web
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from stratum.common.v1.access_pb2 import Access
from stratum.common.v1.error_reason_pb2 import ErrorReason

from services.shared import contracts, metrics, principal, reply, tracing
from services.shared.config import ServiceConfig, load
from services.shared.errors import DOMAIN, DeadlineExceeded, DomainError, InvalidArgument, Unavailable
from services.shared.logging import configure_logging, logger, masked
from services.shared.principal import Guard
from services.shared.tasks import end_tasks

log = logger(__name__)

Registration = Callable[[grpc.aio.Server], None]
#: Returns when the service may be asked, and raises when it may not.
ReadyCheck = Callable[[], Awaitable[None]]

REQUEST_ID = "x-request-id"
#: The database is away, starts, or gave up on a statement: the same call may succeed after a pause.
DATABASE_AWAY = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.TimeoutError, psycopg.OperationalError)
_REQUEST_ID_FORM = re.compile(r"[A-Za-z0-9._-]{1,128}")
_READINESS_PERIOD_SECONDS = 2.0
_READINESS_DEADLINE_SECONDS = 5.0

Config = TypeVar("Config", bound=ServiceConfig)


def run(config_class: type[Config], main: Callable[[Config], Coroutine[Any, Any, None]]) -> None:
    """What `python -m services.<name>` does: settings, logs, and the service's main until it ends."""
    config = load(config_class)
    name = config_class.__module__.split(".")[-2]
    configure_logging(name, config.log_level, config.log_format)
    # A message makes thousands of values at once and none in a cycle: at its own pace the collector would walk them,
    # and everything imported, again and again. What lives for long is the states of the events, a large heap without a
    # single cycle, so it is walked seldom.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    if tracing.configure(name, config):
        log.info("following", trace_ratio=config.trace_ratio)
    try:
        uvloop.run(main(config))
    finally:
        tracing.close()


async def serve(
    config: ServiceConfig,
    registrations: Sequence[Registration],
    service_names: Sequence[str],
    background: Sequence[Coroutine[Any, Any, None]] = (),
    ready: Sequence[ReadyCheck] = (),
    draining: Sequence[Callable[[], None]] = (),
    started: Callable[[int, int], None] | None = None,
    *,
    recorded: bool = False,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains: NOT_SERVING first, open calls get `drain_seconds`, then the end.

    `background` runs beside the server (a stage's `run`); one that fails, or ends, ends the process with its error.
    `draining` is called when the end begins, for streams that want to say why they stop.
    `recorded`: what is served is the recorded evening, which only test keys read.
    `started` is told the gRPC and the metrics port, which differ from the settings where those are 0.
    """
    if not config.principal_ring:
        log.warning("nobody is let in: STRATUM_PRINCIPAL_KEYS is not set")
    readiness = Readiness(ready)
    guard = Guard(config.principal_ring, recorded=recorded)
    server = grpc.aio.server(
        interceptors=[Interceptor(config.grpc_default_deadline_seconds, guard)],
        options=[
            ("grpc.so_reuseport", 0),  # a second process on the port is a mistake, and shall fail
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
            ("grpc.max_receive_message_length", 16 * 1024 * 1024),
        ],
    )
    for register in registrations:
        register(server)
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection([*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    stopping = stop_signal()
    async with AsyncExitStack() as stack:
        metrics_port = await serve_metrics(stack, config, readiness)
        # Until the first look is over nobody is well; gRPC's own beginning is that the whole server is.
        for name in ("", *service_names):
            await servicer.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
        grpc_port = server.add_insecure_port(f"{config.grpc_host}:{config.grpc_port}")
        await server.start()
        log.info("serving", grpc_port=grpc_port, metrics_port=metrics_port)
        tasks = [asyncio.create_task(coroutine) for coroutine in background]
        tasks.append(asyncio.create_task(_tell_health(servicer, ["", *service_names], readiness)))
        if started is not None:
            started(grpc_port, metrics_port)
        stop = asyncio.create_task(stopping.wait())
        try:
            done, _ = await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            log.info("draining", seconds=config.drain_seconds)
            readiness.draining = True
            for tell in draining:
                tell()
            await servicer.enter_graceful_shutdown()
            # Open calls end while the background still runs: a watch may be waiting for what a stage brings.
            await server.stop(config.drain_seconds)
            await end_tasks([stop, *tasks])
        for task in done - {stop}:
            if (error := task.exception()) is not None:
                raise error
            raise RuntimeError("a background task ended by itself")
        log.info("ended")


def stop_signal() -> asyncio.Event:
    """Set when SIGTERM or SIGINT arrives, which from now on do not end the process by themselves."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping


class Readiness:
    """Whether the service may be asked now: every check passes, and it is not draining."""

    def __init__(self, checks: Sequence[ReadyCheck]) -> None:
        self.draining = False
        self._checks = checks

    async def problems(self) -> list[str]:
        """Why it may not; empty when it may."""
        if self.draining:
            return ["draining"]
        outcomes = await asyncio.gather(*(self._problem(check) for check in self._checks))
        return [outcome for outcome in outcomes if outcome]

    @staticmethod
    async def _problem(check: ReadyCheck) -> str:
        try:
            async with asyncio.timeout(_READINESS_DEADLINE_SECONDS):
                await check()
        except TimeoutError:
            return f"{check.__qualname__}: no answer"
        except Exception as error:
            return f"{check.__qualname__}: {masked(str(error).partition(chr(10))[0]) or type(error).__name__}"
        return ""


async def _tell_health(servicer: health.aio.HealthServicer, names: Sequence[str], readiness: Readiness) -> None:
    before: list[str] | None = None
    while True:
        problems = await readiness.problems()
        if problems != before:
            log.info("readiness", ready=not problems, problems=problems)
            before = problems
            status = health_pb2.HealthCheckResponse.NOT_SERVING if problems else health_pb2.HealthCheckResponse.SERVING
            for name in names:
                await servicer.set(name, status)
        await asyncio.sleep(_READINESS_PERIOD_SECONDS)


async def serve_metrics(stack: AsyncExitStack, config: ServiceConfig, readiness: Readiness) -> int:
    """Answers `/metrics`, `/readyz` and `/livez` until the stack is closed; gives the port."""

    async def show_metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def show_ready(_request: web.Request) -> web.Response:
        problems = await readiness.problems()
        return web.json_response({"ready": not problems, "problems": problems}, status=503 if problems else 200)

    async def show_live(_request: web.Request) -> web.Response:
        return web.json_response({"live": True})

    application = web.Application()
    application.router.add_get("/metrics", show_metrics)
    application.router.add_get("/readyz", show_ready)
    application.router.add_get("/livez", show_live)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, config.metrics_host, config.metrics_port).start()
    port: int = runner.addresses[0][1]
    return port


class Interceptor(grpc.aio.ServerInterceptor):
    """Around every RPC, unary or streaming: who is asking, a request id, a deadline, a measurement, a place for errors.

    A DomainError becomes its status with one ErrorInfo. Everything else is logged whole and answered INTERNAL, without
    a word of its text. Handlers never abort by themselves: what follows an abort in a handler is not awaited by gRPC.
    """

    def __init__(self, default_deadline_seconds: float, guard: Guard | None) -> None:
        """Without a guard everybody is let in: for stand-ins in tests."""
        self._default_deadline = default_deadline_seconds
        self._guard = guard
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        # gRPC asks at every call, and a method's handler is the same for as long as the server lives.
        wrapped = self._wrapped.get(handler_call_details.method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            method = _Method(handler_call_details.method.removeprefix("/"))
            wrapped = self._wrapped[handler_call_details.method] = self._around(handler, method)
        return wrapped

    def _around(self, handler: grpc.RpcMethodHandler[Any, Any], method: _Method) -> grpc.RpcMethodHandler[Any, Any]:
        deserializer, serializer = _readable(handler.request_deserializer), handler.response_serializer
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(handler.unary_unary, method), deserializer, _unless_serialized(serializer)
            )
        if handler.stream_unary:
            return grpc.stream_unary_rpc_method_handler(
                self._unary(handler.stream_unary, method), deserializer, _unless_serialized(serializer)
            )
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(handler.unary_stream, method), deserializer, serializer
            )
        return grpc.stream_stream_rpc_method_handler(
            self._stream(handler.stream_stream, method), deserializer, serializer
        )

    def unary(self, behaviour: Any, full_name: str) -> Any:
        """The same around a handler that is not called by gRPC: `await it(request, call)`, where the call has of a
        gRPC context what is asked of it here. Answers bytes in place of a message whose bytes were needed."""
        return self._unary(behaviour, _Method(full_name))

    def _admit(self, method: _Method, call: _Call, request: object) -> None:
        if self._guard is not None:
            principal.current.set(self._guard.admit(method.full_name, call.metadata, call.request_id))
        if request is _UNREADABLE:
            raise InvalidArgument(ErrorReason.INVALID_ARGUMENT, "the request holds bytes that are no text")

    def _unary(self, behaviour: Any, method: _Method) -> Any:
        async def answer(request: Any, context: Any) -> Any:
            with _Call(context, method) as call, tracing.serving(method.name, call.metadata):
                try:
                    self._admit(method, call, request)
                    said = reply.Reply()
                    reply.current.set(said)
                    # A deadline of the caller's is gRPC's own business.
                    async with asyncio.timeout(
                        self._default_deadline if context.time_remaining() is None else None
                    ) as limit:
                        message = await behaviour(request, context)
                    if method.tagged:
                        message = _tagged(message, said, call.given(reply.IF_NONE_MATCH), method)
                    if said.headers:
                        await context.send_initial_metadata(said.headers)
                    return message
                except Exception as error:
                    late = isinstance(error, TimeoutError) and limit.expired()
                    await call.refuse(
                        DeadlineExceeded(ErrorReason.DEADLINE_EXCEEDED, "the call took too long") if late else error
                    )

        return answer

    def _stream(self, behaviour: Any, method: _Method) -> Any:
        async def write(request: Any, context: Any) -> None:
            with _Call(context, method) as call, metrics.open_streams.labels(method.name).track_inprogress():
                try:
                    self._admit(method, call, request)
                    await behaviour(request, context)
                except Exception as error:
                    await call.refuse(error)

        async def answer(request: Any, context: Any) -> AsyncIterator[Any]:
            with _Call(context, method) as call, metrics.open_streams.labels(method.name).track_inprogress():
                try:
                    self._admit(method, call, request)
                    async for response in behaviour(request, context):
                        yield response
                except Exception as error:
                    await call.refuse(error)

        # A handler yields its answers, as ours do, or writes them to the context, as gRPC's own health service does.
        return answer if inspect.isasyncgenfunction(behaviour) else write


#: In the place of a request that cannot be read. gRPC itself would answer that we have failed.
_UNREADABLE = object()


def _readable(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if deserialize is None:
        return None

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _UNREADABLE

    return read


class _Method:
    """What is the same for every call of one RPC, so that it is looked up once."""

    def __init__(self, full_name: str) -> None:
        self.full_name = full_name
        self.name = full_name.rpartition(".")[2]
        declared = contracts.by_full_name().get(full_name)
        #: Whether its answers carry an entity tag: what is read with a key, and not as a stream.
        self.tagged = (
            declared is not None
            and declared.verb == "GET"
            and declared.level in (Access.Level.PAID, Access.Level.KEY)
            and not declared.streaming
        )
        self.renders = declared.renders if declared is not None else ""
        self.seconds = metrics.request_seconds.labels(self.name)
        self.served = metrics.requests_total.labels(self.name, grpc.StatusCode.OK.name)


#: In place of an answer that the caller has. The transcoder takes a body without a content type for a fault.
_NO_BODY = HttpBody(content_type="application/json").SerializeToString()


def _tagged(message: Any, said: reply.Reply, if_none_match: str, method: _Method) -> Any:
    """What is sent of a message: itself, its bytes when they were needed for its tag, or nothing of it."""
    etag = said.etag
    if not etag:
        # The order of a map's entries is free; for the same answer to have the same tag it must not be.
        message = message.SerializeToString(deterministic=True)
        etag = reply.weak(message)
    said.headers.append((reply.ETAG, etag))
    if if_none_match and reply.has(if_none_match, etag):
        said.headers.append((reply.NOT_MODIFIED, "1"))
        return _NO_BODY if method.renders else b""
    return message


def _unless_serialized(serializer: Callable[[Any], bytes] | None) -> Callable[[Any], bytes] | None:
    if serializer is None:
        return None
    return lambda message: message if isinstance(message, bytes) else serializer(message)


class _Call:
    """One RPC under way: its request id in every log line, its time and its end in the metrics."""

    def __init__(self, context: Any, method: _Method) -> None:
        self._context = context
        self._method = method
        self._code = grpc.StatusCode.OK.name
        self._begun = time.perf_counter()
        self.metadata = tuple(context.invocation_metadata() or ())
        given = self.given(REQUEST_ID)
        self.request_id = given if _REQUEST_ID_FORM.fullmatch(given) else uuid4().hex
        self._tokens: Mapping[str, Token[Any]] = {}

    def given(self, name: str) -> str:
        """What the caller's metadata says under a name; empty where it says nothing."""
        value = next((value for key, value in self.metadata if key == name), "")
        return value if isinstance(value, str) else ""

    def __enter__(self) -> Self:
        self._tokens = structlog.contextvars.bind_contextvars(request_id=self.request_id, method=self._method.name)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            self._code = grpc.StatusCode.CANCELLED.name
        if self._code == grpc.StatusCode.OK.name:
            self._method.served.inc()
        else:
            metrics.requests_total.labels(self._method.name, self._code).inc()
        self._method.seconds.observe(time.perf_counter() - self._begun)
        structlog.contextvars.reset_contextvars(**self._tokens)

    async def refuse(self, error: Exception) -> NoReturn:
        """Answers with the error's status. Never returns: gRPC ends the call with an exception of its own."""
        if isinstance(error, grpc.aio.AbortError):
            self._code = self._context.code().name if self._context.code() else grpc.StatusCode.UNKNOWN.name
            raise error
        if isinstance(error, DATABASE_AWAY):
            log.warning("the database does not answer", error=type(error).__name__, detail=masked(str(error))[:200])
            error = Unavailable(ErrorReason.UNAVAILABLE, "the service cannot answer now; repeat the call after a pause")
        if isinstance(error, DomainError):
            log.info("refused", code=error.code.name, reason=error.reason_name, message=error.message)
            code, message, reason, metadata = error.code, error.message, error.reason_name, error.metadata
        else:
            log.error("failed", exc_info=error)
            code, message, reason, metadata = grpc.StatusCode.INTERNAL, "internal error", "INTERNAL", {}
        self._code = code.name
        await self._context.abort_with_status(
            status_of(code, message, reason, {**metadata, "request_id": self.request_id})
        )
        raise AssertionError("an abort does not return")


def status_of(code: grpc.StatusCode, message: str, reason: str, metadata: Mapping[str, str]) -> grpc.Status:
    """A status with exactly one ErrorInfo, as every error of ours leaves the process."""
    detail = AnyMessage()
    detail.Pack(ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata))
    return rpc_status.to_status(Status(code=code.value[0], message=message, details=[detail]))

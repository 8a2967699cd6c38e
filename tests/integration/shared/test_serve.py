"""The life of a service's process: ready when it may be asked, drained when told to end, ended when a part fails."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from stratum.common.v1.error_reason_pb2 import ErrorReason

from deploy.local.nats import NatsServer
from services.shared.bus import Bus, open_bus
from services.shared.config import ServiceConfig
from services.shared.database import Database, open_database
from services.shared.errors import Unavailable
from services.shared.server import ReadyCheck, serve
from services.shared.tasks import end_tasks
from services.shared.testing import channel_to, eventually, settings

SERVICE = "stratum.test.v1.TestService"


@dataclass
class Running:
    """A service that runs in this process, and what is needed to talk to it."""

    task: asyncio.Task[None] | None = None
    ports: asyncio.Future[tuple[int, int]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    leave: asyncio.Event = field(default_factory=asyncio.Event)

    def register(self, server: grpc.aio.Server) -> None:
        async def wait(request: bytes, context: Any) -> bytes:
            self.entered.set()
            await self.leave.wait()
            return request

        handler = grpc.method_handlers_generic_handler(SERVICE, {"Wait": grpc.unary_unary_rpc_method_handler(wait)})
        server.add_generic_rpc_handlers((handler,))

    async def start(
        self, *ready: ReadyCheck, background: tuple[Coroutine[Any, Any, None], ...] = (), **given: Any
    ) -> None:
        self.task = asyncio.create_task(
            serve(
                settings(ServiceConfig, **given),
                [self.register],
                [SERVICE],
                background=background,
                ready=ready,
                started=lambda *ports: self.ports.set_result(ports),
            )
        )
        await asyncio.wait([self.ports, self.task], return_when=asyncio.FIRST_COMPLETED)

    def channel(self) -> grpc.aio.Channel:
        return channel_to(self.ports.result()[0])

    async def get(self, path: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.ports.result()[1]}{path}") as answer,
        ):
            return answer.status, await answer.text()


@pytest.fixture
async def service() -> AsyncIterator[Running]:
    running = Running()
    yield running
    running.leave.set()
    if running.task is not None:
        await end_tasks([running.task])


async def test_a_service_is_ready_when_its_database_and_its_bus_are(service: Running, bus: Bus, database_for: Any):
    database: Database = await database_for("signals")
    await service.start(database.check, bus.check_connected, bus.check_syncs_writes)
    assert await service.get("/readyz") == (200, '{"ready": true, "problems": []}')
    assert (await service.get("/livez"))[0] == 200
    async with service.channel() as channel:
        health = health_pb2_grpc.HealthStub(channel)

        async def serving() -> bool:
            answer = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE))
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        await eventually(serving)


async def test_a_service_whose_broker_does_not_sync_is_alive_and_not_ready(service: Running, tmp_path: Any):
    with NatsServer(tmp_path, syncs_writes=False) as server:
        config = ServiceConfig(nats_url=server.url, nats_monitor_url=server.monitor_url)
        async with open_bus(config) as opened:
            await service.start(opened.check_syncs_writes)
            status, body = await service.get("/readyz")
            assert status == 503
            assert "sync_interval: always" in body
            assert (await service.get("/livez"))[0] == 200


async def test_a_service_whose_database_is_away_starts_and_is_not_ready(service: Running, database_for: Any):
    database: Database = await database_for("signals")
    wrong = database.engine.url.set(password="wrong").render_as_string(hide_password=False)

    async with open_database(settings(ServiceConfig, database_url=wrong)) as refused:
        await service.start(refused.check)
        status, body = await service.get("/readyz")
    assert status == 503
    assert "Database.check" in body


async def test_health_follows_readiness(service: Running):
    problem = asyncio.Event()

    async def check() -> None:
        if problem.is_set():
            raise Unavailable(ErrorReason.UNAVAILABLE, "away")

    await service.start(check)
    async with service.channel() as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        answers = (answer.status async for answer in watch)
        status = await anext(answers)
        while status != health_pb2.HealthCheckResponse.SERVING:
            status = await anext(answers)
        problem.set()
        assert await anext(answers) == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_told_to_end_it_finishes_what_it_began_and_takes_nothing_new(service: Running):
    await service.start(drain_seconds=10.0)
    assert service.task is not None
    async with service.channel() as channel, service.channel() as other:
        begun = asyncio.ensure_future(channel.unary_unary(f"/{SERVICE}/Wait")(b"begun"))
        await service.entered.wait()
        await other.channel_ready()
        os.kill(os.getpid(), signal.SIGTERM)

        async def refused() -> bool:
            call = asyncio.ensure_future(other.unary_unary(f"/{SERVICE}/Wait")(b"new", timeout=0.5))
            done = await asyncio.gather(call, return_exceptions=True)
            return isinstance(done[0], grpc.aio.AioRpcError) and done[0].code() is grpc.StatusCode.UNAVAILABLE

        await eventually(refused)
        assert (await service.get("/readyz"))[0] == 503
        assert not service.task.done()
        service.leave.set()
        assert await begun == b"begun"
    await asyncio.wait_for(service.task, 10.0)


async def test_a_call_that_outlives_the_drain_is_cut_off(service: Running):
    await service.start(drain_seconds=0.1)
    assert service.task is not None
    async with service.channel() as channel:
        begun = asyncio.ensure_future(channel.unary_unary(f"/{SERVICE}/Wait")(b"begun"))
        await service.entered.wait()
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.wait_for(service.task, 10.0)
        with pytest.raises(grpc.aio.AioRpcError):
            await begun


async def test_a_part_that_fails_ends_the_whole_with_its_error(service: Running):
    async def fails() -> None:
        raise ZeroDivisionError

    await service.start(background=(fails(),))
    assert service.task is not None
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(service.task, 10.0)


async def test_a_port_that_is_taken_is_refused(service: Running):
    await service.start()
    second = Running()
    await second.start(grpc_port=service.ports.result()[0])
    assert second.task is not None
    with pytest.raises(RuntimeError, match="bind"):
        await second.task


async def test_metrics_are_served_on_their_own_port(service: Running):
    await service.start()
    status, body = await service.get("/metrics")
    assert status == 200
    assert "stratum_requests_total" in body
    assert "stratum_stage_lag_messages" in body

"""The whole service as a process of its own: fed by the bus, asked over gRPC, told to stop."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import grpc.aio
from google.api.httpbody_pb2 import HttpBody
from stratum.signals.v1 import signals_service_pb2 as service
from stratum.signals.v1.signals_service_pb2_grpc import SignalsServiceStub

from deploy.local.process import free_port
from services.shared.bus import Bus
from services.shared.testing import PRINCIPAL_KEYS, channel_to, eventually
from services.signals.feed_testing import a_busy_evening, send

ROOT = Path(__file__).parents[3]


async def test_it_streams_what_the_rules_find_and_says_that_it_drains(
    database_for: Any, bus: Bus, nats_server: Any
) -> None:
    database, port = await database_for("signals"), free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.signals",
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}",
            "STRATUM_DATABASE_URL": database.engine.url.render_as_string(hide_password=False),
            "STRATUM_NATS_URL": nats_server.url,
            "STRATUM_NATS_MONITOR_URL": nats_server.monitor_url,
            "STRATUM_GRPC_PORT": str(port),
            "STRATUM_PRINCIPAL_KEYS": PRINCIPAL_KEYS,
            "STRATUM_METRICS_PORT": str(free_port()),
            "SIGNALS_FEED_PORT": str(free_port()),
            "STRATUM_LOG_LEVEL": "WARNING",
        },
    )
    try:
        async with channel_to(port) as channel:
            ask = SignalsServiceStub(channel)

            async def serves() -> bool:
                await ask.ListSignals(service.ListSignalsRequest(), wait_for_ready=True)
                return True

            await eventually(serves, within=30.0)
            stream = ask.StreamSignals(service.StreamSignalsRequest())
            await _read(stream)
            await send(bus, [board.observation for board in a_busy_evening()])
            assert b"event: signal\n" in (await _read(stream)).data
            process.terminate()
            assert (await _read(stream)).data == b'event: end\ndata: {"reason":"draining"}\n\n'
            assert await stream.code() == grpc.StatusCode.OK
        async with asyncio.timeout(20.0):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _read(stream: Any) -> HttpBody:
    async with asyncio.timeout(20.0):
        piece: HttpBody = await stream.read()
        return piece

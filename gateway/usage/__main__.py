"""Wiring only: settings, then the log, then billing; reads until told to stop."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import aiohttp
from stratum.billing.v1.metering_service_pb2_grpc import MeteringServiceStub

from gateway.usage import metrics
from gateway.usage.aside import AsideFile
from gateway.usage.config import Config
from gateway.usage.health import Health, Limits
from gateway.usage.offset import OffsetFile, OffsetFileError
from gateway.usage.reader import Reader
from gateway.usage.rotate import Rotation, reopen_at
from gateway.usage.sender import Sender
from gateway.usage.tail import Logs
from services.shared import client
from services.shared.logging import logger
from services.shared.server import Readiness, run, serve_metrics, stop_signal
from services.shared.tasks import end_tasks

log = logger(__name__)

#: A billing that is back is found again soon.
RECONNECT_MILLISECONDS = 2000


async def main(config: Config) -> None:
    """Reads the gateway's log until SIGTERM, then finishes its batch. Ends with 2 where it must not begin."""
    if not config.principal_ring:
        raise _refused("billing would let nobody in: STRATUM_PRINCIPAL_KEYS is not set")
    stopping = stop_signal()
    log_path = config.usage_log_folder / config.usage_log_file
    try:
        config.usage_log_folder.mkdir(parents=True, exist_ok=True)
        offsets = OffsetFile.open(config.usage_offset_file, config.usage_gateway, log_path)
    except (OffsetFileError, OSError) as error:
        raise _refused(str(error)) from None
    health = Health(
        Limits(
            config.usage_disk_warning_ratio,
            config.usage_disk_least_ratio,
            config.usage_lag_most_seconds,
            config.usage_lag_most_bytes,
        ),
        {"log": config.usage_log_folder, "offset": config.usage_offset_file.parent},
    )
    logs = Logs(config.usage_log_folder, config.usage_log_file, offsets.positions, metrics.logs_missed.inc)
    async with AsyncExitStack() as stack:
        stack.callback(offsets.close)
        stack.callback(logs.close)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        channel = await stack.enter_async_context(
            client.channel(
                config.usage_billing_address,
                "usage",
                config.principal_ring,
                options=[("grpc.max_reconnect_backoff_ms", RECONNECT_MILLISECONDS)],
            )
        )
        admin = config.usage_envoy_admin_url
        reader = Reader(
            logs,
            offsets,
            AsideFile(config.usage_unreadable_file, config.usage_gateway, config.usage_unreadable_most_bytes),
            Sender(MeteringServiceStub(channel), config.usage_call_seconds),
            Rotation(
                logs,
                offsets,
                config.usage_rotate_bytes,
                config.usage_settle_seconds,
                reopen_at(session, admin) if admin else None,
            ),
            health,
            config.usage_gateway,
            config.usage_batch_lines,
            config.usage_look_seconds,
            config.usage_longest_pause_seconds,
        )
        readiness = Readiness([health.check_disk, health.check_lag, health.check_batches])
        metrics_port = await serve_metrics(stack, config, readiness)
        log.info("reading", log=str(log_path), metrics_port=metrics_port)
        work = asyncio.create_task(reader.run(stopping))
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait([work, stop], return_when=asyncio.FIRST_COMPLETED)
        readiness.draining = True
        log.info("draining", seconds=config.drain_seconds)
        done, _ = await asyncio.wait([work], timeout=config.drain_seconds)
        await end_tasks([work, stop])
        for task in done:
            task.result()
        log.info("ended")


def _refused(message: str) -> SystemExit:
    log.error("cannot start", problem=message)
    return SystemExit(2)


if __name__ == "__main__":
    run(Config, main)

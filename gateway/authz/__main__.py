"""The authorisation server: a table that billing keeps current, buckets that a second one knows, and Envoy's question.

It opens with a table: billing's, or else the last copy on disk. Then it goes on whether billing and the bus are there
or not. Asked to end, it says so to Envoy first and answers for as long as `STRATUM_DRAIN_SECONDS` says.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NoReturn

from prometheus_client import Gauge

from gateway.authz import copy
from gateway.authz.app import Authz
from gateway.authz.buckets import Buckets, Telling
from gateway.authz.config import AuthzConfig
from services.shared.access_follower import AccessFollower, channel_to_billing
from services.shared.asgi import AsgiServer
from services.shared.bus import open_spoken
from services.shared.keyring import Keyring
from services.shared.logging import logger
from services.shared.server import Readiness, run, serve_metrics, stop_signal
from services.shared.tasks import end_tasks

log = logger(__name__)

#: How long a start waits for the bus and the other server's buckets.
ASK_SECONDS = 2.0
#: How soon a change of keys is on disk, and how often the copy is renewed without one.
KEEP_SECONDS, RENEW_SECONDS = 1.0, 60.0


async def main(config: AuthzConfig) -> None:
    """Answers until SIGTERM."""
    if not config.principal_ring or not config.peppers:
        log.warning("nobody is let in: STRATUM_PRINCIPAL_KEYS and API_KEY_PEPPERS must be set")
    stopping = stop_signal()
    async with AsyncExitStack() as stack:
        spoken = await stack.enter_async_context(open_spoken(config))
        channel = channel_to_billing(config.authz_billing_address, "authz", config.principal_ring)
        stack.push_async_callback(channel.close)
        follower = AccessFollower(channel, spoken, config.authz_follow_seconds)
        buckets = Buckets()
        telling = Telling(buckets, spoken)
        app = Authz(follower.table, buckets, config.peppers, config.principal_ring)
        _show(follower, buckets)

        async def has_a_table() -> None:
            if not follower.table.is_filled:
                raise RuntimeError("there is no table: billing does not answer, and no copy is kept")

        readiness = Readiness([has_a_table])
        metrics_port = await serve_metrics(stack, config, readiness)
        server = AsgiServer(app, config.authz_host, config.authz_port, config.drain_seconds)
        serving = asyncio.create_task(server.serve())
        tasks = [serving, asyncio.create_task(telling.run())]
        stop = asyncio.create_task(stopping.wait())
        opening = asyncio.create_task(_open(app, follower, telling, config))
        try:
            await asyncio.wait([stop, opening, *tasks], return_when=asyncio.FIRST_COMPLETED)
            if opening.done() and not stop.done():
                opening.result()
                log.info("serving", port=config.authz_port, metrics_port=metrics_port, keys=len(follower.table))
                tasks += [asyncio.create_task(follower.run())]
                if config.copy_path is not None:
                    tasks += [asyncio.create_task(_keep(follower, config.copy_path, config.peppers))]
                await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended = [task for task in tasks if task.done()]
            app.is_open = False
            readiness.draining = True
            if not ended:
                log.info("draining", seconds=config.drain_seconds)
                await asyncio.sleep(config.drain_seconds)
            server.stop()
            await asyncio.wait([serving])
            await telling.tell()  # what was decided since it was last told
            await end_tasks([stop, opening, *tasks])
        for task in ended:
            task.result()
            raise RuntimeError("a background task ended by itself")
        log.info("ended")


async def _open(app: Authz, follower: AccessFollower, telling: Telling, config: AuthzConfig) -> None:
    """Takes the newest table that is to be had, and the buckets as the other server knows them; then opens."""
    if not await follower.ask() and config.copy_path is not None:
        try:
            follower.begin_with(*copy.read(config.copy_path, config.peppers, time.time()))
            log.warning("billing does not answer: beginning with the copy", age_seconds=round(follower.age_seconds))
        except copy.NoCopyError as error:
            log.warning("billing does not answer, and the copy cannot be used", why=str(error))
    try:
        async with asyncio.timeout(ASK_SECONDS):
            await telling.asked.wait()
    except TimeoutError:
        log.warning("the bus is away: beginning with full buckets")
    app.is_open = True


async def _keep(follower: AccessFollower, path: Path, peppers: Keyring) -> NoReturn:
    kept_revision, kept_at = 0, 0.0
    while True:
        revision, confirmed_at = follower.table.rights_revision, follower.confirmed_at
        if confirmed_at and (revision != kept_revision or confirmed_at - kept_at >= RENEW_SECONDS):
            try:
                await asyncio.to_thread(copy.write, path, follower.table.snapshot(), confirmed_at, peppers)
                kept_revision, kept_at = revision, confirmed_at
            except OSError as error:
                log.warning("the copy of the table cannot be written", path=str(path), error=error.strerror)
        await asyncio.sleep(KEEP_SECONDS)


def _show(follower: AccessFollower, buckets: Buckets) -> None:
    for name, what, value in (
        ("table_age_seconds", "Since billing last said that the table is the newest.", lambda: follower.age_seconds),
        ("table_revision", "The newest change that is known.", lambda: follower.table.revision),
        ("table_keys", "Keys that are known, revoked ones included.", lambda: len(follower.table)),
        ("buckets", "Lineages whose bucket is not full.", lambda: len(buckets)),
    ):
        Gauge(f"stratum_authz_{name}", what).set_function(value)


if __name__ == "__main__":
    run(AuthzConfig, main)

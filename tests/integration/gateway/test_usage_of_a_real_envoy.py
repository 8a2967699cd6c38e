"""The usage reader behind a real Envoy: what was answered is in the ledger, through rotations and through kills."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from stratum.billing.v1.metering_service_pb2 import UsageLine

from deploy.local.process import free_port
from gateway.usage.lines import Nothing, read
from services.shared.testing import eventually
from tests.integration.gateway.logging_envoy import Callers, LoggingEnvoy, logged

CALLER = {"x-account": "acct_1", "x-key": "key_1"}


@pytest.fixture
def envoy(tmp_path: Path) -> Iterator[LoggingEnvoy]:
    with LoggingEnvoy(tmp_path) as running:
        yield running


@pytest.fixture
async def streaming(tmp_path: Path) -> AsyncIterator[LoggingEnvoy]:
    """An Envoy that writes a line for an open stream each second, before somebody who begins after two of them."""

    async def stream(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(1.5)
        answer = web.StreamResponse()
        await answer.prepare(request)
        for _ in range(4):
            await answer.write(b": hb\n\n")
            await asyncio.sleep(0.5)
        return answer

    application = web.Application()
    application.router.add_get("/stream", stream)
    runner = web.AppRunner(application)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    with LoggingEnvoy(tmp_path, upstream_port=port, stream_interval="1s") as running:
        yield running
    await runner.cleanup()


async def in_the_ledger(billing, ids, within=30.0):
    async def all_there():
        return set(billing.ledger) >= set(ids)

    await eventually(all_there, within)


async def test_everything_answered_is_in_the_ledger_as_envoy_says_it(tmp_path, billing, reader_of, envoy):
    reader = reader_of(USAGE_ENVOY_ADMIN_URL=envoy.admin_url)
    reader.start()
    callers = Callers(envoy)
    await callers.run(connections=8, each=250)
    await in_the_ledger(billing, callers.answered)
    assert len(billing.ledger) == 2000
    assert {
        (line.account_id, line.key_id, line.method, line.path, line.status, line.bytes_sent)
        for line in billing.ledger.values()
    } == {("acct_1", "key_1", "stratum.signals.v1.SignalsService/ListSignals", "/api/v1/intel/signals", 200, 6)}
    assert not (tmp_path / "usage.unreadable.jsonl").exists()


@pytest.mark.parametrize(
    "request_line", [b"GET /api/v1/a#b HTTP/1.1", b"GET /api/v1/\xff HTTP/1.1", b"GET /nothing HTTP/1.1", b"rubbish"]
)
async def test_a_forged_account_gets_into_no_ledger_whatever_envoy_refuses(envoy, request_line):
    reader, writer = await asyncio.open_connection("127.0.0.1", envoy.port)
    writer.write(
        request_line
        + b"\r\nhost: here\r\nx-stratum-account: acct_victim\r\nx-stratum-key: key_9\r\nx-request-id: chosen\r\n"
        + b"connection: close\r\n\r\n"
    )
    answer = await reader.read()
    writer.close()
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 404"))

    async def it_is_logged():
        return envoy.log.exists() and envoy.log.read_bytes().endswith(b"\n")

    await eventually(it_is_logged)
    assert [read(line, "g") for line in envoy.log.read_bytes().splitlines()] == [Nothing.NOT_ADMITTED]


async def test_an_open_stream_has_a_line_each_interval_with_the_time_that_it_has_lasted(streaming):
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{streaming.port}") as session,
        session.get("/stream", headers=CALLER) as answer,
    ):
        await answer.read()

    async def it_has_ended():
        return streaming.log.exists() and "DownstreamEnd" in streaming.log.read_text()

    await eventually(it_has_ended)
    first, *others = (read(line, "g") for line in streaming.log.read_bytes().splitlines())
    assert first is Nothing.NOT_ANSWERED
    assert len(others) >= 3
    assert all(isinstance(line, UsageLine) and line.status == 200 for line in others)
    assert len({(line.request_id, line.started_at.ToNanoseconds()) for line in others}) == 1
    assert [round(line.duration_milliseconds, -3) for line in others[:2]] == [2000, 3000]


async def test_rotation_under_load_loses_nothing_and_removes_only_what_was_read(tmp_path, billing, reader_of, envoy):
    reader = reader_of(USAGE_ENVOY_ADMIN_URL=envoy.admin_url, USAGE_ROTATE_BYTES="300000")
    reader.start()
    callers = Callers(envoy)
    load = asyncio.create_task(callers.run(connections=4, each=3000, pause_seconds=0.001))
    await load
    await in_the_ledger(billing, callers.answered)
    assert set(billing.ledger) == set(callers.answered)
    assert billing.counts == {"recorded": 12_000}
    assert await reader.metric("stratum_usage_rotations_total") >= 5

    async def at_most_two_are_left():
        return len(list(tmp_path.glob("access*.jsonl"))) <= 2

    await eventually(at_most_two_are_left)
    assert await reader.metric("stratum_usage_logs_missed_total") == 0
    assert await reader.metric("stratum_usage_logs_removed_total") >= 4
    assert not (tmp_path / "usage.unreadable.jsonl").exists()


async def test_a_reader_that_is_killed_while_it_rotates_loses_nothing(tmp_path, billing, reader_of, envoy):
    reader = reader_of(USAGE_ENVOY_ADMIN_URL=envoy.admin_url, USAGE_ROTATE_BYTES="30000", USAGE_BATCH_LINES="50")
    callers = Callers(envoy)
    load = asyncio.create_task(callers.run(connections=4, each=2000, pause_seconds=0.01))
    rotations = 0
    for kill in range(8):
        reader.start()
        seen = len(reader.said("rotated")) if reader.output.exists() else 0

        async def it_has_rotated(seen=seen):
            return len(reader.said("rotated")) > seen

        await eventually(it_has_rotated, 60.0)
        await asyncio.sleep(0.1 * kill)  # before Envoy opens the new one, while the old one settles, and afterwards
        reader.kill()
        rotations = len(reader.said("rotated"))
    await load
    reader.start()
    await in_the_ledger(billing, callers.answered, within=60.0)
    assert set(billing.ledger) == set(callers.answered)
    assert billing.counts["conflicting"] == 0
    assert rotations >= 8
    assert reader.said("a log is gone") == []
    assert reader.said("truncated") == []


async def test_while_envoy_cannot_be_told_nothing_is_removed_and_all_is_read(tmp_path, billing, reader_of, envoy):
    reader = reader_of(USAGE_ENVOY_ADMIN_URL=f"http://127.0.0.1:{free_port()}", USAGE_ROTATE_BYTES="20000")
    reader.start()
    callers = Callers(envoy)
    await callers.run(connections=2, each=200)
    await in_the_ledger(billing, callers.answered)

    async def it_is_renamed():
        return reader.said("Envoy does not open its log again")

    await eventually(it_is_renamed)
    # Envoy goes on writing into the file that it has open, whatever that is called now.
    await callers.run(connections=2, each=200)
    await in_the_ledger(billing, callers.answered)
    (only,) = tmp_path.glob("access*.jsonl")
    assert only.name != "access.jsonl"
    reader.stop()
    again = reader_of(USAGE_ENVOY_ADMIN_URL=envoy.admin_url, USAGE_ROTATE_BYTES="20000")
    again.start()
    await callers.run(connections=2, each=200)
    await in_the_ledger(billing, callers.answered)

    async def the_old_one_is_gone():
        return not only.exists()

    await eventually(the_old_one_is_gone)
    assert set(billing.ledger) == set(callers.answered)


async def test_a_log_that_somebody_removes_is_read_to_its_end_and_envoy_opens_another(
    tmp_path, billing, reader_of, envoy
):
    reader = reader_of(USAGE_ENVOY_ADMIN_URL=envoy.admin_url)
    reader.start()
    callers = Callers(envoy)
    await callers.run(connections=2, each=50)
    await in_the_ledger(billing, callers.answered)
    envoy.log.unlink()
    await callers.run(connections=2, each=50)
    await in_the_ledger(billing, callers.answered)

    async def there_is_a_log():
        await callers.run(connections=1, each=1)
        return envoy.log.exists()

    await eventually(there_is_a_log)
    await callers.run(connections=2, each=50)
    await in_the_ledger(billing, callers.answered)


async def test_a_killed_envoy_costs_no_line_that_it_wrote(tmp_path, billing, reader_of, envoy):
    reader = reader_of(USAGE_ENVOY_ADMIN_URL=envoy.admin_url)
    reader.start()
    await reader.ready()
    callers = Callers(envoy)
    for _ in range(3):
        before = len(callers.answered)
        load = asyncio.create_task(callers.run(connections=8))

        async def enough(before=before):
            return len(callers.answered) > before + 1500

        await eventually(enough, 30.0)
        envoy.kill()
        await load
        envoy.start()
    afterwards = Callers(envoy)
    await afterwards.run(connections=1, each=10)
    await in_the_ledger(billing, afterwards.answered)
    written = {line["request_id"] for line in logged([envoy.log])}
    assert written <= set(billing.ledger)
    assert len(written - set(afterwards.answered)) > 3 * 1000

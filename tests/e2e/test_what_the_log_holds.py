"""The access log is what usage is counted from: who has no key cannot fill its disk, and who has one is in it."""

import asyncio
import json

import aiohttp
import pytest
from yarl import URL

from deploy.local.envoy import Envoy
from services.shared.testing import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

FEED = "/api/v1/intel/signals"
LONGEST_PATH = 512


async def ask(gateway, path, **headers):
    """Status and request id of a call."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(URL(gateway.url + path, encoded=True), headers=headers) as answer,
    ):
        await answer.read()
        return answer.status, answer.headers.get("x-request-id", "")


async def lines(gateway, until):
    """The lines of a gateway's log once `until`, the id of a request, is among them."""
    log = gateway.gateway.access_log

    async def are_written():
        return until in log.read_text() and log.read_text()

    return [json.loads(line) for line in (await eventually(are_written)).splitlines()]


async def test_a_long_path_is_cut(gateway):
    status, request_id = await ask(gateway, "/" + "a" * 15_000)
    assert status == 404
    (line,) = [line for line in await lines(gateway, request_id) if line["request_id"] == request_id]
    assert line["path"] == "/" + "a" * (LONGEST_PATH - 1)


async def test_what_is_refused_before_it_is_bounded_leaves_no_line(gateway, secret):
    said = {"x-stratum-account": "acct_known", "x-stratum-key": "key_known", "x-request-id": "mine"}
    assert (await ask(gateway, "/refused%2f", **said))[0] == 400
    _, later = await ask(gateway, FEED, authorization=f"Bearer {secret}")
    assert not [line for line in await lines(gateway, later) if "refused" in line["path"]]


async def test_an_address_above_its_limit_leaves_no_more_lines(stand_ins, authz, tmp_path):
    services = {"signals": ("127.0.0.1", stand_ins.port)}
    gateway = Envoy(
        tmp_path, services, authz=[authz.address], address_requests_per_second=5, address_burst=5, workers=1
    )
    await asyncio.to_thread(gateway.start)
    try:
        answers = await asyncio.gather(*(ask(gateway, "/nowhere") for _ in range(50)))
        served = [request_id for status, request_id in answers if status == 404]
        refused = {request_id for status, request_id in answers if status == 429}
        assert refused
        logged = {line["request_id"] for line in await lines(gateway, served[-1])}
        assert not refused & logged
    finally:
        gateway.stop()


async def test_an_admitted_call_is_in_the_log_whatever_it_is_answered(gateway, secret):
    status, request_id = await ask(gateway, f"{FEED}/crowded", authorization=f"Bearer {secret}")
    assert status == 429
    (line,) = [line for line in await lines(gateway, request_id) if line["request_id"] == request_id]
    assert (line["account"], line["status"]) == ("acct_known", 429)

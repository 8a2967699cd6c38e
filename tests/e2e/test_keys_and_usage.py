"""Keys, limits and usage over the whole stack: what an operator does, and what a partner sees of it."""

import asyncio
import csv
import io
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
import pytest_asyncio
from stratum.billing.v1 import accounts_service_pb2 as pb
from stratum.billing.v1.account_pb2 import Account
from stratum.billing.v1.events_pb2 import AccountEvent
from stratum.billing.v1.key_pb2 import ApiKey
from stratum.signals.v1 import signals_service_pb2 as signals
from stratum.signals.v1.signals_service_pb2_grpc import SignalsServiceStub

from deploy.accounts import Accounts, Partner
from deploy.stack import Stack
from services.shared import principal
from services.shared.bus import ACCOUNTS, open_bus
from services.shared.config import ServiceConfig
from services.shared.keyring import Keyring
from services.shared.testing import eventually, stored

pytestmark = pytest.mark.asyncio(loop_scope="module")

FEED = "/api/v1/intel/signals"
ONE = f"{FEED}?page_size=1"
WATCH = "/api/v1/intel/signals:watch"
STRANGERS = Keyring.parse(f"1:{'99' * 32}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def office(stack: Stack) -> AsyncIterator[Accounts]:
    """Where an operator's wishes go."""
    async with Accounts(stack.billing_address, stack.home.principal_ring()) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session(stack: Stack) -> AsyncIterator[aiohttp.ClientSession]:
    """Somebody at the gateway, without a key."""
    async with aiohttp.ClientSession(stack.gateway_url, timeout=aiohttp.ClientTimeout(total=30)) as opened:
        yield opened


def bearer(key: str) -> dict[str, str]:
    """The header that a key travels in."""
    return {"Authorization": f"Bearer {key}"}


async def asked(
    session: aiohttp.ClientSession, key: str, path: str = ONE, **headers: str
) -> tuple[int, str, Mapping[str, str]]:
    """Status, reason (of a refusal) and headers of a call."""
    async with session.get(path, headers=bearer(key) | headers) as answer:
        body = await answer.json() if answer.status >= 400 else {}
        return answer.status, body["details"][0]["reason"] if body else "", answer.headers


async def told(session: aiohttp.ClientSession, key: str, path: str) -> Any:
    """The answer to a call that succeeds."""
    async with session.get(path, headers=bearer(key)) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def used(session: aiohttp.ClientSession, key: str) -> dict[str, Any]:
    """The account's usage."""
    return dict((await told(session, key, "/api/v1/usage"))["usage"])


async def until_refused(session: aiohttp.ClientSession, key: str, within: float) -> str:
    """Waits until the key opens nothing any more, and says why."""

    async def refused() -> str:
        return (await asked(session, key))[1]

    return str(await eventually(refused, within=within))


class Listener:
    """An open stream of signals, read in the background until it ends."""

    def __init__(self, session: aiohttp.ClientSession, key: str) -> None:
        self._session, self._key = session, key
        self.text = ""
        self.opened = asyncio.Event()
        self.ended_at = 0.0

    async def __aenter__(self) -> "Listener":
        self._task = asyncio.create_task(self._read())
        async with asyncio.timeout(10):
            await self.opened.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def end(self, within: float) -> str:
        """Waits for the stream's end, and gives all it said."""
        async with asyncio.timeout(within):
            await asyncio.shield(self._task)
        return self.text

    async def _read(self) -> None:
        async with self._session.get(WATCH, headers=bearer(self._key)) as answer:
            assert answer.status == 200, await answer.text()
            async for line in answer.content:
                self.text += line.decode()
                self.opened.set()
        self.ended_at = time.monotonic()


async def test_a_key_opens_the_feed_within_a_second_of_being_made(stack: Stack, session: aiohttp.ClientSession) -> None:
    partner = await stack.make_partner("new")

    async def opens() -> bool:
        return (await asked(session, partner.key))[0] == 200

    assert await eventually(opens, within=1.0)


async def test_every_served_call_is_in_the_ledger_with_its_request_id(
    stack: Stack, session: aiohttp.ClientSession
) -> None:
    partner = await stack.make_partner("counted")
    await eventually(lambda: _is_open(session, partner.key))
    seen = {(await asked(session, partner.key))[2]["X-Request-Id"] for _ in range(5)}

    async def listed() -> bool:
        entries = (await told(session, partner.key, "/api/v1/usage/ledger?page_size=500"))["entries"]
        return seen <= {entry["request_id"] for entry in entries if entry["units"] == 1}

    assert await eventually(listed)


async def _is_open(session: aiohttp.ClientSession, key: str) -> bool:
    return (await asked(session, key, "/api/v1/plan"))[0] == 200


async def _is_known(session: aiohttp.ClientSession, key: str) -> bool:
    return (await asked(session, key))[1] != "KEY_UNKNOWN"


async def test_refused_calls_and_free_ones_cost_nothing(stack: Stack, session: aiohttp.ClientSession) -> None:
    partner = await stack.make_partner("frugal")
    await eventually(lambda: _is_open(session, partner.key))
    for path in (
        f"{FEED}?colour=red",
        f"{FEED}/missing",
        "/api/v1/intel/health",
        "/api/v1/usage",
        "/api/v1/usage:quote?path=/",
    ):
        await asked(session, partner.key, path)
    _, _, headers = await asked(session, partner.key)

    async def counted() -> bool:
        entries = (await told(session, partner.key, "/api/v1/usage/ledger"))["entries"]
        return headers["X-Request-Id"] in {entry["request_id"] for entry in entries}

    await eventually(counted)
    assert (await used(session, partner.key))["used_units"] == 1


async def test_a_page_that_the_caller_has_counts_as_served(stack: Stack, session: aiohttp.ClientSession) -> None:
    partner = await stack.make_partner("careful")
    await eventually(lambda: _is_open(session, partner.key))
    path = "/api/v1/intel/games?page_size=1"
    _, _, first = await asked(session, partner.key, path)
    status, _, again = await asked(session, partner.key, path, **{"If-None-Match": first["ETag"]})
    assert status in (200, 304)

    async def counted() -> bool:
        entries = (await told(session, partner.key, "/api/v1/usage/ledger"))["entries"]
        units = {entry["request_id"]: entry["units"] for entry in entries}
        return units.get(again["X-Request-Id"]) == 1

    assert await eventually(counted)


async def test_the_ledger_can_be_had_as_a_file_that_adds_up(stack: Stack, session: aiohttp.ClientSession) -> None:
    partner = await stack.make_partner("bookkeeper")
    await eventually(lambda: _is_open(session, partner.key))
    for _ in range(4):
        await asked(session, partner.key)
    await eventually(lambda: _has_used(session, partner.key, 4))
    async with session.get("/api/v1/usage/ledger:export", headers=bearer(partner.key)) as answer:
        assert answer.headers["Content-Type"] == "text/csv"
        rows = list(csv.DictReader(io.StringIO(await answer.text())))
    assert sum(int(row["units"]) for row in rows) == (await used(session, partner.key))["used_units"]


async def _has_used(session: aiohttp.ClientSession, key: str, units: int) -> bool:
    return bool((await used(session, key))["used_units"] >= units)


async def test_a_partner_sees_his_own_account_only(stack: Stack, session: aiohttp.ClientSession) -> None:
    one, other = await stack.make_partner("one"), await stack.make_partner("other")
    await eventually(lambda: _is_open(session, other.key))
    assert (await used(session, one.key))["account_id"] == one.account_id
    refused = await asked(session, one.key, f"/api/v1/usage?account_id={other.account_id}")
    assert refused[:2] == (400, "INVALID_ARGUMENT")
    ledger = await told(session, one.key, f"/api/v1/usage/ledger?key_id={other.key_id}")
    assert ledger["entries"] == []


async def test_a_revoked_keys_calls_and_open_streams_end_within_a_second(
    stack: Stack, session: aiohttp.ClientSession, office: Accounts
) -> None:
    partner = await stack.make_partner("leaver")
    await eventually(lambda: _is_open(session, partner.key))
    async with Listener(session, partner.key) as stream:
        revoked_at = time.monotonic()
        await office.revoke(partner.key_id)
        why = await until_refused(session, partner.key, within=1.0)
        refused_at = time.monotonic()
        said = await stream.end(within=1.0)
    assert why == "KEY_REVOKED"
    assert 'event: end\ndata: {"reason":"KEY_REVOKED"}' in said
    print(f"refused after {refused_at - revoked_at:.3f} s, stream ended after {stream.ended_at - revoked_at:.3f} s")


async def test_without_the_bus_a_revocation_holds_within_ten_seconds(
    stack: Stack, session: aiohttp.ClientSession, office: Accounts
) -> None:
    partner = await stack.make_partner("late leaver")
    await eventually(lambda: _is_open(session, partner.key))
    async with Listener(session, partner.key) as stream:
        # Stopped, not killed: it would be started again at once.
        stack.hold("nats")
        try:
            revoked_at = time.monotonic()
            await office.revoke(partner.key_id)
            why = await until_refused(session, partner.key, within=10.0)
            refused_at = time.monotonic()
            await stream.end(within=10.0)
        finally:
            stack.let_go("nats")
    assert why == "KEY_REVOKED"
    print(f"refused after {refused_at - revoked_at:.1f} s, stream ended after {stream.ended_at - revoked_at:.1f} s")


async def test_with_an_overlap_the_old_key_and_its_successor_both_open_and_share_one_limit(
    stack: Stack, session: aiohttp.ClientSession, office: Accounts
) -> None:
    partner = await stack.make_partner("careful rotator")
    await eventually(lambda: _is_open(session, partner.key))
    async with Listener(session, partner.key) as stream:
        rotated = await office.rotate(partner.key_id, "1h")
        await eventually(lambda: _is_open(session, rotated.secret), within=1.0)
        _, _, old = await asked(session, partner.key)
        _, _, new = await asked(session, rotated.secret)
        assert int(new["X-RateLimit-Remaining"]) < int(old["X-RateLimit-Remaining"])
        assert "event: end" not in stream.text


async def test_without_an_overlap_the_old_key_ends_at_once(
    stack: Stack, session: aiohttp.ClientSession, office: Accounts
) -> None:
    partner = await stack.make_partner("hasty rotator")
    await eventually(lambda: _is_open(session, partner.key))
    async with Listener(session, partner.key) as stream:
        rotated = await office.rotate(partner.key_id, "0s")
        why = await until_refused(session, partner.key, within=1.0)
        said = await stream.end(within=1.0)
    assert why == "KEY_REVOKED"
    assert "KEY_REVOKED" in said
    assert await _is_open(session, rotated.secret)


async def test_a_partner_rotates_his_own_key_once_however_often_he_repeats_the_call(
    stack: Stack, session: aiohttp.ClientSession
) -> None:
    partner = await stack.make_partner("self-service")
    await eventually(lambda: _is_open(session, partner.key))
    answers = []
    for _ in range(2):
        async with session.post(
            f"/api/v1/keys/{partner.key_id}:rotate",
            json={"overlap": "24h"},
            headers=bearer(partner.key) | {"Idempotency-Key": "my-rotation"},
        ) as answer:
            assert answer.status == 200, await answer.text()
            answers.append(await answer.json())
    assert answers[0]["key"]["id"] == answers[1]["key"]["id"]
    assert answers[0]["secret"].startswith("stratum_live_")
    assert answers[1]["secret"] == ""


async def test_a_key_that_is_reported_as_leaked_opens_nothing_any_more(
    stack: Stack, session: aiohttp.ClientSession
) -> None:
    partner = await stack.make_partner("careless")
    await eventually(lambda: _is_open(session, partner.key))
    async with session.post(
        "/api/v1/keys:reportLeak",
        json={"key": partner.key, "found_at": "https://example.com/paste"},
        headers={"Idempotency-Key": "a-finder"},
    ) as answer:
        assert (answer.status, await answer.json()) == (200, {"revoked": True})
    why = await until_refused(session, partner.key, within=1.0)
    assert why == "KEY_REVOKED"


async def test_a_suspended_account_is_refused_until_it_is_good_again(
    stack: Stack, session: aiohttp.ClientSession, office: Accounts
) -> None:
    partner = await stack.make_partner("debtor")
    await eventually(lambda: _is_open(session, partner.key))
    standings = Account.Standing
    await office.update(Account(id=partner.account_id, standing=standings.SUSPENDED), ["standing"])
    why = await until_refused(session, partner.key, within=1.0)
    assert why == "ACCOUNT_SUSPENDED"
    await office.update(Account(id=partner.account_id, standing=standings.GOOD), ["standing"])
    assert await eventually(lambda: _is_open(session, partner.key), within=1.0)


async def test_a_test_key_reads_a_recorded_evening_at_the_same_paths_and_costs_nothing(
    stack: Stack, session: aiohttp.ClientSession
) -> None:
    partner = await stack.make_partner("developer")
    await eventually(lambda: _is_open(session, partner.key))
    evening = await told(session, partner.test_key, f"{FEED}?order_by=TIME&page_size=1")
    assert evening["signals"][0]["observed_at"].startswith("2026-01-15")
    assert [await told(session, partner.test_key, f"/api/v1/intel/{path}") for path in ("games", "health", "consensus")]

    async def listed() -> bool:
        entries = (await told(session, partner.key, "/api/v1/usage/ledger"))["entries"]
        return len(entries) >= 3 and not any(entry["units"] for entry in entries)

    assert await eventually(listed)
    assert (await used(session, partner.key))["used_units"] == 0


async def test_an_allow_listed_address_cannot_be_claimed_by_a_header(
    stack: Stack, session: aiohttp.ClientSession, office: Accounts
) -> None:
    partner = await stack.make_partner("fenced")
    request = pb.IssueKeyRequest(
        account_id=partner.account_id,
        name="fenced",
        mode=ApiKey.Mode.LIVE,
        allowed_addresses=["203.0.113.7"],
    )
    key = (await office.issue(request)).secret
    assert await eventually(lambda: _is_known(session, key))
    spoofed = {"X-Forwarded-For": "203.0.113.7", "X-Real-IP": "203.0.113.7", "X-Stratum-Address": "203.0.113.7"}
    for headers in ({}, spoofed, {"Forwarded": "for=203.0.113.7"}, {"X-Envoy-External-Address": "203.0.113.7"}):
        assert (await asked(session, key, **headers))[:2] == (403, "ADDRESS_NOT_ALLOWED")


async def test_a_principal_that_another_ring_signed_gets_nowhere(stack: Stack) -> None:
    caller = principal.Principal(method="*", expires_at=time.time() + 60, service="signals")
    metadata = grpc.aio.Metadata((principal.HEADER, principal.signed(caller, STRANGERS)))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.settings.ports.signals}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await SignalsServiceStub(channel).ListSignals(signals.ListSignalsRequest(), metadata=metadata, timeout=5)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_the_feeds_own_port_lets_nobody_in_who_is_not_vouched_for(stack: Stack) -> None:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{stack.settings.ports.feed}") as stranger:
        forged = {"x-stratum-account": "acct_1", "x-stratum-key": "key_1", "x-stratum-principal": "p1.1.e30.AA"}
        async with stranger.get("/", headers=forged) as answer:
            assert answer.status == 401


async def test_notices_are_said_once_each_although_billing_dies_between_them(
    stack: Stack, session: aiohttp.ClientSession
) -> None:
    partner = await stack.make_partner("heavy user", api_usage_soft_limit=20)
    await eventually(lambda: _is_open(session, partner.key))
    for number in range(26):
        await asked(session, partner.key)
        if number in (16, 21):
            stack.kill("billing")
    await eventually(lambda: _notices(session, partner, [80, 100, 120]), within=60)
    config = ServiceConfig(nats_url=stack.nats_url, nats_monitor_url=stack.nats_monitor_url)

    async def said() -> bool:
        async with open_bus(config) as bus:
            events = [AccountEvent.FromString(one.payload) for one in await stored(bus, ACCOUNTS)]
        reached = [
            one.usage_threshold_reached.threshold_percent
            for one in events
            if one.account_id == partner.account_id and one.HasField("usage_threshold_reached")
        ]
        assert len(reached) <= 3, reached
        return reached == [80, 100, 120]

    assert await eventually(said, within=30)

    async def told_with_every_answer() -> bool:
        _, _, headers = await asked(session, partner.key)
        return headers["X-Usage-Remaining"] == "0" and int(headers["X-Usage-Overage"]) >= 6

    assert await eventually(told_with_every_answer)


async def _notices(session: aiohttp.ClientSession, partner: Partner, percents: list[int]) -> bool:
    async with session.get("/api/v1/usage", headers=bearer(partner.key)) as answer:
        if answer.status != 200:
            return False
        usage = (await answer.json())["usage"]
    return [notice["threshold_percent"] for notice in usage["notices"]] == percents

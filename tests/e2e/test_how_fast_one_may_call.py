"""One limit for each key, whoever asks where and whoever dies; and who decides when billing or the bus are away."""

import asyncio
import json
import time
from collections import Counter
from contextlib import ExitStack

import aiohttp
import msgspec
import nats
import pytest
import pytest_asyncio
from stratum.billing.v1.events_pb2 import AccountEvent

from deploy.local.envoy import Envoy
from deploy.local.process import free_port
from gateway.authz.buckets import ASKED
from gateway.testing import SCOPES, StandIns
from services.shared import api_keys
from services.shared.testing import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

FEED = "/api/v1/intel/signals?page_size=1"


class Caller:
    """Asks the gateways in turn."""

    def __init__(self, session, gateways):
        self._session = session
        self._gateways = gateways
        self._turn = 0

    async def ask(self, secret):
        """Status, reason and headers of a call."""
        self._turn += 1
        url = self._gateways[self._turn % len(self._gateways)].url + FEED
        async with self._session.get(url, headers={"authorization": f"Bearer {secret}"}) as answer:
            body = await answer.json()
        why = body["details"][0]["reason"] if answer.status >= 400 else ""
        return answer.status, why, answer.headers

    async def ask_often(self, secret, times):
        """The same many times at once."""
        return await asyncio.gather(*(self.ask(secret) for _ in range(times)))

    async def use_up(self, secret, requests):
        """Takes what a key has, and sees that the next call is refused."""
        await self.ask_often(secret, requests)
        assert (await self.ask(secret))[:2] == (429, "RATE_LIMITED")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(authz_with, secret):
    """The active authorisation server and its standby."""
    servers = authz_with(), authz_with()
    for server in servers:
        await server.start()
    return servers


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def partner(stand_ins, pair, tmp_path_factory):
    """Somebody who asks two gateways, which ask the same pair."""
    services = {"signals": ("127.0.0.1", stand_ins.port)}
    plenty = {"address_requests_per_second": 10_000, "address_burst": 10_000}
    with ExitStack() as stack:
        gateways = [
            stack.enter_context(
                Envoy(tmp_path_factory.mktemp(name), services, authz=[one.address for one in pair], name=name, **plenty)
            )
            for name in ("east", "west")
        ]
        timeout, connections = aiohttp.ClientTimeout(total=20), aiohttp.TCPConnector(limit=64)
        async with aiohttp.ClientSession(timeout=timeout, connector=connections) as session:
            yield Caller(session, gateways)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bus(nats_server):
    """A connection to the bus."""
    client = await nats.connect(nats_server.url)
    yield client
    await client.close()


@pytest.fixture
def another_key(stand_ins, pair, bus):
    """`await another_key("spent", 50)`: a new key of a new account, with so many requests an hour, known to both."""

    async def made(name, requests=50, scopes=SCOPES):
        # Next to nothing flows back while a test looks.
        stand_ins.table.account(f"acct_{name}", requests=requests, per_seconds=3600)
        secret = stand_ins.table.key(f"key_{name}", f"acct_{name}", scopes)
        await all_have_the_table(pair, stand_ins, bus)
        return secret

    return made


async def say_that_access_changed(bus, stand_ins):
    """What billing says on the bus."""
    event = AccountEvent(account_id="acct_known")
    event.access_changed.revision = stand_ins.table.revision
    await bus.publish("accounts.acct_known", event.SerializeToString())


async def all_have_the_table(servers, stand_ins, bus):
    """Waits until the servers have the newest table."""
    await say_that_access_changed(bus, stand_ins)

    async def have():
        revisions = [await shown(server, "stratum_authz_table_revision") for server in servers]
        return min(revisions) >= stand_ins.table.revision

    await eventually(have)


async def shown(authz, metric):
    """A number among an authorisation server's metrics."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{authz.metrics_port}/metrics") as answer,
    ):
        lines = (await answer.text()).splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(metric))


async def know_of(bus, lineage, servers):
    """Waits until so many servers know that a lineage's bucket is not full."""

    async def know():
        inbox = bus.new_inbox()
        answers = await bus.subscribe(inbox)
        await bus.publish(ASKED, msgspec.msgpack.encode(["a test", {}]), reply=inbox)
        said = [msgspec.msgpack.decode((await answers.next_msg(timeout=5)).data)[1] for _ in range(servers)]
        await answers.unsubscribe()
        return all(lineage in full_at for full_at in said)

    await eventually(know)


async def checked(authz, secret):
    """What a server decides of a call, asked as a gateway asks it."""
    headers = {
        "authorization": f"Bearer {secret}",
        "x-stratum-method": "stratum.signals.v1.SignalsService/ReadSignals",
        "x-stratum-address": "127.0.0.1",
        "x-request-id": "one",
    }
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{authz.port}/check/", headers=headers) as answer,
    ):
        body = await answer.read()
    return answer.status, json.loads(body)["details"][0]["reason"] if body else ""


async def test_two_gateways_let_exactly_as_many_calls_through_as_one_limit_says(partner, another_key):
    answers = await partner.ask_often(await another_key("exact"), 150)
    assert Counter((status, why) for status, why, _ in answers) == {(200, ""): 50, (429, "RATE_LIMITED"): 100}
    remaining = [int(headers["x-ratelimit-remaining"]) for status, _, headers in answers if status == 200]
    assert sorted(remaining) == list(range(50))


async def test_a_refused_call_says_in_whole_seconds_when_to_come_again(partner, another_key):
    secret = await another_key("told", requests=2)
    await partner.ask_often(secret, 2)
    status, _, headers = await partner.ask(secret)
    assert status == 429
    assert 1790 <= int(headers["retry-after"]) <= 1800
    assert (headers["x-ratelimit-limit"], headers["x-ratelimit-remaining"]) == ("2", "0")
    assert 3590 <= int(headers["x-ratelimit-reset"]) <= 3600
    assert headers["ratelimit-policy"] == '"default";q=2;w=3600'


async def test_a_key_and_its_successor_have_one_limit(stand_ins, partner, pair, bus, another_key):
    secret = await another_key("old")
    successor = stand_ins.table.key("key_new", "acct_old", lineage="key_old")
    await all_have_the_table(pair, stand_ins, bus)
    answers = [*await partner.ask_often(secret, 30), *await partner.ask_often(successor, 30)]
    assert Counter(status for status, _, _ in answers) == {200: 50, 429: 10}


async def test_a_refusal_for_another_reason_takes_nothing(partner, another_key):
    secret = await another_key("scoped", requests=2, scopes=["markets:read"])
    assert {why for _, why, _ in await partner.ask_often(secret, 20)} == {"SCOPE_MISSING"}


async def test_when_the_active_server_dies_the_standby_answers_and_the_limit_holds(partner, pair, bus, another_key):
    active, standby = pair
    spent, fresh = await another_key("spent"), await another_key("fresh", requests=100_000)
    await partner.use_up(spent, 50)
    await know_of(bus, "key_spent", 2)
    active.kill()
    died = time.monotonic()
    answers = []
    while time.monotonic() < died + 2.0:
        answers.append((time.monotonic() - died, (await partner.ask(fresh))[:2]))
        assert (await partner.ask(spent))[1] in ("RATE_LIMITED", "ACCESS_UNDECIDED")
    late = [at for at, outcome in answers if outcome != (200, "")]
    print(f"kill -9: {len(answers)} calls, {len(late)} not answered, the last {max(late, default=0.0):.3f} s after it")
    assert max(late, default=0.0) < 1.5
    assert await shown(standby, 'stratum_authz_checks_total{outcome="RATE_LIMITED"}') > 0
    await active.start()


async def test_a_server_that_comes_back_has_asked_what_was_used(partner, pair, bus, another_key):
    active, _ = pair
    spent = await another_key("meanwhile")
    active.kill()
    await partner.use_up(spent, 50)
    await know_of(bus, "key_meanwhile", 1)
    await active.start()
    assert await checked(active, spent) == (429, "RATE_LIMITED")


async def test_an_orderly_end_of_the_active_server_costs_nobody_an_answer(partner, pair, another_key):
    active, _ = pair
    secret = await another_key("orderly", requests=100_000)
    active.ask_to_end()
    statuses = Counter()
    while active.running:
        statuses[(await partner.ask(secret))[0]] += 1
    for _ in range(20):
        statuses[(await partner.ask(secret))[0]] += 1
    assert set(statuses) == {200}
    await active.start()


async def test_with_both_servers_dead_nobody_gets_in_and_everybody_is_told(partner, pair, secret):
    for server in pair:
        server.kill()
    answers = await partner.ask_often(secret, 10)
    assert {(status, why) for status, why, _ in answers} == {(503, "ACCESS_UNDECIDED")}
    for server in pair:
        await server.start()

    async def answered():
        return (await partner.ask(secret))[0] == 200

    await eventually(answered)


async def test_without_a_table_nobody_gets_in(authz_with):
    lonely = authz_with(billing_port=free_port())
    await lonely.start(health=503)
    assert await checked(lonely, api_keys.made(api_keys.LIVE)) == (503, "ACCESS_UNDECIDED")
    assert await checked(lonely, "nothing") == (401, "KEY_MALFORMED")


async def test_a_server_begins_with_its_copy_while_billing_is_away(authz_with, tmp_path):
    billing = StandIns()
    billing.table.account("acct_kept")
    secret = billing.table.key("key_kept", "acct_kept")
    await billing.start()
    copy = tmp_path / "table"
    authz = authz_with(billing_port=billing.port, AUTHZ_COPY_PATH=str(copy))
    await authz.start()

    async def kept():
        return copy.exists()

    await eventually(kept)
    await billing.stop()
    assert await checked(authz, secret) == (200, "")  # it goes on without billing
    authz.stop()
    assert copy.stat().st_mode & 0o777 == 0o600
    assert secret[13:].encode() not in copy.read_bytes()

    await authz.start()
    assert await checked(authz, secret) == (200, "")
    assert await checked(authz, api_keys.made(api_keys.LIVE)) == (401, "KEY_UNKNOWN")

    # Billing comes back with another database: what was known before is forgotten.
    again = StandIns(billing.port)
    again.table.epoch = "second"
    again.table.account("acct_other")
    await again.start()

    async def forgotten():
        return await checked(authz, secret) == (401, "KEY_UNKNOWN")

    await eventually(forgotten)
    await again.stop()


async def until_revoked(authz, secret):
    """How long it takes from now on until a key opens nothing."""
    begun = time.monotonic()

    async def refused():
        return await checked(authz, secret) == (401, "KEY_REVOKED")

    await eventually(refused, within=15)
    return time.monotonic() - begun


async def test_a_revocation_is_known_within_a_second_over_the_bus(stand_ins, bus, authz_with):
    slow = authz_with(AUTHZ_FOLLOW_SECONDS="5")
    secret = stand_ins.table.key("key_bus", "acct_known")
    await slow.start()
    assert await checked(slow, secret) == (200, "")
    stand_ins.table.revoke("key_bus")
    await say_that_access_changed(bus, stand_ins)
    took = await until_revoked(slow, secret)
    print(f"revoked over the bus in {took * 1000:.0f} ms")
    assert took < 1.0


async def test_a_revocation_is_known_within_ten_seconds_without_the_bus(stand_ins, authz_with):
    deaf = authz_with(nats_url=f"nats://127.0.0.1:{free_port()}")
    secret = stand_ins.table.key("key_deaf", "acct_known")
    await deaf.start()
    assert await checked(deaf, secret) == (200, "")
    stand_ins.table.revoke("key_deaf")
    took = await until_revoked(deaf, secret)
    print(f"revoked without the bus in {took:.1f} s")
    assert took < 10.0

"""`make faults-edge`: partners' calls through two gateways while everything behind and beside them is killed.

Every answer is written down by the one who got it: request id, status, time. In the end the ledger is asked for the
same requests. Nothing may be counted twice, nothing that was not served; what was served and is not counted must have
been in the buffer of a gateway that was killed: it is listed, request by request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psycopg
from stratum.billing.v1 import accounts_service_pb2 as pb
from stratum.billing.v1.account_pb2 import Account
from stratum.billing.v1.key_pb2 import ApiKey

from deploy.accounts import Accounts
from deploy.home import Home, free_ports
from deploy.stack import Simulated, Stack, StackSettings

ROOT = Path(__file__).resolve().parents[2]
#: Calls at the same time.
CALLERS = 12
ACCOUNTS = 8
CALL_SECONDS = 20.0
#: What Envoy keeps in memory of its log at most, and how far a client's clock may be behind it.
FLUSH_SECONDS, SLACK_SECONDS = 0.1, 0.5
#: Killed again and again; a gateway only once.
VICTIMS = ("authz", "standby", "usage", "usage-second", "billing", "nats", "postgres")
GATEWAY = "gateway"
REST_SECONDS = 180.0
#: Everybody calls from one address here, and nobody is to be held back by that.
ADDRESS_REQUESTS_PER_SECOND = 100_000
PAID = (
    "/api/v1/intel/signals?page_size=1",
    "/api/v1/intel/games?page_size=1",
    "/api/v1/intel/suppressions?page_size=1",
)
FREE = "/api/v1/intel/health"
WRONG = "/api/v1/intel/signals?page_size=0x"


@dataclass(frozen=True, slots=True)
class Call:
    """One call as its caller saw it."""

    #: Empty where no answer came.
    request_id: str
    #: 0 where no answer came.
    status: int
    gateway: str
    path: str
    live: bool
    #: Why it was refused, if it was.
    reason: str
    #: Seconds on this machine's clock, when the answer had come.
    ended: float

    @property
    def is_billable(self) -> bool:
        """Whether it has to be in the ledger with a unit."""
        return self.live and self.path in PAID and (200 <= self.status < 300 or self.status == 304)


@dataclass(slots=True)
class Traffic:
    """All calls, made by so many callers at a time until there are enough."""

    gateways: Mapping[str, str]
    live_keys: Sequence[str]
    wanted: int
    seed: int
    calls: list[Call] = field(default_factory=list)

    async def run(self) -> None:
        """Calls until there are enough."""
        timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
        connector = aiohttp.TCPConnector(limit=CALLERS)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            await asyncio.gather(*(self._caller(session, number) for number in range(CALLERS)))

    async def _caller(self, session: aiohttp.ClientSession, number: int) -> None:
        chance = random.Random(f"{self.seed}-{number}")
        tags: dict[str, str] = {}
        while len(self.calls) < self.wanted:
            name = chance.choice(list(self.gateways))
            path = chance.choices((*PAID, FREE, WRONG), weights=(60, 20, 10, 5, 5))[0]
            live = chance.random() > 0.03
            headers = {"Authorization": f"Bearer {chance.choice(self.live_keys) if live else 'stratum_live_nonsense'}"}
            if path in tags and chance.random() < 0.3:
                headers["If-None-Match"] = tags[path]
            try:
                async with session.get(self.gateways[name] + path, headers=headers) as answer:
                    body = await answer.read()
                    reason = json.loads(body)["details"][0]["reason"] if answer.status >= 400 else ""
                    if "ETag" in answer.headers:
                        tags[path] = answer.headers["ETag"]
                    request_id = answer.headers.get("X-Request-Id", "")
                    self.calls.append(Call(request_id, answer.status, name, path, live, reason, time.time()))
            except (aiohttp.ClientError, TimeoutError, OSError):
                self.calls.append(Call("", 0, name, path, live, "", time.time()))
                await asyncio.sleep(0.05)


@dataclass(slots=True)
class Kills:
    """Who was killed, and when a gateway was."""

    counted: Counter[str] = field(default_factory=Counter)
    gateway_at: float = 0.0


async def kill_around(stack: Stack, traffic: Traffic, chance: random.Random, each: int, kills: Kills) -> None:
    """Kills everybody so often, spread over the traffic; the first gateway once, in the middle of it."""
    order = [victim for victim in VICTIMS for _ in range(each)]
    chance.shuffle(order)
    order.insert(len(order) // 2, GATEWAY)
    for number, victim in enumerate(order):
        due = traffic.wanted * (number + 1) / (len(order) + 2)
        while len(traffic.calls) < due or not stack.members[victim].runnable.running:
            await asyncio.sleep(0.02)
        stack.kill(victim)
        kills.counted[victim] += 1
        if victim == GATEWAY:
            kills.gateway_at = time.time()


@dataclass(slots=True)
class Verdict:
    """What the ledger says, beside what the callers saw."""

    served: int
    ledger_rows: int
    ledger_units: int
    twice: int
    #: Served, and not counted: with the seconds from the answer to the gateway's death.
    missing: dict[str, float]
    #: Counted, and no caller saw the answer.
    unseen: list[str]
    sums: Mapping[str, int]
    gateway: str = GATEWAY

    @property
    def unexplained(self) -> list[str]:
        """Served and not counted, and not lost with a gateway's buffer."""
        return [
            request_id
            for request_id, seconds in self.missing.items()
            if not -SLACK_SECONDS <= seconds <= FLUSH_SECONDS + SLACK_SECONDS
        ]

    @property
    def good(self) -> bool:
        """Whether everything is explained to the request."""
        return not self.twice and not self.unexplained and len(set(self.sums.values())) == 1


async def compared(stack: Stack, traffic: Traffic, kills: Kills) -> Verdict:
    """The ledger beside what the callers saw."""
    rows = await stack.rows("SELECT request_id, part, units, status FROM billing.usage_ledger")
    counted = {str(row[0]) for row in rows if row[2]}
    served = {call.request_id: call for call in traffic.calls if call.is_billable}
    seen = {call.request_id for call in traffic.calls if call.request_id}
    sums = await stack.rows(
        "SELECT (SELECT coalesce(sum(units), 0) FROM billing.usage_ledger), "
        "(SELECT coalesce(sum(used_units), 0) FROM billing.usage_period), "
        "(SELECT coalesce(sum(units), 0) FROM billing.usage_day), "
        "(SELECT coalesce(sum(units), 0) FROM billing.usage_rollup)"
    )
    return Verdict(
        served=len(served),
        ledger_rows=len(rows),
        ledger_units=sum(int(row[2]) for row in rows),
        twice=len(rows) - len({(row[0], row[1]) for row in rows}),
        missing={
            request_id: kills.gateway_at - call.ended if call.gateway == GATEWAY else float("inf")
            for request_id, call in served.items()
            if request_id not in counted
        },
        unseen=sorted(counted - seen),
        sums=dict(zip(("ledger", "periods", "days", "roll-ups"), (int(number) for number in sums[0]), strict=True)),
    )


async def at_rest(stack: Stack, say: float = 1.0) -> None:
    """Waits until the ledger has stopped growing. Raises TimeoutError."""
    before, quiet = -1, 0
    async with asyncio.timeout(REST_SECONDS):
        while quiet < 8:
            await asyncio.sleep(say)
            try:
                rows = await stack.rows("SELECT count(*) FROM billing.usage_ledger")
            except psycopg.Error:
                continue
            now = int(rows[0][0])
            quiet, before = (quiet + 1 if now == before else 0), now


async def keys_of(stack: Stack) -> list[str]:
    """A fast live key for each of so many accounts."""
    made = []
    async with Accounts(stack.billing_address, stack.home.principal_ring()) as office:
        for number in range(ACCOUNTS):
            account = await office.create(
                Account(
                    name=f"caller {number}",
                    email="caller@example.com",
                    api_access_enabled=True,
                    rate_class="enterprise",
                    api_usage_soft_limit=1000,
                )
            )
            request = pb.IssueKeyRequest(account_id=account.id, name="faults", mode=ApiKey.Mode.LIVE)
            made.append((await office.issue(request)).secret)
    return made


async def main(requests: int, seed: int, each: int) -> bool:
    """Runs, prints, and says whether all was well."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="stratum-edge-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as a user of its own
        settings = StackSettings(
            Home(folder / "home"),
            free_ports(),
            Simulated(speed=120.0),
            sandbox=False,
            address_requests_per_second=ADDRESS_REQUESTS_PER_SECOND,
        )
        async with Stack(settings, _say) as stack:
            second = await stack.add_gateway("second")
            keys = await keys_of(stack)
            traffic = Traffic({GATEWAY: stack.gateway_url, "gateway-second": second}, keys, requests, seed)
            kills = Kills()
            began = time.monotonic()
            killing = asyncio.create_task(kill_around(stack, traffic, chance, each, kills))
            showing = asyncio.create_task(_show(traffic, kills))
            try:
                await traffic.run()
                await killing
            finally:
                for task in (killing, showing):
                    task.cancel()
                await asyncio.gather(killing, showing, return_exceptions=True)
            seconds = time.monotonic() - began
            await at_rest(stack)
            verdict = await compared(stack, traffic, kills)
    _print(traffic, kills, verdict, seconds)
    return verdict.good and all(kills.counted[victim] >= each for victim in VICTIMS) and kills.counted[GATEWAY] == 1


async def _show(traffic: Traffic, kills: Kills) -> None:
    while True:
        await asyncio.sleep(15.0)
        _say(f"{len(traffic.calls):,} of {traffic.wanted:,} calls, {sum(kills.counted.values())} kills")


def _print(traffic: Traffic, kills: Kills, verdict: Verdict, seconds: float) -> None:
    by_status = Counter(f"{call.status} {call.reason}".strip() for call in traffic.calls)
    _say(f"{len(traffic.calls):,} calls in {seconds:.0f} s; kill -9: {json.dumps(dict(sorted(kills.counted.items())))}")
    _say("answers by status (0: none): " + ", ".join(f"{status} {n:,}" for status, n in sorted(by_status.items())))
    _say(f"served and billable, as the callers saw it: {verdict.served:,}")
    _say(f"in the ledger: {verdict.ledger_rows:,} rows, {verdict.ledger_units:,} units; twice: {verdict.twice}")
    _say("sums of units: " + ", ".join(f"{name} {number:,}" for name, number in verdict.sums.items()))
    _say(
        f"served and not counted: {len(verdict.missing)}; of these not lost with the killed gateway's buffer: "
        f"{len(verdict.unexplained)}"
    )
    for request_id, before in list(verdict.missing.items())[:40]:
        _say(f"  {request_id}: answered {before * 1000:.0f} ms before the gateway's death")
    _say(f"counted, and the answer reached nobody: {len(verdict.unseen)}")
    for request_id in verdict.unseen[:40]:
        _say(f"  {request_id}")
    difference = verdict.ledger_units - verdict.served
    _say(f"difference: {difference} = {len(verdict.unseen)} unseen - {len(verdict.missing)} missing")
    _say("explained to the request" if verdict.good else "NOT WELL: see above")


def _say(sentence: str) -> None:
    sys.stdout.write(sentence + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.faults.edge", description=__doc__)
    parser.add_argument("--requests", type=int, default=50_000, help="how many calls")
    parser.add_argument("--seed", type=int, default=1, help="who calls what, and who is killed when")
    parser.add_argument("--each", type=int, default=10, help="how often each process is killed")
    given = parser.parse_args()
    sys.exit(0 if asyncio.run(main(given.requests, given.seed, given.each)) else 1)

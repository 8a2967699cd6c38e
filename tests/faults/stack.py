"""The whole system with a proxy on every way between two processes, a clock that can be moved, and small disks."""

from __future__ import annotations

import asyncio
import os
import subprocess
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web
from sqlalchemy.engine import make_url

from deploy.home import Home, Ports
from deploy.local.process import free_port
from deploy.provider import served
from deploy.recording import Recording, read_moment
from deploy.replay_provider import ReplayProvider
from deploy.stack import Recorded, Stack, StackSettings
from tests.faults.proxy import Link
from tests.faults.schedule import LINKS

CLOCK_FOLDER = Path(__file__).parent / "clock"
#: Enough for the recording, little enough to be filled.
DISK_BYTES = {"nats": 96 * 1024**2, "postgres": 900 * 1024**2}
STREAM_BYTES = 640 * 1024


class Gate:
    """Lets the provider answer as far into the recording as it is opened."""

    def __init__(self, recording: Recording) -> None:
        self._times = recording.times
        self._open = 0
        self._held = 0
        self._opened = asyncio.Event()

    def open_to(self, share: float) -> None:
        """At least so far; a gate is never closed again."""
        self._open = max(self._open, round(share * len(self._times)))
        self._opened.set()
        self._opened = asyncio.Event()

    def open_wider(self, by: float) -> None:
        """Further by a share, and one answer at least, if somebody waits for it; the end is for when all is over."""
        if self._held:
            self.open_to(min(0.95, self.share + max(by, 1 / len(self._times))))

    @property
    def share(self) -> float:
        """How much of the recording may be had."""
        return self._open / len(self._times)

    @web.middleware
    async def wait(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Holds an answer back until it may be given."""
        if "date" not in request.query:
            return await handler(request)  # it only asks whether the provider is there
        number = bisect_right(self._times, read_moment(request.query["date"]))
        while number > self._open:
            self._held += 1
            try:
                await self._opened.wait()
            finally:
                self._held -= 1
        return await handler(request)


def links_of(ports: Ports) -> dict[str, Link]:
    """A link for every way between two processes."""
    return {name: Link(free_port(), getattr(ports, name.partition("-")[2])) for name in LINKS}


class FaultyStack(Stack):
    """A stack whose services reach everything through the links."""

    def __init__(
        self, settings: StackSettings, links: Mapping[str, Link], gate: Gate, say: Callable[[str], None]
    ) -> None:
        super().__init__(settings, say)
        self._links = links
        self._gate = gate
        self._provider_url = ""
        self.clock = settings.home.folder / "clock"

    def environment_of(self, name: str) -> dict[str, str]:
        """What a service of this stack is started with."""
        return self._environment(name, self._provider_url)

    async def _start_provider(self) -> str:
        assert isinstance(self.settings.market, Recorded)
        application = ReplayProvider(self.settings.market.recording).application()
        application.middlewares.append(self._gate.wait)
        self._provider_url = await self._exit.enter_async_context(served(application, self.settings.ports.provider))
        return self._provider_url

    def _environment(self, name: str, provider_url: str) -> dict[str, str]:
        environment = super()._environment(name, provider_url)
        url = make_url(self.database_url(name)).set(port=self._links[f"{name}-postgres"].listens_on)
        secret = self.home.keep_secret(f"{name}-proxied-url", url.render_as_string(hide_password=False))
        environment["STRATUM_DATABASE_URL_FILE"] = str(secret)
        environment["STRATUM_NATS_URL"] = f"nats://127.0.0.1:{self._links[f'{name}-nats'].listens_on}"
        environment["PYTHONPATH"] = str(CLOCK_FOLDER)
        environment["FAULTS_CLOCK"] = str(self.clock)
        if name == "ingest":
            environment["ODDS_API_BASE_URL"] = f"http://127.0.0.1:{self._links['ingest-provider'].listens_on}"
        return environment


@contextmanager
def small_disks(home: Home) -> Iterator[str]:
    """Puts the servers' data on disks that can be filled; says why not, where the machine does not let us."""
    if os.geteuid() != 0:
        yield "only root may mount the small disks that are filled here"
        return
    mounted: list[Path] = []
    problem = ""
    try:
        for name, size in DISK_BYTES.items():
            folder = home.folder / name
            folder.mkdir(parents=True, exist_ok=True)
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "faults", str(folder)],
                check=False,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                problem = f"the small disks cannot be mounted here: {done.stderr.strip()}"
                break
            mounted.append(folder)
        yield problem
    finally:
        for folder in mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)

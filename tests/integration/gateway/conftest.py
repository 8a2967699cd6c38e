"""The usage reader as a child process, and the billing that it reports to."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from deploy.local.process import end, free_port, spawn
from gateway.usage.testing import Billing
from services.shared.testing import PRINCIPAL_KEYS, eventually

SHORT = {
    "USAGE_LOOK_SECONDS": "0.02",
    "USAGE_CALL_SECONDS": "1",
    "USAGE_LONGEST_PAUSE_SECONDS": "0.2",
    "USAGE_SETTLE_SECONDS": "0.5",
    # Test machines may be fuller than production may be.
    "USAGE_DISK_WARNING_RATIO": "0",
    "USAGE_DISK_LEAST_RATIO": "0",
}


class ReaderProcess:
    """`python -m gateway.usage` as a child of ours. It may be killed and started again."""

    def __init__(self, folder: Path, billing_port: int, **environment: str) -> None:
        self.folder = folder
        self.output = folder / "reader.log"
        self.metrics_port = free_port()
        self._environment = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": ":".join(part for part in sys.path if part),
            "STRATUM_PRINCIPAL_KEYS": PRINCIPAL_KEYS,
            "STRATUM_METRICS_PORT": str(self.metrics_port),
            "USAGE_LOG_FOLDER": str(folder),
            "USAGE_OFFSET_FILE": str(folder / "usage.offset"),
            "USAGE_UNREADABLE_FILE": str(folder / "usage.unreadable.jsonl"),
            "USAGE_BILLING_ADDRESS": f"127.0.0.1:{billing_port}",
            "USAGE_GATEWAY": "gateway-1",
            "USAGE_ENVOY_ADMIN_URL": "",
            **SHORT,
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "gateway.usage"]
        self.process = spawn(command, self.output, signal.SIGKILL, environment=self._environment)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    async def ends(self, within: float = 20.0) -> int:
        """Its exit status, once it has ended."""
        assert self.process is not None
        return await asyncio.to_thread(self.process.wait, within)

    def stop(self) -> None:
        if self.process is not None:
            end(self.process, signal.SIGTERM, 15.0)

    def said(self, event: str = "") -> list[dict[str, Any]]:
        """What it logged, or what of it tells of one event."""
        lines = [json.loads(line) for line in self.output.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if event in line["event"]]

    async def ready(self, within: float = 20.0) -> None:
        """Returns when it says that it is."""

        async def is_ready() -> bool:
            return (await self.get("/readyz"))[0] == 200

        await eventually(is_ready, within)

    async def get(self, path: str) -> tuple[int, str]:
        """The status and the body; 0 where nobody answers."""
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{self.metrics_port}{path}") as answer,
            ):
                return answer.status, await answer.text()
        except aiohttp.ClientError:
            return 0, ""

    async def metric(self, name: str) -> float:
        """The value of one sample, named with its labels; 0 where it is not told."""
        _, text = await self.get("/metrics")
        return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} ")), 0.0)


@pytest.fixture
async def billing() -> AsyncIterator[Billing]:
    """A billing that is well until told otherwise."""
    stand_in = Billing()
    await stand_in.start()
    yield stand_in
    await stand_in.close()


@pytest.fixture
def reader_of(tmp_path: Path, billing: Billing) -> Iterator[Callable[..., ReaderProcess]]:
    """`reader_of(USAGE_BATCH_LINES="10")`: a reader of the log in `tmp_path`, ended with the test."""
    made: list[ReaderProcess] = []

    def reader(folder: Path = tmp_path, **environment: str) -> ReaderProcess:
        made.append(ReaderProcess(folder, billing.port, **environment))
        return made[-1]

    yield reader
    for process in made:
        process.stop()

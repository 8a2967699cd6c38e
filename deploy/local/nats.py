"""NATS with JetStream from its wheel: every write synced before it is acknowledged, 127.0.0.1 only."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sysconfig
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

from deploy.local.process import ServerFailedError, await_ready, end, free_port, refuse_if_taken, spawn


class NatsServer:
    """One server with its streams in a folder. `start` and `stop` may follow each other; the streams stay."""

    def __init__(self, folder: Path, port: int = 0, monitor_port: int = 0, syncs_writes: bool = True) -> None:
        """A port of 0 takes a free one and keeps it. `syncs_writes` False is for showing that nobody accepts it."""
        self.port = port or free_port()
        self.monitor_port = monitor_port or free_port()
        self._folder = folder.absolute()
        self._log = self._folder / "nats.log"
        self._syncs_writes = syncs_writes
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def monitor_url(self) -> str:
        """Where the server tells about itself over HTTP."""
        return f"http://127.0.0.1:{self.monitor_port}"

    def start(self, deadline_seconds: float = 30.0) -> None:
        """Starts the server and returns when JetStream is up. Raises ServerFailedError."""
        if self.running:
            return
        refuse_if_taken(self.port, self.monitor_port)
        self._folder.mkdir(parents=True, exist_ok=True)
        configuration = self._folder / "nats.conf"
        configuration.write_text(self._configuration())
        self._process = spawn([str(_binary()), "--config", str(configuration)], self._log, death_signal=signal.SIGTERM)
        try:
            await_ready(self._process, self._log, self._answers, deadline_seconds)
        except ServerFailedError:
            self.stop()
            raise

    def stop(self, deadline_seconds: float = 15.0) -> None:
        """Shuts down cleanly."""
        if self._process is not None:
            end(self._process, signal.SIGTERM, deadline_seconds)

    def kill(self) -> None:
        """Ends it as a crash would: no shutdown, nothing written."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _configuration(self) -> str:
        # JSON is a dialect that the server reads.
        return json.dumps(
            {
                "host": "127.0.0.1",
                "port": self.port,
                "http": f"127.0.0.1:{self.monitor_port}",
                "max_payload": 8 * 1024 * 1024,
                "jetstream": {
                    "store_dir": str(self._folder / "jetstream"),
                    "max_memory_store": 256 * 1024**2,
                    "max_file_store": 64 * 1024**3,
                    **({"sync_interval": "always"} if self._syncs_writes else {}),
                },
            },
            indent=2,
        )

    def is_healthy(self) -> bool:
        """Whether its streams take messages. After a full disk they take none until a start, and only this says so."""
        return self._says_well("/healthz")

    def _answers(self) -> bool:
        return self._says_well("/healthz?js-enabled-only=true")

    def _says_well(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"{self.monitor_url}{path}", timeout=2) as answer:  # noqa: S310 - our own http address
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _binary() -> Path:
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = beside if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise ServerFailedError("NATS is not installed: install the extra `local`")
    return Path(found)

"""Envoy from its wheel, with the gateway's configuration, on 127.0.0.1 only."""

from __future__ import annotations

import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from deploy.local.process import ServerFailedError, await_ready, end, free_port, refuse_if_taken, spawn
from gateway.envoy import Gateway, prepare


class Envoy:
    """One gateway. `start` and `stop` may follow each other."""

    def __init__(
        self,
        folder: Path,
        services: Mapping[str, tuple[str, int]],
        port: int = 0,
        admin_port: int = 0,
        deadline_seconds: float = 10.0,
        *,
        authz: Sequence[tuple[str, int]] = (),
        sandbox: tuple[str, int] | None = None,
        name: str = "",
        host: str = "127.0.0.1",
        stream_flush_seconds: float = 60.0,
        address_requests_per_second: int = 100,
        address_burst: int = 200,
        feed: tuple[str, int] | None = None,
        workers: int = 2,
    ) -> None:
        """Everything as a Gateway has it, which see. A port of 0 takes a free one and keeps it."""
        self.gateway = Gateway(
            folder.absolute(),
            services,
            port or free_port(),
            admin_port or free_port(),
            deadline_seconds,
            authz,
            sandbox,
            name,
            host,
            stream_flush_seconds,
            address_requests_per_second,
            address_burst,
            feed,
            workers,
        )
        self._log = self.gateway.folder / "envoy.log"
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
        """Where callers find it, without a slash at the end."""
        return self.gateway.url

    def start(self, deadline_seconds: float = 30.0) -> None:
        """Starts Envoy and returns when it answers. Raises ServerFailedError, also where a port is taken."""
        if self.running:
            return
        refuse_if_taken(self.gateway.port, self.gateway.admin_port)
        command = prepare(self.gateway)
        self._process = spawn(command, self._log, death_signal=signal.SIGTERM)
        try:
            await_ready(self._process, self._log, self._answers, deadline_seconds)
        except ServerFailedError:
            self.stop()
            raise

    def stop(self, deadline_seconds: float = 5.0) -> None:
        """Ends it; open streams end with it."""
        if self._process is not None:
            end(self._process, signal.SIGTERM, deadline_seconds)

    def kill(self) -> None:
        """Ends it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=2) as answer:  # noqa: S310 - our own http address
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

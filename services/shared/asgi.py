"""An application that Envoy asks over HTTP/1.1, on a port of its own in this process's loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

#: Longer than Envoy keeps a connection that it does not use: who closes it must be who sends on it.
KEEP_ALIVE_SECONDS = 600


class AsgiServer(uvicorn.Server):
    """The application on an address. `serve` returns after `stop`."""

    def __init__(self, app: Any, host: str, port: int, drain_seconds: float) -> None:
        """Calls under way at the end have `drain_seconds`."""
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http="httptools",
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                log_level="warning",
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=max(1, round(drain_seconds)),
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to whoever runs it, who tells Envoy first."""
        yield

    def stop(self) -> None:
        """Take no new requests; those under way are answered."""
        self.should_exit = True

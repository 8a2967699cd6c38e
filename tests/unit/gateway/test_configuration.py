"""What Envoy is told, before it is told."""

from pathlib import Path

import pytest
import yaml
from google.protobuf.descriptor_pool import DescriptorPool

from gateway.envoy import Gateway, descriptor_set, render, service_names

GATEWAY = Gateway(
    folder=Path("/var/lib/stratum/gateway"),
    services={"ingest": ("ingest", 50051), "consensus": ("consensus", 50052), "signals": ("10.0.0.3", 50053)},
    port=8080,
    admin_port=9901,
    deadline_seconds=2.5,
)


@pytest.fixture(scope="module")
def configuration():
    return yaml.safe_load(render(GATEWAY))


@pytest.fixture(scope="module")
def manager(configuration):
    (listener,) = configuration["static_resources"]["listeners"]
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


def addresses(part):
    """Every socket address inside a part of the configuration."""
    if isinstance(part, dict):
        if "socket_address" in part:
            yield part["socket_address"]
        for inner in part.values():
            yield from addresses(inner)
    if isinstance(part, list):
        for inner in part:
            yield from addresses(inner)


def test_it_listens_on_loopback_only(configuration):
    listening = [*addresses(configuration["admin"]), *addresses(configuration["static_resources"]["listeners"])]
    assert [(one["address"], one["port_value"]) for one in listening] == [("127.0.0.1", 9901), ("127.0.0.1", 8080)]


def test_two_gateways_cannot_share_a_port(configuration):
    assert all(one["enable_reuse_port"] is False for one in configuration["static_resources"]["listeners"])


def test_services_are_where_the_gateway_was_told(configuration):
    clusters = {one["name"]: next(addresses(one)) for one in configuration["static_resources"]["clusters"]}
    assert {name: (one["address"], one["port_value"]) for name, one in clusters.items()} == GATEWAY.services


@pytest.mark.parametrize(
    "said",
    [
        "x-request-id",
        "traceparent",
        "tracestate",
        "x-stratum-principal",
        "x-envoy-retry-on",
        "grpc-timeout",
        "content-type",
    ],
)
def test_what_only_we_may_say_is_removed_first_of_all(manager, said):
    (early,) = manager["early_header_mutation_extensions"]
    mutations = early["typed_config"]["mutations"]
    exact = [one["remove"] for one in mutations if "remove" in one]
    prefixes = [one["remove_on_match"]["key_matcher"]["prefix"] for one in mutations if "remove_on_match" in one]
    assert said in exact or said.startswith(tuple(prefixes))


def test_the_filters_stand_in_the_order_that_works(manager):
    names = [one["name"].rpartition(".")[2] for one in manager["http_filters"]]
    assert names == ["compressor", "lua", "grpc_json_transcoder", "router"]


def test_no_answer_below_400_is_rewritten(manager):
    for mapper in manager["local_reply_config"]["mappers"]:
        assert mapper["filter"]["status_code_filter"]["comparison"]["value"]["default_value"] >= 400


def test_each_of_envoys_own_answers_has_the_four_fields(manager):
    for mapper in manager["local_reply_config"]["mappers"]:
        body = mapper["body_format_override"]["json_format"]
        assert sorted(body) == ["code", "details", "message", "request_id"]
        assert body["details"][0]["reason"] in reasons()


def reasons():
    from stratum.common.v1.error_reason_pb2 import ErrorReason

    return ErrorReason.Value.keys()


def test_ordinary_calls_have_a_deadline_and_streams_have_none(manager):
    (host,) = manager["route_config"]["virtual_hosts"]
    timeouts = {one["name"]: one["route"]["timeout"] for one in host["routes"] if "route" in one}
    assert timeouts.pop("watch") == "0s"
    assert set(timeouts.values()) == {"2.5s"}


def test_the_contracts_are_whole_and_in_order():
    pool = DescriptorPool()
    for file in descriptor_set().file:
        pool.Add(file)  # a file before those that it needs would be refused
    for name in service_names():
        assert pool.FindServiceByName(name).methods
    assert pool.FindMessageTypeByName("google.rpc.ErrorInfo")

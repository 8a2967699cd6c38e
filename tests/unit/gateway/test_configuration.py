"""What Envoy is told, before it is told."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from google.protobuf.descriptor_pool import DescriptorPool
from stratum.common.v1.access_pb2 import Access
from stratum.common.v1.error_reason_pb2 import ErrorReason

from gateway.envoy import KEY_IN_ADDRESS, LINE, Gateway, descriptor_set, render, routes, service_names
from services.shared import api_keys, contracts

GATEWAY = Gateway(
    folder=Path("/var/lib/stratum/gateway"),
    services={
        "ingest": ("ingest", 50051),
        "consensus": ("consensus", 50052),
        "signals": ("10.0.0.3", 50053),
        "billing": ("billing", 50054),
    },
    port=8080,
    admin_port=9901,
    deadline_seconds=2.5,
    authz=[("authz-0", 50061), ("authz-1", 50062)],
    sandbox=("sandbox", 50055),
    stream_flush_seconds=60.0,
    address_requests_per_second=7,
    address_burst=9,
)
EVERY_PATH = [method for method in contracts.methods() if method.verb]


@pytest.fixture(scope="module")
def configuration():
    return yaml.safe_load(render(GATEWAY))


@pytest.fixture(scope="module")
def manager(configuration):
    (listener,) = configuration["static_resources"]["listeners"]
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


@pytest.fixture(scope="module")
def filters(manager):
    return {one["name"].rpartition(".")[2]: one["typed_config"] for one in manager["http_filters"]}


@pytest.fixture(scope="module")
def ways(manager):
    """Every route, in order."""
    (host,) = manager["route_config"]["virtual_hosts"]
    return host["routes"]


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
    assert clusters.pop("authz")
    assert {name: (one["address"], one["port_value"]) for name, one in clusters.items()} == {
        **GATEWAY.services,
        "sandbox": GATEWAY.sandbox,
    }


def test_it_listens_where_it_was_told_and_tells_about_itself_on_loopback_only():
    configuration = yaml.safe_load(render(replace(GATEWAY, host="0.0.0.0")))
    assert next(addresses(configuration["static_resources"]["listeners"]))["address"] == "0.0.0.0"
    assert next(addresses(configuration["admin"]))["address"] == "127.0.0.1"


def test_the_first_authorisation_server_is_asked_and_the_next_one_stands_by(configuration):
    (authz,) = (one for one in configuration["static_resources"]["clusters"] if one["name"] == "authz")
    endpoints = authz["load_assignment"]["endpoints"]
    assert [(one["priority"], next(addresses(one))["address"]) for one in endpoints] == [(0, "authz-0"), (1, "authz-1")]
    assert authz["common_lb_config"]["healthy_panic_threshold"] == {"value": 0}


def test_nobody_gets_in_where_nobody_decides(filters):
    assert filters["ext_authz"]["failure_mode_allow"] is False
    assert filters["ext_authz"]["status_on_error"] == {"code": 503}


def test_one_try_to_ask_may_take_all_the_time_there_is(filters):
    # Envoy takes the longest pause between tries for the time that one try may take.
    service = filters["ext_authz"]["http_service"]
    assert service["retry_policy"]["retry_back_off"]["max_interval"] == service["server_uri"]["timeout"]


def test_each_address_has_the_limit_that_was_told(filters):
    (descriptor,) = filters["local_ratelimit"]["descriptors"]
    assert (descriptor["token_bucket"]["tokens_per_fill"], descriptor["token_bucket"]["max_tokens"]) == (7, 9)
    assert filters["local_ratelimit"]["max_dynamic_descriptors"] >= 65_536


@pytest.mark.parametrize("method", EVERY_PATH, ids=lambda method: method.name)
def test_every_method_with_a_path_has_its_own_route(ways, method):
    found = [one for one in ways if one["name"] == method.full_name and one["route"]["cluster"] == method.service]
    (route,) = found
    mutations = route["typed_per_filter_config"]["envoy.filters.http.header_mutation"]["mutations"]
    told = {one["append"]["header"]["key"]: one["append"]["header"]["value"] for one in mutations["request_mutations"]}
    assert (told["x-stratum-method"], told["x-stratum-environment"]) == (method.full_name, "live")
    assert ("content-type" in told) == (method.verb == "POST")
    open_to_all = "envoy.filters.http.ext_authz" in route["typed_per_filter_config"]
    assert open_to_all == (method.level == Access.Level.PUBLIC)


def test_no_internal_method_has_a_route():
    named = {one["name"] for one in routes(GATEWAY)}
    assert not [one for one in contracts.methods() if one.level == Access.Level.INTERNAL and one.full_name in named]


def test_an_exact_path_comes_before_every_pattern():
    kinds = ["safe_regex" in one["match"] for one in routes(GATEWAY) if "route" in one]
    assert kinds == sorted(kinds)


@pytest.mark.parametrize("method", EVERY_PATH, ids=lambda method: method.name)
def test_a_path_is_405_only_after_its_own_verb(ways, method):
    path = method.template.replace("{id}", "a").replace("{event_id}", "a").replace("{key_id}", "a")
    matching = [one for one in ways if matches(one["match"], path)]
    names = [one["name"] for one in matching]
    assert method.full_name in names
    assert names[-1] == "another_verb"
    (allow,) = matching[-1]["response_headers_to_add"]
    assert allow["header"] == {"key": "allow", "value": method.verb}


def matches(match, path):
    if "safe_regex" in match:
        return bool(re.fullmatch(match["safe_regex"]["regex"], path))
    return match.get("path") == path


@pytest.mark.parametrize("sandbox", [None, ("sandbox", 1)])
def test_test_keys_go_to_the_sandbox_where_there_is_one(sandbox):
    made = [
        one for one in routes(replace(GATEWAY, sandbox=sandbox)) if one.get("route", {}).get("cluster") == "sandbox"
    ]
    assert bool(made) == bool(sandbox)
    for one in made:
        _, authorization = one["match"]["headers"]
        pattern = authorization["string_match"]["safe_regex"]["regex"]
        assert re.fullmatch(pattern, f"Bearer {api_keys.made(api_keys.TEST)}")
        assert re.fullmatch(pattern, f"bearer  {api_keys.made(api_keys.TEST)}")
        assert not re.fullmatch(pattern, f"Bearer {api_keys.made(api_keys.LIVE)}")


def test_a_service_that_is_not_there_has_no_paths():
    alone = replace(GATEWAY, services={"signals": ("signals", 1)})
    assert {one["route"]["cluster"] for one in routes(alone) if "route" in one} == {"signals", "sandbox"}


def test_no_service_sees_a_key(manager):
    (host,) = manager["route_config"]["virtual_hosts"]
    assert "authorization" in host["request_headers_to_remove"]


@pytest.mark.parametrize("prefix", [api_keys.LIVE, api_keys.TEST])
@pytest.mark.parametrize("written", ["/a/{}", "/a?b={}", "/a?b=c&d={}", "/{}/b"])
def test_a_key_in_an_address_is_seen(prefix, written):
    for key in (api_keys.made(prefix), api_keys.made(prefix).replace("_", "%5F").upper()):
        assert re.fullmatch(KEY_IN_ADDRESS, written.format(key))
    assert not re.fullmatch(KEY_IN_ADDRESS, written.format("stratum"))


def test_the_log_has_no_query_and_where_a_key_stands_in_the_path_no_path(manager):
    with_path, without = manager["access_log"]
    assert with_path["typed_config"]["log_format"]["json_format"] == LINE
    assert LINE["path"] == "%PATH(NQ:ORIG_OR_PATH):512%"
    assert without["typed_config"]["log_format"]["json_format"] == {**LINE, "path": "-"}
    assert not [name for name, value in LINE.items() if ":path" in value or "%PATH(WQ" in value]
    (one, *rest), (other, *same) = (log["filter"]["and_filter"]["filters"] for log in (with_path, without))
    assert one["header_filter"]["header"] == {**other["header_filter"]["header"], "invert_match": True}
    assert rest == same


def test_a_request_that_stays_open_is_logged_in_between(manager):
    assert manager["access_log_options"] == {"access_log_flush_interval": "60.0s"}


def test_two_gateways_have_two_logs():
    assert replace(GATEWAY, name="east").access_log != replace(GATEWAY, name="west").access_log


@pytest.mark.parametrize(
    "said",
    [
        "x-request-id",
        "traceparent",
        "tracestate",
        "x-stratum-principal",
        "x-envoy-retry-on",
        "grpc-timeout",
    ],
)
def test_what_only_we_may_say_is_removed_first_of_all(manager, said):
    (early,) = manager["early_header_mutation_extensions"]
    mutations = early["typed_config"]["mutations"]
    exact = [one["remove"] for one in mutations if "remove" in one]
    matchers = [one["remove_on_match"]["key_matcher"] for one in mutations if "remove_on_match" in one]
    prefixes = [matcher["prefix"] for matcher in matchers if "prefix" in matcher]
    assert said in exact or said.startswith(tuple(prefixes))


def test_the_filters_stand_in_the_order_that_works(manager):
    names = [one["name"].rpartition(".")[2] for one in manager["http_filters"]]
    assert names == [
        "compressor",
        "lua",
        "header_mutation",
        "local_ratelimit",
        "ext_authz",
        "grpc_json_transcoder",
        "router",
    ]


def test_a_content_type_is_removed_before_the_transcoder_sees_it(filters):
    assert {"remove": "content-type"} in filters["header_mutation"]["mutations"]["request_mutations"]


def conditions(part):
    """The comparisons of status that a mapper's filter asks for, and the flags."""
    if "and_filter" in part:
        return [one for inner in part["and_filter"]["filters"] for one in conditions(inner)]
    return [part]


def test_no_answer_below_400_is_rewritten(manager):
    for mapper in manager["local_reply_config"]["mappers"]:
        for one in conditions(mapper["filter"]):
            if "status_code_filter" in one:
                assert one["status_code_filter"]["comparison"]["value"]["default_value"] >= 400
            else:
                assert one == {"response_flag_filter": {"flags": ["UAEX"]}}


def test_each_of_envoys_own_answers_has_the_four_fields(manager):
    reasons = set(ErrorReason.Value.keys())
    bodies = [mapper["body_format_override"] for mapper in manager["local_reply_config"]["mappers"]]
    passed_on = [body for body in bodies if "json_format" not in body]
    assert [body["text_format_source"] for body in passed_on] == [{"inline_string": "%LOCAL_REPLY_BODY%"}]
    for body in (body["json_format"] for body in bodies if "json_format" in body):
        assert sorted(body) == ["code", "details", "message", "request_id"]
        assert body["details"][0]["reason"] in reasons


def test_ordinary_calls_have_a_deadline_and_streams_have_none(ways):
    streams = {one.full_name for one in EVERY_PATH if one.streaming}
    for one in ways:
        if "route" in one:
            assert one["route"]["timeout"] == ("0s" if one["name"] in streams else "2.5s")


def test_the_contracts_are_whole_and_in_order():
    pool = DescriptorPool()
    for file in descriptor_set().file:
        pool.Add(file)  # a file before those that it needs would be refused
    for name in service_names():
        assert pool.FindServiceByName(name).methods
    assert pool.FindMessageTypeByName("google.rpc.ErrorInfo")

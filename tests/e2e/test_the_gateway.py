"""What a caller sees of the gateway, whatever the services behind it do."""

import asyncio
import json
import socket
import sys
from asyncio.subprocess import PIPE
from html import unescape
from textwrap import dedent
from uuid import UUID

import aiohttp
import jsonschema
import psutil
import pytest
from stratum.signals.v1.signal_pb2 import SignalType, Tier
from yarl import URL

from deploy.local.envoy import Envoy
from deploy.local.process import ServerFailedError
from gateway.envoy import OPENAPI
from gateway.testing import DATA_AGE, ETAG, FIRST_EVENTS, LAST_EVENTS
from services.shared.testing import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOCUMENT = json.loads(OPENAPI.read_text())
FEED = "/api/v1/intel/signals"
WATCH = "/api/v1/intel/signals:watch"
PLACES = ("path", "query", "header")

# Method, path, headers; HTTP status, gRPC code, reason.
REFUSALS = {
    "a domain error": ("GET", f"{FEED}/missing", {}, 404, 5, "SIGNAL_NOT_FOUND"),
    "a domain error before a stream": ("GET", f"{WATCH}?after=unreadable", {}, 400, 3, "INVALID_CURSOR"),
    "a content type that means nothing": (
        "GET",
        f"{FEED}/missing",
        {"content-type": "text/xml"},
        404,
        5,
        "SIGNAL_NOT_FOUND",
    ),
    "a bug": ("GET", f"{FEED}?event_id=broken", {}, 500, 13, "INTERNAL"),
    "a bug before a stream": ("GET", f"{WATCH}?after=broken", {}, 500, 13, "INTERNAL"),
    "a status without details": ("GET", f"{FEED}?event_id=bare", {}, 500, 2, "INTERNAL"),
    "a service that ends meanwhile": ("GET", f"{FEED}?event_id=given_up", {}, 503, 14, "UNAVAILABLE"),
    "a service that takes too long": ("GET", f"{FEED}?event_id=slow", {}, 504, 4, "DEADLINE_EXCEEDED"),
    "an unknown parameter": ("GET", f"{FEED}?teir=HIGH", {}, 400, 3, "INVALID_ARGUMENT"),
    "an unknown value": ("GET", f"{FEED}?tier=ENORMOUS", {}, 400, 3, "INVALID_ARGUMENT"),
    "a list with commas": ("GET", f"{FEED}?tier=HIGH,LOW", {}, 400, 3, "INVALID_ARGUMENT"),
    "a number that is none": ("GET", f"{FEED}?min_score=much", {}, 400, 3, "INVALID_ARGUMENT"),
    "a time without a zone": ("GET", f"{FEED}?since=2026-01-05T18:00:00", {}, 400, 3, "INVALID_ARGUMENT"),
    "an unknown path": ("GET", "/api/v1/nothing", {}, 404, 5, "PATH_NOT_FOUND"),
    "an unknown path of a service": ("GET", f"{FEED}/a/b/c", {}, 404, 5, "PATH_NOT_FOUND"),
    "an internal method": ("GET", "/stratum.ingest.v1.IngestService/RequestKeyframes", {}, 404, 5, "PATH_NOT_FOUND"),
    "a POST": ("POST", FEED, {}, 405, 12, "METHOD_NOT_ALLOWED"),
    "a DELETE of one": ("DELETE", f"{FEED}/abc", {}, 405, 12, "METHOD_NOT_ALLOWED"),
    "headers without end": ("GET", FEED, {"x-long": "a" * 20_000}, 431, 3, "REQUEST_TOO_LARGE"),
    "an escaped slash": ("GET", f"{FEED}/a%2Fb", {}, 400, 3, "INVALID_ARGUMENT"),
}


def key(secret):
    """The headers of a call with a key."""
    return {"authorization": f"Bearer {secret}"}


@pytest.mark.parametrize("what", REFUSALS)
async def test_every_refusal_is_json_with_the_same_four_fields(caller, gateway, what):
    method, path, headers, status, code, reason = REFUSALS[what]
    async with caller.request(method, URL(gateway.url + path, encoded=True), headers=headers) as answer:
        error = await answer.json()
    assert (answer.status, error["code"], error["details"][0]["reason"]) == (status, code, reason)
    assert sorted(error) == ["code", "details", "message", "request_id"]
    jsonschema.validate(error, {"$ref": "#/components/schemas/Error", **DOCUMENT})


async def test_a_body_without_end_is_refused_with_the_same_four_fields(caller):
    async with caller.get(FEED, data=b" " * 200_000) as answer:
        error = await answer.json()
    assert (answer.status, error["details"][0]["reason"]) == (413, "REQUEST_TOO_LARGE")
    jsonschema.validate(error, {"$ref": "#/components/schemas/Error", **DOCUMENT})


@pytest.mark.parametrize("path", [FEED, f"{FEED}/a", WATCH, "/api/v1/intel/games", "/api/v1/intel/health"])
async def test_a_service_that_is_down_is_503_with_the_same_four_fields(lonely_gateway, secret, path):
    async with aiohttp.ClientSession(lonely_gateway.url) as session, session.get(path, headers=key(secret)) as answer:
        error = await answer.json()
    assert (answer.status, error["code"], error["details"][0]["reason"]) == (503, 14, "UNAVAILABLE")
    assert not {"refused", "upstream", "reset"} & set(error["message"].split())
    jsonschema.validate(error, {"$ref": "#/components/schemas/Error", **DOCUMENT})


@pytest.mark.parametrize("path", [f"{FEED}?event_id=broken", f"{FEED}?event_id=bare", f"{WATCH}?after=broken"])
async def test_the_text_of_a_bug_reaches_nobody(caller, path):
    async with caller.get(path) as answer:
        seen = f"{answer.headers}{await answer.text()}"
    assert answer.status == 500
    assert not any(word in seen for word in ("hunter2", "RuntimeError", "Traceback", "grpc-"))


async def test_the_request_id_of_an_error_is_the_one_in_the_header_and_in_the_service(caller, stand_ins):
    async with caller.get(f"{FEED}/missing") as answer:
        error = await answer.json()
    assert error["request_id"] == answer.headers["x-request-id"] == stand_ins.metadata[-1]["x-request-id"]


async def test_what_only_we_may_say_is_removed_when_a_caller_says_it(caller, stand_ins):
    said = {
        "x-request-id": "mine",
        "x-stratum-principal": "admin",
        "x-stratum-anything": "else",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-original-path": "/elsewhere",
        "grpc-timeout": "1n",
    }
    async with caller.get(f"{FEED}?page_size=1", headers=said) as answer:
        assert answer.status == 200
        assert UUID(answer.headers["x-request-id"])
    arrived = stand_ins.metadata[-1]
    assert arrived["x-request-id"] == answer.headers["x-request-id"]
    ours = {"x-stratum-principal", "x-stratum-account", "x-stratum-key", "x-stratum-environment"}
    assert {name for name in arrived if name.startswith("x-stratum-")} == ours
    assert "authorization" not in arrived
    assert not set(said.values()) & set(arrived.values())


async def test_two_calls_have_two_request_ids(caller):
    async with caller.get("/healthz") as one, caller.get("/healthz") as other:
        assert one.headers["x-request-id"] != other.headers["x-request-id"]


async def test_the_gateway_listens_on_loopback_only(gateway):
    with socket.socket() as probe:
        # 127.0.0.2 is this machine too, and would be answered by whoever listens on every address.
        assert probe.connect_ex(("127.0.0.2", gateway.gateway.port)) != 0


async def test_names_of_values_are_read_in_any_case_and_parameters_may_be_repeated(caller, stand_ins):
    async with caller.get(
        f"{FEED}?tier=high&tier=Medium&signal_type=move&type=STEAM&book=a&book=b&page_size=1"
    ) as answer:
        assert answer.status == 200
    request = stand_ins.requests[-1]
    assert list(request.tier) == [Tier.HIGH, Tier.MEDIUM]
    assert (list(request.signal_type), list(request.type)) == ([SignalType.MOVE], [SignalType.STEAM])
    assert list(request.book) == ["a", "b"]


async def test_a_time_may_have_any_offset(caller, stand_ins):
    async with caller.get(FEED, params={"since": "2026-01-05T20:00:00+02:00", "page_size": 1}) as answer:
        assert answer.status == 200
    assert stand_ins.requests[-1].since.ToJsonString() == "2026-01-05T18:00:00Z"


async def test_answers_say_how_old_the_data_is(caller):
    async with caller.get(f"{FEED}?page_size=1") as answer:
        assert answer.headers["x-data-age"] == DATA_AGE
        assert not [name for name in answer.headers if name.lower().startswith(("grpc-", "x-envoy-"))]


OPERATIONS = [
    (verb, path)
    for path, operations in DOCUMENT["paths"].items()
    for verb, operation in operations.items()
    if "application/json" in operation["responses"]["200"].get("content", {})
]


@pytest.mark.parametrize(("verb", "path"), OPERATIONS)
async def test_answers_are_what_the_openapi_file_says(caller, verb, path):
    operation = DOCUMENT["paths"][path][verb]
    needed = [one for one in operation.get("parameters", []) if one.get("required")]
    asked = {place: {one["name"]: one["example"] for one in needed if one["in"] == place} for place in PLACES}
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
    async with caller.request(
        verb, path.format(**asked["path"]), params=asked["query"], headers=asked["header"], json=body
    ) as answer:
        assert answer.status == 200, await answer.text()
        said = await answer.json()
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(said, {**schema, **DOCUMENT})


async def test_a_full_signal_has_every_field_that_the_openapi_file_lists(caller):
    async with caller.get(f"{FEED}/abc") as answer:
        body = await answer.json()
    assert set(body["signal"]) == set(DOCUMENT["components"]["schemas"]["Signal"]["properties"])


async def test_a_page_of_500_full_signals_passes(caller):
    async with caller.get(f"{FEED}?page_size=500&view=FULL") as answer:
        body = await answer.read()
    assert answer.status == 200
    assert len(body) > 1 << 20
    assert len(json.loads(body)["signals"]) == 500


async def test_long_answers_are_compressed_for_those_who_can_read_it(caller):
    async with caller.get(f"{FEED}?page_size=50", headers={"accept-encoding": "gzip"}) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.headers["etag"] == ETAG
        assert len((await answer.json())["signals"]) == 50
    async with caller.get(f"{FEED}?page_size=50", headers={"accept-encoding": "identity"}) as answer:
        assert "content-encoding" not in answer.headers


@pytest.mark.parametrize("path", [FEED, f"{FEED}/abc", "/api/v1/intel/consensus", "/api/v1/intel/suppressions"])
@pytest.mark.parametrize("tags", [ETAG, f'W/"older", {ETAG}', f'{ETAG},"a,b"', ETAG.removeprefix("W/"), "*"])
async def test_what_the_caller_has_is_not_sent_again(caller, path, tags):
    async with caller.get(path, headers={"if-none-match": tags, "accept-encoding": "gzip"}) as answer:
        assert (answer.status, await answer.read()) == (304, b"")
        assert answer.headers["etag"] == ETAG
        assert answer.headers["x-data-age"] == DATA_AGE
        assert not {"content-type", "content-encoding", "x-stratum-not-modified"} & {*map(str.lower, answer.headers)}


async def test_what_a_caller_says_of_himself_makes_nothing_known(caller):
    async with caller.get(FEED, headers={"x-stratum-not-modified": "1"}) as answer:
        assert (answer.status, len((await answer.json())["signals"])) == (200, 50)
        assert "x-stratum-not-modified" not in answer.headers


async def test_an_error_is_told_whatever_the_caller_has(caller):
    async with caller.get(f"{FEED}/missing", headers={"if-none-match": "*"}) as answer:
        assert (answer.status, (await answer.json())["details"][0]["reason"]) == (404, "SIGNAL_NOT_FOUND")
        assert "etag" not in answer.headers


async def test_what_has_changed_is_sent_again(caller):
    async with caller.get(FEED, headers={"if-none-match": 'W/"feed-16"'}) as answer:
        assert (answer.status, len((await answer.json())["signals"])) == (200, 50)


async def test_a_stream_passes_its_bytes_as_they_are_and_when_they_come(caller, stand_ins):
    stand_ins.go_on.clear()
    async with caller.get(WATCH, headers={"Last-Event-ID": "7.0"}) as answer:
        assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
        # The first events arrive while the service still holds back the last ones.
        assert await answer.content.readexactly(len(FIRST_EVENTS)) == FIRST_EVENTS
        assert stand_ins.metadata[-1]["last-event-id"] == "7.0"
        stand_ins.go_on.set()
        assert await answer.content.read() == LAST_EVENTS


async def test_a_stream_outlives_the_deadline_of_ordinary_calls(caller, stand_ins):
    stand_ins.go_on.clear()
    async with caller.get(WATCH) as stream:
        async with caller.get(f"{FEED}?event_id=slow") as late:
            assert late.status == 504
        stand_ins.go_on.set()
        assert await stream.content.read() == FIRST_EVENTS + LAST_EVENTS


async def test_a_stream_is_never_compressed(caller, stand_ins):
    stand_ins.go_on.set()
    async with caller.get(WATCH, headers={"accept-encoding": "gzip"}) as answer:
        assert "content-encoding" not in answer.headers
        assert await answer.content.read() == FIRST_EVENTS + LAST_EVENTS


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("path", "content_type"),
    [("/healthz", "application/json"), ("/docs", "text/html"), ("/api/v1/openapi.json", "application/json")],
)
async def test_the_gateways_own_pages_answer_without_any_service(lonely_gateway, method, path, content_type):
    async with aiohttp.ClientSession(lonely_gateway.url) as session, session.request(method, path) as answer:
        assert (answer.status, answer.content_type) == (200, content_type)
        assert bool(await answer.read()) == (method == "GET")


async def test_the_openapi_file_is_served_as_it_is_kept(caller):
    async with caller.get("/api/v1/openapi.json") as answer:
        assert await answer.json() == DOCUMENT


@pytest.mark.parametrize("name", ["*", "!", "a|b", "x-bin", "grpc-timeout"])
async def test_a_header_that_grpc_cannot_carry_breaks_nothing(caller, name):
    async with caller.get("/api/v1/intel/games", headers={name: "%%% no base64 %%%"}) as answer:
        assert answer.status == 200


async def test_the_reference_page_may_load_nothing(caller):
    async with caller.get("/docs") as answer:
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")


async def test_the_examples_of_the_reference_page_call_this_gateway(caller, gateway):
    async with caller.get("/docs/reference") as answer:
        assert f"curl '{gateway.url}{FEED}?" in unescape(await answer.text())


async def test_every_call_is_in_the_access_log_with_what_was_asked(caller, gateway):
    async with caller.get(f"{FEED}/missing?") as answer:
        request_id = answer.headers["x-request-id"]
    log = gateway.gateway.access_log

    async def written():
        return next((line for line in log.read_text().splitlines() if request_id in line), None)

    entry = json.loads(await eventually(written))
    assert (entry["verb"], entry["status"], entry["path"]) == ("GET", 404, f"{FEED}/missing")
    assert entry["method"] == "stratum.signals.v1.SignalsService/GetSignal"
    assert (entry["account"], entry["key"], entry["test"]) == ("acct_known", "key_known", "live")
    assert entry["kind"] == "DownstreamEnd"
    assert entry["path"].startswith(f"{FEED}/missing")


async def test_a_second_gateway_on_the_same_port_refuses_to_start(gateway, tmp_path):
    second = Envoy(tmp_path, gateway.gateway.services, port=gateway.gateway.port)
    with pytest.raises(ServerFailedError, match="is taken"):
        second.start()


async def test_the_gateway_ends_with_the_process_that_started_it(tmp_path):
    program = """
        import pathlib, sys
        from deploy.local.envoy import Envoy
        nobody = dict.fromkeys(("ingest", "consensus", "signals"), ("127.0.0.1", 9))
        envoy = Envoy(pathlib.Path(sys.argv[1]), nobody)
        envoy.start()
        print(envoy.pid, flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", dedent(program), str(tmp_path)]
    parent = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    envoy = psutil.Process(int(await parent.stdout.readline()))
    assert envoy.name() == "envoy"
    parent.kill()
    await parent.wait()

    async def gone():
        return not envoy.is_running() or envoy.status() == psutil.STATUS_ZOMBIE

    await eventually(gone)

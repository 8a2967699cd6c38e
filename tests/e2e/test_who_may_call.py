"""Attempts to get in, and what each of them gets."""

import asyncio
import json
import time

import aiohttp
import grpc
import grpc.aio
import jsonschema
import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from stratum.billing.v1.account_pb2 import Account
from stratum.signals.v1 import signals_service_pb2, signals_service_pb2_grpc
from yarl import URL

from deploy.local.envoy import Envoy
from gateway.envoy import OPENAPI
from services.shared import api_keys, principal
from services.shared.keyring import Keyring
from services.shared.testing import RING, as_partner, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOCUMENT = json.loads(OPENAPI.read_text())
FEED = "/api/v1/intel/signals"
GAMES = "/api/v1/intel/games"
PLAN = "/api/v1/plan"
ROTATE = "/api/v1/keys/key_known:rotate"
REPORT = "/api/v1/keys:reportLeak"
READ_SIGNALS = "stratum.signals.v1.SignalsService/ReadSignals"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secrets(stand_ins, gateway, secret):
    """Keys of every kind, by what they are; the gateway knows them all."""
    table = stand_ins.table
    table.account("acct_suspended", standing=Account.Standing.SUSPENDED)
    table.account("acct_grace", standing=Account.Standing.GRACE)
    table.account("acct_without", api_access_enabled=False)
    past = Timestamp(seconds=int(time.time()) - 60)
    made = {
        "good": secret,
        "unknown": api_keys.made(api_keys.LIVE),
        "revoked": table.key("key_revoked", "acct_known", revoked_at=past),
        "revoked and expired": table.key("key_both", "acct_known", revoked_at=past, expires_at=past),
        "expired": table.key("key_expired", "acct_known", expires_at=past),
        "soon expired": table.key("key_soon", "acct_known", expires_at=Timestamp(seconds=int(time.time()) + 3600)),
        "suspended": table.key("key_suspended", "acct_suspended"),
        "in grace": table.key("key_grace", "acct_grace"),
        "unentitled": table.key("key_without", "acct_without"),
        "unentitled test": table.key("key_without_test", "acct_without", live=False),
        "markets only": table.key("key_markets", "acct_known", ["markets:read"]),
        "from elsewhere": table.key("key_elsewhere", "acct_known", allowed_addresses=["203.0.113.0/24"]),
        "from here": table.key("key_here", "acct_known", allowed_addresses=["203.0.113.7", "127.0.0.0/8"]),
        "from here, mapped": table.key("key_mapped", "acct_known", allowed_addresses=["::ffff:127.0.0.1"]),
        "test": table.key("key_test", "acct_known", live=False),
    }

    async def the_last_is_known():
        return (await ask(gateway.url, made["test"]))[0] == 200

    await eventually(the_last_is_known)
    return made


async def ask(url, secret, path=FEED, method="GET", **headers):
    """Status, body and headers of a call."""
    said = {"authorization": f"Bearer {secret}"} if secret else {}
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            method,
            URL(url + path, encoded=True),
            headers=said | {name.replace("_", "-"): value for name, value in headers.items()},
        ) as answer,
    ):
        body = await answer.read()
        return answer.status, body, answer.headers


def reason(body):
    error = json.loads(body)
    jsonschema.validate(error, {"$ref": "#/components/schemas/Error", **DOCUMENT})
    return error["details"][0]["reason"]


# Key, path, status, reason.
ATTEMPTS = {
    "without a key": ("", FEED, 401, "KEY_MISSING"),
    "with something else": ("letmein", FEED, 401, "KEY_MALFORMED"),
    "with a mistyped key": (api_keys.made(api_keys.LIVE)[:-1] + "-", FEED, 401, "KEY_MALFORMED"),
    "with a key that was never issued": ("unknown", FEED, 401, "KEY_UNKNOWN"),
    "with a revoked key": ("revoked", FEED, 401, "KEY_REVOKED"),
    "with a key that is revoked and expired": ("revoked and expired", FEED, 401, "KEY_REVOKED"),
    "with an expired key": ("expired", FEED, 401, "KEY_EXPIRED"),
    "from another address": ("from elsewhere", FEED, 403, "ADDRESS_NOT_ALLOWED"),
    "of a suspended account": ("suspended", FEED, 403, "ACCOUNT_SUSPENDED"),
    "of a suspended account, for its plan": ("suspended", PLAN, 403, "ACCOUNT_SUSPENDED"),
    "of an account that bought nothing": ("unentitled", FEED, 403, "NOT_ENTITLED"),
    "without the scope": ("markets only", FEED, 403, "SCOPE_MISSING"),
    "with a test key where nothing is recorded": ("test", PLAN, 403, "TEST_KEY"),
}


@pytest.mark.parametrize("how", ATTEMPTS)
async def test_who_may_not_call_is_told_why(gateway, secrets, stand_ins, how):
    which, path, status, why = ATTEMPTS[how]
    before = len(stand_ins.requests)
    answered, body, headers = await ask(gateway.url, secrets.get(which, which), path)
    assert (answered, reason(body)) == (status, why)
    assert headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert json.loads(body)["request_id"] == headers["x-request-id"]
    assert len(stand_ins.requests) == before


@pytest.mark.parametrize(
    ("which", "path"),
    [
        ("good", FEED),
        ("soon expired", FEED),
        ("in grace", FEED),
        ("from here", FEED),
        ("from here, mapped", FEED),
        ("markets only", GAMES),
        ("unentitled", PLAN),
        ("unentitled test", FEED),
        ("test", FEED),
    ],
)
async def test_who_may_call_is_answered(gateway, secrets, which, path):
    assert (await ask(gateway.url, secrets[which], path))[0] == 200


async def test_the_scope_that_is_missing_is_named(gateway, secrets):
    _, body, _ = await ask(gateway.url, secrets["markets only"])
    assert json.loads(body)["details"][0]["metadata"]["scope"] == "signals:read"


@pytest.mark.parametrize("spelling", ["Bearer {}", "bearer {}", "BEARER   {}"])
async def test_the_scheme_is_read_in_any_case(gateway, secrets, spelling):
    assert (await ask(gateway.url, "", authorization=spelling.format(secrets["good"])))[0] == 200


@pytest.mark.parametrize("header", ["x-forwarded-for", "x-stratum-address", "x-envoy-external-address", "x-real-ip"])
async def test_an_address_is_not_believed_because_a_caller_says_it(gateway, secrets, header):
    status, body, _ = await ask(gateway.url, secrets["from elsewhere"], **{header: "203.0.113.7"})
    assert (status, reason(body)) == (403, "ADDRESS_NOT_ALLOWED")


async def test_whoever_forges_identity_is_who_his_key_says(gateway, secrets, stand_ins):
    forged = principal.Principal(READ_SIGNALS, time.time() + 60, account_id="acct_grace", key_id="key_grace")
    said = {
        "x-stratum-principal": principal.signed(forged, RING),
        "x-stratum-account": "acct_grace",
        "x-stratum-key": "key_grace",
        "x-stratum-environment": "test",
        "x-stratum-method": "stratum.billing.v1.BillingService/GetPlan",
        "x-request-id": "mine",
    }
    status, _, headers = await ask(gateway.url, secrets["good"], **said)
    arrived = stand_ins.metadata[-1]
    believed = principal.read(arrived[principal.HEADER], RING, time.time())
    assert status == 200
    assert (believed.account_id, believed.key_id, believed.test) == ("acct_known", "key_known", False)
    assert believed.method == READ_SIGNALS
    assert (arrived["x-stratum-account"], arrived["x-stratum-key"]) == ("acct_known", "key_known")
    assert believed.request_id == arrived["x-request-id"] == headers["x-request-id"] != "mine"


async def test_no_service_sees_a_key(gateway, secrets, stand_ins):
    await ask(gateway.url, secrets["good"])
    assert not [value for value in stand_ins.metadata[-1].values() if "stratum_live_" in str(value)]


async def called_directly(stand_ins, metadata):
    """The code and the reason of a call past the gateway."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{stand_ins.port}") as channel:
        stub = signals_service_pb2_grpc.SignalsServiceStub(channel)
        try:
            await stub.ReadSignals(signals_service_pb2.ListSignalsRequest(), metadata=metadata, timeout=5)
        except grpc.aio.AioRpcError as error:
            status = status_pb2.Status.FromString(dict(error.trailing_metadata())[rpc_status.GRPC_DETAILS_METADATA_KEY])
            info = error_details_pb2.ErrorInfo()
            status.details[0].Unpack(info)
            return error.code(), info.reason
    return grpc.StatusCode.OK, ""


async def test_a_service_that_is_called_past_the_gateway_believes_what_we_signed(stand_ins):
    assert await called_directly(stand_ins, as_partner(READ_SIGNALS)) == (grpc.StatusCode.OK, "")


@pytest.mark.parametrize("forgery", ["nothing", "another ring", "another call's", "another method's", "old"])
async def test_a_service_that_is_called_past_the_gateway_believes_nothing_else(gateway, secrets, stand_ins, forgery):
    await ask(gateway.url, secrets["good"])
    overheard = stand_ins.metadata[-1][principal.HEADER]
    mine = principal.Principal(READ_SIGNALS, time.time() + 60, account_id="a", key_id="k", request_id="mine")
    said = {
        "nothing": "",
        "another ring": principal.signed(mine, Keyring.parse(f"1:{'6b' * 32}")),
        "another call's": overheard,
        "another method's": principal.signed(replaced(mine, method="stratum.billing.v1.BillingService/GetPlan"), RING),
        "old": principal.signed(replaced(mine, expires_at=time.time() - 60), RING),
    }[forgery]
    metadata = ((principal.HEADER, said), ("x-request-id", "mine"))
    assert await called_directly(stand_ins, metadata) == (grpc.StatusCode.UNAUTHENTICATED, "PRINCIPAL_INVALID")


def replaced(one, **fields):
    return principal.Principal(**{name: getattr(one, name) for name in one.__struct_fields__} | fields)


@pytest.mark.parametrize("path", ["{feed}?key={key}", "{feed}?api_key={encoded}", "/docs?token={key}", "{feed}/{key}"])
async def test_a_key_in_an_address_opens_nothing_and_is_written_nowhere(gateway, secrets, path):
    one = secrets["good"]
    written = path.format(feed=FEED, key=one, encoded=one.replace("_", "%5F"))
    status, body, headers = await ask(gateway.url, one, written)
    assert (status, reason(body), headers["www-authenticate"]) == (401, "KEY_IN_QUERY", "Bearer")

    async def logged():
        return [line for line in gateway.gateway.access_log.read_text().splitlines() if headers["x-request-id"] in line]

    (line,) = await eventually(logged)
    assert json.loads(line)["status"] == 401
    assert not any(one[13:] in file.read_text(errors="replace") for file in gateway.gateway.folder.iterdir())


async def test_no_query_is_written_to_a_log(gateway, secrets):
    _, _, headers = await ask(gateway.url, secrets["good"], f"{FEED}?event_id=somebodys-secret")

    async def logged():
        return headers["x-request-id"] in gateway.gateway.access_log.read_text()

    await eventually(logged)
    assert "somebodys-secret" not in gateway.gateway.access_log.read_text()


async def test_a_test_key_reads_the_sandbox_and_is_known_as_one(gateway, secrets, stand_ins):
    _, _, headers = await ask(gateway.url, secrets["test"])
    believed = principal.read(stand_ins.metadata[-1][principal.HEADER], RING, time.time())
    assert (believed.test, believed.key_id) == (True, "key_test")
    assert not [name for name in headers if name.lower().startswith("x-usage-")]

    async def logged():
        lines = map(json.loads, gateway.gateway.access_log.read_text().splitlines())
        return next((line for line in lines if line["request_id"] == headers["x-request-id"]), None)

    assert (await eventually(logged))["test"] == "test"


async def test_a_test_key_opens_nothing_where_there_is_no_sandbox(lonely_gateway, secrets):
    status, body, _ = await ask(lonely_gateway.url, secrets["test"])
    assert (status, reason(body)) == (403, "TEST_KEY")


async def test_a_live_key_does_not_open_the_sandbox(authz, secrets):
    status, body, _ = await ask(
        f"http://127.0.0.1:{authz.port}",
        secrets["good"],
        f"/check{FEED}",
        x_stratum_method=READ_SIGNALS,
        x_stratum_environment="test",
    )
    assert (status, reason(body)) == (403, "TEST_KEY")


async def test_two_keys_in_one_call_open_nothing(gateway, secrets):
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.gateway.port)
    lines = [f"authorization: Bearer {secrets[which]}" for which in ("test", "good")]
    writer.write("\r\n".join([f"GET {FEED} HTTP/1.1", "host: a", "connection: close", *lines, "", ""]).encode())
    answer = (await reader.read()).decode()
    writer.close()
    assert answer.startswith("HTTP/1.1 40")


async def test_a_paid_answer_says_what_was_used_and_how_fast_one_may_call(gateway, secrets, stand_ins):
    stand_ins.table.account("acct_used", requests=300, included_units=100, used_units=130)
    one = stand_ins.table.key("key_used", "acct_used")

    async def known():
        status, _, headers = await ask(gateway.url, one)
        return headers if status == 200 else None

    headers = await eventually(known)
    said = {name.lower(): value for name, value in headers.items()}
    assert said["x-usage-used"] == "130"
    assert (said["x-usage-remaining"], said["x-usage-overage"]) == ("0", "30")
    assert said["x-usage-period-end"] == "2026-02-01T00:00:00Z"
    assert (said["x-ratelimit-limit"], said["x-ratelimit-remaining"], said["x-ratelimit-reset"]) == ("300", "299", "1")
    assert said["ratelimit"] == '"default";r=299;t=1'
    assert said["ratelimit-policy"] == '"default";q=300;w=60'
    assert not [name for name in said if name.startswith("x-stratum-")]


async def test_an_error_of_a_service_says_how_fast_one_may_call_too(gateway, secrets):
    status, _, headers = await ask(gateway.url, secrets["good"], f"{FEED}/missing")
    assert status == 404
    assert "x-ratelimit-remaining" in headers


async def test_what_is_not_paid_says_nothing_of_usage(gateway, secrets):
    _, _, headers = await ask(gateway.url, secrets["good"], PLAN)
    assert "x-ratelimit-remaining" in headers
    assert "x-usage-used" not in headers


async def test_a_post_arrives_as_json_with_its_idempotency_key(gateway, secrets, stand_ins):
    async with aiohttp.ClientSession(gateway.url) as session:
        headers = {
            "authorization": f"Bearer {secrets['good']}",
            "idempotency-key": "once",
            "content-type": "text/plain",
        }
        async with session.post(ROTATE, data=b'{"overlap": "24h"}', headers=headers) as answer:
            assert answer.status == 200, await answer.text()
    assert (stand_ins.requests[-1].key_id, stand_ins.requests[-1].overlap) == ("key_known", "24h")
    assert stand_ins.metadata[-1]["idempotency-key"] == "once"


async def test_anybody_may_report_a_leaked_key(gateway):
    async with (
        aiohttp.ClientSession(gateway.url) as session,
        session.post(REPORT, json={"key": "stratum_live_…", "found_at": "a paste"}) as answer,
    ):
        assert await answer.json() == {"revoked": True}


async def test_a_body_that_is_too_long_is_refused(gateway, secrets):
    async with aiohttp.ClientSession(gateway.url) as session:
        headers = {"authorization": f"Bearer {secrets['good']}"}
        async with session.post(ROTATE, data=b'{"overlap": "' + b"x" * 70_000 + b'"}', headers=headers) as answer:
            assert (answer.status, reason(await answer.read())) == (413, "REQUEST_TOO_LARGE")


@pytest.mark.parametrize("body", [b"{}", b" " * 1000])
@pytest.mark.parametrize("path", [FEED, PLAN, "/healthz"])
async def test_who_only_reads_sends_no_body(gateway, secrets, stand_ins, path, body):
    before = len(stand_ins.requests)
    async with aiohttp.ClientSession(gateway.url) as session:
        headers = {"authorization": f"Bearer {secrets['good']}"}
        async with session.get(path, data=body, headers=headers) as answer:
            assert (answer.status, reason(await answer.read())) == (413, "REQUEST_TOO_LARGE")
    assert len(stand_ins.requests) == before


@pytest.mark.parametrize(
    ("path", "body"), [(ROTATE, {"key_id": "key_other"}), (f"{ROTATE}?key_id=key_other", {}), (ROTATE, "not an object")]
)
async def test_what_a_path_names_is_not_named_differently(gateway, secrets, stand_ins, path, body):
    before = len(stand_ins.requests)
    async with aiohttp.ClientSession(gateway.url) as session:
        headers = {"authorization": f"Bearer {secrets['good']}"}
        async with session.post(path, json=body, headers=headers) as answer:
            assert (answer.status, reason(await answer.read())) == (400, "INVALID_ARGUMENT")
    assert len(stand_ins.requests) == before


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", FEED, "GET"),
        ("HEAD", f"{FEED}/abc", "GET"),
        ("GET", ROTATE, "POST"),
        ("PUT", REPORT, "POST"),
        ("OPTIONS", FEED, "GET"),
        ("POST", "/healthz", "GET, HEAD"),
        ("DELETE", "/docs", "GET, HEAD"),
    ],
)
async def test_a_path_that_is_called_in_another_way_says_in_which(gateway, secrets, method, path, allow):
    status, _, headers = await ask(gateway.url, secrets["good"], path, method)
    assert (status, headers["allow"]) == (405, allow)


METHODS = ["/stratum.billing.v1.AccessService/GetAccessTable", "/stratum.signals.v1.SignalsService/ReadSignals"]


@pytest.mark.parametrize("path", METHODS)
async def test_no_method_is_reached_by_its_own_name(gateway, secrets, path):
    status, body, _ = await ask(gateway.url, secrets["good"], path, "POST", content_type="application/json")
    assert (status, reason(body)) == (404, "PATH_NOT_FOUND")


@pytest.mark.parametrize("content_type", ["application/grpc", "Application/GRPC+proto"])
@pytest.mark.parametrize("path", [*METHODS, FEED, ROTATE])
async def test_grpc_is_not_spoken(gateway, secrets, stand_ins, path, content_type):
    before = len(stand_ins.requests)
    status, body, headers = await ask(gateway.url, secrets["good"], path, "POST", content_type=content_type)
    assert (status, reason(body)) == (404, "PATH_NOT_FOUND") if body else headers["grpc-status"] == "12"
    assert len(stand_ins.requests) == before

    async def logged():
        lines = map(json.loads, gateway.gateway.access_log.read_text().splitlines())
        return next((line for line in lines if line["request_id"] == headers["x-request-id"]), None)

    assert (await eventually(logged))["account"] is None


async def test_a_page_of_another_site_may_read_what_needs_no_key_and_nothing_else(gateway, secrets):
    origin = {"origin": "https://elsewhere.example"}
    for path in ("/healthz", "/docs", "/api/v1/openapi.json"):
        assert (await ask(gateway.url, "", path, **origin))[2]["access-control-allow-origin"] == "*"
    for method in ("GET", "OPTIONS"):
        _, _, headers = await ask(
            gateway.url, secrets["good"], FEED, method, access_control_request_method="GET", **origin
        )
        assert not [name for name in headers if name.lower().startswith("access-control-")]


async def test_an_open_stream_is_logged_while_it_is_open_and_when_it_ends(gateway, secrets, stand_ins):
    stand_ins.go_on.clear()
    async with aiohttp.ClientSession(gateway.url) as session:
        headers = {"authorization": f"Bearer {secrets['good']}"}
        async with session.get(f"{FEED}:watch", headers=headers) as answer:
            request_id = answer.headers["x-request-id"]

            async def kinds():
                lines = map(json.loads, gateway.gateway.access_log.read_text().splitlines())
                return [line["kind"] for line in lines if line["request_id"] == request_id]

            assert set(await eventually(kinds)) == {"DownstreamPeriodic"}
            stand_ins.go_on.set()
            await answer.read()

    async def ended():
        return "DownstreamEnd" in await kinds()

    await eventually(ended)


async def test_an_address_that_sends_too_much_is_told_to_wait(tmp_path, authz, stand_ins):
    services = {"signals": ("127.0.0.1", stand_ins.port)}
    with Envoy(tmp_path, services, authz=[authz.address], address_requests_per_second=1, address_burst=5) as envoy:
        answers = [await ask(envoy.url, "", path) for path in ["/docs", FEED] * 5]
    refused = [(body, headers) for status, body, headers in answers if status == 429]
    assert len(refused) >= 3
    for body, headers in refused:
        assert reason(body) == "ADDRESS_RATE_LIMITED"
        assert headers["retry-after"] == "1"
        assert not [name for name in headers if name.lower().startswith("x-envoy")]

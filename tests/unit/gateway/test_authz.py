"""What the authorisation server answers to Envoy's question."""

import json

import pytest
from prometheus_client import CollectorRegistry
from stratum.common.v1.error_reason_pb2 import ErrorReason

from gateway.authz import refusals
from gateway.authz.app import Authz
from gateway.authz.buckets import Buckets
from gateway.testing import PEPPERS, Table
from services.shared import api_keys, principal
from services.shared.access import AccessTable, Refusal
from services.shared.testing import RING

NOW = 1_767_700_000.0
READ_SIGNALS = b"stratum.signals.v1.SignalsService/ReadSignals"
GET_PLAN = b"stratum.billing.v1.BillingService/GetPlan"


class Edge:
    """An application over a table that a test fills."""

    def __init__(self):
        self.table = Table()
        self.known = AccessTable()
        self.registry = CollectorRegistry()
        self.app = Authz(
            self.known, Buckets(lambda: int(NOW * 1e9)), PEPPERS, RING, lambda: NOW, registry=self.registry
        )

    def check(self, secret, method=READ_SIGNALS, query=b"", **headers):
        """Status, headers and body of a call with a key."""
        self.known.apply(self.table.answer(self.known.revision))
        said = {
            b"authorization": b"Bearer " + secret.encode(),
            b"x-stratum-method": method,
            b"x-stratum-address": b"192.0.2.1",
            b"x-request-id": b"one",
        }
        said |= {name.replace("_", "-").encode(): value for name, value in headers.items()}
        status, given, body = self.app.check(said, query)
        return status, dict(given), json.loads(body) if body else {}

    def reason(self, *arguments, **headers):
        status, _, body = self.check(*arguments, **headers)
        return status, body["details"][0]["reason"]


@pytest.fixture
def edge():
    edge = Edge()
    edge.table.account("acct")
    return edge


def test_who_may_call_goes_on_with_a_signed_principal(edge):
    status, headers, body = edge.check(edge.table.key("key", "acct", ["signals:read"]))
    said = principal.read(headers[b"x-stratum-principal"].decode(), RING, NOW)
    assert (status, body) == (200, {})
    assert (said.account_id, said.key_id, said.scopes) == ("acct", "key", ("signals:read",))
    assert (said.method, said.request_id, said.test) == (READ_SIGNALS.decode(), "one", False)
    assert said.expires_at == NOW + principal.SECONDS
    assert (headers[b"x-stratum-account"], headers[b"x-stratum-key"]) == (b"acct", b"key")


@pytest.mark.parametrize(
    ("authorization", "why"),
    [
        (b"", "KEY_MISSING"),
        (b"Bearer", "KEY_MALFORMED"),
        (b"Basic dXNlcjpwYXNz", "KEY_MALFORMED"),
        (b"Bearer \xff\xfe", "KEY_MALFORMED"),
        (b"Bearer stratum_live_short", "KEY_MALFORMED"),
        (b"Bearer " + api_keys.made(api_keys.LIVE, "a" * 30).encode(), "KEY_UNKNOWN"),
    ],
)
def test_what_is_no_key_opens_nothing(edge, authorization, why):
    assert edge.reason("", authorization=authorization) == (401, why)


@pytest.mark.parametrize(
    "query", ["key={}", "a=b&token={}", "stratum_live_", "key=STRATUM_TEST_X", "key=stratum%5Flive%5Fabc"]
)
def test_a_key_in_the_query_is_not_looked_at(edge, query):
    secret = edge.table.key("key", "acct")
    assert edge.reason(secret, query=query.format(secret).encode()) == (401, "KEY_IN_QUERY")


def test_a_query_without_a_key_is_nothing_to_us(edge):
    assert edge.check(edge.table.key("key", "acct"), query=b"tier=HIGH%20&book=stratum")[0] == 200


def test_every_401_says_how_to_do_better(edge):
    assert edge.check("x")[1][b"www-authenticate"] == b"Bearer"
    assert b"www-authenticate" not in edge.check(edge.table.key("key", "acct", []))[1]


def test_without_a_table_nobody_gets_in():
    assert Edge().reason(api_keys.made(api_keys.LIVE)) == (401, "KEY_UNKNOWN")
    lonely = Edge()
    lonely.table.epoch = ""
    assert lonely.reason(api_keys.made(api_keys.LIVE)) == (503, "ACCESS_UNDECIDED")


def test_a_method_that_we_do_not_know_is_not_let_through(edge):
    secret = edge.table.key("key", "acct")
    assert edge.reason(secret, b"stratum.signals.v1.SignalsService/New") == (503, "ACCESS_UNDECIDED")
    assert edge.reason(secret, b"stratum.billing.v1.AccountsService/IssueKey") == (503, "ACCESS_UNDECIDED")


def test_an_account_of_which_no_limit_is_known_is_not_let_through(edge):
    edge.table.account("unlimited", requests=0)
    assert edge.reason(edge.table.key("key", "unlimited")) == (503, "ACCESS_UNDECIDED")


def test_who_calls_too_fast_is_told_when_to_come_again(edge):
    edge.table.account("slow", requests=2, per_seconds=60)
    secret = edge.table.key("key", "slow")
    assert [edge.check(secret)[0] for _ in range(3)] == [200, 200, 429]
    status, headers, body = edge.check(secret)
    assert (status, body["code"], body["details"][0]["reason"]) == (429, 8, "RATE_LIMITED")
    assert headers[b"retry-after"] == b"30"
    assert body["details"][0]["metadata"]["retry_after_seconds"] == "30"
    assert headers[b"x-ratelimit-remaining"] == b"0"
    assert b"x-stratum-principal" not in headers


def test_a_key_and_its_successor_share_a_bucket(edge):
    edge.table.account("slow", requests=2, per_seconds=60)
    old, new = edge.table.key("old", "slow"), edge.table.key("new", "slow", lineage="old")
    assert [edge.check(secret)[0] for secret in (old, new, old, new)] == [200, 200, 429, 429]


def test_the_overage_is_what_is_billed_whatever_the_limit_is_now(edge):
    edge.table.account("acct", included_units=100, used_units=70, overage_units=20)
    headers = edge.check(edge.table.key("key", "acct"))[1]
    said = [int(headers[f"x-usage-{what}".encode()]) for what in ("used", "remaining", "overage")]
    assert said == [70, 30, 20]


@pytest.mark.parametrize(("used", "remaining", "overage"), [(0, 100, 0), (99, 1, 0), (100, 0, 0), (101, 0, 1)])
def test_a_paid_call_says_what_was_used(edge, used, remaining, overage):
    edge.table.account("acct", included_units=100, used_units=used)
    headers = edge.check(edge.table.key("key", "acct"))[1]
    said = [int(headers[f"x-usage-{what}".encode()]) for what in ("used", "remaining", "overage")]
    assert said == [used, remaining, overage]
    assert headers[b"x-usage-period-end"] == b"2026-02-01T00:00:00Z"


def test_what_was_used_is_said_anew_when_it_changes(edge):
    secret = edge.table.key("key", "acct")
    edge.check(secret)
    edge.table.account("acct", used_units=7)
    assert edge.check(secret)[1][b"x-usage-used"] == b"7"


def test_a_call_that_is_not_counted_says_nothing_of_usage(edge):
    test_key, live_key = edge.table.key("test", "acct", live=False), edge.table.key("live", "acct")
    for given in (
        edge.check(test_key, x_stratum_environment=b"test")[1],
        edge.check(live_key, GET_PLAN)[1],
    ):
        assert not [name for name in given if name.startswith(b"x-usage-")]
        assert b"x-ratelimit-limit" in given


def test_whoever_is_decided_on_is_counted(edge):
    edge.check(edge.table.key("key", "acct"))
    edge.check("nothing")
    counted = {
        outcome: edge.registry.get_sample_value("stratum_authz_checks_total", {"outcome": outcome})
        for outcome in ("ALLOWED", "KEY_MALFORMED", "KEY_REVOKED")
    }
    assert counted == {"ALLOWED": 1, "KEY_MALFORMED": 1, "KEY_REVOKED": 0}


class Asked:
    """Answers of the application over ASGI."""

    def __init__(self, app):
        self._app = app

    async def __call__(self, path, headers=()):
        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "path": path, "headers": headers, "query_string": b""}
        await self._app(scope, None, send)
        return sent[0]["status"], sent[1]["body"]


async def test_it_is_well_only_with_a_table_and_while_it_is_open(edge):
    ask = Asked(edge.app)
    assert (await ask("/healthz"))[0] == 503
    edge.app.is_open = True
    assert (await ask("/healthz"))[0] == 503
    edge.check("")
    assert await ask("/healthz") == (200, b'{"status":"ok"}')
    edge.app.is_open = False
    assert (await ask("/healthz"))[0] == 503


async def test_a_callers_own_path_is_never_the_health_check(edge):
    edge.check("")
    edge.app.is_open = True
    assert (await Asked(edge.app)("/check/healthz"))[0] == 401
    assert (await Asked(edge.app)("/elsewhere"))[0] == 404


@pytest.mark.parametrize("reason", refusals.STATUS)
def test_every_refusal_has_the_four_fields(reason):
    status, headers, body = refusals.rendered(Refusal(reason, "no", {"why": "because"}), "one")
    error = json.loads(body)
    assert sorted(error) == ["code", "details", "message", "request_id"]
    assert error["details"][0]["reason"] == ErrorReason.Value.Name(reason)
    assert error["details"][0]["metadata"] == {"why": "because", "request_id": "one"}
    assert dict(headers)[b"content-length"] == str(len(body)).encode()
    assert (status == 401) == (b"www-authenticate" in dict(headers))

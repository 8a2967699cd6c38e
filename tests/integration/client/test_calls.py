"""Both clients against a server that refuses, fails, dawdles and hangs up."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from aiohttp import web
from stratum_client import (
    AuthenticationError,
    ConnectionFailedError,
    Limits,
    NotFoundError,
    RateLimitedError,
    Retries,
    UnavailableError,
    UnreadableAnswerError,
    UsageSeen,
    transport,
)

from tests.integration.client.small_api import KEY, PAGE, Caller, SmallApi, hang_up, refuses, says

FEED = "/api/v1/intel/signals"
REVOKE = "/api/v1/keys/key_1:revoke"
EXPORT = "/api/v1/usage/ledger:export"
REVOKED = {"key": {"id": "key_1", "status": "REVOKED", "created_at": "2026-11-26T12:00:00Z"}}


async def hangs_up(request: web.Request) -> web.StreamResponse:
    hang_up(request)
    return web.Response()


async def hangs_up_halfway(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-length": "1000", "content-type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"signals": [')
    hang_up(request)
    return response


async def dawdles(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


async def drips(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.05)


async def test_a_page_of_the_feed(api: SmallApi, caller: Caller) -> None:
    api.behaves(FEED, says())
    page = await caller.ask(lambda client: client.signals(tier=["HIGH", "MEDIUM"]).page())
    assert [signal.id for signal in page] == ["s1"]
    assert api.asked[0].query_string == "tier=HIGH&tier=MEDIUM"


async def test_the_key_travels_in_a_header_and_nowhere_else(api: SmallApi, caller: Caller) -> None:
    api.behaves(FEED, says())
    await caller.ask(lambda client: client.signals().page())
    (asked,) = api.asked
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in asked.path_qs
    assert asked.headers["user-agent"].startswith("stratum-client/")


async def test_a_key_is_not_carried_to_where_an_answer_points(api: SmallApi, caller: Caller) -> None:
    api.behaves(FEED, says({}, 302, location=f"{api.url}/elsewhere"))
    with pytest.raises(UnreadableAnswerError, match="302"):
        await caller.ask(lambda client: client.signals().page())
    assert [asked.path for asked in api.asked] == [FEED]


async def test_a_call_that_is_refused_for_its_number_waits_as_long_as_it_is_told(api: SmallApi, caller: Caller) -> None:
    api.behaves(FEED, refuses(429, "RATE_LIMITED", retry_after="1"), says())
    began = time.monotonic()
    await caller.ask(lambda client: client.signals().page())
    assert (len(api.asked), time.monotonic() - began) == (2, pytest.approx(1.2, abs=0.2))


async def test_a_wait_that_would_take_too_long_is_told_and_not_waited(api: SmallApi, caller: Caller) -> None:
    api.behaves(FEED, refuses(429, "RATE_LIMITED", retry_after="30"))
    began = time.monotonic()
    with pytest.raises(RateLimitedError) as error:
        await caller.ask(lambda client: client.signals().page())
    assert (error.value.retry_after_seconds, error.value.reason) == (30, "RATE_LIMITED")
    assert time.monotonic() - began < 2


async def test_after_the_last_permitted_call_the_next_one_waits_for_a_token(api: SmallApi, caller: Caller) -> None:
    none_left = {"x_ratelimit_limit": "2", "x_ratelimit_remaining": "0", "x_ratelimit_reset": "1"}
    api.behaves(FEED, says(ratelimit_policy='"default";q=2;w=1', **none_left))
    began = time.monotonic()
    for _ in range(2):
        await caller.ask(lambda client: client.signals().page())
    assert 0.5 <= time.monotonic() - began < 1.5


@pytest.mark.parametrize("behaviour", [hangs_up, hangs_up_halfway, refuses(503, "UNAVAILABLE"), dawdles, drips])
async def test_a_call_that_was_not_answered_is_made_again(api: SmallApi, caller: Caller, behaviour: Callable) -> None:
    api.behaves(FEED, behaviour, says())
    page = await caller.ask(lambda client: client.signals().page())
    assert (len(page), len(api.asked)) == (1, 2)


@pytest.mark.parametrize("behaviour", [hangs_up, dawdles, drips])
async def test_a_call_that_is_never_answered_ends(api: SmallApi, caller_with: Callable, behaviour: Callable) -> None:
    api.behaves(FEED, behaviour)
    caller = caller_with(retries=Retries(first_pause_seconds=0.01, attempt_seconds=0.2, total_seconds=2))
    began = time.monotonic()
    with pytest.raises(ConnectionFailedError):
        await caller.ask(lambda client: client.signals().page())
    assert (len(api.asked), time.monotonic() - began < 2.5) == (4, True)


async def test_four_attempts_and_then_the_error_of_the_last(api: SmallApi, caller: Caller) -> None:
    api.behaves(FEED, refuses(503, "UNAVAILABLE"))
    with pytest.raises(UnavailableError) as error:
        await caller.ask(lambda client: client.signals().page())
    assert (len(api.asked), error.value.request_id) == (4, "r1")


async def test_nobody_there_is_an_error_of_its_own(api: SmallApi, caller_with: Callable, unused_tcp_port: int) -> None:
    caller = caller_with()
    caller.client._base_url = f"http://127.0.0.1:{unused_tcp_port}"
    with pytest.raises(ConnectionFailedError):
        await caller.ask(lambda client: client.signals().page())


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [(401, "KEY_REVOKED", AuthenticationError), (404, "SIGNAL_NOT_FOUND", NotFoundError)],
)
async def test_a_refusal_that_lasts_is_not_asked_again(
    api: SmallApi, caller: Caller, status: int, reason: str, kind: type
) -> None:
    api.behaves(f"{FEED}/abc", refuses(status, reason))
    with pytest.raises(kind) as error:
        await caller.ask(lambda client: client.signal("abc"))
    assert (error.value.reason, error.value.request_id, len(api.asked)) == (reason, "r1", 1)


@pytest.mark.parametrize("behaviour", [hangs_up, refuses(503, "UNAVAILABLE"), refuses(429, "RATE_LIMITED")])
async def test_what_changes_something_is_repeated_under_the_same_key(
    api: SmallApi, caller: Caller, behaviour: Callable
) -> None:
    api.behaves(REVOKE, behaviour, says(REVOKED))
    key = await caller.ask(lambda client: client.revoke_key("key_1"))
    assert key.status == "REVOKED"
    first, second = (asked.headers["idempotency-key"] for asked in api.asked)
    assert first == second
    assert api.bodies == [b"{}", b"{}"]


async def test_two_changes_are_not_taken_for_one(api: SmallApi, caller: Caller) -> None:
    api.behaves(REVOKE, says(REVOKED))
    for _ in range(2):
        await caller.ask(lambda client: client.revoke_key("key_1"))
    first, second = (asked.headers["idempotency-key"] for asked in api.asked)
    assert first != second


async def test_what_has_not_changed_is_not_sent_again(api: SmallApi, caller_with: Callable) -> None:
    async def unless_known(request: web.Request) -> web.StreamResponse:
        if request.headers.get("if-none-match") == 'W/"feed-17"':
            return web.Response(status=304, headers={"etag": 'W/"feed-17"', "x-usage-used": "18"})
        return web.json_response(PAGE, headers={"etag": 'W/"feed-17"', "x-usage-used": "17"})

    api.behaves(FEED, unless_known)
    caller = caller_with(remember=8)
    pages = [await caller.ask(lambda client: client.signals().page()) for _ in range(2)]
    assert pages[0] == pages[1]
    assert pages[1].items[0] is pages[0].items[0]
    assert [asked.headers.get("if-none-match") for asked in api.asked] == [None, 'W/"feed-17"']
    assert caller.client.usage_seen.used == 18


async def test_nothing_is_remembered_unless_asked_to(api: SmallApi, caller: Caller) -> None:
    api.behaves(FEED, says(etag='W/"feed-17"'))
    for _ in range(2):
        await caller.ask(lambda client: client.signals().page())
    assert [asked.headers.get("if-none-match") for asked in api.asked] == [None, None]


async def test_the_last_answer_tells_limits_and_usage(api: SmallApi, caller: Caller) -> None:
    assert (caller.client.limits, caller.client.usage_seen) == (None, None)
    limits = {"x_ratelimit_limit": "300", "x_ratelimit_remaining": "299", "x_ratelimit_reset": "1"}
    usage = {"x_usage_used": "17", "x_usage_remaining": "9983", "x_usage_overage": "0"}
    api.behaves(
        FEED,
        says(
            **limits,
            **usage,
            x_usage_period_end="2026-12-01T00:00:00Z",
            ratelimit_policy='"default";q=300;w=60',
            x_request_id="f9be",
            x_data_age="2.5",
        ),
    )
    await caller.ask(lambda client: client.signals().page())
    client = caller.client
    assert client.limits == Limits(limit=300, remaining=299, reset_seconds=1, per_seconds=60)
    assert client.usage_seen == UsageSeen(17, 9983, 0, datetime(2026, 12, 1, tzinfo=UTC))
    assert (client.request_id, client.data_age_seconds) == ("f9be", 2.5)


async def test_compressed_answers_are_read(api: SmallApi, caller: Caller) -> None:
    async def compressed(_: web.Request) -> web.StreamResponse:
        response = web.json_response(PAGE)
        response.enable_compression(web.ContentCoding.gzip)
        return response

    api.behaves(FEED, compressed)
    assert len(await caller.ask(lambda client: client.signals().page())) == 1


async def test_an_answer_without_end_is_not_read_to_it(
    api: SmallApi, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MOST_BYTES", 10)
    api.behaves(FEED, says())
    with pytest.raises(UnreadableAnswerError):
        await caller.ask(lambda client: client.signals().page())


async def test_every_page_is_walked(api: SmallApi, caller: Caller) -> None:
    api.behaves(FEED, says(PAGE | {"next_page_token": "t1"}), refuses(503, "UNAVAILABLE"), says())
    assert len(await caller.whole(lambda client: client.signals(tier="HIGH"))) == 2
    assert [asked.query_string for asked in api.asked][1:] == ["tier=HIGH&page_size=500&page_token=t1"] * 2


async def exported(_: web.Request) -> web.StreamResponse:
    return web.Response(body=b"request_id,units\nr1,1\n", content_type="text/csv")


async def test_the_ledger_comes_in_pieces(api: SmallApi, caller: Caller) -> None:
    api.behaves(EXPORT, refuses(503, "UNAVAILABLE"), exported)
    assert b"".join(await caller.whole(lambda client: client.ledger_export())) == b"request_id,units\nr1,1\n"


async def test_a_ledger_that_breaks_off_does_not_pass_for_whole(api: SmallApi, caller: Caller) -> None:
    api.behaves(EXPORT, hangs_up_halfway)
    with pytest.raises(ConnectionFailedError, match="not whole"):
        await caller.whole(lambda client: client.ledger_export())


async def test_a_ledger_that_is_refused_is_refused(api: SmallApi, caller: Caller) -> None:
    api.behaves(EXPORT, refuses(403, "SCOPE_MISSING"))
    with pytest.raises(Exception, match="SCOPE_MISSING"):
        await caller.whole(lambda client: client.ledger_export())

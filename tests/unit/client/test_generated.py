"""The client's models and methods are what the contracts say."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from stratum_client import AsyncClient, Client

from gateway.testing import filled
from services.shared import contracts

ROOT = Path(__file__).resolve().parents[3]
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
#: Each RPC with an answer of its own, and how the client is asked for it. Listings give their first page.
CALLS: dict[str, Callable[[Any], Any]] = {
    "ReadSignals": lambda client: client.signals(tier=["HIGH", "LOW"], since=NOON, min_score=60).page(),
    "GetSignal": lambda client: client.signal("k5zq"),
    "ExplainSignal": lambda client: client.explain("k5zq"),
    "ListSuppressions": lambda client: client.suppressions(reason="cooldown").page(),
    "ListConsensus": lambda client: client.consensus(market="totals").page(),
    "ListConsensusHistory": lambda client: client.consensus_history("e912", as_of=NOON).page(),
    "ListGames": lambda client: client.games(sport_key="basketball_nba").page(),
    "GetGame": lambda client: client.game("e912", market=["spreads"]),
    "GetFeedHealth": lambda client: client.health(),
    "GetUsage": lambda client: client.usage(at=NOON),
    "ListUsageLedger": lambda client: client.ledger(key_id=["a", "b"]).page(),
    "QuoteUsage": lambda client: client.quote("/api/v1/intel/signals?tier=HIGH"),
    "GetPlan": lambda client: client.plan(),
    "ListOwnKeys": lambda client: client.keys(),
    "RotateOwnKey": lambda client: client.rotate_key("key_1", "24h"),
    "RevokeOwnKey": lambda client: client.revoke_key("key_1"),
    "ReportLeakedKey": lambda client: client.report_leaked_key("stratum_live_abc", found_at="a public page"),
}
#: Those whose answer has no end, or is a file.
IN_PIECES = {"StreamSignals", "ExportUsageLedger"}
#: A moment, as the proto's own filler makes it.
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def whole_answer(method: contracts.Method) -> dict[str, Any]:
    """An answer with every field set, in the JSON that the gateway writes."""
    pool = descriptor_pool.Default()
    name = method.renders or pool.FindMethodByName(method.full_name.replace("/", ".")).output_type.full_name
    message: Message = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))()
    return MessageToDict(filled(message, 9), preserving_proto_field_name=True)


def seen_by(model: Any) -> Any:
    """A decoded answer as plain values; moments as the gateway writes them."""
    if isinstance(model, datetime):
        return model.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(model, tuple):
        return [seen_by(one) for one in model]
    if hasattr(model, "__struct_fields__"):
        return {name: seen_by(getattr(model, name)) for name in model.__struct_fields__}
    return model


def test_the_generated_files_are_current() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "clients/python/generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_every_public_method_is_one_of_the_client() -> None:
    assert {method.name for method in contracts.methods() if method.verb} == CALLS.keys() | IN_PIECES


@pytest.mark.parametrize("name", CALLS)
def test_a_call_goes_where_the_contract_says_and_every_field_of_its_answer_arrives(name: str) -> None:
    (method,) = [method for method in contracts.methods() if method.name == name]
    answer = whole_answer(method)
    asked: list[httpx.Request] = []

    def answering(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json=answer)

    with Client("stratum_live_x", transport=httpx.MockTransport(answering)) as client:
        got = CALLS[name](client)
    assert contracts.found(asked[0].method, asked[0].url.path) == method
    expected: Any = answer
    if hasattr(got, "items") and hasattr(got, "next_page_token"):
        got, expected = got.items, next(value for value in answer.values() if isinstance(value, list))
    elif not hasattr(got, "__struct_fields__") or list(answer) != list(got.__struct_fields__):
        (expected,) = answer.values()
    assert seen_by(got) == expected


@pytest.mark.parametrize("name", CALLS)
async def test_the_awaited_client_asks_for_the_same(name: str) -> None:
    (method,) = [method for method in contracts.methods() if method.name == name]
    asked: list[httpx.Request] = []

    def answering(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json=whole_answer(method))

    with Client("stratum_live_x", transport=httpx.MockTransport(answering)) as client:
        expected = CALLS[name](client)
    async with AsyncClient("stratum_live_x", transport=httpx.MockTransport(answering)) as awaited:
        got = await CALLS[name](awaited)
    assert (got, asked[1].url, asked[1].content) == (expected, asked[0].url, asked[0].content)


def test_what_changes_something_carries_a_key_to_repeat_it_by_and_says_what_it_wants() -> None:
    asked: list[httpx.Request] = []

    def answering(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={"revoked": True})

    with Client("stratum_live_x", transport=httpx.MockTransport(answering)) as client:
        assert client.report_leaked_key("stratum_live_abc")
        assert client.report_leaked_key("stratum_live_abc", found_at="a page", idempotency_key="mine")
    assert [json.loads(request.content) for request in asked] == [
        {"key": "stratum_live_abc"},
        {"key": "stratum_live_abc", "found_at": "a page"},
    ]
    assert len(asked[0].headers["idempotency-key"]) == 36
    assert asked[1].headers["idempotency-key"] == "mine"

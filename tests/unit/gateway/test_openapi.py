"""The description of the public surface says what the contracts say."""

import re
import subprocess
import sys
from dataclasses import replace

import jsonschema
import pytest
import schemathesis
from openapi_spec_validator import validate
from stratum.common.v1.access_pb2 import Access

from gateway import openapi
from gateway.envoy import OPENAPI
from services.shared import api_keys, contracts


@pytest.fixture(scope="module")
def document():
    return openapi.document(openapi.contracts())


def operations(document):
    """Every operation by its name, with its verb and path."""
    return {
        told["operationId"]: (verb, path, told)
        for path, verbs in document["paths"].items()
        for verb, told in verbs.items()
    }


def operation(document, name):
    return operations(document)[name][2]


def parameter(document, name, of="ReadSignals"):
    return next(one for one in operation(document, of)["parameters"] if one["name"] == name)


def test_it_is_valid_openapi(document):
    validate(document)


def test_the_kept_file_is_what_the_contracts_say():
    assert OPENAPI.read_text() == openapi.text(openapi.contracts())


def test_every_method_with_a_path_is_in_it_and_no_internal_one(document):
    described = {(verb.upper(), path, name) for name, (verb, path, _) in operations(document).items()}
    assert described == {(one.verb, one.template, one.name) for one in contracts.methods() if one.template}
    assert {one.name for one in contracts.methods() if one.level == Access.Level.INTERNAL}.isdisjoint(
        operations(document)
    )


def test_an_internal_method_with_a_path_is_a_mistake_that_is_told(monkeypatch):
    (feed,) = [one for one in contracts.methods() if one.name == "ReadSignals"]
    monkeypatch.setattr(openapi, "methods", lambda: [replace(feed, level=Access.Level.INTERNAL)])
    with pytest.raises(ValueError, match="ReadSignals is internal and has a path"):
        list(openapi._public())


def test_every_parameter_says_what_it_means(document):
    silent = [
        f"{name}.{one['name']}"
        for name, (_, _, told) in operations(document).items()
        for one in told["parameters"]
        if not (one.get("description") or one["schema"].get("items", one["schema"]).get("description"))
    ]
    assert silent == []


def test_repeatable_filters_are_exploded_lists(document):
    tier = parameter(document, "tier")
    assert (tier["schema"]["type"], tier["style"], tier["explode"]) == ("array", "form", True)


def test_values_are_named_with_their_meaning_and_callers_are_not_offered_the_zero(document):
    values = parameter(document, "tier")["schema"]["items"]
    assert values["enum"] == ["LOW", "MEDIUM", "HIGH"]
    assert "- `LOW`: Below 55." in values["description"]


def test_a_value_without_a_comment_is_listed_too(document):
    assert "- `TOWARD_HOME`" in parameter(document, "direction")["schema"]["items"]["description"]


def test_the_summary_is_the_first_sentence_of_the_comment(document):
    feed = operation(document, "ReadSignals")
    assert feed["summary"] == "The feed."
    assert feed["description"].startswith("By score unless told otherwise")


def test_times_are_date_times(document):
    since = parameter(document, "since")["schema"]
    assert since["format"] == "date-time"
    for time in ("2026-01-05T18:00:00Z", "2026-01-05T18:00:00.123456789+02:00"):
        jsonschema.validate(time, since)


def test_a_page_has_its_limits(document):
    size = parameter(document, "page_size")["schema"]
    assert (size["default"], size["maximum"]) == (50, 500)


def test_what_is_required_is_required(document):
    assert parameter(document, "event_id", of="ListConsensusHistory")["required"]
    assert parameter(document, "id", of="GetSignal")["in"] == "path"
    assert not parameter(document, "event_id")["required"]


def test_fields_that_may_be_null_are_not_required(document):
    signal = document["components"]["schemas"]["Signal"]
    assert {"id", "delta", "also", "meta"} <= set(signal["required"])
    assert not {"book", "velocity", "commence_time", "fair_line"} & set(signal["required"])


def test_the_stream_is_described_as_server_sent_events(document):
    watch = operation(document, "StreamSignals")
    assert list(watch["responses"]["200"]["content"]) == ["text/event-stream"]
    assert parameter(document, "Last-Event-ID", of="StreamSignals")["in"] == "header"


def test_the_export_is_described_as_a_table(document):
    assert list(operation(document, "ExportUsageLedger")["responses"]["200"]["content"]) == ["text/csv"]


def test_every_answer_that_is_bytes_is_named_or_says_what_it_renders(document):
    for name, (_, _, told) in operations(document).items():
        for media, content in told["responses"]["200"]["content"].items():
            assert media == openapi.STREAMED.get(name, "application/json")
            assert content["schema"] != {"$ref": "#/components/schemas/HttpBody"}


def test_a_rendered_answer_has_the_schema_of_what_it_renders(document):
    content = operation(document, "ReadSignals")["responses"]["200"]["content"]
    assert content == {"application/json": {"schema": {"$ref": "#/components/schemas/ListSignalsResponse"}}}


def test_every_operation_can_end_in_the_error_with_four_fields(document):
    for _, _, told in operations(document).values():
        assert told["responses"]["default"] == {"$ref": "#/components/responses/Error"}
    assert document["components"]["schemas"]["Error"]["required"] == ["code", "message", "details", "request_id"]


def test_each_operation_asks_for_the_scope_of_its_method_and_a_public_one_for_nothing(document):
    asked = {name: told["security"] for name, (_, _, told) in operations(document).items()}
    assert asked == {
        one.name: [] if one.level == Access.Level.PUBLIC else [{"key": [one.scope]}]
        for one in contracts.methods()
        if one.template
    }
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


@pytest.mark.parametrize(
    ("name", "metered", "cost"),
    [
        ("ReadSignals", True, "1 unit when it is served: with 2xx, or with 304."),
        ("StreamSignals", True, "1 unit for each started 5 minutes that the stream is open."),
        ("GetFeedHealth", False, "Free."),
        ("GetUsage", False, "Free."),
        ("ReportLeakedKey", False, "Free."),
    ],
)
def test_each_operation_says_what_it_costs(document, name, metered, cost):
    told = operation(document, name)
    assert (told["x-metered"], told["x-cost"]) == (metered, cost)


@pytest.mark.parametrize(
    ("name", "some", "others"),
    [
        ("ReadSignals", {"X-RateLimit-Limit", "RateLimit", "X-Usage-Used", "X-Data-Age", "ETag"}, set()),
        ("StreamSignals", {"X-RateLimit-Reset", "X-Usage-Overage", "X-Data-Age"}, {"ETag"}),
        ("ListGames", {"RateLimit-Policy", "X-Usage-Period-End", "ETag"}, {"X-Data-Age"}),
        ("GetPlan", {"X-RateLimit-Remaining", "ETag"}, {"X-Usage-Used", "X-Data-Age"}),
        ("ReportLeakedKey", {"X-Request-Id"}, {"X-RateLimit-Limit", "X-Usage-Used", "ETag"}),
    ],
)
def test_headers_stand_beside_the_answers_that_have_them(document, name, some, others):
    headers = set(operation(document, name)["responses"]["200"]["headers"])
    assert some <= headers
    assert not others & headers


def test_what_can_be_asked_again_for_nothing_has_a_tag_and_a_304(document):
    for verb, _, told in operations(document).values():
        tagged = verb == "get" and list(told["responses"]["200"]["content"]) == ["application/json"]
        assert ("304" in told["responses"]) == tagged
        assert ("If-None-Match" in {one["name"] for one in told["parameters"]}) == tagged
    assert "content" not in operation(document, "ReadSignals")["responses"]["304"]


@pytest.mark.parametrize(
    ("name", "status", "reasons"),
    [
        ("ReadSignals", "400", {"INVALID_ARGUMENT", "INVALID_PAGE_TOKEN"}),
        ("StreamSignals", "400", {"INVALID_ARGUMENT", "INVALID_CURSOR"}),
        ("StreamSignals", "429", {"RATE_LIMITED", "ADDRESS_RATE_LIMITED", "TOO_MANY_STREAMS"}),
        ("GetSignal", "404", {"SIGNAL_NOT_FOUND"}),
        ("GetPlan", "403", {"ADDRESS_NOT_ALLOWED", "ACCOUNT_SUSPENDED", "SCOPE_MISSING", "TEST_KEY"}),
        ("RevokeOwnKey", "409", {"IDEMPOTENCY_KEY_REUSED"}),
        ("ReadSignals", "503", {"UNAVAILABLE", "ACCESS_UNDECIDED"}),
    ],
)
def test_refusals_are_named_under_their_status(document, name, status, reasons):
    response = operation(document, name)["responses"][status]
    assert set(re.findall("[A-Z_]{4,}", response["description"])) == reasons
    assert response["content"] == {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}


def test_whatever_changes_something_carries_an_idempotency_key(document):
    for verb, _, told in operations(document).values():
        required = {one["name"] for one in told["parameters"] if one["required"] and one["in"] == "header"}
        assert required == ({"Idempotency-Key"} if verb == "post" else set())


def test_a_public_call_is_never_refused_for_want_of_a_key(document):
    assert not {"401", "403"} & set(operation(document, "ReportLeakedKey")["responses"])


def test_a_refusal_for_its_speed_says_how_long_to_wait(document):
    for _, _, told in operations(document).values():
        assert "Retry-After" in told["responses"]["429"]["headers"]


def test_what_changes_something_takes_a_body_and_asks_for_an_idempotency_key(document):
    rotate = operation(document, "RotateOwnKey")
    assert rotate["requestBody"]["required"]
    assert rotate["requestBody"]["content"]["application/json"]["schema"]["required"] == ["overlap"]
    assert parameter(document, "Idempotency-Key", of="RotateOwnKey")["required"]
    assert "key_id" not in rotate["requestBody"]["content"]["application/json"]["schema"]["properties"]


def test_a_report_of_a_leak_needs_the_key_and_nothing_else(document):
    (content,) = operation(document, "ReportLeakedKey")["requestBody"]["content"].values()
    assert content["schema"]["required"] == ["key"]
    assert api_keys.is_well_formed(content["example"]["key"])


def test_every_example_is_what_its_schema_allows(document):
    shown = [
        (one["schema"], one["example"])
        for _, _, told in operations(document).values()
        for one in told["parameters"]
        if "example" in one
    ]
    shown += [
        (content["schema"], content["example"])
        for _, _, told in operations(document).values()
        for content in told.get("requestBody", {}).get("content", {}).values()
    ]
    shown.append((document["components"]["schemas"]["Error"], document["components"]["schemas"]["Error"]["example"]))
    for schema, example in shown:
        jsonschema.validate(example, schema)


@pytest.mark.parametrize(
    ("name", "of", "bad"),
    [
        ("since", "ReadSignals", "2026-01-05T18:00:00"),
        ("since", "ReadSignals", "2026-01-05"),
        ("min_score", "ReadSignals", 101),
        ("page_size", "ReadSignals", 501),
        ("id", "GetSignal", "a/b"),
        ("event_id", "GetGame", "a:b"),
        ("after", "StreamSignals", "7.1"),
        ("path", "QuoteUsage", "api"),
    ],
)
def test_what_would_be_refused_is_not_what_the_schema_allows(document, name, of, bad):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, parameter(document, name, of=of)["schema"])


def test_names_to_filter_by_are_not_empty(document):
    for sport in ("", "a\0b"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate([sport], parameter(document, "sport_key")["schema"])


def test_schemathesis_makes_calls_of_every_operation(document):
    loaded = schemathesis.openapi.from_dict(document)
    assert {one.ok().definition.raw["operationId"] for one in loaded.get_all_operations()} == set(operations(document))


def test_remarks_to_the_linter_are_no_description():
    assert openapi._without_lint(" Said.\n buf:lint:ignore X\n") == "Said."


def test_a_stale_file_is_told_with_what_to_do(tmp_path):
    stale = tmp_path / "openapi.json"
    stale.write_text("{}\n")
    check = subprocess.run(
        [sys.executable, "-m", "gateway.openapi", "--check", str(stale)], capture_output=True, text=True, check=False
    )
    assert check.returncode == 1
    assert "make proto" in check.stderr

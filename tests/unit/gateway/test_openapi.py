"""The description of the public surface says what the contracts say."""

import subprocess
import sys

import pytest
from openapi_spec_validator import validate

from gateway import openapi
from gateway.envoy import OPENAPI, descriptor_set


@pytest.fixture(scope="module")
def document():
    return openapi.document(openapi.contracts())


def operation(document, name):
    return next(methods["get"] for methods in document["paths"].values() if methods["get"]["operationId"] == name)


def parameter(document, name, of="ListSignals"):
    return next(one for one in operation(document, of)["parameters"] if one["name"] == name)


def test_it_is_valid_openapi(document):
    validate(document)


def test_the_kept_file_is_what_the_contracts_say():
    assert OPENAPI.read_text() == openapi.text(openapi.contracts())


def test_every_annotated_rpc_is_in_it_and_no_internal_one(document):
    described = {methods["get"]["operationId"] for methods in document["paths"].values()}
    declared = {
        (method.name, method.options.HasExtension(openapi.http))
        for file in descriptor_set().file
        for service in file.service
        for method in service.method
    }
    assert described == {name for name, annotated in declared if annotated}
    assert {name for name, annotated in declared if not annotated} == {
        "WatchSignals",
        "RequestKeyframes",
        "ListQuarantinedBooks",
        "ListBookDecisions",
        "SetWatchedEvents",
        "ListWatchedEvents",
        "AdmitBook",
        "WithdrawBook",
    }


def test_every_parameter_says_what_it_means(document):
    silent = [
        f"{name}.{one['name']}"
        for name, one in (
            (methods["get"]["operationId"], one)
            for methods in document["paths"].values()
            for one in methods["get"]["parameters"]
        )
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
    feed = operation(document, "ListSignals")
    assert feed["summary"] == "The feed."
    assert feed["description"].startswith("By score unless told otherwise")


def test_times_are_date_times(document):
    assert parameter(document, "since")["schema"] == {"type": "string", "format": "date-time"}


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


def test_every_operation_can_end_in_the_error_with_four_fields(document):
    for methods in document["paths"].values():
        assert methods["get"]["responses"]["default"] == {"$ref": "#/components/responses/Error"}
    assert document["components"]["schemas"]["Error"]["required"] == ["code", "message", "details", "request_id"]


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

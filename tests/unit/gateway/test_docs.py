"""The partners' pages: whole, well-formed, needing nothing from elsewhere, and true."""

import ast
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit
from xml.etree import ElementTree

import jsonschema
import pytest
from stratum.common.v1.error_reason_pb2 import ErrorReason

from gateway import docs, prose, reference
from gateway.advice import BY_REASON, GROUPS
from gateway.envoy import OPENAPI
from services.shared import api_keys, contracts, errors
from services.signals.api import RETRY_MILLISECONDS
from services.signals.config import Config as SignalsConfig
from services.signals.feed import FeedLimits

ROOT = Path(__file__).parents[3]
DOCUMENT = json.loads(OPENAPI.read_text())
URL = "http://api.example:8443"
PAGES = docs.pages(DOCUMENT, URL)
REFERENCE = PAGES["/docs/reference"]
REASONS = [name for name, number in ErrorReason.Value.items() if number]
SOURCES = {page.source: docs.source(page.source) for page in docs.PAGES if page.source}
# The same with every paragraph on one line.
WORDS = {name: re.sub(r"(?<=\S)\n(?=\S)", " ", source) for name, source in SOURCES.items()}
# HTTP statuses as the gateway makes them of gRPC's codes.
HTTP = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


def parsed(path):
    return ElementTree.fromstring(PAGES[path])


def ids(path):
    return {one.get("id") for one in parsed(path).iter() if one.get("id")}


def text_of(path):
    return re.sub(r"\s+", " ", "".join(parsed(path).itertext()))


# The site.


def test_there_are_these_pages():
    assert list(PAGES) == [
        "/docs",
        "/docs/getting-started",
        "/docs/authentication",
        "/docs/limits-and-metering",
        "/docs/streaming",
        "/docs/errors",
        "/docs/changes",
        "/docs/usage-policy",
        "/docs/reference",
    ]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_well_formed_and_has_one_title(path):
    titles = ["".join(one.itertext()) for one in parsed(path).iter("h1")]
    assert len(titles) == 1
    assert titles[0] in parsed(path).findtext("head/title")


@pytest.mark.parametrize("path", PAGES)
def test_no_two_places_of_a_page_have_one_name(path):
    names = [one.get("id") for one in parsed(path).iter() if one.get("id")]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", PAGES)
def test_every_link_leads_somewhere(path):
    for link in (one.get("href") for one in parsed(path).iter("a")):
        page, _, place = link.partition("#")
        if page != "/api/v1/openapi.json":
            assert (page or path) in PAGES, link
            assert not place or place in ids(page or path), link


@pytest.mark.parametrize("path", PAGES)
def test_nothing_is_loaded_from_anywhere(path):
    tree = parsed(path)
    assert not [one.tag for one in tree.iter() if one.get("src") or one.tag in ("script", "link", "img")]
    assert not [one.attrib for one in tree.iter() if any(name.startswith("on") for name in one.attrib)]
    assert not {"url(", "@import", "javascript:"} & set(re.findall(r"url\(|@import|javascript:", PAGES[path]))


@pytest.mark.parametrize("path", PAGES)
def test_a_page_suits_light_and_dark_and_a_phone(path):
    metas = {one.get("name"): one.get("content") for one in parsed(path).iter("meta")}
    assert metas["color-scheme"] == "light dark"
    assert "width=device-width" in metas["viewport"]
    assert "prefers-color-scheme: dark" in PAGES[path]


@pytest.mark.parametrize("path", PAGES)
def test_every_page_leads_to_every_other(path):
    links = {one.get("href") for one in parsed(path).find("body/nav").iter("a")}
    assert set(PAGES) - {path} <= links


@pytest.mark.parametrize("path", PAGES)
def test_nothing_that_was_to_be_filled_in_is_left(path):
    assert "[[" not in PAGES[path]
    assert docs.WRITTEN_URL not in PAGES[path]


def test_links_between_the_files_are_links_between_the_pages():
    assert prose.place("errors.md#internal") == "/docs/errors#internal"
    assert prose.place("index.md") == "/docs"
    assert prose.place("/docs/reference#GetGame") == "/docs/reference#GetGame"


@pytest.mark.parametrize("name", SOURCES)
def test_links_between_the_files_lead_to_files(name):
    for link in re.findall(r"\]\(([a-z-]+)\.md", SOURCES[name]):
        assert link in SOURCES


def test_two_headings_of_one_name_are_a_mistake_that_is_told():
    with pytest.raises(ValueError, match="two headings have the id why"):
        prose.page("# Title\n\n## Why\n\n## Why?\n")


def test_markup_in_a_comment_stays_text():
    assert prose.html("a <b> & `c < d`") == "<p>a &lt;b&gt; &amp; <code>c &lt; d</code></p>\n"


# The reference.


def test_every_operation_and_every_schema_has_a_section():
    sections = {one.get("id") for one in parsed("/docs/reference").iter("section")}
    operations = {told["operationId"] for _, _, told in reference.operations(DOCUMENT)}
    assert sections == operations | {f"schema-{name}" for name in DOCUMENT["components"]["schemas"]}


def test_every_parameter_and_every_field_has_a_row():
    named = {told["operationId"]: told for _, _, told in reference.operations(DOCUMENT)}
    for section in parsed("/docs/reference").iter("section"):
        rows = {row[0][0].text for row in section.iter("tr") if row[0].tag == "td"}
        name = section.get("id").removeprefix("schema-")
        schema = DOCUMENT["components"]["schemas"].get(name, {})
        told = named.get(name, {})
        body = told.get("requestBody", {"content": {"application/json": {"schema": {}}}})["content"]["application/json"]
        assert set(schema.get("properties", {})) <= rows
        assert {one["name"] for one in told.get("parameters", ())} <= rows
        assert set(body["schema"].get("properties", {})) <= rows


def test_every_operation_says_its_scope_and_its_cost():
    for section in parsed("/docs/reference").iter("section"):
        told = [one for _, _, one in reference.operations(DOCUMENT) if one["operationId"] == section.get("id")]
        if told:
            facts = "".join(next(one for one in section.iter("p") if one.get("class") == "facts").itertext())
            scopes = [scope for needed in told[0]["security"] for scope in needed["key"]] or ["no key"]
            assert f"Scope: {', '.join(scopes)}" in facts
            assert told[0]["x-cost"] in facts


# Examples.


@dataclass(frozen=True)
class Call:
    verb: str
    address: str
    headers: dict
    body: dict | None


def commands(path):
    """Every curl command of a page."""
    for code in parsed(path).iter("code"):
        said = "".join(code.itertext())
        if said.startswith("curl "):
            yield said


def call(command):
    words = shlex.split(command.replace("\\\n", " ").replace("$(uuidgen)", "8d1d3c1e"))
    options = {"-X": [], "-H": [], "-d": [], "-o": [], "--data-urlencode": []}
    address, awaited = "", ""
    for word in words[1:]:
        if awaited:
            options[awaited].append(word)
            awaited = ""
        elif word in options:
            awaited = word
        elif word.startswith(URL):
            address = word.removeprefix(URL)
        else:
            assert word in ("-N", "-i", "-G", "-s")
    if options["--data-urlencode"]:
        address += "?" + "&".join(one.replace("&", "%26") for one in options["--data-urlencode"])
    headers = dict(header.split(": ", 1) for header in options["-H"])
    return Call(
        (options["-X"] or ["GET"])[0], address, headers, json.loads(options["-d"][0]) if options["-d"] else None
    )


EXAMPLES = [
    pytest.param(command, id=f"{path}-{number}") for path in PAGES for number, command in enumerate(commands(path))
]


def test_every_operation_has_an_example():
    called = {
        contracts.found(one.verb, urlsplit(one.address).path).name for one in map(call, commands("/docs/reference"))
    }
    assert called == {told["operationId"] for _, _, told in reference.operations(DOCUMENT)}


def test_an_example_calls_where_the_gateway_is():
    shown = f"curl '{URL}/api/v1/intel/signals?sport_key=basketball_nba&tier=HIGH' \\\n  {reference.KEY}"
    assert shown in list(commands("/docs/reference"))


@pytest.mark.parametrize("command", EXAMPLES)
def test_what_an_example_calls_exists_and_takes_what_it_sends(command):
    one = call(command)
    parts = urlsplit(one.address)
    method = contracts.found(one.verb, parts.path)
    assert method is not None
    told = DOCUMENT["paths"][method.template][one.verb.lower()]
    parameters = {(parameter["in"], parameter["name"]): parameter for parameter in told["parameters"]}
    for name, value in parse_qsl(parts.query, strict_parsing=bool(parts.query)):
        schema = parameters["query", name]["schema"]
        one_value = schema.get("items", schema)
        jsonschema.validate(json.loads(value) if one_value["type"] in ("number", "integer") else value, one_value)
    segments = re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/:]+)", method.template), parts.path).groupdict()
    for name, value in segments.items():
        jsonschema.validate(value, parameters["path", name]["schema"])
    sent = set(one.headers)
    assert {name for (place, name), its in parameters.items() if place == "header" and its["required"]} <= sent
    assert ("Authorization" in sent) == bool(told["security"])
    if "requestBody" in told:
        jsonschema.validate(one.body, told["requestBody"]["content"]["application/json"]["schema"])
    else:
        assert one.body is None


@pytest.mark.parametrize("name", SOURCES)
def test_examples_in_python_and_json_can_be_read(name):
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```", SOURCES[name], re.MULTILINE | re.DOTALL):
        if language == "python":
            ast.parse(code)
        if language == "json":
            json.loads(code)


def test_the_example_of_a_signal_has_the_fields_of_signals():
    (shown,) = [
        json.loads(one)
        for one in re.findall(r"^```json\n(.*?)^```", SOURCES["getting-started"], re.MULTILINE | re.DOTALL)
    ]
    fields = DOCUMENT["components"]["schemas"]["Signal"]["properties"]
    for name, value in shown["signals"][0].items():
        jsonschema.validate(value, {**fields[name], "components": DOCUMENT["components"]})


# Errors.


def test_of_every_reason_it_is_known_what_to_do():
    assert set(BY_REASON) == set(REASONS)
    assert sum(len(group) for group in GROUPS.values()) == len(REASONS)


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_on_the_page_of_errors_with_its_meaning(reason):
    assert reason.lower() in ids("/docs/errors")
    meaning = docs.meanings(DOCUMENT)[reason]
    assert len(meaning) > 20
    said = text_of("/docs/errors").partition(f"{BY_REASON[reason].statuses[0]}")[2]
    assert "".join(ElementTree.fromstring(prose.html(meaning)).itertext()) in said


def test_a_refusal_that_is_over_after_a_pause_says_so():
    assert {name for name, advice in BY_REASON.items() if advice.repeat} == {
        "RATE_LIMITED",
        "ADDRESS_RATE_LIMITED",
        "TOO_MANY_STREAMS",
        "UNAVAILABLE",
        "ACCESS_UNDECIDED",
        "DEADLINE_EXCEEDED",
    }


def raised():
    """Reason and HTTP status of every error of ours that our code raises with both written out."""
    kinds = {name: kind for name, kind in vars(errors).items() if hasattr(kind, "code")}
    for folder in ("services", "gateway", "deploy"):
        for file in (ROOT / folder).rglob("*.py"):
            if file.name.startswith("test") or file.parent.name == "bench":
                continue
            for node in ast.walk(ast.parse(file.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id in kinds
                    and node.args
                ):
                    reason = node.args[0]
                    if isinstance(reason, ast.Attribute) and reason.attr in BY_REASON:
                        yield (
                            reason.attr,
                            HTTP[kinds[node.func.id].code.name],
                            f"{file.relative_to(ROOT)}:{node.lineno}",
                        )


def test_a_reason_comes_under_the_status_that_the_page_says():
    found = list(raised())
    assert len(found) > 20
    assert [one for one in found if one[1] not in BY_REASON[one[0]].statuses] == []


# What the pages say in numbers and words.


def test_the_form_of_keys_is_the_one_they_have():
    (form,) = re.findall(r"^(stratum_\(live\|test\)\S+)$", SOURCES["authentication"], re.MULTILINE)
    for prefix in (api_keys.LIVE, api_keys.TEST):
        assert re.fullmatch(form, api_keys.made(prefix))


def test_the_scopes_are_those_that_there_are():
    told = re.findall(r"^\| `(\w+:\w+)` \|", SOURCES["authentication"], re.MULTILINE)
    assert set(told) == {method.scope for method in contracts.methods() if method.scope}


def test_the_stream_lives_and_beats_as_it_is_told():
    said = WORDS["streaming"]
    limits = FeedLimits()
    assert f"after {limits.heartbeat_seconds:.0f} seconds of silence" in said
    assert f"a stream lives {limits.stream_seconds / 60:.0f} minutes at most" in said
    assert f"an account may have {limits.streams_of_one} streams open at once" in said.lower()
    assert f"retry: {RETRY_MILLISECONDS}" in said
    assert f"({SignalsConfig.model_fields['signals_retention_days'].default:.0f} days)" in said


def test_a_stream_is_said_to_count_what_its_operation_says():
    (told,) = [told for _, _, told in reference.operations(DOCUMENT) if told["operationId"] == "StreamSignals"]
    assert "1 for each started 5 minutes" in WORDS["limits-and-metering"]
    assert "1 unit for each started 5 minutes" in WORDS["streaming"]
    assert "each started 5 minutes" in told["x-cost"]


@pytest.mark.parametrize("header", [name for name in DOCUMENT["components"]["headers"] if name.startswith("X-")])
def test_every_header_of_ours_is_explained_on_a_page(header):
    assert any(header in text_of(path) for path in PAGES if path != "/docs/reference")


@pytest.mark.parametrize("path", PAGES)
def test_no_page_promises_that_anything_is_won(path):
    assert not re.search(r"guarante|sure bet|winning (bet|signal)|will win|beat the", text_of(path), re.IGNORECASE)


# Changes.


def test_of_the_changelog_partners_are_shown_what_is_theirs():
    changelog = """# Changelog

## 0.2.0

**For partners**
- A new field.
- A new
  call.

**Spending**
- Nothing for them.

## 0.1.1

- Nothing for them.

## 0.1.0

**For partners**
- The first.
"""
    assert docs.changes(changelog) == "### 0.2.0\n\n- A new field.\n- A new\n  call.\n\n### 0.1.0\n\n- The first."


def test_the_deprecation_policy_says_how_long_and_how():
    said = text_of("/docs/changes")
    assert "At least 30 days" in said
    assert "For partners" not in said

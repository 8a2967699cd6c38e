"""The reference page: whole, well-formed, and needing nothing from elsewhere."""

import json
from xml.etree import ElementTree

import pytest

from gateway import docs
from gateway.envoy import OPENAPI

DOCUMENT = json.loads(OPENAPI.read_text())
PAGE = docs.page(DOCUMENT, "http://127.0.0.1:8080")


@pytest.fixture(scope="module")
def tree():
    return ElementTree.fromstring(PAGE)


def test_every_link_inside_leads_somewhere(tree):
    targets = {one.get("id") for one in tree.iter() if one.get("id")}
    links = {one.get("href").removeprefix("#") for one in tree.iter("a") if one.get("href").startswith("#")}
    assert links <= targets


def test_every_operation_and_every_schema_has_a_section(tree):
    sections = {one.get("id") for one in tree.iter("section")}
    operations = {methods["get"]["operationId"] for methods in DOCUMENT["paths"].values()}
    assert sections == operations | {f"schema-{name}" for name in DOCUMENT["components"]["schemas"]}


def test_every_parameter_and_every_field_has_a_row(tree):
    for section in tree.iter("section"):
        rows = [row[0][0].text for row in section.iter("tr") if row[0].tag == "td"]
        name = section.get("id").removeprefix("schema-")
        schema = DOCUMENT["components"]["schemas"].get(name, {})
        assert set(schema.get("properties", {})) <= set(rows)


def test_nothing_is_loaded_from_anywhere(tree):
    assert not [one.tag for one in tree.iter() if one.get("src") or one.tag in ("script", "link", "img")]
    assert "url(" not in PAGE
    assert "@import" not in PAGE


def test_it_suits_light_and_dark(tree):
    assert any(one.get("name") == "color-scheme" for one in tree.iter("meta"))
    assert "prefers-color-scheme: dark" in PAGE


def test_examples_are_commands_that_name_the_gateway(tree):
    commands = [one.text for one in tree.iter("code") if (one.text or "").startswith("curl ")]
    assert len(commands) == len(DOCUMENT["paths"])
    assert "curl 'http://127.0.0.1:8080/api/v1/intel/signals?sport_key=basketball_nba&tier=HIGH'" in commands
    assert not [one for one in commands if "{" in one]


def test_markup_in_a_comment_stays_text():
    assert docs._prose("a <b> & `c < d`") == "<p>a &lt;b&gt; &amp; <code>c &lt; d</code></p>"

"""The reference of the API, drawn from its OpenAPI document: every call, and every answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any
from urllib.parse import quote

from gateway.prose import html, inline

Json = dict[str, Any]

# Parameters that an example call carries besides the required ones: enough to show how filters look.
SHOWN = ("sport_key", "tier")
KEY = '-H "Authorization: Bearer $STRATUM_API_KEY"'


def body(document: Json, url: str) -> str:
    """What stands in the page. `url` is where the examples call. The markup is well-formed XML."""
    schemas: Json = document["components"]["schemas"]
    return f"""
<h1>Reference</h1>
{html(document["info"]["description"])}
<p>For programs: <a href="/api/v1/openapi.json">the OpenAPI file</a> that this page is drawn from.</p>
{_index(document)}
{_each(_group(tag, calls, url) for tag, calls in _groups(document))}
<h2 id="answers">Answers</h2>
{_each(_schema(name, schema) for name, schema in schemas.items())}
"""


def sections(document: Json) -> str:
    """Links to all that stands in the page, for the side of it."""
    calls = _each(
        f"<li>{_text(tag['name'])}<ul>"
        + _each(f'<li><a href="#{told["operationId"]}">{_text(_short(path))}</a></li>' for _, path, told in calls)
        + "</ul></li>"
        for tag, calls in _groups(document)
    )
    answers = _each(
        f'<li><a href="#{_anchor(name)}">{_text(name)}</a></li>' for name in document["components"]["schemas"]
    )
    return f"<ul>{calls}<li>Answers<ul>{answers}</ul></li></ul>"


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    """Verb, path and description of every call."""
    for path, verbs in document["paths"].items():
        for verb, told in verbs.items():
            yield verb.upper(), path, told


def _groups(document: Json) -> Iterator[tuple[Json, list[tuple[str, str, Json]]]]:
    for tag in document["tags"]:
        yield tag, [one for one in operations(document) if tag["name"] in one[2]["tags"]]


def _index(document: Json) -> str:
    """All calls in one table."""
    rows = _each(
        f'<tr><td><a href="#{told["operationId"]}"><code><b>{verb}</b> {_text(path)}</code></a></td>'
        f"<td>{inline(told['summary'])}</td><td>{_scope(told)}</td>"
        f"<td>{'counted' if told['x-metered'] else 'free'}</td></tr>"
        for verb, path, told in operations(document)
    )
    return f"""<table class="calls">
<thead><tr><th>Call</th><th>Gives</th><th>Scope</th><th>Cost</th></tr></thead>
<tbody>{rows}</tbody>
</table>"""


def _scope(told: Json) -> str:
    scopes = [scope for needed in told["security"] for scope in needed["key"]]
    return _each(f"<code>{_text(scope)}</code>" for scope in scopes) or "no key"


def _group(tag: Json, calls: list[tuple[str, str, Json]], url: str) -> str:
    heading = f"<h2>{_text(tag['name'])}</h2>{html(tag.get('description', ''))}"
    return heading + _each(_operation(verb, path, told, url) for verb, path, told in calls)


def _operation(verb: str, path: str, told: Json, url: str) -> str:
    name = told["operationId"]
    (media, content), *_ = told["responses"]["200"]["content"].items()
    example = f"<pre><code>{_text(content['example'])}</code></pre>" if "example" in content else ""
    answer = _type(content["schema"]) if "$ref" in content["schema"] else "text"
    return f"""
<section id="{name}">
<h3><a class="self" href="#{name}"><b>{verb}</b> <code>{_text(path)}</code></a></h3>
<p class="lead">{inline(told["summary"])}</p>
{html(told.get("description", ""))}
<p class="facts"><span>Scope: {_scope(told)}</span> <span>Cost: {inline(told["x-cost"])}</span></p>
<pre><code>{_text(_curl(verb, path, told, url))}</code></pre>
{_parameters(told)}
<p>Answers {answer} as <code>{_text(media)}</code>, with the headers {_headers(told)}.</p>
{example}
<details><summary>Why it may be refused</summary><ul>{_each(_refusals(told))}</ul></details>
</section>"""


def _headers(told: Json) -> str:
    """The headers of an answer; those of limits and of usage stand in so many answers that they are explained once."""
    names = list(told["responses"]["200"]["headers"])
    shown = [
        f"<code>{_text(name)}</code>" for name in names if not name.startswith(("X-RateLimit", "RateLimit", "X-Usage"))
    ]
    if "X-RateLimit-Limit" in names:
        shown.append('<a href="/docs/limits-and-metering#how-fast"><code>X-RateLimit-…</code></a>')
    if "X-Usage-Used" in names:
        shown.append('<a href="/docs/limits-and-metering#what-is-counted"><code>X-Usage-…</code></a>')
    return ", ".join(shown)


def _parameters(told: Json) -> str:
    rows = _each(_parameter(parameter) for parameter in told["parameters"])
    for content in told.get("requestBody", {}).get("content", {}).values():
        required = content["schema"].get("required", ())
        for name, schema in content["schema"]["properties"].items():
            rows += _parameter({"name": name, "in": "body", "required": name in required, "schema": schema})
    if not rows:
        return ""
    return f"""<table class="fields">
<thead><tr><th>Parameter</th><th>Type</th><th>Meaning</th></tr></thead>
<tbody>{rows}</tbody>
</table>"""


def _parameter(parameter: Json) -> str:
    schema = parameter["schema"]
    one = schema.get("items", schema)
    marks = [
        "required" if parameter.get("required") else "",
        "repeatable" if schema.get("type") == "array" else "",
        parameter["in"] if parameter["in"] in ("header", "body") else "",
        f"default {schema['default']}" if "default" in schema else "",
        f"at most {one['maximum']}" if "maximum" in one else "",
    ]
    meaning = html(parameter.get("description", "")) + html(one.get("description", ""))
    return _row(parameter["name"], _type(one), [mark for mark in marks if mark], meaning)


def _refusals(told: Json) -> Iterator[str]:
    for status, response in told["responses"].items():
        if status >= "400" and status != "default":
            reasons = response["description"].rstrip(".").replace("`", "").split(", ")
            links = ", ".join(
                f'<a href="/docs/errors#{reason.lower()}"><code>{_text(reason)}</code></a>' for reason in reasons
            )
            yield f"<li>{status}: {links}</li>"


def _schema(name: str, schema: Json) -> str:
    anchor = _anchor(name)
    heading = f'<h3><a class="self" href="#{anchor}">{_text(name)}</a></h3>{html(schema.get("description", ""))}'
    if "properties" not in schema:
        return f'<section id="{anchor}">{heading}</section>'
    example = f"<pre><code>{_text(json.dumps(schema['example'], indent=2))}</code></pre>" if "example" in schema else ""
    return f"""
<section id="{anchor}">
{heading}
<table class="fields">
<thead><tr><th>Field</th><th>Type</th><th>Meaning</th></tr></thead>
<tbody>{_fields("", schema)}</tbody>
</table>
{example}
</section>"""


def _fields(prefix: str, schema: Json) -> str:
    """A row for each field; those of an object without a name of its own follow it with a dotted path."""
    rows = ""
    for name, field in schema["properties"].items():
        marks = [] if name in schema.get("required", ()) else ["may be absent"]
        rows += _row(f"{prefix}{name}", _type(field), marks, html(field.get("description", "")))
        inner = field.get("items", field)
        if "properties" in inner:
            rows += _fields(f"{prefix}{name}[].", inner)
    return rows


def _row(name: str, type_: str, marks: list[str], meaning: str) -> str:
    marked = f"<br /><small>{_text(', '.join(marks))}</small>" if marks else ""
    return f"<tr><td><code>{_text(name)}</code></td><td>{type_}{marked}</td><td>{meaning}</td></tr>"


def _type(schema: Json) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{_anchor(name)}">{_text(name)}</a>'
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if "additionalProperties" in schema:
        return f"map of {_type(schema['additionalProperties'])}"
    if "const" in schema:
        return f"<code>{_text(schema['const'])}</code>"
    if "enum" in schema:
        return "name"
    type_ = schema["type"]
    return _text(
        {"date-time": "time"}.get(schema.get("format", ""), type_ if isinstance(type_, str) else " or ".join(type_))
    )


def _curl(verb: str, path: str, told: Json, url: str) -> str:
    query, headers = [], [KEY] if told["security"] else []
    for parameter in told["parameters"]:
        example = parameter.get("example")
        value = example[0] if isinstance(example, list) else example
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", str(value))
        elif parameter["in"] == "header" and parameter["required"]:
            headers.append(f'-H "{parameter["name"]}: $(uuidgen)"')
        elif parameter["in"] == "query" and (parameter["required"] or parameter["name"] in SHOWN):
            query.append(f"{parameter['name']}={quote(str(value), safe='/:')}")
    for media, content in told.get("requestBody", {}).get("content", {}).items():
        headers += [f'-H "Content-Type: {media}"', f"-d '{json.dumps(content['example'])}'"]
    streams = "text/event-stream" in told["responses"]["200"]["content"]
    flags = {"GET": "-N " if streams else "", "POST": "-X POST "}[verb]
    call = f"curl {flags}'{url}{path}{'?' if query else ''}{'&'.join(query)}'"
    return " \\\n  ".join([call, *headers])


def _short(path: str) -> str:
    return path.removeprefix("/api/v1").removeprefix("/intel")


def _anchor(schema: str) -> str:
    return f"schema-{schema}"


def _text(value: object) -> str:
    return escape(str(value))


def _each(parts: Iterable[str]) -> str:
    return "".join(parts)

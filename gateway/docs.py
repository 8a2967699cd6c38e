"""The reference page, drawn from the OpenAPI document: one HTML file that needs nothing from anywhere else."""

import json
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

Json = dict[str, Any]

STYLE = Path(__file__).parent / "docs.css"

# Parameters that an example call carries besides the required ones: enough to show how filters look.
SHOWN = ("sport_key", "tier")


def page(document: Json, url: str) -> str:
    """The whole page. `url` is where the examples call. The markup is well-formed XML, so a parser can check it."""
    operations = [(path, methods["get"]) for path, methods in document["paths"].items()]
    groups = [
        (tag, [(path, told) for path, told in operations if tag["name"] in told["tags"]]) for tag in document["tags"]
    ]
    schemas: Json = document["components"]["schemas"]
    title, version = _text(document["info"]["title"]), _text(document["info"]["version"])
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8" />
<meta name="viewport" content="width=device-width, initial-scale=1" />
<meta name="color-scheme" content="light dark" />
<title>{title} API</title>
<style>{STYLE.read_text()}</style>
</head>
<body>
<nav>
<a class="brand" href="#top">{title} <small>API {version}</small></a>
{_each(_group_links(tag["name"], calls) for tag, calls in groups)}
<h4>Answers</h4>
<ul>{_each(f'<li><a href="#{_anchor(name)}">{_text(name)}</a></li>' for name in schemas)}</ul>
</nav>
<main id="top">
<h1>{title} API</h1>
{_prose(document["info"]["description"])}
<p>For programs: <a href="/api/v1/openapi.json">the OpenAPI file</a> that this page is drawn from.</p>
{_each(_group(tag, calls, url) for tag, calls in groups)}
<h2>Answers</h2>
{_each(_schema(name, schema) for name, schema in schemas.items())}
</main>
</body>
</html>
"""


def _group_links(tag: str, calls: list[tuple[str, Json]]) -> str:
    links = _each(f'<li><a href="#{told["operationId"]}">{_text(_short(path))}</a></li>' for path, told in calls)
    return f"<h4>{_text(tag)}</h4><ul>{links}</ul>"


def _group(tag: Json, calls: list[tuple[str, Json]], url: str) -> str:
    heading = f"<h2>{_text(tag['name'])}</h2>{_prose(tag.get('description', ''))}"
    return heading + _each(_operation(path, told, url) for path, told in calls)


def _operation(path: str, told: Json, url: str) -> str:
    name = told["operationId"]
    (media, content), *_ = told["responses"]["200"]["content"].items()
    example = f"<pre><code>{_text(content['example'])}</code></pre>" if "example" in content else ""
    headers = ", ".join(f"<code>{_text(header)}</code>" for header in told["responses"]["200"]["headers"])
    return f"""
<section id="{name}">
<h3><a class="self" href="#{name}"><b>GET</b> <code>{_text(path)}</code></a></h3>
<p class="lead">{_inline(told["summary"])}</p>
{_prose(told.get("description", ""))}
<pre><code>{_text(_curl(path, told, url))}</code></pre>
<table>
<thead><tr><th>Parameter</th><th>Type</th><th>Meaning</th></tr></thead>
<tbody>{_each(_parameter(parameter) for parameter in told["parameters"])}</tbody>
</table>
<p>Answers {_type(content["schema"])} as <code>{_text(media)}</code>, with the headers {headers};
or <a href="#{_anchor("Error")}">Error</a>.</p>
{example}
</section>"""


def _parameter(parameter: Json) -> str:
    schema = parameter["schema"]
    marks = [
        "required" if parameter.get("required") else "",
        "repeatable" if schema.get("type") == "array" else "",
        "header" if parameter["in"] == "header" else "",
        f"default {schema['default']}" if "default" in schema else "",
        f"at most {schema['maximum']}" if "maximum" in schema else "",
    ]
    one = schema.get("items", schema)
    meaning = _prose(parameter.get("description", "")) + _prose(one.get("description", ""))
    return _row(parameter["name"], _type(one), [mark for mark in marks if mark], meaning)


def _schema(name: str, schema: Json) -> str:
    anchor = _anchor(name)
    heading = f'<h3><a class="self" href="#{anchor}">{_text(name)}</a></h3>{_prose(schema.get("description", ""))}'
    if "properties" not in schema:
        return f'<section id="{anchor}">{heading}</section>'
    example = f"<pre><code>{_text(json.dumps(schema['example'], indent=2))}</code></pre>" if "example" in schema else ""
    return f"""
<section id="{anchor}">
{heading}
<table>
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
        rows += _row(f"{prefix}{name}", _type(field), marks, _prose(field.get("description", "")))
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


def _curl(path: str, told: Json, url: str) -> str:
    query = []
    for parameter in told["parameters"]:
        example = parameter.get("example")
        value = example[0] if isinstance(example, list) else example
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", str(value))
        elif parameter.get("required") or parameter["name"] in SHOWN:
            query.append(f"{parameter['name']}={value}")
    streams = "text/event-stream" in told["responses"]["200"]["content"]
    return f"curl {'-N ' if streams else ''}'{url}{path}{'?' if query else ''}{'&'.join(query)}'"


def _prose(said: str) -> str:
    """Paragraphs, lists, **bold** and `code`: all of Markdown that the comments use."""
    blocks = []
    for block in filter(None, said.split("\n\n")):
        lines = block.split("\n")
        if all(line.startswith("- ") for line in lines):
            blocks.append(f"<ul>{_each(f'<li>{_inline(line[2:])}</li>' for line in lines)}</ul>")
        else:
            blocks.append(f"<p>{_inline(' '.join(lines))}</p>")
    return "".join(blocks)


def _inline(said: str) -> str:
    coded = re.sub(r"`([^`]+)`", r"<code>\1</code>", _text(said))
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", coded)


def _short(path: str) -> str:
    return path.removeprefix("/api/v1/intel")


def _anchor(schema: str) -> str:
    return f"schema-{schema}"


def _text(value: object) -> str:
    return escape(str(value))


def _each(parts: Iterable[str]) -> str:
    return "".join(parts)

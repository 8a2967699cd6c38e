"""The partners' pages: Markdown from docs/partner and the reference, each one HTML file that needs nothing else.

No page has a script; where something unfolds, the browser does it. The markup is well-formed XML, so a parser can
check it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from gateway import prose, reference
from gateway.advice import BY_REASON, GROUPS, Advice

Json = dict[str, Any]

HERE = Path(__file__).parent
STYLE = HERE / "docs.css"
ROOT = "/docs"
REFERENCE = f"{ROOT}/reference"
# Where the pages say that the API is; each installation says where it is itself.
WRITTEN_URL = "http://127.0.0.1:8080"
# What stands in the Markdown where something that is made belongs.
REASONS, STATUSES, CHANGES = "[[reasons]]", "[[statuses]]", "[[changes]]"


@dataclass(frozen=True, slots=True)
class Page:
    """One page, and what leads to it."""

    path: str
    #: As the navigation calls it.
    name: str
    #: The file in docs/partner, without its ending; empty for the reference.
    source: str = ""


PAGES = (
    Page("/docs", "Overview", "index"),
    Page("/docs/getting-started", "Getting started", "getting-started"),
    Page("/docs/authentication", "Authentication", "authentication"),
    Page("/docs/limits-and-metering", "Limits and metering", "limits-and-metering"),
    Page("/docs/streaming", "Streaming", "streaming"),
    Page("/docs/errors", "Errors", "errors"),
    Page("/docs/changes", "Changes", "changes"),
    Page("/docs/usage-policy", "Usage policy", "usage-policy"),
    Page(REFERENCE, "Reference"),
)


def pages(document: Json, url: str) -> dict[str, str]:
    """Every page, by its path. `document` is the OpenAPI file, `url` where the examples call."""
    return {page.path: _whole(page, document, url) for page in PAGES}


def _whole(page: Page, document: Json, url: str) -> str:
    if page.source:
        text = prose.page(_filled(source(page.source), document).replace(WRITTEN_URL, url))
        title, body, sections = text.title, text.html, _sections(text.headings)
    else:
        title, body, sections = page.name, reference.body(document, url), reference.sections(document)
    name, version = escape(document["info"]["title"]), escape(document["info"]["version"])
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8" />
<meta name="viewport" content="width=device-width, initial-scale=1" />
<meta name="color-scheme" content="light dark" />
<title>{title} · {name} API</title>
<style>{STYLE.read_text()}</style>
</head>
<body>
<nav>
<a class="brand" href="{ROOT}">{name} <small>API {version}</small></a>
<ul class="pages">{_each(_link(one, page, sections) for one in PAGES)}</ul>
</nav>
<main id="top">
{body}
{_neighbours(page)}
</main>
</body>
</html>
"""


def _link(one: Page, here: Page, sections: str) -> str:
    if one == here:
        return f'<li class="here"><a href="#top">{one.name}</a>{sections}</li>'
    return f'<li><a href="{one.path}">{one.name}</a></li>'


def _sections(headings: Iterable[prose.Heading]) -> str:
    links = _each(f'<li><a href="#{one.id}">{one.html}</a></li>' for one in headings if one.level == 2)
    return f"<ul>{links}</ul>" if links else ""


def _neighbours(page: Page) -> str:
    number = PAGES.index(page)
    before = f'<a href="{PAGES[number - 1].path}">← {PAGES[number - 1].name}</a>' if number else "<span></span>"
    behind = f'<a href="{PAGES[number + 1].path}">{PAGES[number + 1].name} →</a>' if number + 1 < len(PAGES) else ""
    return f'<footer class="neighbours">{before}{behind}</footer>'


def source(name: str) -> str:
    """The Markdown of a page."""
    # In a checkout the pages stand where people read them; in the wheel they come along with this package.
    folders = (HERE.parent / "docs" / "partner", HERE / "partner")
    return next(folder / f"{name}.md" for folder in folders if folder.is_dir()).read_text()


def _changelog() -> str:
    return next(file for file in (HERE.parent / "CHANGELOG.md", HERE / "CHANGELOG.md") if file.exists()).read_text()


def _filled(markdown: str, document: Json) -> str:
    made: dict[str, Callable[[], str]] = {
        REASONS: lambda: _reasons(meanings(document)),
        STATUSES: _statuses,
        CHANGES: lambda: changes(_changelog()),
    }
    for mark, make in made.items():
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    return markdown


def meanings(document: Json) -> dict[str, str]:
    """What each reason means, as the contract says it, by its name."""
    info = document["components"]["schemas"]["Error"]["properties"]["details"]["items"]
    said = info["properties"]["reason"]["description"]
    return dict(re.findall(r"^- `(\w+)`(?:: (.*))?$", said, re.MULTILINE))


def _reasons(meaning: Mapping[str, str]) -> str:
    """Every reason with its status, its meaning and what to do."""
    return "\n\n".join(
        f"## {group}\n\n" + "\n\n".join(_reason(name, advice, meaning[name]) for name, advice in reasons.items())
        for group, reasons in GROUPS.items()
    )


def _reason(name: str, advice: Advice, meaning: str) -> str:
    status = " or ".join(str(one) for one in advice.statuses)
    again = " The same call may succeed after a pause." if advice.repeat else ""
    return f"### `{name}`\n\n**{status}.** {meaning}{again}\n\n**What to do:** {advice.do}"


def _statuses() -> str:
    """Every status with the reasons that come under it."""
    found: dict[int, list[str]] = {}
    for name, advice in BY_REASON.items():
        for status in advice.statuses:
            found.setdefault(status, []).append(name)
    rows = [
        f"| {status} | {', '.join(f'[`{name}`](#{name.lower()})' for name in names)} "
        f"| {'after a pause' if any(BY_REASON[name].repeat for name in names) else 'no'} |"
        for status, names in sorted(found.items())
    ]
    return "\n".join(["| status | reasons | repeat |", "|---|---|---|", *rows])


def changes(changelog: str) -> str:
    """What partners can see of a changelog: of each version the list behind the words **For partners**."""
    versions = re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]
    told = []
    for version in versions:
        name, _, text = version.partition("\n")
        if found := re.search(r"^\*\*For partners\*\*\n(.*?)(?=^\*\*|\Z)", text, re.MULTILINE | re.DOTALL):
            told.append(f"### {name.strip()}\n\n{found[1].strip()}")
    return "\n\n".join(told)


def _each(parts: Iterable[str]) -> str:
    return "".join(parts)

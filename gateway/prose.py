"""Markdown as HTML: that of the partners' pages, and that of the comments in the contracts. Well-formed as XML."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

_markdown = MarkdownIt("commonmark", {"html": False, "xhtmlOut": True}).enable("table")
# A table may be wider than a phone: it scrolls in a box of its own, and the page does not.
_markdown.add_render_rule("table_open", lambda *_: '<div class="wide"><table>\n')
_markdown.add_render_rule("table_close", lambda *_: "</table></div>\n")


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading inside a page, and what it is linked by."""

    level: int
    id: str
    html: str


@dataclass(frozen=True, slots=True)
class Prose:
    """A page's text."""

    title: str
    headings: tuple[Heading, ...]
    html: str


def html(said: str) -> str:
    """Paragraphs, lists, **bold** and `code`. Markup in the text stays text."""
    return str(_markdown.render(said))


def inline(said: str) -> str:
    """The same for a piece of a line."""
    return str(_markdown.renderInline(said))


def page(markdown: str) -> Prose:
    """A page whose first line is its title, with an id at every heading. Links between the Markdown files become links
    between the pages made of them. Raises ValueError where two headings would have the same id."""
    tokens = _markdown.parse(markdown)
    headings = tuple(_with_ids(tokens))
    ids = [heading.id for heading in headings]
    if repeated := sorted({one for one in ids if ids.count(one) > 1}):
        raise ValueError(f"two headings have the id {', '.join(repeated)}")
    for token in tokens:
        for child in token.children or ():
            if child.type == "link_open":
                child.attrSet("href", place(str(child.attrGet("href"))))
    return Prose(headings[0].html, headings[1:], str(_markdown.renderer.render(tokens, _markdown.options, {})))


def place(link: str) -> str:
    """Where a link leads: `errors.md#internal` as /docs/errors#internal, `index.md` as /docs, others unchanged."""
    moved = re.sub(r"^([a-z-]+)\.md(?=#|$)", r"/docs/\1", link)
    return re.sub(r"^/docs/index(?=#|$)", "/docs", moved)


def slug(heading: str) -> str:
    """What a heading is linked by: its words in lower case, with hyphens between them."""
    return re.sub(r"[^a-z0-9_]+", "-", heading.lower()).strip("-")


def _with_ids(tokens: list[Token]) -> Iterator[Heading]:
    for opening, content in pairwise(tokens):
        if opening.type == "heading_open":
            opening.attrSet("id", slug(content.content))
            yield Heading(int(opening.tag[1:]), slug(content.content), inline(content.content))

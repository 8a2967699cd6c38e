"""A trace as a tree: every span behind its parent, those whose parent never came at the top."""

from __future__ import annotations

from xml.etree import ElementTree

from deploy.traces import Span, Trace, as_svg, as_text


def a_span(name: str, parent: str, started: float, takes: float, service: str = "ingest", failure: str = "") -> Span:
    """Times in milliseconds; the name is the id as well."""
    begin = round(started * 1e6)
    return Span(name, parent, service, name, begin, begin + round(takes * 1e6), {"sport_key": "<nba>"}, failure)


TRACE = Trace(
    "0af7",
    [
        a_span("fold", "batch", 52, 1, "consensus"),
        a_span("poll", "", 0, 40),
        a_span("record", "poll", 10, 20),
        a_span("batch", "record", 50, 10, "consensus"),
        a_span("call", "poll", 1, 8, failure="TimeoutError"),
        a_span("orphan", "lost", 58, 2, "signals"),
    ],
)


def test_spans_stand_behind_their_parents_in_the_order_of_their_beginning() -> None:
    head, _, *lines = as_text(TRACE).splitlines()
    assert head == "trace 0af7: 60.0 ms, 6 spans, ingest → consensus → signals"
    assert [line.split("  ·")[0].split("  █")[0].rstrip()[22:].split(maxsplit=1)[1].strip() for line in lines] == [
        "poll",
        "├─ call",
        "└─ record",
        "└─ batch",
        "└─ fold",
        "orphan",
    ]


def test_a_failure_is_named() -> None:
    (line,) = [line for line in as_text(TRACE).splitlines() if "call" in line]
    assert "FAILED: TimeoutError" in line


def test_the_picture_has_a_bar_for_every_span_and_is_well_formed() -> None:
    picture = ElementTree.fromstring(as_svg(TRACE))
    bars = [bar for bar in picture.iter("{http://www.w3.org/2000/svg}rect") if len(bar)]
    assert len(bars) == len(TRACE.spans)

"""Traces looked at without a collector: a receiver that speaks OTLP, and one trace drawn as text or as a picture.

For a person at a terminal and for tests. What runs in production is whatever collector the endpoint names.
"""

from __future__ import annotations

import asyncio
import html
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

#: Older traces are forgotten.
TRACES_KEPT = 200
#: A trace of which nothing has come for so long is whole: senders wait a second for more to send at once.
QUIET_SECONDS = 2.5
_BAR = 28


@dataclass(frozen=True, slots=True)
class Span:
    """One span as it was sent. Times are nanoseconds since 1970."""

    span_id: str
    parent_id: str
    service: str
    name: str
    started: int
    ended: int
    attributes: dict[str, Any]
    #: The name of the error that ended it; empty for a good end.
    failure: str = ""


@dataclass(slots=True)
class Trace:
    """What has come of one trace, in the order of beginning."""

    trace_id: str
    spans: list[Span] = field(default_factory=list)
    heard_at: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether nothing more is to be expected."""
        return time.monotonic() - self.heard_at > QUIET_SECONDS

    @property
    def services(self) -> list[str]:
        """Through which it went, in order."""
        return list(dict.fromkeys(span.service for span in sorted(self.spans, key=lambda span: span.started)))

    @property
    def started(self) -> int:
        """When the first span began."""
        return min(span.started for span in self.spans)

    @property
    def milliseconds(self) -> float:
        """From the first beginning to the last end."""
        return (max(span.ended for span in self.spans) - self.started) / 1e6

    def walk(self) -> Iterator[tuple[Span, tuple[bool, ...]]]:
        """Every span behind its parent, and for each level whether it is the last there."""
        known = {span.span_id for span in self.spans}
        children: dict[str, list[Span]] = {}
        for span in sorted(self.spans, key=lambda span: (span.started, -span.ended)):
            children.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)

        def under(parent: str, levels: tuple[bool, ...]) -> Iterator[tuple[Span, tuple[bool, ...]]]:
            siblings = children.get(parent, [])
            for number, span in enumerate(siblings, start=1):
                here = (*levels, number == len(siblings))
                yield span, here
                yield from under(span.span_id, here)

        yield from under("", ())


class Collector(TraceServiceServicer):
    """Takes what services send, and keeps the newest traces."""

    def __init__(self) -> None:
        self.traces: OrderedDict[str, Trace] = OrderedDict()

    async def Export(self, request: pb.ExportTraceServiceRequest, _context: object) -> pb.ExportTraceServiceResponse:  # noqa: N802 - OTLP's name
        """Spans of one process."""
        for resource in request.resource_spans:
            names = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
            for scope in resource.scope_spans:
                for sent in scope.spans:
                    self._take(names.get("service.name", ""), sent)
        return pb.ExportTraceServiceResponse()

    def _take(self, service: str, sent: ProtoSpan) -> None:
        trace = self.traces.setdefault(sent.trace_id.hex(), Trace(sent.trace_id.hex()))
        trace.heard_at = time.monotonic()
        attributes = {
            attribute.key: getattr(attribute.value, attribute.value.WhichOneof("value") or "string_value")
            for attribute in sent.attributes
        }
        failure = sent.status.message or "failed" if sent.status.code == Status.STATUS_CODE_ERROR else ""
        trace.spans.append(
            Span(
                sent.span_id.hex(),
                sent.parent_span_id.hex(),
                service,
                sent.name,
                sent.start_time_unix_nano,
                sent.end_time_unix_nano,
                attributes,
                failure,
            )
        )
        while len(self.traces) > TRACES_KEPT:
            self.traces.popitem(last=False)


@asynccontextmanager
async def collecting(port: int = 0) -> AsyncIterator[tuple[str, Collector]]:
    """A collector on 127.0.0.1, and its address for `STRATUM_TRACE_ENDPOINT`. Raises RuntimeError for a taken port."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    collector = Collector()
    add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]  # generated without types
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield f"http://127.0.0.1:{bound}", collector
    finally:
        await server.stop(1.0)


async def whole_traces(collector: Collector) -> AsyncIterator[Trace]:
    """Each trace once, as soon as it is whole."""
    shown: set[str] = set()
    while True:
        for trace_id, trace in list(collector.traces.items()):
            if trace_id not in shown and trace.whole:
                shown.add(trace_id)
                yield trace
        shown &= collector.traces.keys()
        await asyncio.sleep(0.2)


def as_text(trace: Trace) -> str:
    """One trace as a tree, with when each span began, how long it took, and what it said."""
    first, whole = trace.started, trace.milliseconds
    lines = [
        f"trace {trace.trace_id}: {whole:.1f} ms, {len(trace.spans)} spans, {' → '.join(trace.services)}",
        f"{'begins':>9}  {'takes':>9}",
    ]
    names = [(span, _branch(levels) + span.name) for span, levels in trace.walk()]
    width = max(len(name) for _, name in names)
    for span, name in names:
        begins, takes = (span.started - first) / 1e6, (span.ended - span.started) / 1e6
        lines.append(
            f"{begins:6.1f} ms  {takes:6.1f} ms  {span.service:<9} {name:<{width}}  "
            f"{_bar(begins, takes, whole)}  {_said(span)}".rstrip()
        )
    return "\n".join(lines)


def _branch(levels: Sequence[bool]) -> str:
    if len(levels) == 1:
        return ""
    stem = "".join("   " if last else "│  " for last in levels[1:-1])
    return stem + ("└─ " if levels[-1] else "├─ ")


def _bar(begins: float, takes: float, whole: float) -> str:
    scale = _BAR / whole if whole else 0.0
    left = min(_BAR - 1, int(begins * scale))
    length = max(1, min(_BAR - left, round(takes * scale)))
    return "·" * left + "█" * length + "·" * (_BAR - left - length)


def _said(span: Span) -> str:
    said = [
        f"{name}={value}" for name, value in span.attributes.items() if name not in ("messaging.system", "rpc.system")
    ]
    return " ".join([*([f"FAILED: {span.failure}"] if span.failure else []), *said])


#: One colour a service, readable on white by those who see fewer colours.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9")
_ROW, _LEFT, _WIDTH, _TOP = 22, 330, 640, 46


def as_svg(trace: Trace) -> str:
    """The same as a picture: a bar a span, over a scale of milliseconds."""
    rows = list(trace.walk())
    first, whole = trace.started, max(trace.milliseconds, 0.001)
    colours = {service: _COLOURS[number % len(_COLOURS)] for number, service in enumerate(trace.services)}
    height = _TOP + _ROW * len(rows) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 90}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        _label(10, 20, f"trace {trace.trace_id}, {trace.milliseconds:.1f} ms, {' → '.join(trace.services)}", bold=True),
        *_scale(whole, height),
    ]
    for number, (span, levels) in enumerate(rows):
        y = _TOP + number * _ROW
        begins, takes = (span.started - first) / 1e6, (span.ended - span.started) / 1e6
        x, length = _LEFT + begins / whole * _WIDTH, max(1.5, takes / whole * _WIDTH)
        parts.append(_label(10 + 14 * (len(levels) - 1), y + 14, f"{span.service}: {span.name}"))
        parts.append(
            f'<rect x="{x:.1f}" y="{y + 4}" width="{length:.1f}" height="13" fill="{colours[span.service]}">'
            f"<title>{html.escape(_said(span))}</title></rect>"
        )
        parts.append(_label(x + length + 4, y + 14, f"{takes:.1f} ms"))
    return "\n".join([*parts, "</svg>\n"])


def _scale(whole: float, height: int) -> Iterable[str]:
    for quarter in range(5):
        x = _LEFT + quarter / 4 * _WIDTH
        yield f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{height - 24}" stroke="#dddddd"/>'
        yield _label(x - 14, height - 8, f"{whole * quarter / 4:.1f} ms")


def _label(x: float, y: float, text: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y}"{weight}>{html.escape(text)}</text>'

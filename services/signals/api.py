"""gRPC in and out: translate, ask the feed, translate back."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.timestamp_pb2 import Timestamp
from grpc.aio import ServicerContext
from stratum.signals.v1 import signal_pb2, signals_service_pb2
from stratum.signals.v1.signals_service_pb2_grpc import SignalsServiceServicer

from services.shared import paging, principal, reply
from services.shared.asked import word, words, wrong
from services.signals import render, wire
from services.signals.cursor import Cursor
from services.signals.feed import Beat, Ended, Feed, Item, More, Opened, Truncated
from services.signals.model import SignalType
from services.signals.pages import Pages, rendered
from services.signals.permits import Permits
from services.signals.rules import holding_now, specification
from services.signals.rules.settings import RuleSettings
from services.signals.store import Filters, Page, PagePosition, SignalStore, SpanPosition

Context = ServicerContext[Any, Any]

#: How long a browser waits before it opens a stream again that broke off.
RETRY_MILLISECONDS = 3000
_DATA_AGE = "x-data-age"
#: A longer request is read anew each time: as many as are remembered, of the longest there are, would be 200 MB.
REMEMBERED_BYTES = 1024
#: In front of each signal of a ListSignalsResponse: field 1, length-delimited.
_SIGNALS_TAG = b"\x0a"


class SignalsApi(SignalsServiceServicer):
    """The ranked feed, its stream, and why each signal was said."""

    def __init__(self, store: SignalStore, feed: Feed, settings: RuleSettings, permits: Permits | None = None) -> None:
        """`permits` end the streams of those who may not go on; without it, every stream goes on."""
        self._permits = permits or Permits(None)
        self._store = store
        self._feed = feed
        self._settings = settings
        self._pages = Pages()

    async def ReadSignals(self, request: signals_service_pb2.ListSignalsRequest, _context: Context) -> HttpBody:
        self._say_age()
        asked = wire.serialized(request)
        place = self._feed.place()
        page = self._pages.get(asked, place)
        if page is None:
            found, token = await self._page(asked)
            page = rendered(found.payloads, token)
            self._pages.keep(asked, page, place, found.position)
        reply.tag(page.etag)
        return page.body

    async def ListSignals(
        self, request: signals_service_pb2.ListSignalsRequest, _context: Context
    ) -> signals_service_pb2.ListSignalsResponse:
        self._say_age()
        found, token = await self._page(wire.serialized(request))
        response = _listed(found.payloads)
        response.next_page_token = token
        return response

    async def _page(self, asked: bytes) -> tuple[Page, str]:
        """A page, and the token to the next one; empty on the last."""
        of = wanted(asked)
        page = await self._store.page(
            of.filters,
            by_score=of.by_score,
            full=of.full,
            collapse=of.collapse,
            size=of.size,
            behind=of.behind,
        )
        return page, paging.encode(page.next, of.without_page) if page.next else ""

    async def GetSignal(
        self, request: signals_service_pb2.GetSignalRequest, _context: Context
    ) -> signals_service_pb2.GetSignalResponse:
        self._say_age()
        stored = await self._store.get(word("id", request.id))
        signal = signal_pb2.Signal.FromString(stored.full)
        stored_state = await self._store.event_state(signal.event_id)
        state = wire.load_state(stored_state) if stored_state else None
        if state is None:
            return signals_service_pb2.GetSignalResponse(signal=signal)
        return signals_service_pb2.GetSignalResponse(
            signal=signal,
            books_holding_now=wire.holdings(holding_now(state, wire.old_number(signal), self._settings)),
            holding_observed_at=wire.stamp(state.observed_at),
        )

    async def ExplainSignal(
        self, request: signals_service_pb2.ExplainSignalRequest, _context: Context
    ) -> signals_service_pb2.ExplainSignalResponse:
        self._say_age()
        stored = await self._store.get(word("id", request.id))
        response = signals_service_pb2.ExplainSignalResponse.FromString(stored.explanation)
        response.signal.ParseFromString(stored.full)
        response.rule = specification(SignalType(signal_pb2.SignalType.Value.Name(response.signal.signal_type)))
        response.configuration = stored.configuration
        return response

    async def ListSuppressions(
        self, request: signals_service_pb2.ListSuppressionsRequest, _context: Context
    ) -> signals_service_pb2.ListSuppressionsResponse:
        self._say_age()
        asked = _without_page(request)
        spans, behind = await self._store.suppressions(
            Filters(
                sport_key=words("sport_key", request.sport_key),
                event_id=words("event_id", request.event_id),
                market=words("market", request.market),
                signal_type=_names("signal_type", signal_pb2.SignalType.Value.DESCRIPTOR, request.signal_type),
                since=_time("since", request.since) if request.HasField("since") else None,
                until=_time("until", request.until) if request.HasField("until") else None,
            ),
            words("reason", request.reason),
            size=paging.page_size(request.page_size),
            behind=paging.decode(request.page_token, asked, SpanPosition) if request.page_token else None,
        )
        return signals_service_pb2.ListSuppressionsResponse(
            suppressions=[wire.suppression(span) for span in spans],
            next_page_token=paging.encode(behind, asked) if behind else "",
        )

    async def StreamSignals(
        self, request: signals_service_pb2.StreamSignalsRequest, context: Context
    ) -> AsyncIterator[HttpBody]:
        resumed = dict(context.invocation_metadata() or ()).get("last-event-id")
        after = resumed.decode() if isinstance(resumed, bytes) else resumed
        begun = False
        try:
            async for item in self._follow(request, after or request.after, context):
                yield _event_stream(item)
                begun = True
        except Exception:
            # Once a byte is out, no status reaches a browser: the stream itself has to say that it failed.
            if begun:
                yield _event_stream(Ended("internal"))
            raise

    async def WatchSignals(
        self, request: signals_service_pb2.WatchSignalsRequest, context: Context
    ) -> AsyncIterator[signals_service_pb2.WatchSignalsResponse]:
        async for item in self._follow(request.stream, request.stream.after, context):
            for response in watched(item):
                yield response

    async def _follow(
        self, request: signals_service_pb2.StreamSignalsRequest, after: str, context: Context
    ) -> AsyncIterator[Item]:
        filters, full = _stream_filters(request), _is_full(request.view)
        cursor = Cursor.parse(after) if after else None
        reader = principal.current.get()
        refusal = self._permits.refusal_of(reader)
        with self._feed.seat(reader.account_id if reader is not None else ""):
            if (age := self._age()) is not None:
                await context.send_initial_metadata(((_DATA_AGE, age),))
            async for item in self._feed.follow(filters, full=full, after=cursor, refusal=refusal):
                yield item

    def _say_age(self) -> None:
        if (age := self._age()) is not None:
            reply.say(_DATA_AGE, age)

    def _age(self) -> str | None:
        seconds = self._feed.data_age_seconds()
        return None if seconds is None else f"{seconds:.1f}"


def _event_stream(item: Item) -> HttpBody:
    return HttpBody(content_type="text/event-stream", data=server_sent(item))


def server_sent(item: Item) -> bytes:
    """A piece of the stream as Server-Sent Events. An `id` without data moves the reader's place and shows nothing."""
    match item:
        case Opened(cursor):
            return f"retry: {RETRY_MILLISECONDS}\nid: {cursor}\n\n".encode()
        case Truncated(reason, cursor):
            said = msgspec.json.encode({"reason": reason, "cursor": str(cursor)})
            return b"retry: %d\nid: %s\nevent: truncated\ndata: %s\n\n" % (
                RETRY_MILLISECONDS,
                str(cursor).encode(),
                said,
            )
        case More(payloads):
            return b"".join(_server_sent_signal(payload) for payload in payloads)
        case Beat(cursor):
            return f": hb\nid: {cursor}\n\n".encode()
        case Ended(reason):
            return b"event: end\ndata: %s\n\n" % msgspec.json.encode({"reason": reason})


def watched(item: Item) -> Iterable[signals_service_pb2.WatchSignalsResponse]:
    """A piece of the stream as typed messages; why it ends is for the status to say."""
    match item:
        case Opened(cursor) | Beat(cursor):
            heartbeat = signals_service_pb2.Heartbeat(cursor=str(cursor))
            return [signals_service_pb2.WatchSignalsResponse(heartbeat=heartbeat)]
        case Truncated(reason, cursor):
            truncated = signals_service_pb2.Truncated(reason=reason, cursor=str(cursor))
            return [signals_service_pb2.WatchSignalsResponse(truncated=truncated)]
        case More(payloads):
            return [
                signals_service_pb2.WatchSignalsResponse(signal=signal_pb2.Signal.FromString(payload))
                for payload in payloads
            ]
        case Ended():
            return []


def _server_sent_signal(payload: bytes) -> bytes:
    signal = render.printed(payload)
    return b"id: %s\nevent: signal\ndata: %s\n\n" % (signal.cursor, signal.json)


def _listed(payloads: Sequence[bytes]) -> signals_service_pb2.ListSignalsResponse:
    # Signals are stored as they travel: to frame the bytes and parse them once costs a tenth of adding one by one.
    framed = b"".join(_SIGNALS_TAG + _varint(len(payload)) + payload for payload in payloads)
    return signals_service_pb2.ListSignalsResponse.FromString(framed)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


# What was asked for.

_Filtered = signals_service_pb2.ListSignalsRequest | signals_service_pb2.StreamSignalsRequest
_Paged = signals_service_pb2.ListSignalsRequest | signals_service_pb2.ListSuppressionsRequest


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request for a page, as the store understands it."""

    filters: Filters
    by_score: bool
    full: bool
    collapse: bool
    size: int
    behind: PagePosition | None
    #: What the token to the next page is bound to.
    without_page: bytes


def wanted(serialized: bytes) -> Wanted:
    """What a ListSignalsRequest asks for. Remembered, because callers ask the same again and again. Raises
    InvalidArgument."""
    return _remembered(serialized) if len(serialized) <= REMEMBERED_BYTES else _read(serialized)


def _read(serialized: bytes) -> Wanted:
    request = signals_service_pb2.ListSignalsRequest.FromString(serialized)
    _known("collapse", signals_service_pb2.Collapse.Value.DESCRIPTOR, request.collapse)
    _known("order_by", signals_service_pb2.OrderBy.Value.DESCRIPTOR, request.order_by)
    without_page = _without_page(request)
    return Wanted(
        _feed_filters(request),
        by_score=request.order_by != signals_service_pb2.OrderBy.TIME,
        full=_is_full(request.view),
        collapse=request.collapse == signals_service_pb2.Collapse.FACT,
        size=paging.page_size(request.page_size),
        behind=paging.decode(request.page_token, without_page, PagePosition) if request.page_token else None,
        without_page=without_page,
    )


_remembered = lru_cache(maxsize=1024)(_read)


def _stream_filters(request: _Filtered) -> Filters:
    types = [*request.signal_type, *request.type]
    return Filters(
        sport_key=words("sport_key", request.sport_key),
        event_id=words("event_id", request.event_id),
        market=words("market", request.market),
        signal_type=_names("signal_type", signal_pb2.SignalType.Value.DESCRIPTOR, types),
        direction=_names("direction", signal_pb2.Direction.Value.DESCRIPTOR, request.direction),
        tier=_names("tier", signal_pb2.Tier.Value.DESCRIPTOR, request.tier),
        book=words("book", request.book),
        min_score=_share("min_score", request.min_score) if request.HasField("min_score") else None,
    )


def _feed_filters(request: signals_service_pb2.ListSignalsRequest) -> Filters:
    return replace(
        _stream_filters(request),
        time_bucket=_names("time_bucket", signal_pb2.TimeBucket.Value.DESCRIPTOR, request.time_bucket),
        since=_time("since", request.since) if request.HasField("since") else None,
        until=_time("until", request.until) if request.HasField("until") else None,
        min_strength=int(_share("min_strength", request.min_strength)) if request.HasField("min_strength") else None,
        velocity_gt=_finite("velocity_gt", request.velocity_gt) if request.HasField("velocity_gt") else None,
    )


def _without_page(request: _Paged) -> bytes:
    """What a page token is bound to: everything asked but the page itself."""
    asked = type(request)()
    asked.CopyFrom(request)  # type: ignore[arg-type]  # the same type on both sides, which a union cannot say
    asked.ClearField("page_size")
    asked.ClearField("page_token")
    return wire.serialized(asked)


def _is_full(view: signals_service_pb2.View.Value.ValueType) -> bool:
    _known("view", signals_service_pb2.View.Value.DESCRIPTOR, view)
    return view == signals_service_pb2.View.FULL


def _known(field: str, enum: EnumDescriptor, value: int) -> None:
    if value not in enum.values_by_number:
        raise wrong(field, f"has no value {value}")


def _names(field: str, enum: EnumDescriptor, values: Iterable[int]) -> tuple[str, ...]:
    known = {value.number: value.name for value in enum.values if value.number}
    numbers = sorted(set(values))
    for number in numbers:
        if number not in known:
            raise wrong(field, f"cannot be {number}; it is one of {', '.join(known.values())}")
    return tuple(known[number] for number in numbers)


def _time(field: str, given: Timestamp) -> datetime:
    try:
        return wire.moment(given)
    except OverflowError:
        raise wrong(field, "is no time of this era") from None


def _share(field: str, value: float) -> float:
    if not 0 <= value <= 100:
        raise wrong(field, f"is from 0 to 100, not {value}")
    return value


def _finite(field: str, value: float) -> float:
    if not math.isfinite(value):
        raise wrong(field, "is a number")
    return value

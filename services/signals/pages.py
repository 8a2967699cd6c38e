"""Pages of the feed as they are sent, remembered for as long as the feed stands where it stood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from google.api.httpbody_pb2 import HttpBody

from services.shared import reply
from services.signals import render
from services.signals.feed import Place

#: What all remembered pages may take; one of 50 signals takes about 50 kB.
MOST_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RenderedPage:
    """A `ListSignalsResponse` as JSON, and the tag that names it."""

    body: HttpBody
    etag: str


def rendered(payloads: Sequence[bytes], next_page_token: str) -> RenderedPage:
    """The bytes that the gateway's transcoder would print.

    The tag is made of the signals as they are printed, and says whether there are more. The token to those also holds
    how far the feed went, so that every new signal changes it; the old one stays good. Cursors would not do: a database
    that came back from an older copy gives them out again, to other signals.
    """
    signals = [render.printed(payload) for payload in payloads]
    data = b'{"signals":[%b],"next_page_token":"%b"}' % (
        b",".join([signal.json for signal in signals]),
        next_page_token.encode(),
    )
    etag = reply.weak(b"".join([b"+" if next_page_token else b".", *(signal.digest for signal in signals)]))
    return RenderedPage(HttpBody(content_type="application/json", data=data), etag)


class Pages:
    """The pages that were asked for since the feed last moved."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._place: Place | None = None
        self._pages: dict[bytes, RenderedPage] = {}

    def get(self, asked: bytes, place: Place | None) -> RenderedPage | None:
        """The page that this request was given at this place of the feed."""
        if place is None:
            return None
        if place != self._place:
            self._pages.clear()
            self._bytes = 0
            self._place = place
        return self._pages.get(asked)

    def keep(self, asked: bytes, page: RenderedPage, place: Place | None, position: int | None) -> None:
        """Remembers a page, if the position that it shows is where the feed stood when it was asked for, and the feed
        stands there still: what retention took in the meantime may be on the page."""
        size = len(asked) + len(page.body.data)
        if place is None or place != self._place or position != place.position or size > self._most_bytes:
            return
        while self._pages and self._bytes + size > self._most_bytes:
            oldest = next(iter(self._pages))
            self._bytes -= len(oldest) + len(self._pages.pop(oldest).body.data)
        if asked not in self._pages:
            self._bytes += size
        self._pages[asked] = page

"""gRPC in and out: translate, call, translate back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import grpc.aio
from stratum.ingest.v1 import ingest_service_pb2 as pb
from stratum.ingest.v1.ingest_service_pb2_grpc import IngestServiceServicer

from services.ingest import store, wire
from services.ingest.store import SportHealth
from services.shared.clock import utc_now
from services.shared.database import Database

Context = grpc.aio.ServicerContext[Any, Any]

#: A feed is late when its newest successful poll is older than this many intervals.
LATE_AFTER_INTERVALS = 3


class IngestApi(IngestServiceServicer):
    """What ingest answers."""

    def __init__(self, database: Database, sports: Sequence[str], polls: bool) -> None:
        """`sports` are those of the settings; `polls` says whether anybody is being asked for them."""
        self._database = database
        self._sports = sports if polls else ()

    async def GetFeedHealth(self, request: pb.GetFeedHealthRequest, _context: Context) -> pb.GetFeedHealthResponse:
        """How fresh each sport's feed is."""
        async with self._database.begin() as connection:
            known = await store.load_health(connection, request.sport_key)
        feeds = {health.sport_key: sport_health(health, self._sports, utc_now()) for health in known}
        for sport_key in self._sports:
            if sport_key not in feeds and (not request.sport_key or sport_key in request.sport_key):
                feeds[sport_key] = pb.SportHealth(sport_key=sport_key, status=pb.SportHealth.Status.STALE)
        return pb.GetFeedHealthResponse(sports=[feeds[sport_key] for sport_key in sorted(feeds)])

    async def RequestKeyframes(
        self, request: pb.RequestKeyframesRequest, _context: Context
    ) -> pb.RequestKeyframesResponse:
        """The next observation of these events will carry everything."""
        async with self._database.begin() as connection:
            await store.request_keyframes(connection, request.event_ids)
        return pb.RequestKeyframesResponse()

    async def ListQuarantinedBooks(
        self, _request: pb.ListQuarantinedBooksRequest, _context: Context
    ) -> pb.ListQuarantinedBooksResponse:
        """Bookmakers that nobody has admitted yet."""
        async with self._database.begin() as connection:
            books = await store.load_quarantined(connection)
        return pb.ListQuarantinedBooksResponse(
            books=[
                pb.QuarantinedBook(
                    book=book.book,
                    title=book.title,
                    first_seen_at=wire.timestamp(book.first_seen_at),
                    last_seen_at=wire.timestamp(book.last_seen_at),
                    quotes=book.quotes,
                )
                for book in books
            ]
        )

    async def SetWatchedEvents(
        self, request: pb.SetWatchedEventsRequest, _context: Context
    ) -> pb.SetWatchedEventsResponse:
        """These events, and no others, are followed in play for this watcher from now on."""
        wire.check_watched(request)
        async with self._database.begin() as connection:
            await store.set_watched(connection, request.watcher, request.event_ids)
        return pb.SetWatchedEventsResponse()

    async def ListWatchedEvents(
        self, _request: pb.ListWatchedEventsRequest, _context: Context
    ) -> pb.ListWatchedEventsResponse:
        """Which events are followed in play, and for whom."""
        async with self._database.begin() as connection:
            watched = await store.load_watched(connection)
        return pb.ListWatchedEventsResponse(
            events=[pb.WatchedEvent(event_id=event_id, watchers=watchers) for event_id, watchers in watched.items()]
        )


def sport_health(health: SportHealth, polled_sports: Sequence[str], now: datetime) -> pb.SportHealth:
    """A feed's health at a moment of our own clock; ages are in the provider's time, which may run faster."""
    event_now = None
    if health.observed_at is not None and health.polled_at is not None:
        event_now = health.observed_at + timedelta(seconds=(now - health.polled_at).total_seconds() * health.clock_rate)
    age = None if event_now is None or health.observed_at is None else (event_now - health.observed_at).total_seconds()
    return pb.SportHealth(
        sport_key=health.sport_key,
        status=_status(health, polled_sports, age),
        observed_at=wire.timestamp(health.observed_at),
        age_seconds=age,
        expected_interval_seconds=health.expected_interval_seconds,
        consecutive_failures=health.consecutive_failures,
        last_failure=health.last_failure,
        books=[wire.book_health(book, event_now) for book in health.books],
        credits_remaining=health.credits_remaining,
    )


def _status(
    health: SportHealth, polled_sports: Sequence[str], age: float | None
) -> pb.SportHealth.Status.Value.ValueType:
    if health.clock_rate == 0.0 or health.sport_key not in polled_sports:
        return pb.SportHealth.Status.IDLE
    late = age is None or age > LATE_AFTER_INTERVALS * health.expected_interval_seconds
    return pb.SportHealth.Status.STALE if late or health.consecutive_failures else pb.SportHealth.Status.OK

"""gRPC in and out: translate, call, translate back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import grpc.aio
from stratum.ingest.v1 import ingest_service_pb2 as pb
from stratum.ingest.v1.ingest_service_pb2_grpc import IngestServiceServicer

from services.ingest import store, wire
from services.ingest.bookmakers import decide_admission, decide_withdrawal
from services.ingest.health import judge
from services.shared.asked import words
from services.shared.clock import utc_now
from services.shared.database import Database

Context = grpc.aio.ServicerContext[Any, Any]


class IngestApi(IngestServiceServicer):
    """What ingest answers."""

    def __init__(self, database: Database, sports: Sequence[str], polls: bool) -> None:
        """`sports` are those of the settings; `polls` says whether anybody is being asked for them."""
        self._database = database
        self._sports = sports if polls else ()

    async def GetFeedHealth(self, request: pb.GetFeedHealthRequest, _context: Context) -> pb.GetFeedHealthResponse:
        """How fresh each sport's feed is."""
        sports = words("sport_key", request.sport_key)
        async with self._database.begin() as connection:
            known = await store.load_health(connection, sports, self._sports)
            polled = frozenset(self._sports) - await store.load_resting(connection)
        now = utc_now()
        return pb.GetFeedHealthResponse(
            sports=[wire.sport_health(health, judge(health, health.sport_key in polled, now)) for health in known]
        )

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
        return pb.ListQuarantinedBooksResponse(books=[wire.quarantined_book(book) for book in books])

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

    async def ListBookDecisions(
        self, _request: pb.ListBookDecisionsRequest, _context: Context
    ) -> pb.ListBookDecisionsResponse:
        """Who was admitted and withdrawn, when, by whom and why."""
        async with self._database.begin() as connection:
            decisions = await store.load_decisions(connection)
        return pb.ListBookDecisionsResponse(decisions=[wire.book_decision(decision) for decision in decisions])

    async def AdmitBook(self, request: pb.AdmitBookRequest, _context: Context) -> pb.AdmitBookResponse:
        """From a moment on, a quarantined key counts."""
        asked = wire.decision_asked(request)
        change = partial(decide_admission, book=asked.book, known_as=request.canonical_book)
        async with self._database.begin() as connection:
            decision = await store.decide(connection, change, asked, utc_now())
            newest = await store.load_newest_observation(connection)
        return pb.AdmitBookResponse(decision=wire.book_decision(decision), newest_observation=wire.timestamp(newest))

    async def WithdrawBook(self, request: pb.WithdrawBookRequest, _context: Context) -> pb.WithdrawBookResponse:
        """From a moment on, an admitted key is quarantined again."""
        asked = wire.decision_asked(request)
        change = partial(decide_withdrawal, book=asked.book)
        async with self._database.begin() as connection:
            decision = await store.decide(connection, change, asked, utc_now())
            newest = await store.load_newest_observation(connection)
        return pb.WithdrawBookResponse(decision=wire.book_decision(decision), newest_observation=wire.timestamp(newest))

"""Shows how the feeds are doing as metrics, and says in the log when the word for one changes.

Every replica shows the same, whichever of them polls: it is what the tables say. Labels hold few values: sports that
are polled, books that are admitted, and of those that are not the `NAMED_BOOKS` with the most quotes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import NoReturn

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from services.ingest import store
from services.ingest.bookmakers import books_at
from services.ingest.health import Judgement, ReasonKind, SportHealth, Status, changed_share, judge
from services.ingest.store import QuarantinedBook
from services.shared.clock import utc_now
from services.shared.database import Database
from services.shared.logging import logger

log = logger(__name__)

LOOK_EVERY_SECONDS = 5.0
#: Looks that fail for this long are no looks.
BLIND_AFTER = timedelta(seconds=3 * LOOK_EVERY_SECONDS)
#: Quarantined keys that are counted by name; the others together are `other`, because strangers choose their keys.
NAMED_BOOKS = 20
OTHER = "other"

Metric = GaugeMetricFamily | CounterMetricFamily


class Monitor(Collector):
    """Looks at the tables every few seconds, and shows what it saw last."""

    def __init__(
        self, database: Database, polled_sports: Sequence[str], registry: CollectorRegistry = REGISTRY
    ) -> None:
        """`polled_sports` are those that anybody means to poll."""
        self._database = database
        self._polled = polled_sports
        self._registry = registry
        self._feeds: list[SportHealth] = []
        #: Sports that are not asked for on purpose.
        self._resting: frozenset[str] = frozenset()
        self._quarantined: list[QuarantinedBook] = []
        self._books_revision = 0
        self._told: dict[str, Status] = {}
        self._looked_at = utc_now()

    async def run(self) -> NoReturn:
        """Never returns. While the database is away, what was seen last grows old."""
        self._registry.register(self)
        try:
            while True:
                try:
                    await self.look()
                except (SQLAlchemyError, OSError) as error:
                    log.warning("the feeds' health cannot be read", error=type(error).__name__)
                await asyncio.sleep(LOOK_EVERY_SECONDS)
        finally:
            self._registry.unregister(self)

    async def look(self) -> None:
        """Reads the tables once. Raises the database's errors."""
        async with self._database.begin() as connection:
            self._feeds = await store.load_health(connection, (), self._polled)
            self._resting = await store.load_resting(connection)
            self._quarantined = await store.load_quarantined(connection)
            self._books_revision = books_at(await store.load_decisions(connection)).revision
        self._looked_at = utc_now()
        for feed, judged in self._judged():
            if self._told.get(feed.sport_key, Status.OK) is not judged.status:
                say = log.info if judged.status in (Status.OK, Status.IDLE) else log.warning
                reasons = [f"{one.kind} {one.book}".strip() for one in judged.reasons]
                say("a feed's health has changed", sport_key=feed.sport_key, status=judged.status, reasons=reasons)
            self._told[feed.sport_key] = judged.status

    def describe(self) -> Iterable[Metric]:
        """Nothing is promised before there is something to show."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are at this moment."""
        judged = self._judged()
        yield from _of_feeds(judged)
        yield from _of_books(judged)
        yield from self._of_quarantine()

    def _judged(self) -> list[tuple[SportHealth, Judgement]]:
        # As of the newest look; where looking itself has failed for a while, what was seen last grows old.
        now = utc_now()
        moment = self._looked_at if now - self._looked_at < BLIND_AFTER else now
        polled = frozenset(self._polled) - self._resting
        return [(feed, judge(feed, feed.sport_key in polled, moment)) for feed in self._feeds]

    def _of_quarantine(self) -> Iterator[Metric]:
        by_quotes = sorted(self._quarantined, key=lambda book: (-book.quotes, book.book))
        quotes = CounterMetricFamily(
            "stratum_ingest_quarantined_quotes", "Quotes of bookmakers that nobody has admitted.", labels=["book"]
        )
        for book in by_quotes[:NAMED_BOOKS]:
            quotes.add_metric([book.book], book.quotes)
        if rest := by_quotes[NAMED_BOOKS:]:
            quotes.add_metric([OTHER], sum(book.quotes for book in rest))
        yield quotes
        yield GaugeMetricFamily(
            "stratum_ingest_quarantined_books", "Bookmakers' keys that nobody has admitted.", len(self._quarantined)
        )
        yield GaugeMetricFamily(
            "stratum_ingest_books_revision", "The newest decision about bookmakers.", self._books_revision
        )


def _of_feeds(judged: Sequence[tuple[SportHealth, Judgement]]) -> Iterator[Metric]:
    status = GaugeMetricFamily(
        "stratum_ingest_feed_status", "1 for the word that describes the feed.", labels=["sport_key", "status"]
    )
    degraded = GaugeMetricFamily(
        "stratum_ingest_feed_degraded", "Things that are wrong with the feed.", labels=["sport_key", "reason"]
    )
    age = GaugeMetricFamily(
        "stratum_ingest_feed_age_seconds", "Age of the newest successful poll, in event time.", labels=["sport_key"]
    )
    failures = GaugeMetricFamily(
        "stratum_ingest_feed_consecutive_failures", "Failed polls since the last success.", labels=["sport_key"]
    )
    share = GaugeMetricFamily(
        "stratum_ingest_feed_changed_share", "Share of quotes that a poll finds changed.", labels=["sport_key"]
    )
    for feed, made in judged:
        for word in Status:
            status.add_metric([feed.sport_key, word.value], float(made.status is word))
        for kind in ReasonKind:
            degraded.add_metric([feed.sport_key, kind.value], sum(one.kind is kind for one in made.reasons))
        failures.add_metric([feed.sport_key], feed.consecutive_failures)
        if made.age_seconds is not None:
            age.add_metric([feed.sport_key], made.age_seconds)
        changed = changed_share(feed.books)
        if changed is not None:
            share.add_metric([feed.sport_key], changed)
    yield from (status, degraded, age, failures, share)


def _of_books(judged: Sequence[tuple[SportHealth, Judgement]]) -> Iterator[Metric]:
    labels = ["sport_key", "book"]
    age = GaugeMetricFamily(
        "stratum_ingest_book_reading_age_seconds",
        "Since the provider last read the book, in event time.",
        labels=labels,
    )
    quotes = GaugeMetricFamily("stratum_ingest_book_quotes", "Quotes of the book in the newest poll.", labels=labels)
    missing = GaugeMetricFamily(
        "stratum_ingest_book_missing", "1 where the book should quote and does not.", labels=labels
    )
    for feed, made in judged:
        for book in feed.books:
            names = [feed.sport_key, book.book]
            if made.event_now is not None and book.last_update is not None:
                age.add_metric(names, (made.event_now - book.last_update).total_seconds())
            quotes.add_metric(names, book.quotes)
            missing.add_metric(names, float(book.book in made.missing))
    yield from (age, quotes, missing)

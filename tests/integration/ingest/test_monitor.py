"""The feeds' health as metrics: what the tables say, judged when it is read, under labels that have an end."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from services.ingest import store
from services.ingest.changes import Coverage, Poll
from services.ingest.monitor import NAMED_BOOKS, OTHER, Monitor
from services.ingest.normalize import normalize
from services.ingest.poller import acquire
from services.ingest.provider import Quota
from services.ingest.recorder import Answered, Recorder
from services.ingest.testing import SPORT, START, a_book, an_event, minutes, spreads
from services.shared.clock import utc_now
from services.shared.database import Database
from services.shared.outbox import Outbox


@pytest.fixture
async def recorder(database: Database, outbox: Outbox) -> Recorder:
    """A recorder that holds the lease."""
    lease = await acquire(database, "here", 10.0)
    assert lease is not None
    return Recorder(database, outbox, lease, lease_seconds=10.0, rate=1.0)


def a_poll(number: int, *books: str) -> Answered:
    """The poll after so many minutes, in which these books quote."""
    body = [an_event(*(a_book(book, spreads(-5.5)) for book in books))]
    asked = Coverage(("h2h", "spreads", "totals"))
    return Answered(Poll(SPORT, START + minutes(number), 60.0, asked, normalize(body)), Quota(99, 3), body)


async def seen(database: Database) -> CollectorRegistry:
    """The metrics of a replica that has just looked."""
    registry = CollectorRegistry()
    monitor = Monitor(database, (SPORT,), registry)
    await monitor.look()
    registry.register(monitor)
    return registry


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"stratum_ingest_{name}", labels)


async def test_before_the_first_poll_the_feed_is_stale(database: Database) -> None:
    registry = await seen(database)
    assert value(registry, "feed_status", sport_key=SPORT, status="STALE") == 1.0
    assert value(registry, "feed_degraded", sport_key=SPORT, reason="NEVER_POLLED") == 1.0


async def test_a_feed_and_its_books_are_shown_as_they_are_judged(database: Database, recorder: Recorder) -> None:
    await recorder.record([a_poll(0, "draftkings", "fanduel")])
    await recorder.record([a_poll(1, "draftkings")])
    await recorder.note_failure(a_poll(2).poll, "unavailable")
    registry = await seen(database)
    assert value(registry, "feed_status", sport_key=SPORT, status="DEGRADED") == 1.0
    assert value(registry, "feed_status", sport_key=SPORT, status="OK") == 0.0
    assert value(registry, "feed_consecutive_failures", sport_key=SPORT) == 1.0
    assert value(registry, "feed_degraded", sport_key=SPORT, reason="POLL_FAILED") == 1.0
    assert value(registry, "feed_changed_share", sport_key=SPORT) == 0.0
    assert value(registry, "book_missing", sport_key=SPORT, book="fanduel") == 1.0
    assert value(registry, "book_quotes", sport_key=SPORT, book="draftkings") == 1.0
    age = value(registry, "book_reading_age_seconds", sport_key=SPORT, book="draftkings")
    assert age is not None
    assert age >= 60.0


@pytest.mark.parametrize(("minutes_blind", "status"), [(0.1, "OK"), (2.5, "LATE"), (10, "STALE")])
async def test_while_it_cannot_look_what_it_saw_last_grows_old(
    database: Database, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, minutes_blind: float, status: str
) -> None:
    await recorder.record([a_poll(0, "draftkings")])
    registry = await seen(database)
    later = utc_now() + minutes(minutes_blind)
    monkeypatch.setattr("services.ingest.monitor.utc_now", lambda: later)
    assert value(registry, "feed_status", sport_key=SPORT, status=status) == 1.0


async def test_a_failure_is_remembered_after_the_next_success(database: Database, recorder: Recorder) -> None:
    await recorder.note_failure(a_poll(0).poll, "out_of_credits")
    await recorder.record([a_poll(1, "draftkings")])
    async with database.begin() as connection:
        (feed,) = await store.load_health(connection, ())
    assert (feed.last_failure, feed.failed_at, feed.consecutive_failures) == ("", START, 0)


async def test_strangers_fill_no_more_than_so_many_labels(database: Database, recorder: Recorder) -> None:
    strangers = [f"stranger_{number:02}" for number in range(NAMED_BOOKS + 5)]
    await recorder.record([a_poll(0, *strangers), a_poll(1, *strangers[:NAMED_BOOKS])])
    registry = await seen(database)
    assert value(registry, "quarantined_quotes_total", book=strangers[0]) == 2.0
    assert value(registry, "quarantined_quotes_total", book=strangers[-1]) is None
    assert value(registry, "quarantined_quotes_total", book=OTHER) == 5.0
    assert value(registry, "quarantined_books") == NAMED_BOOKS + 5

"""How a feed is doing: what a poll shows of each book, and what a partner is to make of it. Pure.

A feed is judged by three questions. Are polls answered (`POLL_FAILED`), and in time (`NEVER_POLLED`, `POLL_OVERDUE`)?
Is every book there that should be (`BOOK_MISSING`)? Does the provider still read the books it shows (`BOOK_NOT_READ`)?
Why the limits are what they are: docs/decisions/0008-what-a-stale-feed-is.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from services.ingest.changes import Observation, Poll
from services.shared.odds import canonical

#: A poll is overdue when this many intervals have passed since the newest that succeeded.
LATE_AFTER_INTERVALS = 2.0
#: How long a quote outlives its last poll, with a floor; consensus and the rules have it so too. Then it is dead.
STALE_AFTER_INTERVALS = 3.0
STALE_FLOOR_SECONDS = 180.0
#: In the recorded series no quote before the start was ever older than 881 s, and 99 in 100 were under 500 s.
NOT_READ_AFTER = timedelta(minutes=15)
#: A book that has not been seen for this long is no longer missed.
FORGET_AFTER = timedelta(hours=24)
#: Polls count half as much for the share of changed quotes when they are this old.
SHARE_HALF_LIFE = timedelta(minutes=10)


class Status(StrEnum):
    """What to make of a feed, in one word."""

    OK = "OK"
    DEGRADED = "DEGRADED"
    LATE = "LATE"
    STALE = "STALE"
    IDLE = "IDLE"


class ReasonKind(StrEnum):
    """Why a feed is not OK."""

    NEVER_POLLED = "NEVER_POLLED"
    POLL_OVERDUE = "POLL_OVERDUE"
    POLL_FAILED = "POLL_FAILED"
    BOOK_MISSING = "BOOK_MISSING"
    BOOK_NOT_READ = "BOOK_NOT_READ"


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that is wrong. `book` is the book it is about, if any; `detail` is for people, or a failure's kind."""

    kind: ReasonKind
    detail: str
    book: str = ""


@dataclass(frozen=True, slots=True)
class BookHealth:
    """How one book did in the newest poll of a sport, and what is remembered of it from those before."""

    sport_key: str
    book: str
    #: The newest reading that the provider gave.
    last_update: datetime | None
    #: In the newest poll; 0 when the book was not in it.
    quotes: int
    events: int
    #: The newest poll of the sport, and the newest one that showed the book.
    observed_at: datetime
    seen_at: datetime | None = None
    #: The latest start among the events that it quoted when it was last seen.
    quoted_until: datetime | None = None
    #: Whether the newest poll asked for it by name.
    asked: bool = False
    #: Quotes that polls showed, and how many of them had changed, older polls counting less.
    recent_quotes: float = 0.0
    recent_changes: float = 0.0


@dataclass(frozen=True, slots=True)
class SportHealth:
    """How one sport's feed is doing."""

    sport_key: str
    #: The newest successful poll in event time, and the same moment by our own clock.
    observed_at: datetime | None
    polled_at: datetime | None
    #: How much faster the provider's time runs than ours; 0 where it stands still.
    clock_rate: float
    expected_interval_seconds: float
    consecutive_failures: int
    #: The kind of the newest poll's failure; empty after a success.
    last_failure: str
    credits_remaining: int | None
    #: The newest poll that failed.
    failed_at: datetime | None = None
    books: tuple[BookHealth, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a partner is to make of a feed at a moment, and why."""

    status: Status
    reasons: tuple[Reason, ...] = ()
    #: Books that should quote now and do not.
    missing: frozenset[str] = frozenset()
    #: Books whose quotes the provider shows without having read them for long.
    not_read: frozenset[str] = frozenset()
    #: Event time now, and how old the newest successful poll is in it; None where there was none.
    event_now: datetime | None = None
    age_seconds: float | None = None


def changed_books(told: Observation) -> Counter[str]:
    """By book, how many quotes an observation found changed; a quote that is new changed from nothing and is not
    counted."""
    return Counter(
        [
            quote.key[2]
            for quote in told.changes
            if quote.observed_at == told.observed_at and quote.previous_seen_at is not None
        ]
    )


def observe_books(before: Iterable[BookHealth], poll: Poll, changed: Mapping[str, int]) -> tuple[BookHealth, ...]:
    """Every book's health after a poll of the whole sport, by key: those it showed, asked for, or that are missed."""
    known = {book.book: book for book in before}
    quotes: Counter[str] = Counter()
    events: Counter[str] = Counter()
    updates: dict[str, datetime] = {}
    until: dict[str, datetime] = {}
    for event in poll.seen.events:
        named = [book for _, _, book in event.keys]
        names = set(named)
        events.update(names)
        quotes.update(named)
        if event.commence_time is not None:
            for name in names:
                until[name] = max(event.commence_time, until.get(name, event.commence_time))
        for name, reading in set(zip(named, event.readings, strict=True)):
            if reading is not None:
                updates[name] = max(reading, updates.get(name, reading))
    now = poll.observed_at
    found = []
    for name in sorted({*known, *quotes, *poll.asked.books}):
        old = known.get(name) or BookHealth(poll.sport_key, name, None, 0, 0, now)
        # A walk through the past may look at what lies behind what is known; nothing fades backwards.
        fade = 0.5 ** max(0.0, (now - old.observed_at) / SHARE_HALF_LIFE)
        book = replace(
            old,
            quotes=quotes[name],
            events=events[name],
            observed_at=now,
            asked=name in poll.asked.books,
            recent_quotes=canonical(old.recent_quotes * fade + quotes[name]),
            recent_changes=canonical(old.recent_changes * fade + changed.get(name, 0)),
        )
        if quotes[name]:
            book = replace(book, last_update=updates.get(name), seen_at=now, quoted_until=until.get(name))
        if book.asked or (book.seen_at is not None and now - book.seen_at < FORGET_AFTER):
            found.append(book)
    return tuple(found)


def changed_share(books: Iterable[BookHealth]) -> float | None:
    """The share of quotes that a poll finds changed, recent polls counting more; None before anything could change."""
    counted = [(book.recent_changes, book.recent_quotes) for book in books]
    quotes = sum(quotes for _, quotes in counted)
    return None if quotes < 1.0 else canonical(sum(changes for changes, _ in counted) / quotes)


def judge(health: SportHealth, polled: bool, now: datetime) -> Judgement:
    """What to make of a feed at a moment of our own clock. `polled` says whether anybody means to poll it.

    Ages are in the provider's time, which may run faster than ours.
    """
    event_now = age = None
    if health.observed_at is not None and health.polled_at is not None:
        age = (now - health.polled_at).total_seconds() * health.clock_rate
        event_now = health.observed_at + timedelta(seconds=age)
    if not polled or health.clock_rate == 0.0:
        return Judgement(Status.IDLE, event_now=event_now, age_seconds=age)
    missing, not_read = _missing(health.books), _not_read(health.books)
    reasons = [
        *_reasons_of_polls(health, age),
        *(Reason(ReasonKind.BOOK_MISSING, _why_missing(book), book.book) for book in missing),
        *(Reason(ReasonKind.BOOK_NOT_READ, _how_long(book), book.book) for book in not_read),
    ]
    nobody_read = bool(not_read) and len(not_read) == sum(_quotes_what_comes(book) for book in health.books)
    if age is None or age > stale_after_seconds(health.expected_interval_seconds) or nobody_read:
        status = Status.STALE
    elif age > LATE_AFTER_INTERVALS * health.expected_interval_seconds:
        status = Status.LATE
    else:
        status = Status.DEGRADED if reasons else Status.OK
    return Judgement(
        status,
        tuple(reasons),
        frozenset(book.book for book in missing),
        frozenset(book.book for book in not_read),
        event_now,
        age,
    )


def stale_after_seconds(expected_interval_seconds: float) -> float:
    """How old the newest successful poll may be before the quotes that it showed are dead."""
    return max(STALE_AFTER_INTERVALS * expected_interval_seconds, STALE_FLOOR_SECONDS)


def _reasons_of_polls(health: SportHealth, age: float | None) -> list[Reason]:
    reasons = []
    if age is None:
        reasons.append(Reason(ReasonKind.NEVER_POLLED, "no poll of this sport has succeeded yet"))
    elif age > LATE_AFTER_INTERVALS * health.expected_interval_seconds:
        told = f"the newest successful poll is {age:.0f} s old; one is due every {health.expected_interval_seconds:g} s"
        reasons.append(Reason(ReasonKind.POLL_OVERDUE, told))
    if health.consecutive_failures:
        reasons.append(Reason(ReasonKind.POLL_FAILED, health.last_failure))
    return reasons


def _quotes_what_comes(book: BookHealth) -> bool:
    """Whether a book quotes a game that has yet to start: only there is a book expected to be, and to be read."""
    return book.quotes > 0 and book.quoted_until is not None and book.observed_at < book.quoted_until


def _missing(books: Sequence[BookHealth]) -> list[BookHealth]:
    """Books that quote nothing, though they were asked for, or have quoted a game that is still to come.

    That the game is still to come is taken from the others: one that nobody quotes any more may have been called off.
    """
    still_to_come = max(
        (book.quoted_until for book in books if _quotes_what_comes(book) and book.quoted_until), default=None
    )
    if still_to_come is None:
        return []
    return [
        book
        for book in books
        if book.quotes == 0
        and (book.asked or (book.quoted_until is not None and book.observed_at < min(book.quoted_until, still_to_come)))
    ]


def _not_read(books: Sequence[BookHealth]) -> list[BookHealth]:
    return [
        book
        for book in books
        if _quotes_what_comes(book)
        and book.last_update is not None
        and book.observed_at - book.last_update > NOT_READ_AFTER
    ]


def _why_missing(book: BookHealth) -> str:
    if book.seen_at is None:
        return "asked for by name and not seen in the last 24 hours"
    return f"it has quoted nothing since {book.seen_at:%Y-%m-%dT%H:%M:%SZ}"


def _how_long(book: BookHealth) -> str:
    assert book.last_update is not None, "only a dated reading can be old"
    return f"the provider last read it at {book.last_update:%Y-%m-%dT%H:%M:%SZ}"

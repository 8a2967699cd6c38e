"""An operator admits a book while polls go on: from which observation on it counts, and who can tell why."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from stratum.ingest.v1 import ingest_service_pb2 as pb
from stratum.ingest.v1.events_pb2 import EventObserved

from services.ingest import wire
from services.ingest.api import IngestApi
from services.ingest.backfill import Backfill
from services.ingest.changes import Coverage, Poll
from services.ingest.config import Config
from services.ingest.normalize import normalize
from services.ingest.poller import acquire
from services.ingest.provider import OddsApi, Quota, open_session
from services.ingest.recorder import Answered, Recorder
from services.ingest.testing import SPORT, START, FakeProvider, a_book, an_event, minutes, moneyline, spreads
from services.shared.bus import OBSERVATIONS, Bus
from services.shared.config import ServiceConfig
from services.shared.database import Database, open_database
from services.shared.errors import InvalidArgument, Unavailable
from services.shared.outbox import Outbox
from services.shared.testing import eventually, settings, stored

BODY = [an_event(a_book("draftkings", spreads(-5.5)), a_book("newbook", spreads(-6.5), moneyline()))]
TICK = timedelta(milliseconds=1)
NO_CONTEXT: Any = None


@pytest.fixture
async def recorder(database: Database, outbox: Outbox) -> Recorder:
    """A recorder that holds the lease."""
    lease = await acquire(database, "here", 10.0)
    assert lease is not None
    return Recorder(database, outbox, lease, lease_seconds=10.0, rate=1.0)


@pytest.fixture
def api(database: Database) -> IngestApi:
    """What operators ask."""
    return IngestApi(database, (SPORT,), polls=True)


def a_poll(moment: datetime, body: list[Any] = BODY, books: tuple[str, ...] = ()) -> Answered:
    """A poll whose body was read before anybody decided anything."""
    asked = Coverage(("h2h", "spreads", "totals"), books)
    return Answered(Poll(SPORT, moment, 60.0, asked, normalize(body)), Quota(99, 3), body)


async def admit(api: IngestApi, book: str = "newbook", known_as: str = "", **more: Any) -> pb.BookDecision:
    """The decision that admits a key."""
    request = pb.AdmitBookRequest(book=book, reason="it is real", actor="ann", canonical_book=known_as, **more)
    return (await api.AdmitBook(request, NO_CONTEXT)).decision


async def told(outbox: Outbox, bus: Bus) -> list[tuple[int, list[tuple[str, str]], list[str]]]:
    """What was told, a message a line: revision, what is new or changed, and the books that are gone."""
    await outbox.publish()
    messages = [EventObserved.FromString(delivery.payload) for delivery in await stored(bus, OBSERVATIONS)]
    return [
        (
            message.event.revision,
            [(change.key.market, change.book) for change in message.changes],
            sorted({gone.book for gone in message.removed}),
        )
        for message in messages
    ]


async def column(database: Database, statement: str) -> list[Any]:
    """One column of an answer of the database."""
    async with database.begin() as connection:
        return list((await connection.execute(text(statement))).scalars())


async def test_an_admitted_book_counts_from_the_next_observation_on_though_that_was_read_before(
    api: IngestApi, recorder: Recorder, database: Database, outbox: Outbox, bus: Bus
) -> None:
    await recorder.record([a_poll(START)])
    decision = await admit(api)
    assert (decision.revision, decision.before, decision.after, decision.actor) == (1, "", "newbook", "ann")
    assert decision.effective_from == wire.timestamp(START + TICK)
    await recorder.record([a_poll(START + minutes(1))])
    assert await told(outbox, bus) == [
        (1, [("spreads", "draftkings")], []),
        (2, [("h2h", "newbook"), ("spreads", "newbook")], []),
    ]
    assert await column(database, "SELECT books_revision FROM ingest.polls ORDER BY observed_at") == [0, 1]
    assert recorder.books_at(START + minutes(2)).canonical("newbook") == "newbook"
    assert (await api.ListQuarantinedBooks(pb.ListQuarantinedBooksRequest(), NO_CONTEXT)).books == []


async def test_a_withdrawn_book_is_gone_with_the_next_observation(
    api: IngestApi, recorder: Recorder, outbox: Outbox, bus: Bus
) -> None:
    await admit(api, effective_from=wire.timestamp(START))
    await recorder.record([a_poll(START)])
    request = pb.WithdrawBookRequest(book="newbook", reason="it is not", actor="bob")
    assert (await api.WithdrawBook(request, NO_CONTEXT)).decision.before == "newbook"
    await recorder.record([a_poll(START + minutes(1))])
    assert (await told(outbox, bus))[1] == (2, [], ["newbook"])


async def test_another_name_of_a_book_that_is_asked_for_counts_as_that_book(
    api: IngestApi, recorder: Recorder, outbox: Outbox, bus: Bus
) -> None:
    await admit(api, known_as="fanduel", effective_from=wire.timestamp(START))
    await recorder.record([a_poll(START, books=("draftkings", "newbook"))])
    emptied = [an_event(a_book("draftkings", spreads(-5.5)))]
    await recorder.record([a_poll(START + minutes(1), emptied, books=("draftkings", "newbook"))])
    assert await told(outbox, bus) == [
        (1, [("h2h", "fanduel"), ("spreads", "draftkings"), ("spreads", "fanduel")], []),
        (2, [], ["fanduel"]),
    ]


async def test_a_decision_waits_for_the_poll_that_is_being_kept_and_takes_effect_behind_it(
    api: IngestApi, recorder: Recorder, database: Database
) -> None:
    deciding: list[asyncio.Task[pb.BookDecision]] = []
    waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'ingest.poller_lease'::regclass"

    async def while_it_is_kept(_connection: object) -> None:
        deciding.append(asyncio.create_task(admit(api)))
        await eventually(lambda: column(database, waiting))

    await recorder.record([a_poll(START)], while_it_is_kept)
    assert (await deciding[0]).effective_from == wire.timestamp(START + TICK)


async def test_a_decision_that_waits_too_long_says_so_and_leaves_nothing(
    database: Database, recorder: Recorder, api: IngestApi
) -> None:
    url = SecretStr(database.engine.url.render_as_string(hide_password=False))
    impatient = ServiceConfig(database_url=url, database_lock_timeout_seconds=0.1)

    async def while_it_is_kept(_connection: object) -> None:
        async with open_database(impatient) as another:
            with pytest.raises(Unavailable, match="ask again"):
                await admit(IngestApi(another, (SPORT,), polls=True))

    await recorder.record([a_poll(START)], while_it_is_kept)
    assert (await api.ListBookDecisions(pb.ListBookDecisionsRequest(), NO_CONTEXT)).decisions == []


@pytest.mark.parametrize("batch", [1, 16])
async def test_a_walk_through_the_past_reads_every_answer_by_the_books_of_its_time(
    api: IngestApi, provider: FakeProvider, database: Database, outbox: Outbox, bus: Bus, batch: int
) -> None:
    await admit(api, effective_from=wire.timestamp(START + minutes(2)))
    provider.remembers((START + minutes(number), BODY) for number in range(4))
    config = settings(Config, odds_api_base_url=provider.url, ingest_backfill_batch=batch)
    async with open_session() as session:
        walk = Backfill(config, OddsApi(session, config), database, outbox, "here")
        await walk.run(SPORT, START, START + minutes(3), lambda _cursor: None)
    assert [changes for _, changes, _ in await told(outbox, bus)] == [
        [("spreads", "draftkings")],
        [],
        [("h2h", "newbook"), ("spreads", "newbook")],
        [],
    ]


async def test_the_log_can_be_read_and_not_altered(api: IngestApi, database: Database) -> None:
    decision = await admit(api)
    assert list((await api.ListBookDecisions(pb.ListBookDecisionsRequest(), NO_CONTEXT)).decisions) == [decision]
    for statement in ("UPDATE ingest.book_decisions SET reason = ''", "DELETE FROM ingest.book_decisions"):
        with pytest.raises(ProgrammingError, match="permission denied"):
            await column(database, f"{statement} RETURNING revision")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"book": "New Book"}, "book"),
        ({"book": "draftkings"}, "book"),
        ({"reason": ""}, "reason"),
        ({"reason": "a\nb"}, "reason"),
        ({"reason": "x" * 501}, "reason"),
        ({"actor": "  "}, "actor"),
        ({"effective_from": {"seconds": -1}}, "effective_from"),
        ({"effective_from": {"seconds": 10**12}}, "effective_from"),
    ],
)
async def test_what_cannot_be_decided_is_refused_and_leaves_nothing(
    api: IngestApi, database: Database, given: dict[str, Any], field: str
) -> None:
    request = pb.AdmitBookRequest(**{"book": "newbook", "reason": "it is real", "actor": "ann", **given})
    with pytest.raises(InvalidArgument) as refused:
        await api.AdmitBook(request, NO_CONTEXT)
    assert refused.value.metadata == {"field": field}
    assert await column(database, "SELECT 1 FROM ingest.book_decisions") == []


async def test_quarantine_says_where_a_key_was_seen_and_what_it_quotes(api: IngestApi, recorder: Recorder) -> None:
    await recorder.record([a_poll(START)])
    other = [an_event(a_book("newbook", {"key": "totals", "outcomes": []}, {"key": "outrights", "outcomes": []}))]
    await recorder.record([a_poll(START + minutes(1), other)])
    (book,) = (await api.ListQuarantinedBooks(pb.ListQuarantinedBooksRequest(), NO_CONTEXT)).books
    assert (book.book, book.quotes, list(book.sports)) == ("newbook", 4, [SPORT])
    assert list(book.markets) == ["h2h", "spreads", "totals"]
    assert (book.first_seen_at, book.last_seen_at) == (wire.timestamp(START), wire.timestamp(START + minutes(1)))


async def test_quarantine_says_how_a_key_compares_with_the_books_that_count(api: IngestApi, recorder: Recorder) -> None:
    others = [a_book(book, spreads(-5.5)) for book in ("draftkings", "fanduel", "betmgm")]
    for number in range(2):
        await recorder.record([a_poll(START + minutes(number), [an_event(*others, a_book("newbook", spreads(-6.5)))])])
    (book,) = (await api.ListQuarantinedBooks(pb.ListQuarantinedBooksRequest(), NO_CONTEXT)).books
    assert (book.comparison.compared_at, book.comparison.spread_points) == (wire.timestamp(START), 1.0)
    assert not book.comparison.HasField("h2h_probability")

"""The poller with a real database and bus: what a poll leaves, and what dying in the middle leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection
from stratum.ingest.v1 import ingest_service_pb2 as pb
from stratum.ingest.v1.events_pb2 import EventObserved

from services.ingest import recorder as recorder_module
from services.ingest import store, wire
from services.ingest.api import IngestApi
from services.ingest.changes import Coverage, Poll, observe_poll
from services.ingest.config import Config
from services.ingest.health import judge
from services.ingest.normalize import normalize
from services.ingest.poller import Poller, acquire
from services.ingest.provider import OddsApi, Quota, open_session
from services.ingest.recorder import Answered, Recorder
from services.ingest.store import Lease, LeaseLost
from services.ingest.testing import (
    SPORT,
    START,
    FakeProvider,
    Reply,
    a_book,
    a_market,
    an_event,
    an_outcome,
    minutes,
    moneyline,
    spreads,
)
from services.shared.bus import OBSERVATIONS, Bus, BusError
from services.shared.database import Database
from services.shared.errors import InvalidArgument
from services.shared.identity import snapshot_id
from services.shared.outbox import Outbox
from services.shared.testing import eventually, settings, stored
from tests.conftest import DatabaseFor


def config_for(provider: FakeProvider, **given: Any) -> Config:
    """Settings that poll the test's provider fast, in the provider's own time."""
    return settings(
        Config,
        odds_api_key=SecretStr("key"),
        odds_api_base_url=provider.url,
        odds_api_poll_interval_seconds=60.0,
        odds_api_retry_attempts=1,
        odds_api_clock="provider",
        odds_api_clock_rate=1200.0,
        **given,
    )


def at(moment: Any, *books: Any) -> Reply:
    """An answer with one event, dated by the provider."""
    return Reply([an_event(*books, commence_time=START + timedelta(hours=6))], headers=dated(moment))


def dated(moment: Any) -> dict[str, str]:
    """The Date header of a moment."""
    return {"Date": moment.strftime("%a, %d %b %Y %H:%M:%S GMT"), "x-requests-remaining": "99"}


@pytest.fixture
async def api(provider: FakeProvider) -> AsyncIterator[OddsApi]:
    """The client, aimed at the test's provider."""
    async with open_session() as session:
        yield OddsApi(session, config_for(provider))


@pytest.fixture
async def recorder(database: Database, outbox: Outbox) -> Recorder:
    """A recorder that holds the lease."""
    return Recorder(database, outbox, await a_lease(database), lease_seconds=10.0, rate=1.0)


async def a_lease(database: Database, holder: str = "here", seconds: float = 10.0) -> Lease:
    """The lease, which is free."""
    lease = await acquire(database, holder, seconds)
    assert lease is not None
    return lease


def a_poll(body: list[Any], moment: Any = START) -> Answered:
    """A poll that was answered with a body."""
    poll = Poll(SPORT, moment, 60.0, Coverage(("h2h", "spreads", "totals")), normalize(body))
    return Answered(poll, Quota(remaining=99, last=3), body)


async def observations(bus: Bus) -> list[EventObserved]:
    """What was told, in order."""
    return [EventObserved.FromString(delivery.payload) for delivery in await stored(bus, OBSERVATIONS)]


async def rows(database: Database, table: str, order: str = "1, 2") -> list[dict[str, Any]]:
    """A table whole."""
    async with database.begin() as connection:
        found = await connection.execute(text(f"SELECT * FROM ingest.{table} ORDER BY {order}"))
        return [dict(row) for row in found.mappings()]


async def test_polls_become_messages_and_rows(
    api: OddsApi, provider: FakeProvider, database: Database, outbox: Outbox, recorder: Recorder, bus: Bus
) -> None:
    provider.will_say(
        at(START, a_book("draftkings", spreads(-5.5)), a_book("nobody_knows", moneyline())),
        at(START + minutes(1), a_book("draftkings", spreads(-6.5, last_update=START + minutes(0.5)))),
    )
    poller = Poller(config_for(provider), api, database, outbox, "here")
    await poller.poll(recorder, SPORT)
    await poller.poll(recorder, SPORT)
    first, second = await observations(bus)
    assert (first.event.keyframe, first.event.revision, second.event.previous_revision) == (True, 1, 1)
    (quote,) = second.changes
    assert quote.line == -6.5
    assert quote.changed_by.ToDatetime(START.tzinfo) == START + minutes(0.5)
    assert [
        snapshot_id("game", "draftkings", "spreads", "", side, outcome.observed_at.ToDatetime(START.tzinfo))
        for side, outcome in zip(("home", "away"), quote.outcomes, strict=True)
    ] == [
        row["id"]
        for row in await rows(database, "odds_snapshots", "observed_at DESC, outcome DESC")
        if row["line"] in (-6.5, 6.5)
    ]
    assert [row["book"] for row in await rows(database, "quarantined_books")] == ["nobody_knows"]
    assert [row["changes"] for row in await rows(database, "polls")] == [1, 1]
    (game,) = await rows(database, "games")
    assert (game["observed_at"], game["gone"]) == (START + minutes(1), False)
    assert await outbox.is_empty()


async def test_two_answers_of_one_second_are_still_in_order(
    api: OddsApi, provider: FakeProvider, database: Database, outbox: Outbox, recorder: Recorder, bus: Bus
) -> None:
    provider.will_say(at(START, a_book("draftkings", spreads(-5.5))))
    poller = Poller(config_for(provider), api, database, outbox, "here")
    for _ in range(3):
        await poller.poll(recorder, SPORT)
    times = [message.event.observed_at.ToMilliseconds() for message in await observations(bus)]
    assert times == [times[0], times[0] + 1, times[0] + 2]


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply({"message": "no"}, 500), "unavailable"),
        (Reply({"message": "no", "error_code": "OUT_OF_USAGE_CREDITS"}, 401), "out_of_credits"),
        (Reply("[{"), "unreadable_body"),
        (Reply([], headers=dated(START + minutes(1))), "empty_body"),
    ],
)
async def test_in_a_poll_that_failed_nobody_dies(
    api: OddsApi,
    provider: FakeProvider,
    database: Database,
    outbox: Outbox,
    recorder: Recorder,
    bus: Bus,
    reply: Reply,
    kind: str,
) -> None:
    book = a_book("draftkings", spreads(-5.5))
    provider.will_say(at(START, book), reply, at(START + minutes(2), book))
    poller = Poller(config_for(provider), api, database, outbox, "here")
    await poller.poll(recorder, SPORT)
    await poller.poll(recorder, SPORT)
    (health,) = await load_health(database)
    assert (health.consecutive_failures, health.last_failure, health.observed_at) == (1, kind, START)
    await poller.poll(recorder, SPORT)
    assert [(len(m.changes), len(m.removed)) for m in await observations(bus)] == [(1, 0), (0, 0)]
    (health,) = await load_health(database)
    assert (health.consecutive_failures, health.last_failure) == (0, "")
    assert await rows(database, "disappearances") == []


async def load_health(database: Database) -> list[store.SportHealth]:
    """The health of every feed."""
    async with database.begin() as connection:
        return await store.load_health(connection, ())


async def test_what_was_committed_before_a_death_is_published_first_by_the_next(
    provider: FakeProvider, api: OddsApi, database: Database, outbox: Outbox, bus: Bus
) -> None:
    dying = await a_lease(database, "dying", seconds=0.1)
    await Recorder(database, outbox, dying, 0.1, 1.0).record([a_poll([an_event(a_book("draftkings", spreads(-5.5)))])])
    assert await observations(bus) == []
    provider.will_say(at(START + minutes(1), a_book("draftkings", spreads(-6.5))))
    running = asyncio.create_task(
        Poller(config_for(provider, ingest_lease_seconds=1.0), api, database, outbox, "next").run()
    )
    try:

        async def told() -> list[EventObserved]:
            return (await observations(bus))[1:]

        await eventually(told)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    first, second, *_ = await observations(bus)
    assert (first.event.revision, first.changes[0].line) == (1, -5.5)
    # The state was read from the database: the second message is a change and no beginning.
    assert (second.event.previous_revision, second.changes[0].line) == (1, -6.5)
    assert second.changes[0].previous_seen_at.ToDatetime(START.tzinfo) == START


async def test_only_one_of_two_gets_the_lease(database: Database) -> None:
    assert (await a_lease(database, "one")).term == 1
    assert await acquire(database, "two", 10.0) is None


async def test_a_holder_whose_term_is_over_can_commit_nothing(database: Database, outbox: Outbox, bus: Bus) -> None:
    stale = Recorder(database, outbox, await a_lease(database, "one", seconds=0.0), 10.0, 1.0)
    fresh = Recorder(database, outbox, await a_lease(database, "two"), 10.0, 1.0)
    with pytest.raises(LeaseLost):
        await stale.record([a_poll([an_event(a_book("draftkings", spreads(-5.5)))])])
    assert await rows(database, "games") == []
    assert await outbox.is_empty()
    await fresh.record([a_poll([an_event(a_book("draftkings", spreads(-6.5)))])])
    assert [row["price"] for row in await rows(database, "odds_snapshots")] == [1.91, 1.91]


async def test_a_batch_that_fails_leaves_nothing_and_forgets_what_it_thought(
    database: Database, outbox: Outbox, recorder: Recorder, bus: Bus
) -> None:
    async def fails(_connection: object) -> None:
        raise RuntimeError("in the middle of it")

    await recorder.record([a_poll([an_event(a_book("draftkings", spreads(-5.5)))])])
    with pytest.raises(RuntimeError):
        await recorder.record([a_poll([an_event(a_book("draftkings", spreads(-6.5)))], START + minutes(1))], fails)
    await recorder.record([a_poll([an_event(a_book("draftkings", spreads(-6.5)))], START + minutes(2))])
    await outbox.publish()
    assert [message.event.revision for message in await observations(bus)] == [1, 2]
    assert (await observations(bus))[1].changes[0].line == -6.5


async def test_what_died_between_two_slices_of_a_board_is_finished_by_the_repeat(
    database_for: DatabaseFor, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls = [
        a_poll(
            [an_event(a_book("draftkings", spreads(-5.5 - minute)), event_id=f"game{n}") for n in range(7 - minute)],
            START + minutes(minute),
        )
        for minute in range(3)
    ]
    undisturbed = await database_for("ingest")
    outbox = Outbox(undisturbed, bus, store.stage, OBSERVATIONS)
    await Recorder(undisturbed, outbox, await a_lease(undisturbed), 10.0, 1.0).record(polls)
    await outbox.publish()
    expected = await all_rows(undisturbed), await by_event(bus)

    await bus.delete_stream(OBSERVATIONS)
    await bus.ensure_stream(OBSERVATIONS)
    killed = await database_for("ingest")
    outbox = Outbox(killed, bus, store.stage, OBSERVATIONS)
    lease = await a_lease(killed)
    calls = deaths = 0
    write = store.write

    async def dies_every_other_time(connection: AsyncConnection, rows: store.Rows, state_rows: store.StateRows) -> None:
        nonlocal calls
        calls += 1
        await write(connection, rows, state_rows)
        if calls % 2 == 0:
            raise RuntimeError("between two slices")

    monkeypatch.setattr(recorder_module, "SLICE_EVENTS", 2)
    monkeypatch.setattr(store, "write", dies_every_other_time)
    for poll in polls:
        while True:
            try:
                await Recorder(killed, outbox, lease, 10.0, 1.0).record([poll])
                break
            except RuntimeError:
                deaths += 1
    await outbox.publish()
    assert deaths >= 6
    assert (await all_rows(killed), await by_event(bus)) == expected


async def all_rows(database: Database) -> dict[str, list[dict[str, Any]]]:
    """What two equal runs have alike."""
    tables = ("games", "game_starts", "odds_snapshots", "disappearances", "tallies")
    kept = {table: await rows(database, table) for table in tables}
    # How much of a state is in its base depends on who wrote it, and what it says does not.
    states = [store.state_from(row["state"]) for row in await rows(database, "event_state")]
    return kept | {"states": [msgspec.structs.asdict(state) for state in states]}


async def by_event(bus: Bus) -> list[tuple[str, bytes]]:
    """What was told, in the order of each event's messages."""
    told = [(delivery.event_id, delivery.payload) for delivery in await stored(bus, OBSERVATIONS)]
    return sorted(told, key=lambda message: message[0])


async def test_a_snapshot_that_is_there_already_is_the_same_row(database: Database, outbox: Outbox) -> None:
    poll = a_poll([an_event(a_book("draftkings", spreads(-5.5)))])
    lease = await a_lease(database)
    await Recorder(database, outbox, lease, 10.0, 1.0).record([poll])
    before = await rows(database, "odds_snapshots")
    async with database.begin() as connection:
        # As when the states of old events were removed, and their time is walked through again.
        await connection.execute(text("DELETE FROM ingest.event_state"))
    await Recorder(database, outbox, lease, 10.0, 1.0).record([poll])
    assert await rows(database, "odds_snapshots") == before


async def test_a_requested_keyframe_comes_with_the_next_observation(
    database: Database, outbox: Outbox, recorder: Recorder, bus: Bus
) -> None:
    body = [an_event(a_book("draftkings", spreads(-5.5)))]
    api = IngestApi(database, (SPORT,), polls=True)
    await recorder.record([a_poll(body)])
    await api.RequestKeyframes(pb.RequestKeyframesRequest(event_ids=["game", "unknown"]), None)  # type: ignore[arg-type]  # no context is used
    await recorder.record([a_poll(body, START + minutes(1)), a_poll(body, START + minutes(2))])
    await outbox.publish()
    assert [message.event.keyframe for message in await observations(bus)] == [True, True, False]
    assert [row["event_id"] for row in await rows(database, "keyframe_requests")] == ["unknown"]


async def test_a_start_that_moves_is_kept_with_its_history(database: Database, recorder: Recorder) -> None:
    starts = [START + timedelta(hours=6), START + timedelta(hours=7)]
    for number, start in enumerate((starts[0], starts[0], starts[1])):
        await recorder.record([a_poll([an_event(commence_time=start)], START + minutes(number))])
    assert [row["commence_time"] for row in await rows(database, "game_starts")] == starts
    assert (await rows(database, "games"))[0]["commence_time"] == starts[1]


async def test_health_says_how_fresh_each_book_is(database: Database, recorder: Recorder) -> None:
    body = [
        an_event(a_book("draftkings", spreads(-5.5, last_update=START - minutes(1)), moneyline()), event_id="a"),
        an_event(a_book("betmgm", spreads(-5.5)), event_id="b"),
    ]
    await recorder.record([a_poll(body)])
    (known,) = await load_health(database)
    assert known.polled_at is not None
    health = wire.sport_health(known, judge(known, True, known.polled_at + minutes(2)))
    assert (health.status, health.age_seconds, health.credits_remaining) == (pb.SportHealth.Status.OK, 120.0, 99)
    assert [(b.book, b.quotes, b.events, b.age_seconds) for b in health.books] == [
        ("betmgm", 1, 1, 120.0),
        ("draftkings", 2, 1, 120.0),
    ]


async def test_markets_sold_event_by_event_are_asked_for_the_soonest_games_and_outlive_the_next_poll_of_the_sport(
    provider: FakeProvider, api: OddsApi, database: Database, outbox: Outbox, recorder: Recorder, bus: Bus
) -> None:
    soon = an_event(a_book("draftkings", spreads(-5.5)), event_id="soon", commence_time=START + minutes(90))
    late = an_event(a_book("draftkings", spreads(-3.5)), event_id="late", commence_time=START + minutes(900))
    prop = a_market(
        "player_points", *(an_outcome(side, 1.9, 27.5, description="LeBron James") for side in ("Over", "Under"))
    )
    props = {**soon, "bookmakers": [a_book("draftkings", prop)]}
    sport = Reply([soon, late], headers=dated(START))
    provider.will_say(sport, Reply(props, headers=dated(START)), sport, Reply({"message": "over"}, 404))
    config = config_for(provider, odds_api_event_markets=("player_points",), odds_api_max_events_per_cycle=1)
    poller = Poller(config, api, database, outbox, "here")
    await poller.poll(recorder, SPORT)
    await poller.poll(recorder, SPORT)
    assert [request.path.rpartition("basketball_nba")[2] for request in provider.requests] == [
        "/odds",
        "/events/soon/odds",
    ] * 2
    told = [message for message in await observations(bus) if message.event.event_id == "soon"]
    assert [[quote.key.player for quote in message.changes] for message in told] == [[""], ["LeBron James"], []]
    assert await rows(database, "disappearances") == []


async def test_a_sport_that_was_never_answered_is_stale(database: Database) -> None:
    health = await IngestApi(database, (SPORT,), polls=True).GetFeedHealth(pb.GetFeedHealthRequest(), None)
    assert [(sport.sport_key, sport.status) for sport in health.sports] == [(SPORT, pb.SportHealth.Status.STALE)]


@pytest.mark.parametrize("sport_key", ["", "\0"])
async def test_a_sport_that_no_name_can_be_is_a_wrong_request(database: Database, sport_key: str) -> None:
    asked = pb.GetFeedHealthRequest(sport_key=[SPORT, sport_key])
    with pytest.raises(InvalidArgument, match="sport_key"):
        await IngestApi(database, (SPORT,), polls=True).GetFeedHealth(asked, None)


async def test_a_refused_key_ends_the_asking(
    provider: FakeProvider, api: OddsApi, database: Database, outbox: Outbox, bus: Bus
) -> None:
    provider.will_say(Reply({"message": "no", "error_code": "DEACTIVATED_KEY"}, 401))
    config = config_for(provider, ingest_lease_seconds=1.0)
    running = asyncio.create_task(Poller(config, api, database, outbox, "here").run())
    try:

        async def free() -> bool:
            async with database.begin() as connection:
                return bool(
                    await connection.scalar(text("SELECT expires_at <= clock_timestamp() FROM ingest.poller_lease"))
                )

        await eventually(free)
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert len(provider.requests) == 1
    (health,) = await load_health(database)
    assert health.last_failure == "key_refused"


async def test_a_bus_that_is_away_costs_nothing_of_an_answer_that_was_paid_for(
    database_for: DatabaseFor, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await database_for("ingest")
    outbox = Outbox(database, bus, store.stage, OBSERVATIONS)
    recorder = Recorder(database, outbox, await a_lease(database), 10.0, 1.0)

    async def is_away() -> int:
        raise BusError("away")

    monkeypatch.setattr(recorder_module, "SLICE_EVENTS", 2)
    monkeypatch.setattr(recorder, "publish", is_away)
    body = [an_event(a_book("betmgm", spreads(-5.5)), event_id=f"game{number}") for number in range(7)]
    poll = Poll(SPORT, START, 60.0, Coverage(("spreads",)), normalize(body))
    assert await recorder.record([Answered(poll, Quota(), body)]) == [True]
    assert len(await rows(database, "games")) == 7
    assert len(await rows(database, "polls")) == 1


async def test_a_copy_that_fails_is_the_databases_failure_like_any_other(database_for: DatabaseFor) -> None:
    database = await database_for("ingest")
    body = [an_event(a_book("betmgm", spreads(-5.5)))]
    step = next(observe_poll({}, Poll(SPORT, START, 60.0, Coverage(("spreads",)), normalize(body))))
    unstorable = store.Rows(snapshots=[msgspec.structs.replace(step.snapshots[0], book="a\0b")])

    async def keep() -> None:
        async with database.begin() as connection:
            await store.write(connection, unstorable, store.StateRows())

    with pytest.raises(SQLAlchemyError):
        await keep()

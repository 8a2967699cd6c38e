"""The whole system through the gateway: a simulated market in, signals out, over HTTP and as a stream."""

import json
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

import aiohttp
import jsonschema
import pytest
import pytest_asyncio

from deploy.accounts import Partner as Account
from deploy.doctor import Outcome
from deploy.examination import examine
from deploy.installation import Rows, found
from deploy.kpis import last_cycles
from deploy.stack import Stack
from gateway.envoy import OPENAPI
from services.shared.testing import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOCUMENT = json.loads(OPENAPI.read_text())
INTEL = "/api/v1/intel"
LONG_LISTS = ("books_moved", "books_holding", "snapshot_ids")


@dataclass(frozen=True, slots=True)
class Event:
    """One Server-Sent Event."""

    id: str
    kind: str
    data: str


@dataclass(frozen=True, slots=True)
class Partner:
    """Somebody who reads the feed."""

    session: aiohttp.ClientSession

    async def get(self, path: str, /, **asked: object) -> dict:
        """The answer to a call that succeeds."""
        async with self.session.get(INTEL + path, params=parameters(asked)) as answer:
            body = await answer.json()
            assert answer.status == 200, body
            return body

    async def signals(self, **asked: object) -> list[dict]:
        """The whole feed, or what of it was asked for."""
        return [signal async for signal in self.walk("/signals", "signals", **{"page_size": 500, **asked})]

    async def walk(self, path: str, rows: str, **asked: object) -> AsyncIterator[dict]:
        """Every row of a list, page by page."""
        token = ""
        while True:
            page = await self.get(path, page_token=token, **asked)
            for row in page[rows]:
                yield row
            if not (token := page["next_page_token"]):
                return

    async def watch(self, last_event_id: str = "", **asked: object) -> AsyncIterator[Event]:
        """The events of one stream, until it ends."""
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        async with self.session.get(f"{INTEL}/signals:watch", params=parameters(asked), headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            async for event in events(answer.content):
                yield event


def parameters(asked: dict[str, object]) -> list[tuple[str, str]]:
    """What was asked, lists by repetition."""
    pairs = ((name, one) for name, value in asked.items() for one in (value if isinstance(value, list) else [value]))
    return [(name, str(value)) for name, value in pairs]


async def events(lines: aiohttp.StreamReader) -> AsyncIterator[Event]:
    """What a browser would make of the bytes; comments, which are heartbeats, as events of their own kind."""
    fields: dict[str, str] = {}
    async for raw in lines:
        line = raw.decode().removesuffix("\n")
        if line.startswith(":"):
            yield Event("", "heartbeat", line)
        elif line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield Event(fields.get("id", ""), fields.get("event", ""), fields.get("data", ""))
            fields = {}


def position(signal: dict) -> int:
    """Where a signal stands in the feed."""
    return int(signal["cursor"].rpartition("-")[2])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def partner(stack: Stack, account: Account) -> AsyncIterator[Partner]:
    """A partner who arrives when there is something to read."""
    async with aiohttp.ClientSession(
        stack.gateway_url,
        headers={"Authorization": f"Bearer {account.key}"},
        timeout=aiohttp.ClientTimeout(total=60),
    ) as session:
        someone = Partner(session)

        async def enough() -> bool:
            seen = await someone.signals()
            return len(seen) >= 30 and len({signal["signal_type"] for signal in seen}) >= 4

        await eventually(enough, within=60)
        yield someone


async def test_every_answer_is_what_the_openapi_file_says(partner, stack):
    signal = (await partner.signals())[0]
    known = {"id": signal["id"], "event_id": signal["event_id"]}
    for path, methods in DOCUMENT["paths"].items():
        content = methods["get"]["responses"]["200"]["content"] if "get" in methods else {}
        if "application/json" in content and path.startswith(INTEL):
            needed = [one for one in methods["get"]["parameters"] if one["required"]]
            asked = {one["name"]: known[one["name"]] for one in needed if one["in"] == "query"}
            body = await partner.get(path.removeprefix(INTEL).format(**known), **asked)
            jsonschema.validate(body, {**content["application/json"]["schema"], **DOCUMENT})


FILTERS = {
    "sport_key": lambda signal, value: signal["sport_key"] == value,
    "event_id": lambda signal, value: signal["event_id"] == value,
    "market": lambda signal, value: signal["market"] == value,
    "signal_type": lambda signal, value: signal["signal_type"] == value,
    "direction": lambda signal, value: signal["direction"] == value,
    "tier": lambda signal, value: signal["tier"] == value,
    "time_bucket": lambda signal, value: signal["time_bucket"] == value,
    "since": lambda signal, value: signal["observed_at"] >= value,
    "until": lambda signal, value: signal["observed_at"] < value,
    "min_score": lambda signal, value: signal["composite_score"] >= value,
    "min_strength": lambda signal, value: signal["strength"] >= value,
    "velocity_gt": lambda signal, value: signal.get("velocity", -math.inf) > value,
}
FIELDS = {
    "since": "observed_at",
    "until": "observed_at",
    "min_score": "composite_score",
    "min_strength": "strength",
    "velocity_gt": "velocity",
}


@pytest.mark.parametrize("name", FILTERS)
async def test_a_filter_gives_those_that_match_and_all_of_them(partner, name):
    before = await partner.signals()
    values = sorted(signal[FIELDS.get(name, name)] for signal in before if FIELDS.get(name, name) in signal)
    value = values[len(values) // 2]
    found = await partner.signals(**{name: value})
    assert found
    assert all(FILTERS[name](signal, value) for signal in found)
    assert {signal["id"] for signal in before if FILTERS[name](signal, value)} <= {signal["id"] for signal in found}


async def test_a_filter_by_book_gives_signals_in_which_it_moved_or_stands_apart(partner):
    before = await partner.signals()
    book = next(signal["books"][0] for signal in before if signal["books"])
    found = await partner.signals(book=book)
    assert all(book in [*signal["books"], signal.get("book")] for signal in found)
    assert {signal["id"] for signal in before if book in signal["books"]} <= {signal["id"] for signal in found}


async def test_type_is_short_for_signal_type_and_may_be_repeated_in_any_case(partner):
    found = await partner.signals(type=["move", "Steam"])
    assert {signal["signal_type"] for signal in found} == {"MOVE", "STEAM"}


async def test_the_feed_is_ranked_by_score_unless_time_is_asked_for(partner):
    scores = [signal["composite_score"] for signal in await partner.signals()]
    assert scores == sorted(scores, reverse=True)
    times = [signal["observed_at"] for signal in await partner.signals(order_by="time")]
    assert times == sorted(times, reverse=True)


async def test_a_fact_is_told_once_when_it_is_collapsed(partner):
    facts = [signal["fact_id"] for signal in await partner.signals(collapse="fact")]
    assert len(facts) == len(set(facts))
    assert {signal["fact_id"] for signal in await partner.signals()} >= set(facts)


async def test_the_long_lists_come_in_the_full_view_only(partner):
    full = await partner.signals(view="FULL", type="MOVE")
    assert all(signal["books_moved"] and signal["snapshot_ids"] for signal in full)
    for signal in await partner.signals(type="MOVE"):
        assert not any(signal[name] for name in LONG_LISTS)


async def test_the_parts_of_a_score_add_up_to_it(partner):
    for signal in await partner.signals():
        if signal["score_source"] == "COMPOSITE":
            assert round(math.fsum(part["points"] for part in signal["components"]), 1) == signal["composite_score"]


async def test_a_signal_can_be_read_alone_and_explained(partner):
    signal = (await partner.signals(type="MOVE", view="FULL"))[0]
    alone = await partner.get(f"/signals/{signal['id']}")
    assert alone["signal"] == signal
    told = await partner.get(f"/signals/{signal['id']}/explain")
    assert told["rules_version"] == signal["rules_version"]
    assert told["config_hash"] == signal["config_hash"]
    assert {one["snapshot_id"] for one in told["inputs"]} <= set(signal["snapshot_ids"])
    assert told["rule"]
    assert json.loads(told["configuration"])


async def test_pages_stay_stable_while_new_signals_arrive(partner):
    before = await partner.signals()
    newest = max(position(signal) for signal in before)
    seen = []

    async def more_arrived():
        return max(position(signal) for signal in await partner.signals()) > newest

    async for signal in partner.walk("/signals", "signals", page_size=7):
        seen.append(signal)
        if len(seen) == 7:
            await eventually(more_arrived, within=30)
    ids = [signal["id"] for signal in seen]
    assert len(ids) == len(set(ids))
    assert {signal["id"] for signal in before} <= set(ids)
    scores = [signal["composite_score"] for signal in seen]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    ("path", "rows", "key"),
    [
        ("/games", "games", ("event_id",)),
        ("/consensus", "consensus", ("event_id", "market", "player")),
        (
            "/suppressions",
            "suppressions",
            ("event_id", "market", "signal_type", "direction", "book", "reason", "first_seen_at"),
        ),
    ],
)
async def test_other_lists_are_walked_without_repeating_a_row(partner, path, rows, key):
    seen = [tuple(row[name] for name in key) async for row in partner.walk(path, rows, page_size=5)]
    assert len(seen) > 5
    assert len(seen) == len(set(seen))


async def test_the_consensus_of_the_past_holds_only_what_was_known_then(partner):
    event_id = (await partner.signals(type="MOVE"))[0]["event_id"]
    whole = [row async for row in partner.walk("/consensus/history", "consensus", event_id=event_id)]
    middle = whole[len(whole) // 2]["observed_at"]
    known = [row async for row in partner.walk("/consensus/history", "consensus", event_id=event_id, as_of=middle)]
    assert 0 < len(known) < len(whole)
    # As times: as texts, a whole second would stand behind its parts.
    assert all(datetime.fromisoformat(row["observed_at"]) <= datetime.fromisoformat(middle) for row in known)


async def test_a_game_shows_each_books_quote_with_its_age_and_a_series(partner):
    event_id = (await partner.signals(type="MOVE"))[0]["event_id"]
    game = await partner.get(f"/games/{event_id}")
    assert game["game"]["event_id"] == event_id
    quoted = [market for market in game["markets"] if market["books"]]
    assert quoted
    for market in quoted:
        assert all(book["value_age_seconds"] >= 0 for book in market["books"])
        assert market["book_series"]


async def test_health_says_how_fresh_every_book_is(partner):
    async def fresh() -> dict | None:
        (sport,) = (await partner.get("/health"))["sports"]
        return sport if sport["status"] in ("OK", "DEGRADED") else None

    # The market runs so fast here that a breath is a poll too late.
    sport = await eventually(fresh)
    assert sport["sport_key"] == "basketball_nba"
    assert {book["book"] for book in sport["books"]} >= {"draftkings", "fanduel"}
    assert 0 < sport["changed_share"] < 1
    named = {reason.get("book") for reason in sport["reasons"]}
    assert {book["book"] for book in sport["books"] if book["missing"]} == set(sport["missing_books"]) <= named


async def test_answers_say_how_old_the_data_is(partner):
    async with partner.session.get(f"{INTEL}/signals") as answer:
        assert float(answer.headers["x-data-age"]) >= 0


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/signals/nothing", 404, "SIGNAL_NOT_FOUND"),
        ("/signals/nothing/explain", 404, "SIGNAL_NOT_FOUND"),
        ("/games/nothing", 404, "EVENT_NOT_FOUND"),
        ("/signals?page_token=mine", 400, "INVALID_PAGE_TOKEN"),
        ("/signals?page_size=501", 400, "INVALID_ARGUMENT"),
        ("/signals?page_size=-1", 400, "INVALID_ARGUMENT"),
        ("/signals:watch?after=mine", 400, "INVALID_CURSOR"),
        ("/consensus/history", 400, "INVALID_ARGUMENT"),
    ],
)
async def test_a_refusal_has_the_four_fields(partner, path, status, reason):
    async with partner.session.get(INTEL + path) as answer:
        error = await answer.json()
    assert (answer.status, error["details"][0]["reason"]) == (status, reason)
    jsonschema.validate(error, {"$ref": "#/components/schemas/Error", **DOCUMENT})


async def test_a_stream_brings_what_arrives_from_now_on_as_the_feed_shows_it(partner):
    before = max(position(signal) for signal in await partner.signals())
    async for event in partner.watch(view="FULL"):
        if event.kind == "signal":
            break
    signal = json.loads(event.data)
    assert position(signal) > before
    assert event.id == signal["cursor"]
    assert (await partner.get(f"/signals/{signal['id']}"))["signal"] == signal


async def test_a_stream_beats_while_nothing_passes_its_filters(partner):
    async for event in partner.watch(market="no_such_market"):
        if event.kind == "heartbeat":
            return
    pytest.fail("the stream ended without a heartbeat")


async def test_a_stream_that_broke_off_goes_on_without_gap_or_repeat(partner):
    first = min(await partner.signals(), key=position)
    seen = []
    async for event in partner.watch(after=first["cursor"]):
        if event.kind == "signal":
            seen.append(json.loads(event.data))
        if len(seen) == 5:
            break
    async for event in partner.watch(last_event_id=seen[-1]["cursor"], after=first["cursor"]):
        if event.kind == "signal":
            seen.append(json.loads(event.data))
        if len(seen) == 20:
            break
    behind = sorted((signal for signal in await partner.signals() if position(signal) > position(first)), key=position)
    assert [signal["id"] for signal in seen] == [signal["id"] for signal in behind[:20]]


async def test_an_operator_sees_that_all_is_well_and_what_each_poll_led_to(stack):
    place = found(stack.home)

    async def settled():
        with Rows(place.database_url) as rows:
            return [cycle for cycle in last_cycles(rows, 50) if cycle.signals_created_total]

    cycle = (await eventually(settled, within=60))[0]
    assert sum(cycle.signals_created_by_type.values()) == cycle.signals_created_total
    assert cycle.events_processed > 0
    assert cycle.requests_last == cycle.requests_used_delta == 3

    # The tests' database does not wait for the disk, which the doctor does not let pass; and at 240 times the clock's
    # speed a feed is late after a second of a busy machine.
    unwell = {finding.check for finding in await examine(place) if finding.outcome is Outcome.FAIL}
    assert unwell - {"feed basketball_nba"} == {"database"}


@pytest.mark.parametrize("victim", ["signals", "gateway", "consensus"])
async def test_whoever_dies_the_reader_gets_every_signal_once(partner, stack, victim):
    start = max(await partner.signals(), key=position)
    seen = [start]
    killed = False

    async def read_on():
        nonlocal killed
        try:
            async for event in partner.watch(last_event_id=seen[-1]["cursor"]):
                if event.kind == "signal":
                    seen.append(json.loads(event.data))
                if not killed and len(seen) > 2:
                    stack.kill(victim)
                    killed = True
                if killed and len(seen) > 12:
                    return True
        except (aiohttp.ClientError, AssertionError):
            return False  # down for a moment: what an EventSource does is to try again
        return False

    await eventually(read_on, within=90)

    async def feed_again():
        return await partner.signals()

    feed = {position(signal): signal["id"] for signal in await eventually(feed_again, within=30)}
    assert [signal["id"] for signal in seen] == [feed[one] for one in sorted(feed) if one >= position(start)][
        : len(seen)
    ]

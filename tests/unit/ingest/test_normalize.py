"""What of a provider's answer becomes a quote, and what is counted and left out."""

from __future__ import annotations

import copy
import json
import random
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest.body import decode
from services.ingest.normalize import Memory, OutcomeQuote, Quote, Rejection, Seen, is_american, normalize, read_time
from services.ingest.testing import (
    SPORT,
    START,
    TIP,
    a_book,
    a_market,
    an_event,
    an_outcome,
    iso,
    minutes,
    moneyline,
    spreads,
    totals,
)


def quotes_of(*markets: dict[str, Any]) -> tuple[Quote, ...]:
    """What becomes of one book's markets."""
    (event,) = normalize([an_event(a_book("draftkings", *markets))]).events
    return event.quotes


def rejected(*markets: dict[str, Any]) -> dict[Rejection, int]:
    """What is left out of one book's markets."""
    return dict(normalize([an_event(a_book("draftkings", *markets))]).rejected)


def test_a_spread_is_one_quote_at_the_home_teams_line() -> None:
    (quote,) = quotes_of(spreads(-5.5, home=1.87, away=1.95))
    assert quote == Quote(
        book="draftkings",
        market="spreads",
        player="",
        line=-5.5,
        outcomes=(OutcomeQuote("home", 1.87), OutcomeQuote("away", 1.95)),
        last_update=START,
    )


def test_a_total_stands_at_the_overs_line_with_over_first() -> None:
    market = a_market("totals", an_outcome("Under", 1.9, 221.5), an_outcome("Over", 1.92, 221.5))
    (quote,) = quotes_of(market)
    assert (quote.line, [outcome.outcome for outcome in quote.outcomes]) == (221.5, ["over", "under"])


def test_a_draw_comes_last_and_makes_three_ways() -> None:
    market = a_market("h2h", an_outcome("Draw", 12.0), an_outcome("Celtics", 2.2), an_outcome("Lakers", 1.8))
    (quote,) = quotes_of(market)
    assert [outcome.outcome for outcome in quote.outcomes] == ["home", "away", "draw"]


def test_a_draw_whose_price_is_bad_takes_the_quote_with_it() -> None:
    market = a_market("h2h", an_outcome("Draw", None), an_outcome("Celtics", 2.2), an_outcome("Lakers", 1.8))
    assert rejected(market) == {Rejection.PRICE_NOT_A_NUMBER: 1, Rejection.ONE_SIDED: 2}


def test_a_pick_em_line_is_never_a_negative_zero() -> None:
    (quote,) = quotes_of(a_market("spreads", an_outcome("Lakers", 1.9, -0.0), an_outcome("Celtics", 1.9, 0.0)))
    assert str(quote.line) == "0.0"


@pytest.mark.parametrize(
    ("american", "decimal"), [(-110, 1.909091), (100, 2.0), (-100, 2.0), (150, 2.5), (-1000, 1.1), (5000, 51.0)]
)
def test_american_prices_become_decimal(american: int, decimal: float) -> None:
    (quote,) = quotes_of(moneyline(american, 120))
    assert quote.outcomes[0].price == decimal


def test_one_garbled_price_does_not_turn_an_american_response_decimal() -> None:
    seen = normalize([an_event(a_book("draftkings", moneyline(1, 150)), a_book("betmgm", moneyline(-110, -110)))])
    assert [quote.book for quote in seen.events[0].quotes] == ["betmgm"]
    assert seen.rejected == {Rejection.PRICE_NOT_AMERICAN: 1, Rejection.ONE_SIDED: 1}


def test_a_long_shot_does_not_turn_a_decimal_response_american() -> None:
    assert not is_american(
        [an_event(a_book("draftkings", moneyline(151.0, 1.02), moneyline(101.0, 1.03), spreads(-3)))]
    )


@pytest.mark.parametrize(
    ("price", "reason"),
    [
        (None, Rejection.PRICE_NOT_A_NUMBER),
        ("OFF", Rejection.PRICE_NOT_A_NUMBER),
        ("1.91", Rejection.PRICE_NOT_A_NUMBER),
        (float("nan"), Rejection.PRICE_NOT_A_NUMBER),
        (float("inf"), Rejection.PRICE_NOT_A_NUMBER),
        (True, Rejection.PRICE_NOT_A_NUMBER),
        (10**400, Rejection.PRICE_NOT_A_NUMBER),
        (1.0, Rejection.PRICE_NOT_ABOVE_ONE),
        (0, Rejection.PRICE_NOT_ABOVE_ONE),
        (-1.5, Rejection.PRICE_NOT_ABOVE_ONE),
        (1.01, Rejection.PLACEHOLDER_PRICE),
    ],
)
def test_a_price_that_is_none_is_counted_and_its_other_side_is_alone(price: object, reason: Rejection) -> None:
    market = a_market("h2h", an_outcome("Lakers", price), an_outcome("Celtics", 2.0))
    assert rejected(market, spreads(-3), totals(220)) == {reason: 1, Rejection.ONE_SIDED: 1}


@pytest.mark.parametrize(
    ("points", "reasons"),
    [
        ((None, 5.5), {Rejection.MISSING_POINT: 1, Rejection.ONE_SIDED: 1}),
        ((float("nan"), 5.5), {Rejection.MISSING_POINT: 1, Rejection.ONE_SIDED: 1}),
        ((-5.3, 5.3), {Rejection.POINT_NOT_A_QUARTER: 2}),
        ((-5.5, 4.5), {Rejection.NOT_MIRRORED: 2}),
        ((5.5, 5.5), {Rejection.NOT_MIRRORED: 2}),
        ((-5.25, 5.25), {}),
    ],
)
def test_a_spread_stands_on_one_line_in_quarters(
    points: tuple[float | None, float | None], reasons: dict[Rejection, int]
) -> None:
    home, away = points
    assert rejected(a_market("spreads", an_outcome("Lakers", 1.9, home), an_outcome("Celtics", 1.9, away))) == reasons


def test_a_total_whose_sides_differ_is_refused() -> None:
    market = a_market("totals", an_outcome("Over", 1.9, 220.5), an_outcome("Under", 1.9, 221.5))
    assert rejected(market) == {Rejection.NOT_MIRRORED: 2}


@pytest.mark.parametrize(
    ("market", "reasons"),
    [
        (a_market("h2h_lay", an_outcome("Lakers", 1.9), an_outcome("Celtics", 2.1)), {Rejection.LAY_MARKET: 2}),
        (a_market("alternate_spreads", an_outcome("Lakers", 1.9, -3)), {Rejection.ALTERNATE_LINE: 1}),
        (a_market("outrights", an_outcome("Lakers", 7.0)), {Rejection.UNKNOWN_MARKET: 1}),
        (a_market("team_totals", an_outcome("Over", 1.9, 110)), {Rejection.UNKNOWN_MARKET: 1}),
        (a_market("h2h", an_outcome("Lakers", 1.9)), {Rejection.ONE_SIDED: 1}),
        (a_market("h2h", an_outcome("Lakers", 1.9), an_outcome("Lakers", 1.9)), {Rejection.DUPLICATE_OUTCOME: 2}),
        (
            a_market(
                "spreads",
                *(an_outcome("Lakers", 1.9, -line) for line in (3, 4)),
                *(an_outcome("Celtics", 1.9, line) for line in (3, 4)),
            ),
            {Rejection.ALTERNATE_LINE: 4},
        ),
        (
            a_market("h2h", an_outcome("Bulls", 1.9), an_outcome("Celtics", 2.1)),
            {Rejection.UNKNOWN_OUTCOME: 1, Rejection.ONE_SIDED: 1},
        ),
        (a_market("player_points", an_outcome("Over", 1.9, 20.5)), {Rejection.MISSING_PLAYER: 1}),
        ({"key": "h2h"}, {Rejection.MALFORMED: 1}),
        ({"key": "Not A Key", "outcomes": []}, {Rejection.MALFORMED: 1}),
    ],
)
def test_what_is_no_main_two_sided_market_is_counted_by_reason(
    market: dict[str, Any], reasons: dict[Rejection, int]
) -> None:
    assert rejected(market, moneyline()) == reasons


def test_a_prop_is_a_quote_for_each_player() -> None:
    market = a_market(
        "player_points",
        *(an_outcome(side, 1.9, 27.5, description="LeBron James") for side in ("Over", "Under")),
        *(an_outcome(side, 1.9, 30.5, description="Jayson Tatum") for side in ("Over", "Under")),
        an_outcome("Over", 1.9, 10.5, description="Al Horford"),
    )
    assert [(quote.player, quote.line) for quote in quotes_of(market)] == [
        ("Jayson Tatum", 30.5),
        ("LeBron James", 27.5),
    ]


def test_links_limits_and_ids_are_kept_and_the_nearest_link_wins() -> None:
    market = a_market(
        "h2h",
        an_outcome("Lakers", 1.9, link="https://book/bet", sid="77", bet_limit=500),
        an_outcome("Celtics", 2.0, bet_limit=-1, link="javascript:alert(1)"),
    )
    (event,) = normalize([an_event({**a_book("draftkings", market), "link": "https://book/event"})]).events
    (quote,) = event.quotes
    assert quote.outcomes == (
        OutcomeQuote("home", 1.9, link="https://book/bet", limit=500.0, sid="77"),
        OutcomeQuote("away", 2.0, link="https://book/event"),
    )


def test_the_markets_reading_goes_before_the_books() -> None:
    book = {**a_book("draftkings", moneyline(last_update=START)), "last_update": iso(START - minutes(5))}
    assert normalize([an_event(book)]).events[0].quotes[0].last_update == START


def test_a_book_that_alone_is_dated_dates_its_markets() -> None:
    market = a_market("h2h", an_outcome("Lakers", 1.9), an_outcome("Celtics", 2.0), last_update=None)
    book = {**a_book("draftkings", market), "last_update": iso(START)}
    assert normalize([an_event(book)]).events[0].quotes[0].last_update == START


def test_a_quote_without_any_reading_has_none_and_is_not_counted() -> None:
    market = a_market("h2h", an_outcome("Lakers", 1.9), an_outcome("Celtics", 2.0), last_update=None)
    seen = normalize([an_event(a_book("draftkings", market))])
    assert (seen.events[0].quotes[0].last_update, dict(seen.rejected)) == (None, {})


@pytest.mark.parametrize(
    ("given", "moment"),
    [
        ("2026-01-15T18:00:00Z", START),
        ("2026-01-15T13:00:00-05:00", START),
        (1768500000, START),
        (1768500000.5, START.replace(microsecond=500000)),
        ("2026-01-15T18:00:00", None),
        ("tomorrow", None),
        (10**30, None),
        (float("nan"), None),
        ("0001-01-01T00:00:00+14:00", None),
        (None, None),
        ([], None),
    ],
)
def test_a_time_is_read_only_with_its_zone(given: object, moment: datetime | None) -> None:
    assert read_time(given) == moment


def test_a_start_that_cannot_be_read_leaves_the_event_without_one() -> None:
    seen = normalize([{**an_event(a_book("draftkings", moneyline())), "commence_time": "soon"}])
    assert seen.events[0].commence_time is None
    assert len(seen.events[0].quotes) == 1
    assert seen.rejected == {Rejection.UNREADABLE_TIME: 1}


def test_a_single_event_odds_body_is_read_like_a_list_of_one() -> None:
    event = an_event(a_book("draftkings", moneyline()))
    assert normalize(event) == normalize([event])


@pytest.mark.parametrize("body", ["text", 3, None, True])
def test_a_body_that_is_no_list_shows_nothing(body: object) -> None:
    assert normalize(body) == Seen(rejected={Rejection.MALFORMED: 1})


@pytest.mark.parametrize(
    ("spoiled", "reason"),
    [
        ({"home_team": None}, Rejection.NO_TEAMS),
        ({"home_team": "Celtics"}, Rejection.NO_TEAMS),
        ({"home_team": "a\x00b"}, Rejection.NO_TEAMS),
        ({"bookmakers": None}, Rejection.NO_BOOKMAKERS),
    ],
)
def test_an_event_that_cannot_be_read_is_there_and_not_gone(spoiled: dict[str, Any], reason: Rejection) -> None:
    seen = normalize([{**an_event(), **spoiled}, an_event(event_id="other")])
    assert (seen.unreadable, [event.event_id for event in seen.events]) == ({"game"}, ["other"])
    assert seen.rejected == {reason: 1}
    assert not seen.empty


@pytest.mark.parametrize("event_id", [None, "", "a.b", "a b", "*", 7])
def test_an_event_without_a_usable_id_is_counted(event_id: object) -> None:
    seen = normalize([{**an_event(a_book("draftkings", moneyline())), "id": event_id}])
    assert (seen.events, dict(seen.rejected)) == ((), {Rejection.NO_EVENT_ID: 2})


def test_events_that_contradict_each_other_under_one_id_are_both_left_out() -> None:
    first, second = an_event(a_book("draftkings", moneyline(1.8))), an_event(a_book("draftkings", moneyline(1.7)))
    seen = normalize([first, second])
    assert (seen.events, seen.unreadable) == ((), {"game"})
    assert seen.rejected == {Rejection.DUPLICATE_EVENT: 4}


def test_an_event_that_is_sent_twice_is_one_event() -> None:
    event = an_event(a_book("draftkings", moneyline()))
    assert normalize([event, event]).events == normalize([event]).events


def test_a_book_that_contradicts_itself_loses_that_market_only() -> None:
    seen = normalize(
        [an_event(a_book("draftkings", moneyline(1.8), spreads(-3)), a_book("draftkings", moneyline(1.7)))]
    )
    assert [quote.market for quote in seen.events[0].quotes] == ["spreads"]
    assert seen.rejected == {Rejection.DUPLICATE_QUOTE: 4}


def test_an_unknown_bookmaker_is_quarantined_and_not_used() -> None:
    seen = normalize([an_event(a_book("bookie_mcbookface", moneyline(), spreads(-3)), a_book("betmgm", moneyline()))])
    (book,) = seen.quarantined
    assert (book.book, book.title, book.quotes) == ("bookie_mcbookface", "Bookie_Mcbookface", 2)
    assert [quote.book for quote in seen.events[0].quotes] == ["betmgm"]
    assert seen.rejected == {Rejection.UNKNOWN_BOOK: 4}


def test_a_renamed_book_goes_on_under_its_present_key() -> None:
    (event,) = normalize([an_event(a_book("barstool", moneyline()))]).events
    assert event.quotes[0].book == "espnbet"


def test_a_book_under_both_its_keys_counts_under_the_present_one() -> None:
    seen = normalize([an_event(a_book("barstool", moneyline(1.5)), a_book("espnbet", moneyline(1.8)))])
    assert [(quote.book, quote.outcomes[0].price) for quote in seen.events[0].quotes] == [("espnbet", 1.8)]
    assert seen.rejected == {Rejection.RENAMED_BOOK_TWICE: 2}


PRICES = st.one_of(
    st.sampled_from([1.91, 2.05, 1.5, 1.0, 1.01, -110, 150, None, "OFF", float("nan")]), st.floats(1.02, 20.0)
)
POINTS = st.sampled_from([None, -5.5, 5.5, 5.3, 0.0, 220.5])
NAMES = st.sampled_from(["Lakers", "Celtics", "Draw", "Over", "Under", "Nobody", " lakers "])
OUTCOMES = st.builds(an_outcome, NAMES, PRICES, POINTS, description=st.sampled_from(["A B", "C D", ""]))
MARKETS = st.builds(
    lambda key, outcomes: a_market(key, *outcomes),
    st.sampled_from(["h2h", "spreads", "totals", "h2h_lay", "alternate_spreads", "outrights", "player_points"]),
    st.lists(OUTCOMES, max_size=4),
)
BOOKS = st.builds(
    lambda key, markets: a_book(key, *markets),
    st.sampled_from(["draftkings", "betmgm", "fanduel", "barstool", "espnbet", "nobody_knows"]),
    st.lists(MARKETS, max_size=3),
)
EVENTS = st.builds(
    lambda event_id, books: an_event(*books, event_id=event_id),
    st.sampled_from(["a", "b", "c"]),
    st.lists(BOOKS, max_size=3),
)


@given(st.lists(EVENTS, max_size=4), st.randoms(use_true_random=False))
def test_the_order_inside_a_response_decides_nothing(events: list[dict[str, Any]], chance: random.Random) -> None:
    shuffled = copy.deepcopy(events)
    chance.shuffle(shuffled)
    for event in shuffled:
        chance.shuffle(event["bookmakers"])
        for book in event["bookmakers"]:
            chance.shuffle(book["markets"])
            for market in book["markets"]:
                chance.shuffle(market["outcomes"])
    assert normalize(shuffled) == normalize(events)


@given(st.lists(EVENTS, max_size=4))
def test_every_outcome_is_either_used_or_counted_once(events: list[dict[str, Any]]) -> None:
    seen = normalize(events)
    outcomes = [o for e in events for b in e["bookmakers"] for m in b["markets"] for o in m["outcomes"]]
    used = sum(len(quote.outcomes) for event in seen.events for quote in event.quotes)
    empty = sum(1 for e in events for b in e["bookmakers"] for m in b["markets"] if not m["outcomes"])
    counted = sum(seen.rejected.values())
    # What holds no outcome at all may count as one.
    assert len(outcomes) <= used + counted <= len(outcomes) + empty + sum(1 + len(e["bookmakers"]) for e in events)


@given(st.lists(EVENTS, max_size=4))
def test_what_passes_the_edge_can_be_trusted(events: list[dict[str, Any]]) -> None:
    for event in normalize(events).events:
        for quote in event.quotes:
            names = [outcome.outcome for outcome in quote.outcomes]
            assert names in (["home", "away"], ["home", "away", "draw"], ["over", "under"])
            assert all(1.01 < outcome.price < 1e6 for outcome in quote.outcomes)
            assert (quote.line is None) == (quote.market == "h2h")
            assert quote.line is None or (quote.line * 4).is_integer()


def sent(events: list[Any]) -> Any:
    """The answer as it is decoded when it comes over the wire."""
    return decode(json.dumps(events).encode())


def varied(chance: random.Random, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A later response: most of it as it was, some values others, some equal to Python and not to JSON."""
    later = copy.deepcopy(events)
    for event in later:
        if chance.random() < 0.1:
            event["home_team"] = chance.choice(["Celtics", "Bulls"])
        for book in event["bookmakers"]:
            book["link"] = chance.choice(["https://book/", None])
            for market in book["markets"]:
                market["last_update"] = chance.choice([iso(TIP), "soon", None])
                for outcome in market["outcomes"]:
                    if chance.random() < 0.2:
                        name = chance.choice(["price", "point", "bet_limit", "sid", "name", "extra"])
                        outcome[name] = chance.choice(
                            [0, 0.0, -0.0, 1, 1.0, True, False, 2, 2.0, 150, "Lakers", [], {}]
                        )
    return later


@settings(deadline=None, max_examples=50)
@given(st.lists(EVENTS, max_size=2), st.integers().map(random.Random))
def test_what_is_remembered_of_earlier_responses_changes_nothing(
    events: list[dict[str, Any]], chance: random.Random
) -> None:
    memory = Memory()
    events = [*events, an_event(a_book("betmgm", spreads(-2.0), totals(2.0), moneyline()), event_id="sound")]
    for _ in range(6):
        assert repr(normalize(sent(events), SPORT, memory)) == repr(normalize(events, SPORT))
        events = varied(chance, events)


@pytest.mark.parametrize("told_apart", [(1.0, True), (0.0, False), (1, True), (True, 1.0)])
def test_a_market_that_only_seems_to_come_again_is_read_anew(told_apart: tuple[object, object]) -> None:
    memory = Memory()
    for point in told_apart:
        away = -point if not isinstance(point, bool) and isinstance(point, int | float) else point
        events = [
            an_event(
                a_book(
                    "betmgm", a_market("spreads", an_outcome("Lakers", 1.9, point), an_outcome("Celtics", 1.9, away))
                )
            )
        ]
        assert normalize(sent(events), SPORT, memory) == normalize(events, SPORT)


def test_a_market_that_comes_again_is_not_read_again() -> None:
    memory = Memory()
    first, second = (
        normalize(sent([an_event(a_book("betmgm", spreads(-5.5, last_update=at)))]), SPORT, memory).events[0].quotes[0]
        for at in (START, START + minutes(1))
    )
    assert second.last_update == START + minutes(1)
    assert second.outcomes is first.outcomes


WORDS = "id key home_team away_team bookmakers markets outcomes name price point last_update commence_time"
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.datetimes(timezones=st.just(UTC)).map(iso),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(WORDS.split()),
            inner,
            max_size=8,
        )
    ),
    max_leaves=30,
)


@given(JSON)
def test_no_body_whatever_breaks_it(body: object) -> None:
    assert isinstance(normalize(body), Seen)
    assert isinstance(normalize([{**an_event(), "bookmakers": body}]), Seen)


def test_a_body_nested_beyond_reason_is_read_to_its_end() -> None:
    body: list[Any] = []
    for _ in range(5000):
        body = [body]
    assert normalize(body).rejected == {Rejection.MALFORMED: 1}


def test_a_moved_start_is_the_events_start() -> None:
    assert normalize([an_event(commence_time=TIP + minutes(15))]).events[0].commence_time == TIP + minutes(15)

"""The simulated market behind the provider's protocol, in its own accelerated time.

Time passes `speed` times as fast as on the wall, and the `Date` header of every answer tells it: a client that takes
its time from there sees a 60-second cadence where the wall sees 60 / `speed` seconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from aiohttp import web

from deploy.provider import Credits, refused
from deploy.simulator.market import (
    MARKETS,
    SPORT_KEY,
    SPORT_TITLE,
    BookBoard,
    GameBoard,
    Market,
    Quote,
    Score,
    decimal_price,
)

#: The books' region; regions that hold none of them are known and empty.
REGION = "us"
REGIONS = frozenset({"us", "us2", "us_dfs", "us_ex", "uk", "eu", "fr", "se", "au"})
BOOKS_A_REGION = 10

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class AcceleratedClock:
    """A clock that started at `opened_at` when `wall` showed `started_at`, and runs `speed` times as fast."""

    wall: Clock
    started_at: datetime
    opened_at: datetime
    speed: float

    def __call__(self) -> datetime:
        return self.opened_at + (self.wall() - self.started_at) * self.speed


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call wants, checked: an unknown market, a missing region or an unreadable value was refused."""

    markets: tuple[str, ...]
    books: frozenset[str] | None
    region_equivalents: int
    american: bool
    unix: bool
    extras: frozenset[str]
    event_ids: frozenset[str]
    starts_from: datetime | None
    starts_to: datetime | None

    @property
    def cost(self) -> int:
        """Markets times region equivalents."""
        return len(self.markets) * self.region_equivalents


def asked(query: Mapping[str, str]) -> Asked:
    """Reads a call's parameters as the provider does. Raises its 422."""
    markets = tuple(dict.fromkeys(query.get("markets", "h2h").split(",")))
    unknown = [market for market in markets if market not in (*MARKETS, "outrights")]
    if unknown:
        raise refused(422, "INVALID_MARKET", f"Invalid markets: {','.join(unknown)}")
    books: frozenset[str] | None = None
    if query.get("bookmakers"):
        books = frozenset(query["bookmakers"].split(","))
        equivalents = math.ceil(len(books) / BOOKS_A_REGION)
    elif query.get("regions"):
        regions = frozenset(query["regions"].split(","))
        if not regions <= REGIONS:
            raise refused(422, "INVALID_REGION", f"Invalid regions: {','.join(sorted(regions - REGIONS))}")
        books = None if REGION in regions else frozenset()
        equivalents = len(regions)
    else:
        raise refused(422, "MISSING_REGION", "Missing regions or bookmakers key")
    return Asked(
        markets=markets,
        books=books,
        region_equivalents=equivalents,
        american=_one_of(query, "oddsFormat", ("decimal", "american"), "INVALID_ODDS_FORMAT") == "american",
        unix=_unix(query),
        extras=frozenset(
            name for name in ("includeLinks", "includeSids", "includeBetLimits") if query.get(name) == "true"
        ),
        event_ids=frozenset(filter(None, query.get("eventIds", "").split(","))),
        starts_from=_moment(query, "commenceTimeFrom", "INVALID_COMMENCE_TIME_FROM"),
        starts_to=_moment(query, "commenceTimeTo", "INVALID_COMMENCE_TIME_TO"),
    )


def _one_of(query: Mapping[str, str], name: str, allowed: tuple[str, ...], code: str) -> str:
    value = query.get(name, allowed[0])
    if value not in allowed:
        raise refused(422, code, f"Invalid {name}: {value}. Allowed: {', '.join(allowed)}")
    return value


def _unix(query: Mapping[str, str]) -> bool:
    return _one_of(query, "dateFormat", ("iso", "unix"), "INVALID_DATE_FORMAT") == "unix"


def _moment(query: Mapping[str, str], name: str, code: str) -> datetime | None:
    if name not in query:
        return None
    try:
        return datetime.strptime(query[name], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise refused(422, code, f"Invalid {name}: use the format YYYY-MM-DDTHH:MM:SSZ") from None


def _time(moment: datetime, *, unix: bool) -> str | int:
    return int(moment.timestamp()) if unix else moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def event_shown(game: GameBoard | Score, *, unix: bool) -> dict[str, Any]:
    """A game without prices, as `/events` lists it."""
    return {
        "id": game.id,
        "sport_key": SPORT_KEY,
        "sport_title": SPORT_TITLE,
        "commence_time": _time(game.commence_time, unix=unix),
        "home_team": game.home_team,
        "away_team": game.away_team,
    }


def odds_shown(game: GameBoard, want: Asked) -> dict[str, Any]:
    """A game with the prices that were asked for, as `/odds` lists it."""
    shown = event_shown(game, unix=want.unix)
    books = [
        _book_shown(game, board, want) for board in game.books if want.books is None or board.book.key in want.books
    ]
    return {**shown, "bookmakers": [book for book in books if book["markets"]]}


def _book_shown(game: GameBoard, board: BookBoard, want: Asked) -> dict[str, Any]:
    read = _time(board.last_update, unix=want.unix)
    markets = [
        {
            "key": quote.market,
            "last_update": read,
            **_extras(want, board, game.id, quote.market),
            "outcomes": _outcomes(game, board, quote, want),
        }
        for quote in board.quotes
        if quote.market in want.markets
    ]
    return {
        "key": board.book.key,
        "title": board.book.title,
        "last_update": read,
        **_extras(want, board, game.id),
        "markets": markets,
    }


def _outcomes(game: GameBoard, board: BookBoard, quote: Quote, want: Asked) -> list[dict[str, Any]]:
    names = ("Over", "Under") if quote.market == "totals" else (game.home_team, game.away_team)
    points = (quote.line, quote.line if quote.market == "totals" or quote.line is None else 0.0 - quote.line)
    shown = []
    for name, price, point in zip(names, (quote.price, quote.price_other), points, strict=True):
        outcome: dict[str, Any] = {"name": name, "price": price if want.american else decimal_price(price)}
        if point is not None:
            outcome["point"] = point
        limit = {"bet_limit": 500} if "includeBetLimits" in want.extras else {}
        shown.append({**outcome, **_extras(want, board, game.id, quote.market, name), **limit})
    return shown


def _extras(want: Asked, board: BookBoard, *path: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "includeLinks" in want.extras:
        found["link"] = f"https://{board.book.key}.example/event/{path[0]}"
    if "includeSids" in want.extras:
        found["sid"] = "-".join((board.book.key, path[0][:8], *path[1:])).lower().replace(" ", "-")
    return found


def score_shown(score: Score, *, unix: bool) -> dict[str, Any]:
    """A game's score, as `/scores` lists it: points are strings, null before the start."""
    names = (score.home_team, score.away_team)
    return {
        **event_shown(score, unix=unix),
        "completed": score.completed,
        "scores": None
        if score.points is None
        else [{"name": name, "score": str(points)} for name, points in zip(names, score.points, strict=True)],
        "last_update": None if score.last_update is None else _time(score.last_update, unix=unix),
    }


class SimulatedProvider:
    """The provider's endpoints over a simulated market."""

    def __init__(self, market: Market, clock: Clock, credits: Credits | None = None) -> None:
        self._market = market
        self._clock = clock
        self._credits = credits or Credits()

    def application(self) -> web.Application:
        """The server, ready to be run."""
        application = web.Application(middlewares=[self._as_the_provider])
        application.add_routes(
            [
                web.get("/v4/sports", self._sports),
                web.get("/v4/sports/{sport}/events", self._events),
                web.get("/v4/sports/{sport}/odds", self._odds),
                web.get("/v4/sports/{sport}/scores", self._scores),
                web.get("/v4/sports/{sport}/events/{event_id}/odds", self._event_odds),
            ]
        )
        return application

    @web.middleware
    async def _as_the_provider(self, request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        """Key and sport are checked first, answers are compressed, and the time is the market's."""
        now = format_datetime(self._clock(), usegmt=True)
        try:
            if not request.query.get("apiKey"):
                raise refused(401, "MISSING_KEY", "API key is missing. Get a key at https://the-odds-api.com")
            sport = request.match_info.get("sport", SPORT_KEY)
            if sport not in (SPORT_KEY, "upcoming"):
                raise refused(404, "UNKNOWN_SPORT", "Unknown sport")
            response: web.StreamResponse = await handler(request)
        except web.HTTPException as refusal:
            refusal.headers["Date"] = now
            raise
        response.headers["Date"] = now
        response.enable_compression()
        return response

    def _answer(self, body: Any, cost: int) -> web.Response:
        # An empty answer is free.
        headers = self._credits.spend(cost if body else 0)
        return web.json_response(body, headers=headers, dumps=_compact)

    async def _sports(self, _: web.Request) -> web.Response:
        sport = {
            "key": SPORT_KEY,
            "group": "Basketball",
            "title": SPORT_TITLE,
            "description": "US Basketball",
            "active": True,
            "has_outrights": False,
        }
        return self._answer([sport], 0)

    def _listed(self, want: Asked) -> list[GameBoard]:
        return [
            game
            for game in self._market.board(self._clock())
            if (not want.event_ids or game.id in want.event_ids)
            and (want.starts_from is None or game.commence_time >= want.starts_from)
            and (want.starts_to is None or game.commence_time <= want.starts_to)
        ]

    async def _events(self, request: web.Request) -> web.Response:
        want = asked({**request.query, "regions": REGION, "markets": "h2h"})
        return self._answer([event_shown(game, unix=want.unix) for game in self._listed(want)], 0)

    async def _odds(self, request: web.Request) -> web.Response:
        want = asked(request.query)
        return self._answer([odds_shown(game, want) for game in self._listed(want)], want.cost)

    async def _event_odds(self, request: web.Request) -> web.Response:
        want = asked(request.query)
        event_id = request.match_info["event_id"]
        found = [game for game in self._listed(want) if game.id == event_id]
        if not found:
            raise refused(
                404, "EVENT_NOT_FOUND", "Event not found. The event may have expired or the event id is invalid."
            )
        shown = odds_shown(found[0], want)
        returned = {market["key"] for book in shown["bookmakers"] for market in book["markets"]}
        return self._answer(shown, len(returned) * want.region_equivalents)

    async def _scores(self, request: web.Request) -> web.Response:
        days = request.query.get("daysFrom")
        if days is not None and days not in ("1", "2", "3"):
            raise refused(422, "INVALID_SCORES_DAYS_FROM", "Invalid daysFrom: use an integer from 1 to 3")
        unix = _unix(request.query)
        scores = self._market.scores(self._clock(), int(days or 0))
        return self._answer([score_shown(score, unix=unix) for score in scores], 2 if days else 1)


def _compact(body: Any) -> str:
    return json.dumps(body, separators=(",", ":"))


def opened_now(wall: Clock, seed: int, speed: float) -> SimulatedProvider:
    """A provider whose market opens now, to the second."""
    now = wall()
    opened_at = now.replace(microsecond=0) - timedelta(seconds=now.second % 60)
    return SimulatedProvider(Market(seed, opened_at), AcceleratedClock(wall, now, opened_at, speed))

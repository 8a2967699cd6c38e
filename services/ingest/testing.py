"""Builders and a stand-in provider for ingest's tests."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from aiohttp import web

START = datetime(2026, 1, 15, 18, 0, tzinfo=UTC)
TIP = START + timedelta(hours=6)
SPORT = "basketball_nba"


def minutes(count: float) -> timedelta:
    """That many minutes."""
    return timedelta(minutes=count)


def iso(moment: datetime) -> str:
    """The provider's way to write a time."""
    return moment.isoformat().replace("+00:00", "Z")


def an_outcome(name: str, price: object, point: object = None, **more: object) -> dict[str, Any]:
    """One outcome as the provider sends it."""
    return {"name": name, "price": price} | ({} if point is None else {"point": point}) | more


def a_market(key: str, *outcomes: Mapping[str, Any], last_update: datetime | None = START) -> dict[str, Any]:
    """One market of a book as the provider sends it."""
    dated = {} if last_update is None else {"last_update": iso(last_update)}
    return {"key": key, **dated, "outcomes": list(outcomes)}


def spreads(line: float, home: float = 1.91, away: float = 1.91, last_update: datetime = START) -> dict[str, Any]:
    """A spread at the home team's line."""
    return a_market(
        "spreads", an_outcome("Lakers", home, line), an_outcome("Celtics", away, -line), last_update=last_update
    )


def totals(line: float, over: float = 1.91, under: float = 1.91, last_update: datetime = START) -> dict[str, Any]:
    """A total."""
    return a_market("totals", an_outcome("Over", over, line), an_outcome("Under", under, line), last_update=last_update)


def moneyline(home: float = 1.8, away: float = 2.1, last_update: datetime = START) -> dict[str, Any]:
    """An h2h market."""
    return a_market("h2h", an_outcome("Lakers", home), an_outcome("Celtics", away), last_update=last_update)


def a_book(key: str, *markets: Mapping[str, Any]) -> dict[str, Any]:
    """One bookmaker as the provider sends it."""
    return {"key": key, "title": key.title(), "markets": list(markets)}


def an_event(*books: Mapping[str, Any], event_id: str = "game", commence_time: datetime | None = TIP) -> dict[str, Any]:
    """One event as the provider sends it: Lakers at home against the Celtics."""
    return {
        "id": event_id,
        "sport_key": SPORT,
        "sport_title": "NBA",
        "commence_time": None if commence_time is None else iso(commence_time),
        "home_team": "Lakers",
        "away_team": "Celtics",
        "bookmakers": list(books),
    }


@dataclass(frozen=True, slots=True)
class Reply:
    """What the stand-in answers once."""

    body: object = field(default_factory=list)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    #: How much of the body comes before the connection breaks; None is all of it, and no break.
    breaks_after: int | None = None

    def raw(self) -> bytes:
        """The body's bytes; text goes out as it is, so that a test can send what is no JSON."""
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()


class FakeProvider:
    """Answers on a real socket with what it is told, in order, and remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        #: When each request came, by the loop's clock.
        self.asked_at: list[float] = []
        self.url = ""
        self._replies: deque[Reply] = deque()
        self._past: list[tuple[datetime, object]] = []
        self._silent = False
        self._runner: web.AppRunner | None = None

    def will_say(self, *replies: Reply | list[Any]) -> Self:
        """Adds answers; the last one is repeated for ever."""
        self._replies.extend(reply if isinstance(reply, Reply) else Reply(reply) for reply in replies)
        return self

    def will_be_silent(self) -> Self:
        """Takes calls and does not answer them."""
        self._silent = True
        return self

    def remembers(self, past: Iterable[tuple[datetime, object]]) -> Self:
        """Gives the historical endpoint these states to answer from."""
        self._past = sorted(past, key=lambda item: item[0])
        return self

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_get("/{rest:.*}", self._answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.asked_at.append(asyncio.get_running_loop().time())
        if self._silent:
            await asyncio.Event().wait()
        if request.path.startswith("/v4/historical/"):
            return web.json_response(self._state_at(datetime.fromisoformat(request.query["date"])))
        reply = self._replies.popleft() if len(self._replies) > 1 else self._replies[0]
        response = web.Response(
            body=reply.raw(), status=reply.status, content_type="application/json", headers=reply.headers
        )
        if reply.breaks_after is not None:
            return await self._break_off(request, reply, reply.breaks_after)
        response.enable_compression()
        return response

    @staticmethod
    async def _break_off(request: web.Request, reply: Reply, after: int) -> web.StreamResponse:
        """Headers that promise the whole body, a part of it, and the end of the connection."""
        body = reply.raw()
        response = web.StreamResponse(status=reply.status, headers={**reply.headers, "Content-Length": str(len(body))})
        assert request.transport is not None
        if after:
            await response.prepare(request)
            await response.write(body[:after])
        request.transport.close()
        return response

    def _state_at(self, moment: datetime) -> dict[str, Any]:
        times = [at for at, _ in self._past]
        index = max(position for position, at in enumerate(times) if at <= moment)
        return {
            "timestamp": iso(times[index]),
            "previous_timestamp": iso(times[index - 1]) if index else None,
            "next_timestamp": iso(times[index + 1]) if index + 1 < len(times) else None,
            "data": self._past[index][1],
        }

"""Failures of the simulated provider, one kind at a time: to see what Stratum does about each, and how it recovers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime

from aiohttp import web

from deploy.provider import refused

#: What can go wrong, and how it shows.
KINDS: Mapping[str, str] = {
    "key": "401: the key is wrong",
    "credits": "401: the month's credits are spent; what is free still answers",
    "sport": "404: the sport is unknown",
    "market": "422: totals cannot be asked for",
    "request": "422: the request is wrong",
    "rate": "429: too many calls",
    "down": "503",
    "silent": "no answer at all",
    "garbage": "200 with a proxy's page",
    "half": "200 with half a body",
    "skew": "a clock that is an hour ahead",
}
_REFUSALS: Mapping[str, tuple[int, str, str]] = {
    "key": (401, "INVALID_KEY", "API key is not valid"),
    "credits": (401, "OUT_OF_USAGE_CREDITS", "Usage quota has been reached"),
    "sport": (404, "UNKNOWN_SPORT", "Unknown sport"),
    "market": (422, "INVALID_MARKET", "Invalid markets: totals"),
    "request": (422, "INVALID_REGION", "Invalid regions"),
    "rate": (429, "EXCEEDED_FREQ_LIMIT", "Request frequency limit exceeded"),
    "down": (503, "UNAVAILABLE", "Service unavailable"),
}
#: How soon silence ends once nobody waits for an answer any more.
LISTENING_SECONDS = 0.05
SKEW = timedelta(hours=1)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Mischief:
    """Lets a share of the calls fail in one way; `share` 1 is every call."""

    def __init__(self, kind: str, share: float = 1.0, seed: int = 1) -> None:
        """`kind` is one of KINDS."""
        self._kind = kind
        self._share = share
        self._chance = random.Random(seed)  # noqa: S311 - chance of a game, no secret

    def added_to(self, application: web.Application) -> web.Application:
        """The application, around whose every call this stands."""
        application.middlewares.insert(0, self._middleware)
        return application

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._chance.random() >= self._share or not self._concerns(request):
            return await handler(request)
        if self._kind in _REFUSALS:
            raise refused(*_REFUSALS[self._kind])
        match self._kind:
            case "silent":
                await _until_gone(request)
            case "garbage":
                return web.Response(text="<html><body>502 Bad Gateway</body></html>", content_type="text/html")
            case "half":
                response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "4000"})
                await response.prepare(request)
                await response.write(b'[{"id": "e912304de2b2ce35b473ce2ecd3d1502", "sport_k')
                if request.transport is not None:
                    request.transport.close()
                return response
        answer = await handler(request)
        if self._kind == "skew":
            answer.headers["Date"] = format_datetime(parsedate_to_datetime(answer.headers["Date"]) + SKEW, usegmt=True)
        return answer

    def _concerns(self, request: web.Request) -> bool:
        is_free = request.path == "/v4/sports" or request.path.endswith("/events")
        if self._kind == "credits":
            return not is_free
        return "totals" in request.query.get("markets", "") if self._kind == "market" else True


async def _until_gone(request: web.Request) -> None:
    """Says nothing for as long as the client waits."""
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110 - no event tells it
        await asyncio.sleep(LISTENING_SECONDS)

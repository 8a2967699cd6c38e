"""A small server that speaks the API's protocol and behaves as it is told; and both clients, asked in one way."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Any

from aiohttp import web
from stratum_client import AsyncClient, AsyncSignalStream, Client, SignalStream, StreamItem

KEY = "stratum_live_4fKq9Zr1TtWm2Xc7Yb3Nd8Ps5Vg6Lh"
SIGNAL = {"id": "s1", "tier": "HIGH", "observed_at": "2026-11-26T12:00:00Z"}
PAGE = {"signals": [SIGNAL], "next_page_token": ""}

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]


class SmallApi:
    """Answers each call by the next behaviour of its path; by the last one again when there are no more."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[web.Request] = []
        """What arrived, oldest first."""
        self.bodies: list[bytes] = []
        self.hung_up = asyncio.Event()
        """Set when a caller of a stream is gone."""
        self._behaviours: dict[str, list[Behaviour]] = {}

    def behaves(self, path: str, *behaviours: Behaviour) -> None:
        """What the next calls of a path are to see."""
        self._behaviours[path] = list(behaviours)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The one handler."""
        self.asked.append(request)
        self.bodies.append(await request.read())
        coming = self._behaviours[request.path]
        behaviour = coming.pop(0) if len(coming) > 1 else coming[0]
        return await behaviour(request)

    def stream(self, *pieces: bytes, then: str = "cut") -> Behaviour:
        """Sends the pieces as a stream and then hangs up (`cut`), or says nothing more for as long as it is open
        (`quiet`)."""

        async def behaving(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            for piece in pieces:
                await response.write(piece)
            if then == "quiet":
                try:
                    await asyncio.sleep(60)
                finally:
                    self.hung_up.set()
            hang_up(request)
            return response

        return behaving


def hang_up(request: web.Request) -> None:
    """As a network does: without a goodbye."""
    assert request.transport is not None
    request.transport.abort()


def says(body: Any = None, status: int = 200, **headers: str) -> Behaviour:
    """Answers with JSON; names of headers have `_` for `-`."""

    async def behaving(_: web.Request) -> web.StreamResponse:
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response(PAGE if body is None else body, status=status, headers=told)

    return behaving


def refuses(status: int, reason: str, **headers: str) -> Behaviour:
    """Answers with the four fields of an error."""
    details = [
        {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "metadata": {"request_id": "r1"}}
    ]
    return says({"code": 1, "message": "no", "details": details, "request_id": "r1"}, status, **headers)


class Caller:
    """A client of either kind. Questions are written once: `await caller.ask(lambda client: client.plan())`."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self.client = client

    async def ask(self, question: Callable[[Any], Any]) -> Any:
        """The answer to a call."""
        if isinstance(self.client, Client):
            return await asyncio.to_thread(question, self.client)
        return await question(self.client)

    async def whole(self, question: Callable[[Any], Any]) -> list[Any]:
        """Everything that an iteration gives."""
        if isinstance(self.client, Client):
            return await asyncio.to_thread(lambda: list(question(self.client)))
        return [one async for one in question(self.client)]

    @staticmethod
    async def first(stream: SignalStream | AsyncSignalStream, count: int) -> list[StreamItem]:
        """The next items of a stream."""
        if isinstance(stream, SignalStream):
            return await asyncio.to_thread(lambda: list(islice(stream, count)))
        return [await anext(stream) for _ in range(count)]

    @staticmethod
    async def close(stream: SignalStream | AsyncSignalStream) -> None:
        """Hangs up."""
        if isinstance(stream, SignalStream):
            stream.close()
        else:
            await stream.aclose()

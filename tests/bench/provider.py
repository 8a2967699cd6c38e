"""A stand-in for the provider that says what it is given, when it is given it, and notes when the last byte left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from datetime import datetime
from email.utils import format_datetime

from aiohttp import web

from deploy.provider import Credits
from tests.bench.board import SPORT, Response

#: Markets of a call, in one region.
COST = 3


class BenchProvider:
    """The odds endpoint. A call waits until there is something to say; bodies are compressed beforehand."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[Response | None] = asyncio.Queue()
        self._credits = Credits()
        #: By the time that each response was given: when its last byte had been written, by the monotonic clock.
        self.written_at: dict[datetime, float] = {}

    def application(self) -> web.Application:
        """The server, ready to be run."""
        application = web.Application()
        application.add_routes([web.get(f"/v4/sports/{SPORT}/odds", self._odds)])
        return application

    def say(self, responses: Iterable[Response]) -> None:
        """Answers the next calls, one each."""
        for response in responses:
            self._waiting.put_nowait(response)

    def end(self) -> None:
        """Lets go of whoever still waits, and answers nobody from now on."""
        self._waiting.put_nowait(None)

    async def _odds(self, request: web.Request) -> web.StreamResponse:
        response = await self._waiting.get()
        if response is None:
            self.end()
            raise web.HTTPServiceUnavailable
        answer = web.StreamResponse(
            headers={
                "Content-Type": "application/json",
                "Content-Encoding": "gzip",
                "Content-Length": str(len(response.body)),
                "Date": format_datetime(response.at, usegmt=True),
                **self._credits.spend(COST),
            }
        )
        await answer.prepare(request)
        await answer.write(response.body)
        await answer.write_eof()
        self.written_at[response.at] = time.monotonic()
        return answer

"""The historical endpoint over a recording: the same question always gets the same answer.

`/v4/historical/sports/{sport}/odds?date=…` answers with the newest recorded response at or before `date`, and with the
times of its neighbours, by which a client walks. Whether prices are decimal or American is as recorded.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from deploy.provider import Credits, refused
from deploy.recording import Recording, read_moment

#: The provider charges ten times for history.
HISTORICAL_COST = 10


class ReplayProvider:
    """The provider's historical endpoint over one recording."""

    def __init__(self, recording: Recording, credits: Credits | None = None) -> None:
        self._recording = recording
        self._credits = credits or Credits()

    def application(self) -> web.Application:
        """The server, ready to be run."""
        application = web.Application()
        application.add_routes([web.get("/v4/historical/sports/{sport}/odds", self._odds)])
        return application

    async def _odds(self, request: web.Request) -> web.Response:
        if not request.query.get("apiKey"):
            raise refused(401, "MISSING_KEY", "API key is missing. Get a key at https://the-odds-api.com")
        if request.match_info["sport"] != self._recording.sport_key:
            raise refused(404, "UNKNOWN_SPORT", "Unknown sport")
        if "date" not in request.query:
            raise refused(422, "MISSING_HISTORICAL_TIMESTAMP", "Missing date parameter")
        try:
            moment = read_moment(request.query["date"])
        except ValueError:
            raise refused(
                422, "INVALID_HISTORICAL_TIMESTAMP", "Invalid date: use the format YYYY-MM-DDTHH:MM:SSZ"
            ) from None
        answer = await asyncio.to_thread(self._recording.at, moment)
        if answer is None:
            raise refused(
                422, "INVALID_HISTORICAL_TIMESTAMP", "Historical data is not available before the first snapshot"
            )
        markets = len(request.query.get("markets", "h2h").split(","))
        return web.Response(
            body=answer.envelope(),
            content_type="application/json",
            headers=self._credits.spend(HISTORICAL_COST * markets),
        )

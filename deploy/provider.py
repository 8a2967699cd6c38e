"""What every stand-in for the provider shares: error bodies, quota headers, and a server on a port of its own.

The protocol is that of The Odds API v4; the shapes of errors are those recorded from it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

DETAILS = "https://the-odds-api.com/liveapi/guides/v4/api-error-codes.html"
DETAILS_STATUS = {
    401: web.HTTPUnauthorized,
    404: web.HTTPNotFound,
    422: web.HTTPUnprocessableEntity,
    429: web.HTTPTooManyRequests,
    503: web.HTTPServiceUnavailable,
}


def refused(status: int, code: str, message: str) -> web.HTTPException:
    """The provider's refusal, to be raised: one of DETAILS_STATUS with a message and an `error_code`."""
    anchor = code.lower().replace("_", "-")
    body = web.json_response({"message": message, "error_code": code, "details_url": f"{DETAILS}#{anchor}"}).text
    return DETAILS_STATUS[status](text=body, content_type="application/json")


class Credits:
    """The quota of one key, as the three headers tell it. It may go below zero, as the provider's was seen to."""

    def __init__(self, remaining: int = 5_000_000) -> None:
        self.remaining = remaining
        self.used = 0

    def spend(self, cost: int) -> dict[str, str]:
        """Take a call's cost and say what is left."""
        self.remaining -= cost
        self.used += cost
        return {
            "x-requests-remaining": str(self.remaining),
            "x-requests-used": str(self.used),
            "x-requests-last": str(cost),
        }


@asynccontextmanager
async def served(application: web.Application, port: int, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """The application's address while the block runs; port 0 takes a free one."""
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        bound = runner.addresses[0][1]
        yield f"http://{host}:{bound}"
    finally:
        await runner.cleanup()

"""The small server, and a caller of either kind."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from stratum_client import AsyncClient, Client, Reconnects, Retries

from tests.integration.client.small_api import KEY, Caller, SmallApi


@pytest.fixture
async def api() -> AsyncIterator[SmallApi]:
    """The server, on a free port of 127.0.0.1."""
    small = SmallApi()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", small.answer)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    small.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield small
    await runner.cleanup()


@pytest.fixture(params=[Client, AsyncClient], ids=["waiting", "awaited"])
async def caller_with(request: pytest.FixtureRequest, api: SmallApi) -> AsyncIterator[Callable[..., Caller]]:
    """Makes a caller of either kind whose pauses are short; closed after the test."""
    made: list[Client | AsyncClient] = []

    def make(**settings: Any) -> Caller:
        usual = {
            "retries": Retries(first_pause_seconds=0.01, attempt_seconds=0.5, total_seconds=5),
            "reconnects": Reconnects(quiet_seconds=0.5, longest_pause_seconds=0.02, give_up_seconds=1.5),
        }
        made.append(request.param(KEY, api.url, **usual | settings))
        return Caller(made[-1])

    yield make
    for client in made:
        if isinstance(client, Client):
            client.close()
        else:
            await client.aclose()


@pytest.fixture
def caller(caller_with: Callable[..., Caller]) -> Caller:
    """A caller with the usual settings."""
    return caller_with()

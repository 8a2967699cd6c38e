"""What the tests of two or more services need. The servers themselves come from fixtures in `tests/conftest.py`."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import grpc.aio
import pytest

from services.shared import principal
from services.shared.bus import Bus, Delivery, StreamSpec
from services.shared.config import ServiceConfig
from services.shared.database import Database
from services.shared.keyring import Keyring

Config = TypeVar("Config", bound=ServiceConfig)

_POLL_SECONDS = 0.02
#: The secret under which tests vouch for callers.
PRINCIPAL_KEYS = f"1:{'5a' * 32}"
RING = Keyring.parse(PRINCIPAL_KEYS)


def recorded_data(*parts: str) -> Path:
    """A file or folder of the recorded series; the test is skipped, and says so, where they are not kept.

    They are found in `STRATUM_DATA`, or beside the repository in `shared/data`.
    """
    path = find_recorded(*parts)
    if path is None:
        pytest.skip(f"the recorded series are not here: {parts[-1]} (set STRATUM_DATA to their folder)")
    return path


def find_recorded(*parts: str) -> Path | None:
    """The same where there are no tests to skip: None where the series are not kept."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    path = Path(os.environ.get("STRATUM_DATA") or beside).joinpath(*parts)
    return path if path.exists() else None


async def eventually(condition: Callable[[], Awaitable[Any]], within: float = 10.0) -> Any:
    """Waits until the condition gives something true, and returns it; fails after `within` seconds.

    The only way a test waits. A condition that raises AssertionError is asked again, and its error is the failure.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while True:
        failure: AssertionError | None = None
        try:
            if found := await condition():
                return found
        except AssertionError as error:
            failure = error
        if loop.time() > deadline:
            raise failure or AssertionError(f"not within {within:g} s: {condition}")
        await asyncio.sleep(_POLL_SECONDS)


def settings(config: type[Config], database: Database | None = None, **given: Any) -> Config:
    """A service's settings for a test: any free port, a short drain, the fixture's database, and what is given."""
    if database is not None:
        given.setdefault("database_url", database.engine.url.render_as_string(hide_password=False))
    return config(
        **{"grpc_port": 0, "metrics_port": 0, "drain_seconds": 1.0, "principal_keys": PRINCIPAL_KEYS, **given}
    )


def channel_to(port: int) -> grpc.aio.Channel:
    """A channel of one of our own services to a service on 127.0.0.1 that was made with `settings`."""
    interceptors = principal.client_interceptors("tests", RING)
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", interceptors=interceptors)


def as_partner(
    method: str, account_id: str = "acct_test", key_id: str = "key_test", *scopes: str, test: bool = False
) -> grpc.aio.Metadata:
    """The metadata of a partner's call as the gateway sends it on. `method`: the full name."""
    caller = principal.Principal(
        method=method,
        expires_at=time.time() + principal.SECONDS,
        account_id=account_id,
        key_id=key_id,
        scopes=scopes or ("signals:read", "markets:read", "account:read", "keys:write"),
        request_id=uuid4().hex,
        test=test,
    )
    return grpc.aio.Metadata(*vouched(caller).items())


def vouched(caller: principal.Principal) -> dict[str, str]:
    """The metadata of a caller's call as the gateway sends it on: who it is, and the request it is good for."""
    return {principal.HEADER: principal.signed(caller, RING), "x-request-id": caller.request_id}


async def stored(bus: Bus, spec: StreamSpec, after: int = 0) -> list[Delivery]:
    """Everything that a stream holds behind a sequence, in order."""
    last = (await bus.stream_state(spec)).last_sequence
    found: list[Delivery] = []
    if last <= after:
        return found
    async with bus.read(spec, after) as reader:
        while not found or found[-1].sequence < last:
            batch = await reader.next_batch(1000, wait_seconds=5.0)
            if not batch:
                raise AssertionError(f"{spec.name} ends at {last}, and {len(found)} of its messages came")
            found.extend(batch)
    return found

"""What the feed is held against: FastAPI on uvicorn, which checks a key, reads the same rows and gives the same bytes.

Written as such a server would be, and a little better: prepared statements on connections of its own, msgspec instead
of the standard library's JSON, no access log, no limits, no counting. `/again/…` also remembers each signal's JSON.

`python -m tests.bench.plain_server <port> <file with the database's address> <key>`
"""

import asyncio
import hmac
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_bytes
from typing import Annotated, Any

import msgspec
import psycopg
import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Query, Response
from stratum.signals.v1 import signal_pb2
from stratum.signals.v1.signals_service_pb2 import ListSignalsRequest

from services.shared import paging
from services.signals import render, wire
from services.signals.store import PagePosition

PATH = "/api/v1/intel/signals"
AGAIN = "/again"
CONNECTIONS = 4
QUERY = (
    b"SELECT basic, composite_score, feed_position, (SELECT position FROM signals.feed) FROM signals.signal "
    b"WHERE composite_score >= %s ORDER BY composite_score DESC, feed_position DESC LIMIT %s"
)

Render = Callable[[Sequence[bytes]], list[bytes]]


def application(address: str, key: str) -> FastAPI:
    """The server over a database, for callers who have the key."""
    pepper = token_bytes(32)
    keys = {hmac.digest(pepper, key.encode(), "sha256"): "the bench"}
    idle: asyncio.LifoQueue[psycopg.AsyncConnection[Any]] = asyncio.LifoQueue()

    @asynccontextmanager
    async def connected(_: FastAPI) -> AsyncIterator[None]:
        for _number in range(CONNECTIONS):
            idle.put_nowait(await psycopg.AsyncConnection.connect(address, autocommit=True))
        yield
        while not idle.empty():
            await idle.get_nowait().close()

    async def caller(authorization: Annotated[str, Header()] = "") -> str:
        digest = hmac.digest(pepper, authorization.removeprefix("Bearer ").encode(), "sha256")
        if digest not in keys:
            raise HTTPException(401)
        return keys[digest]

    async def page(size: int, min_score: float, render_all: Render) -> Response:
        connection = await idle.get()
        try:
            cursor = connection.cursor(binary=True)
            await cursor.execute(QUERY, (min_score, size + 1), prepare=True)
            rows = await cursor.fetchall()
        finally:
            idle.put_nowait(connection)
        token = ""
        if len(rows) > size:
            _, score, position, upper = rows[size - 1]
            asked = wire.serialized(ListSignalsRequest(min_score=min_score))
            token = paging.encode(PagePosition(upper, score, position), asked)
        signals = [msgspec.Raw(shown) for shown in render_all([row[0] for row in rows[:size]])]
        return Response(
            msgspec.json.encode({"signals": signals, "next_page_token": token}), media_type="application/json"
        )

    app = FastAPI(lifespan=connected)
    size = Annotated[int, Query(ge=1, le=500)]
    score = Annotated[float, Query(ge=0, le=100)]

    @app.get(PATH)
    async def signals(_who: Annotated[str, Depends(caller)], page_size: size = 50, min_score: score = 0.0) -> Response:
        return await page(page_size, min_score, _rendered)

    @app.get(AGAIN + PATH)
    async def signals_again(
        _who: Annotated[str, Depends(caller)], page_size: size = 50, min_score: score = 0.0
    ) -> Response:
        return await page(page_size, min_score, _remembered)

    return app


def _rendered(payloads: Sequence[bytes]) -> list[bytes]:
    return [msgspec.json.encode(render.fields(signal_pb2.Signal.FromString(payload))) for payload in payloads]


def _remembered(payloads: Sequence[bytes]) -> list[bytes]:
    return [render.printed(payload).json for payload in payloads]


if __name__ == "__main__":
    _port, _file, _key = sys.argv[1:]
    uvicorn.run(
        application(Path(_file).read_text(), _key),
        host="127.0.0.1",
        port=int(_port),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )

"""Asks an HTTP server as fast as it answers, on kept connections. What this costs is never counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice

import httptools

CONNECTIONS = 16
DEADLINE_SECONDS = 120.0


async def load(
    port: int, paths: Sequence[str], headers: Sequence[Mapping[str, str]], requests: int
) -> Mapping[int, int]:
    """Sends so many requests, taking paths and sets of headers in turn; how many answers had which status.

    Each connection comes from an address of its own in 127.0.0.0/8, as callers do: limits by address hold for each.
    Raises OSError when the server hangs up, and TimeoutError when it takes too long.
    """
    asked = islice(zip(cycle(paths), cycle([_written(port, one) for one in headers]), strict=False), requests)
    texts = (f"GET {path} HTTP/1.1\r\n{head}\r\n".encode() for path, head in asked)
    statuses: Counter[int] = Counter()
    loop = asyncio.get_running_loop()
    ends = []
    async with asyncio.timeout(DEADLINE_SECONDS):
        for number in range(CONNECTIONS):
            caller = _Caller(texts, statuses, loop.create_future())
            ends.append(caller.end)
            await loop.create_connection(
                lambda caller=caller: caller,  # type: ignore[misc]  # bound at once
                "127.0.0.1",
                port,
                local_addr=(f"127.0.0.{number + 2}", 0),
            )
        await asyncio.gather(*ends)
    return statuses


def _written(port: int, headers: Mapping[str, str]) -> str:
    given = {"host": f"127.0.0.1:{port}", "accept-encoding": "identity", **headers}
    return "".join(f"{name}: {value}\r\n" for name, value in given.items())


class _Caller(asyncio.Protocol):
    """One connection: a request, its answer, the next request, until there are none."""

    def __init__(self, requests: Iterator[bytes], statuses: Counter[int], end: asyncio.Future[None]) -> None:
        self.end = end
        self._requests = requests
        self._statuses = statuses
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.end.done():
            self.end.set_exception(exc or ConnectionError("the server hung up"))

    def on_message_complete(self) -> None:
        """Called by the parser at the end of an answer."""
        self._statuses[self._parser.get_status_code()] += 1
        self._next()

    def _next(self) -> None:
        assert self._transport is not None
        request = next(self._requests, None)
        if request is not None:
            self._transport.write(request)
        elif not self.end.done():
            self.end.set_result(None)
            self._transport.close()

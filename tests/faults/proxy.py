"""A TCP proxy between two processes that cuts, delays, slows and stalls what goes through it, as it is told.

It runs in a thread of its own: starting a killed server holds up the thread that watches the processes, and no
connection shall feel that. The known proxy of this kind, toxiproxy, is a Go program that no registry of ours carries.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

CHUNK_BYTES = 65_536
SLOW_CHUNK_BYTES = 4_096
LOOK_SECONDS = 0.01
#: How PostgreSQL's clients say it.
COMMIT = b"COMMIT"


@dataclass(slots=True)
class _Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    #: The next answer of the server is thrown away, and the connection with it.
    swallow: bool = False

    def abort(self) -> None:
        self.client.transport.abort()
        self.server.transport.abort()


@dataclass(slots=True)
class Link:
    """One way between two processes. What is set here holds from then on, for open connections too."""

    listens_on: int
    leads_to: int
    #: Each chunk waits so long, in both directions.
    delay_seconds: float = 0.0
    #: 0: as fast as it goes.
    bytes_per_second: float = 0.0
    #: Nothing gets through, and nobody is told.
    stalled: bool = False
    #: New connections are closed at once.
    refusing: bool = False
    #: The next COMMIT reaches the server, and its answer does not come back.
    swallow_commit: bool = False
    #: Chunks that were held up, and commits whose answer was swallowed.
    disturbed: int = 0
    swallowed: int = 0
    open: set[int] = field(default_factory=set)
    _connections: dict[int, _Connection] = field(default_factory=dict)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection from its beginning to its end."""
        if self.refusing:
            writer.transport.abort()
            return
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self.leads_to)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writer, to_server)
        number = id(connection)
        self._connections[number] = connection
        self.open.add(number)
        ways = [
            asyncio.create_task(self._pump(connection, reader, to_server, to_the_server=True)),
            asyncio.create_task(self._pump(connection, from_server, writer, to_the_server=False)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self.open.discard(number)
            del self._connections[number]
            for end in (writer, to_server):
                end.close()

    def abort_all(self) -> None:
        """Cuts every open connection. Only in the proxy's own thread."""
        for connection in list(self._connections.values()):
            connection.abort()

    async def _pump(
        self,
        connection: _Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        to_the_server: bool,
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if to_the_server and self.swallow_commit and COMMIT in data:
                self.swallow_commit = False
                connection.swallow = True
            elif not to_the_server and connection.swallow:
                self.swallowed += 1
                connection.abort()
                return
            await self._hold_up(len(data))
            writer.write(data)
            await writer.drain()

    async def _hold_up(self, length: int) -> None:
        if not (self.delay_seconds or self.bytes_per_second or self.stalled):
            return
        self.disturbed += 1
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        left = length
        while left > 0 and self.bytes_per_second:
            await asyncio.sleep(min(left, SLOW_CHUNK_BYTES) / self.bytes_per_second)
            left -= SLOW_CHUNK_BYTES
        while self.stalled:
            await asyncio.sleep(LOOK_SECONDS)


class Proxy:
    """All links, served from one thread while the block runs."""

    def __init__(self, links: Mapping[str, Link]) -> None:
        self.links = links
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._begin(), self._loop).result(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def cut(self, name: str) -> int:
        """Cuts every open connection of a link; how many there were."""
        link = self.links[name]
        number = len(link.open)
        self._loop.call_soon_threadsafe(link.abort_all)
        return number

    async def _begin(self) -> None:
        for link in self.links.values():
            self._servers.append(await asyncio.start_server(link.carry, "127.0.0.1", link.listens_on))

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        for link in self.links.values():
            link.abort_all()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)

"""The proxy does to a connection what it is told, and counts only what it really did."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from deploy.local.process import free_port
from tests.faults.proxy import Link, Proxy


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """A server that says everything back; its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
def link(echo: int) -> Iterator[tuple[Link, Proxy]]:
    link = Link(free_port(), echo)
    with Proxy({"link": link}) as proxy:
        yield link, proxy


@asynccontextmanager
async def connected(link: Link) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", link.listens_on)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def heard(reader: asyncio.StreamReader) -> bytes:
    """What comes; nothing where the connection is cut."""
    try:
        return await asyncio.wait_for(reader.read(1000), 5.0)
    except ConnectionResetError:
        return b""


async def asked(link: Link, words: bytes) -> bytes:
    async with connected(link) as (reader, writer):
        writer.write(words)
        return await heard(reader)


async def test_it_carries_what_it_is_given(link: tuple[Link, Proxy]) -> None:
    assert await asked(link[0], b"hello") == b"hello"
    assert link[0].disturbed == 0


async def test_a_cut_ends_open_connections_and_says_how_many(link: tuple[Link, Proxy]) -> None:
    assert link[1].cut("link") == 0
    async with connected(link[0]) as (reader, writer):
        writer.write(b"hello")
        assert await heard(reader) == b"hello"
        assert link[1].cut("link") == 1
        assert await heard(reader) == b""


async def test_a_delay_is_felt_and_counted(link: tuple[Link, Proxy]) -> None:
    link[0].delay_seconds = 0.05
    began = asyncio.get_running_loop().time()
    assert await asked(link[0], b"hello") == b"hello"
    assert asyncio.get_running_loop().time() - began >= 0.1
    assert link[0].disturbed == 2


async def test_a_commit_reaches_the_server_and_its_answer_does_not_come_back(link: tuple[Link, Proxy]) -> None:
    link[0].swallow_commit = True
    assert await asked(link[0], b"COMMIT") == b""
    assert link[0].swallowed == 1
    assert await asked(link[0], b"COMMIT") == b"COMMIT"

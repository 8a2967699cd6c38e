"""The stream of signals, as an iterator: connections come and go behind it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Self

import httpx

from stratum_client.calls import Request
from stratum_client.conversation import Failure, Reply, Wait
from stratum_client.following import Action, Close, Following, Hand, Open, Opened, Outcome, Read, StreamItem
from stratum_client.transport import body_of, body_of_async, request_of


class SignalStream:
    """`Signal` and `Truncated` as they come, over as many connections as it takes; each begins behind the last cursor.

    It has no end of its own: close it, or use it in a `with`. It raises StreamLostError when it does not come back in
    time, and ApiError when it is refused for a reason that lasts, such as a revoked key. For one thread at a time.

    `Truncated` says that older signals than those that follow can no longer be given: there is a gap.
    """

    def __init__(self, http: httpx.Client, base_url: str, following: Following) -> None:
        self._http = http
        self._base_url = base_url
        self._following = following
        self._talk = following.run()
        self._outcome: Outcome = None
        self._response: httpx.Response | None = None
        self._pieces: Iterator[bytes] = iter(())

    @property
    def cursor(self) -> str | None:
        """Where to go on: everything up to it was handed over, and the loop came back for more. A signal that is being
        dealt with is behind it, so a program that dies over it gets it again."""
        return self._following.cursor

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StreamItem:
        try:
            while True:
                action = self._talk.send(self._outcome)
                self._outcome = None
                if isinstance(action, Hand):
                    return action.item
                self._outcome = self._do(action)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hangs up. Whoever iterates after that gets nothing more."""
        self._talk.close()
        self._hang_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} after {self.cursor}>"

    def _do(self, action: Action) -> Outcome:
        match action:
            case Wait(seconds):
                time.sleep(seconds)
            case Open(request, quiet_seconds):
                return self._open(request, quiet_seconds)
            case Read():
                try:
                    return next(self._pieces, b"")
                except httpx.TransportError as failed:
                    return Failure(failed)
            case Close():
                self._hang_up()
        return None

    def _open(self, request: Request, quiet_seconds: float) -> Outcome:
        try:
            response = self._http.send(request_of(self._http, self._base_url, request, quiet_seconds), stream=True)
            if response.status_code != httpx.codes.OK:
                return Reply(response.status_code, response.headers, body_of(response, quiet_seconds))
        except httpx.TransportError as failed:
            return Failure(failed)
        self._response, self._pieces = response, response.iter_bytes()
        return Opened(response.headers)

    def _hang_up(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.close()


class AsyncSignalStream:
    """The same, for `async for` and `async with`.

    An `anext` that is cancelled (by `asyncio.timeout`, say) loses nothing: the next one goes on where it was. For one
    task at a time.
    """

    def __init__(self, http: httpx.AsyncClient, base_url: str, following: Following) -> None:
        self._http = http
        self._base_url = base_url
        self._following = following
        self._talk = following.run()
        self._outcome: Outcome = None
        self._doing: asyncio.Task[Outcome] | None = None
        self._response: httpx.Response | None = None
        self._pieces: AsyncIterator[bytes] | None = None

    @property
    def cursor(self) -> str | None:
        """Where to go on: everything up to it was handed over, and the loop came back for more. A signal that is being
        dealt with is behind it, so a program that dies over it gets it again."""
        return self._following.cursor

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamItem:
        try:
            while True:
                if self._doing is not None:
                    # Whoever gives up waiting does not undo what is under way: the next one waits for the same.
                    self._outcome = await asyncio.shield(self._doing)
                    self._doing = None
                action = self._talk.send(self._outcome)
                self._outcome = None
                if isinstance(action, Hand):
                    return action.item
                self._doing = asyncio.ensure_future(self._do(action))
        except StopIteration:
            raise StopAsyncIteration from None
        except Exception:
            self._doing = None
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Hangs up. Whoever iterates after that gets nothing more."""
        self._talk.close()
        doing, self._doing = self._doing, None
        if doing is not None:
            doing.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await doing
        await self._hang_up()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} after {self.cursor}>"

    async def _do(self, action: Action) -> Outcome:
        match action:
            case Wait(seconds):
                await asyncio.sleep(seconds)
            case Open(request, quiet_seconds):
                return await self._open(request, quiet_seconds)
            case Read():
                assert self._pieces is not None
                try:
                    return await anext(self._pieces, b"")
                except httpx.TransportError as failed:
                    return Failure(failed)
            case Close():
                await self._hang_up()
        return None

    async def _open(self, request: Request, quiet_seconds: float) -> Outcome:
        try:
            sent = request_of(self._http, self._base_url, request, quiet_seconds)
            response = await self._http.send(sent, stream=True)
            if response.status_code != httpx.codes.OK:
                body = await body_of_async(response, quiet_seconds)
                return Reply(response.status_code, response.headers, body)
        except httpx.TransportError as failed:
            return Failure(failed)
        self._response, self._pieces = response, response.aiter_bytes()
        return Opened(response.headers)

    async def _hang_up(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            await response.aclose()

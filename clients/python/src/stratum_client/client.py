"""The clients: one that waits for its answers, and one for asyncio. They differ in nothing else."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from stratum_client.calls import Call, Request
from stratum_client.conversation import NOT_MODIFIED, Failure, Reply, Send, Wait, conversation
from stratum_client.decoding import decode
from stratum_client.errors import ConnectionFailedError, UnreadableAnswerError
from stratum_client.following import Following
from stratum_client.operations import AsyncOperations, Operations
from stratum_client.remembered import Known, Remembered
from stratum_client.retries import Reconnects, Retries
from stratum_client.seen import Limits, Seen, UsageSeen
from stratum_client.settings import USER_AGENT, key_from, shown, url_from
from stratum_client.streams import AsyncSignalStream, SignalStream
from stratum_client.transport import body_of, body_of_async, request_of

T = TypeVar("T")

#: Spreads the pauses of many clients; nothing secret hangs on it.
_chance = random.Random().random  # noqa: S311 - spreads retries, and keeps no secret


class _Shared:
    """What both clients have, and what happens to a call before it is sent and after it is answered."""

    def __init__(
        self,
        key: str | None,
        base_url: str | None,
        *,
        retries: Retries,
        reconnects: Reconnects,
        remember: int,
        insecure: bool,
    ) -> None:
        secret = key_from(key)
        self._base_url = url_from(base_url, insecure=insecure)
        self._kind = shown(secret)
        self._headers = {"authorization": f"Bearer {secret}", "user-agent": USER_AGENT}
        self._retries = retries
        self._reconnects = reconnects
        self._remembered = Remembered(remember)
        self._seen = Seen()

    @property
    def limits(self) -> Limits | None:
        """How fast the key may call and what is left of it, as the last answer told; None before the first."""
        return self._seen.limits

    @property
    def usage_seen(self) -> UsageSeen | None:
        """What the account has used in its period, as the last paid answer told; None before the first."""
        return self._seen.usage

    @property
    def request_id(self) -> str | None:
        """The last call, as the API's logs know it."""
        return self._seen.request_id

    @property
    def data_age_seconds(self) -> float | None:
        """How old the newest observation behind the last answer was; None where the answer did not say."""
        return self._seen.data_age_seconds

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._base_url}, {self._kind}>"

    def _prepared(self, call: Call[Any]) -> tuple[Request, Known | None]:
        request = call.request()
        known = self._remembered.get(request.target) if request.verb == "GET" else None
        return (request.with_headers(if_none_match=known.tag) if known else request), known

    def _answer(self, call: Call[T], request: Request, known: Known | None, reply: Reply) -> T:
        if reply.status == NOT_MODIFIED:
            if known is None:
                raise UnreadableAnswerError("nothing new, to a call that knew nothing", reply.request_id)
            answer: T = known.answer
            return answer
        answer = decode(call.answer, reply.body, reply.request_id)
        if request.verb == "GET":
            self._remembered.put(request.target, reply.headers.get("etag"), answer, len(reply.body))
        return answer

    def _following(self, call: Call[Any], *, heartbeats: bool) -> Following:
        after = call.query.get("after")
        return Following(
            call.with_query(after=None).request(),  # the header says the same, and moves on
            after=after,
            heartbeats=heartbeats,
            policy=self._reconnects,
            opening_seconds=self._retries.total_seconds,
            seen=self._seen,
            clock=time.monotonic,
            chance=_chance,
        )


class Client(_Shared, Operations):
    """Calls the API and waits for its answers. For several threads; to be closed, or used in a `with`.

    key: the API key; STRATUM_API_KEY when not given.
    base_url: where the API is; STRATUM_URL when not given, else this machine.
    retries, reconnects: when calls and streams are made again, and given up.
    remember: how many answers to keep, so that unchanged ones are not sent again (`ETag`); 0 for none.
    insecure: allow http to another machine, where others may read the key on its way.
    transport: another way to send than httpx's own, for a proxy or a test.
    """

    def __init__(
        self,
        key: str | None = None,
        base_url: str | None = None,
        *,
        retries: Retries = Retries(),  # noqa: B008 - frozen
        reconnects: Reconnects = Reconnects(),  # noqa: B008 - frozen
        remember: int = 0,
        insecure: bool = False,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(key, base_url, retries=retries, reconnects=reconnects, remember=remember, insecure=insecure)
        self._http = httpx.Client(headers=self._headers, transport=transport)

    def close(self) -> None:
        """Lets go of every connection."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, call: Call[T]) -> T:
        request, known = self._prepared(call)
        reply, _ = self._converse(request, whole=True)
        return self._answer(call, request, known, reply)

    def _read(self, call: Call[Any]) -> Iterator[bytes]:
        return self._pieces(call.request())

    def _pieces(self, request: Request) -> Iterator[bytes]:
        _, response = self._converse(request, whole=False)
        assert response is not None
        try:
            yield from response.iter_bytes()
        except httpx.TransportError as failed:
            raise ConnectionFailedError("the answer broke off: what came of it is not whole") from failed
        finally:
            response.close()

    def _watch(self, call: Call[Any], *, heartbeats: bool) -> SignalStream:
        return SignalStream(self._http, self._base_url, self._following(call, heartbeats=heartbeats))

    def _converse(self, request: Request, *, whole: bool) -> tuple[Reply, httpx.Response | None]:
        talk = conversation(request, self._retries, self._seen, time.monotonic, _chance)
        response: httpx.Response | None = None
        outcome: Reply | Failure | None = None
        while True:
            try:
                step = talk.send(outcome)
            except StopIteration as answered:
                reply: Reply = answered.value
                return reply, response
            outcome = None
            match step:
                case Wait(seconds):
                    time.sleep(seconds)
                case Send(sent, seconds):
                    outcome, response = self._send(sent, seconds, whole=whole)

    def _send(self, request: Request, seconds: float, *, whole: bool) -> tuple[Reply | Failure, httpx.Response | None]:
        """What came; with the response still open where only its beginning was wanted, and it is no refusal."""
        try:
            response = self._http.send(request_of(self._http, self._base_url, request, seconds), stream=True)
            if not whole and response.is_success:
                return Reply(response.status_code, response.headers, b""), response
            return Reply(response.status_code, response.headers, body_of(response, seconds)), None
        except httpx.TransportError as failed:
            return Failure(failed), None


class AsyncClient(_Shared, AsyncOperations):
    """Calls the API from asyncio. For any number of tasks of one loop; to be closed, or used in an `async with`.

    The arguments are those of `Client`.
    """

    def __init__(
        self,
        key: str | None = None,
        base_url: str | None = None,
        *,
        retries: Retries = Retries(),  # noqa: B008 - frozen
        reconnects: Reconnects = Reconnects(),  # noqa: B008 - frozen
        remember: int = 0,
        insecure: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(key, base_url, retries=retries, reconnects=reconnects, remember=remember, insecure=insecure)
        self._http = httpx.AsyncClient(headers=self._headers, transport=transport)

    async def aclose(self) -> None:
        """Lets go of every connection."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _ask(self, call: Call[T]) -> T:
        request, known = self._prepared(call)
        reply, _ = await self._converse(request, whole=True)
        return self._answer(call, request, known, reply)

    def _read(self, call: Call[Any]) -> AsyncIterator[bytes]:
        return self._pieces(call.request())

    async def _pieces(self, request: Request) -> AsyncIterator[bytes]:
        _, response = await self._converse(request, whole=False)
        assert response is not None
        try:
            async for piece in response.aiter_bytes():
                yield piece
        except httpx.TransportError as failed:
            raise ConnectionFailedError("the answer broke off: what came of it is not whole") from failed
        finally:
            await response.aclose()

    def _watch(self, call: Call[Any], *, heartbeats: bool) -> AsyncSignalStream:
        return AsyncSignalStream(self._http, self._base_url, self._following(call, heartbeats=heartbeats))

    async def _converse(self, request: Request, *, whole: bool) -> tuple[Reply, httpx.Response | None]:
        talk = conversation(request, self._retries, self._seen, time.monotonic, _chance)
        response: httpx.Response | None = None
        outcome: Reply | Failure | None = None
        while True:
            try:
                step = talk.send(outcome)
            except StopIteration as answered:
                reply: Reply = answered.value
                return reply, response
            outcome = None
            match step:
                case Wait(seconds):
                    await asyncio.sleep(seconds)
                case Send(sent, seconds):
                    outcome, response = await self._send(sent, seconds, whole=whole)

    async def _send(
        self, request: Request, seconds: float, *, whole: bool
    ) -> tuple[Reply | Failure, httpx.Response | None]:
        """What came; with the response still open where only its beginning was wanted, and it is no refusal."""
        try:
            sent = request_of(self._http, self._base_url, request, seconds)
            response = await self._http.send(sent, stream=True)
            if not whole and response.is_success:
                return Reply(response.status_code, response.headers, b""), response
            return Reply(response.status_code, response.headers, await body_of_async(response, seconds)), None
        except httpx.TransportError as failed:
            return Failure(failed), None

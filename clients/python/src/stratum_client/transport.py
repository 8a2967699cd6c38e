"""Bodies, read with a bound and a deadline; whatever happens, the connection is given back."""

from __future__ import annotations

import asyncio
import time

import httpx

from stratum_client.calls import Request
from stratum_client.errors import UnreadableAnswerError

#: The gateway's largest answer is 8 MiB.
MOST_BYTES = 32 * 1024 * 1024
CONNECT_SECONDS = 5.0


def request_of(
    http: httpx.Client | httpx.AsyncClient, base_url: str, request: Request, seconds: float
) -> httpx.Request:
    """The request as httpx sends it; no step of it may take longer."""
    return http.build_request(
        request.verb,
        base_url + request.target,
        headers=dict(request.headers),
        content=request.body,
        timeout=httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS)),
    )


def body_of(response: httpx.Response, seconds: float) -> bytes:
    """The whole body. Raises httpx.ReadTimeout, and UnreadableAnswerError when it has no end."""
    until = time.monotonic() + seconds
    body = bytearray()
    try:
        for piece in response.iter_bytes():
            body += piece
            _check(len(body), response)
            if time.monotonic() > until:
                raise httpx.ReadTimeout(f"the answer was not whole within {seconds:.1f} s")
    except httpx.DecodingError as unreadable:
        raise UnreadableAnswerError(str(unreadable), response.headers.get("x-request-id")) from unreadable
    finally:
        response.close()
    return bytes(body)


async def body_of_async(response: httpx.Response, seconds: float) -> bytes:
    """The whole body. Raises httpx.ReadTimeout, and UnreadableAnswerError when it has no end."""
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for piece in response.aiter_bytes():
                body += piece
                _check(len(body), response)
    except TimeoutError:
        raise httpx.ReadTimeout(f"the answer was not whole within {seconds:.1f} s") from None
    except httpx.DecodingError as unreadable:
        raise UnreadableAnswerError(str(unreadable), response.headers.get("x-request-id")) from unreadable
    finally:
        await response.aclose()
    return bytes(body)


def _check(size: int, response: httpx.Response) -> None:
    if size > MOST_BYTES:
        raise UnreadableAnswerError("the answer has no end", response.headers.get("x-request-id"))

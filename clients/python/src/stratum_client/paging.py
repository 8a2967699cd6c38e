"""Lists: one page, or all of them one after another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from stratum_client.calls import Call
from stratum_client.errors import UnreadableAnswerError

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")

#: What the API gives at most. A page costs the same whatever it holds, so whoever wants everything asks for this.
LARGEST_PAGE = 500


@dataclass(frozen=True, slots=True)
class Page(Generic[T_co]):
    """What one call gave."""

    items: tuple[T_co, ...]
    #: For `page(token=…)`, with the other parameters as before; empty on the last page.
    next_page_token: str

    def __iter__(self) -> Iterator[T_co]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


class _Walk(Generic[T]):
    """What both kinds of listing know: the call, and how a page is read out of its answer."""

    def __init__(self, call: Call[Any], items: Callable[[Any], tuple[T, ...]]) -> None:
        call.request()  # what cannot be asked is said where it was written, not where it is read
        self._call = call
        self._items = items

    def _page_call(self, token: str) -> Call[Any]:
        return self._call.with_query(page_token=token) if token else self._call

    def _walk_call(self, token: str, limit: int | None) -> Call[Any]:
        size = self._call.query["page_size"] or min(LARGEST_PAGE, limit or LARGEST_PAGE)
        return self._page_call(token).with_query(page_size=size)

    def _read(self, answer: Any, token: str) -> Page[T]:
        if token and answer.next_page_token == token:
            raise UnreadableAnswerError("a page whose next page is itself")
        return Page(self._items(answer), answer.next_page_token)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._call.request().target}>"


class Listing(_Walk[T]):
    """What a list call would give. Nothing is asked before it is read, and each page that is read is one call.

    `for item in listing` goes through everything there is. `page()` is one call and one page.
    """

    def __init__(self, ask: Callable[[Call[Any]], Any], call: Call[Any], items: Callable[[Any], tuple[T, ...]]) -> None:
        super().__init__(call, items)
        self._ask = ask

    def page(self, token: str = "") -> Page[T]:
        """One page: the first, or that of a token."""
        return self._read(self._ask(self._page_call(token)), token)

    def pages(self, token: str = "", *, limit: int | None = None) -> Iterator[Page[T]]:
        """Page after page; with `limit` no further than holds as many items."""
        left = limit
        while left is None or left > 0:
            page = self._read(self._ask(self._walk_call(token, limit)), token)
            yield page
            token = page.next_page_token
            if not token:
                return
            left = None if left is None else left - len(page)

    def all(self, *, limit: int | None = None) -> Iterator[T]:
        """Item after item, at most `limit`."""
        for page in self.pages(limit=limit):
            items = page.items if limit is None else page.items[:limit]
            limit = None if limit is None else limit - len(items)
            yield from items

    def __iter__(self) -> Iterator[T]:
        return self.all()


class AsyncListing(_Walk[T]):
    """The same, to be awaited: `async for item in listing`, `await listing.page()`."""

    def __init__(
        self, ask: Callable[[Call[Any]], Awaitable[Any]], call: Call[Any], items: Callable[[Any], tuple[T, ...]]
    ) -> None:
        super().__init__(call, items)
        self._ask = ask

    async def page(self, token: str = "") -> Page[T]:
        """One page: the first, or that of a token."""
        return self._read(await self._ask(self._page_call(token)), token)

    async def pages(self, token: str = "", *, limit: int | None = None) -> AsyncIterator[Page[T]]:
        """Page after page; with `limit` no further than holds as many items."""
        left = limit
        while left is None or left > 0:
            page = self._read(await self._ask(self._walk_call(token, limit)), token)
            yield page
            token = page.next_page_token
            if not token:
                return
            left = None if left is None else left - len(page)

    async def all(self, *, limit: int | None = None) -> AsyncIterator[T]:
        """Item after item, at most `limit`."""
        async for page in self.pages(limit=limit):
            items = page.items if limit is None else page.items[:limit]
            limit = None if limit is None else limit - len(items)
            for item in items:
                yield item

    def __aiter__(self) -> AsyncIterator[T]:
        return self.all()

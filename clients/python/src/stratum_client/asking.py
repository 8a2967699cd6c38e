"""What the generated methods need of a client: how to ask once, page by page, piece by piece, and without end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

from stratum_client.calls import Call
from stratum_client.paging import AsyncListing, Listing
from stratum_client.streams import AsyncSignalStream, SignalStream

A = TypeVar("A")
T = TypeVar("T")


class Asking(ABC):
    """A client that waits for its answers."""

    @abstractmethod
    def _ask(self, call: Call[T]) -> T:
        """The answer. Raises StratumError."""

    @abstractmethod
    def _read(self, call: Call[Any]) -> Iterator[bytes]:
        """The answer's bytes, a piece at a time."""

    @abstractmethod
    def _watch(self, call: Call[Any], *, heartbeats: bool) -> SignalStream:
        """The stream."""

    def _list(self, call: Call[A], items: Callable[[A], tuple[T, ...]]) -> Listing[T]:
        return Listing(self._ask, call, items)


class AsyncAsking(ABC):
    """A client whose answers are awaited."""

    @abstractmethod
    async def _ask(self, call: Call[T]) -> T:
        """The answer. Raises StratumError."""

    @abstractmethod
    def _read(self, call: Call[Any]) -> AsyncIterator[bytes]:
        """The answer's bytes, a piece at a time."""

    @abstractmethod
    def _watch(self, call: Call[Any], *, heartbeats: bool) -> AsyncSignalStream:
        """The stream."""

    def _list(self, call: Call[A], items: Callable[[A], tuple[T, ...]]) -> AsyncListing[T]:
        return AsyncListing(self._ask, call, items)

"""Answers that were given before, by their tags: what has not changed is not sent again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Any

#: Bodies of the answers that are kept, together.
MOST_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Known:
    """An answer and its tag."""

    tag: str
    answer: Any
    size: int


class Remembered:
    """The answers used last, up to a number and to `MOST_BYTES`; none where the number is 0."""

    def __init__(self, most: int, most_bytes: int = MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._lock = Lock()

    def get(self, target: str) -> Known | None:
        """The answer to a GET of this path and query, if there is one."""
        with self._lock:
            if target in self._known:
                self._known.move_to_end(target)
            return self._known.get(target)

    def put(self, target: str, tag: str | None, answer: Any, size: int) -> None:
        """Keeps an answer that has a tag, and lets the oldest go."""
        if not tag or not self._most or size > self._most_bytes:
            return
        with self._lock:
            before = self._known.pop(target, None)
            self._bytes -= before.size if before else 0
            self._known[target] = Known(tag, answer, size)
            self._bytes += size
            while len(self._known) > self._most or self._bytes > self._most_bytes:
                self._bytes -= self._known.popitem(last=False)[1].size

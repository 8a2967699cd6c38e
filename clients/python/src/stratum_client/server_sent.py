"""Server-Sent Events out of bytes, however the network cut them."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass

from stratum_client.errors import UnreadableAnswerError

#: No event of ours comes near; more than this without an end is no event.
MOST_CHARACTERS = 8 * 1024 * 1024
_END_OF_LINE = re.compile(r"[\r\n]")


@dataclass(frozen=True, slots=True)
class Block:
    """What stood between two blank lines."""

    #: `message` where the block names none.
    event: str
    #: None where the block has no data: then it is no event, but its id still moves the reader's place.
    data: str | None
    #: The id in this block; None where it has none.
    id: str | None
    #: How long to wait before opening a stream again.
    retry_milliseconds: int | None


class Parser:
    """Takes pieces of a stream and gives the blocks that are complete. What is cut off at the end is none."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._scanned = 0
        self._size = 0
        self._begun = False
        self._after_return = False
        self._clear()

    def feed(self, piece: bytes) -> list[Block]:
        """The blocks that end in this piece. Raises UnreadableAnswerError for one without end."""
        blocks = []
        for line in self._lines(self._decoder.decode(piece)):
            if line:
                self._field(line)
                continue
            if self._has_any:
                blocks.append(Block(self._event or "message", self._data_text(), self._id, self._retry))
            self._clear()
        return blocks

    def _clear(self) -> None:
        self._event = ""
        self._data: list[str] = []
        self._id: str | None = None
        self._retry: int | None = None
        self._size = 0

    @property
    def _has_any(self) -> bool:
        return self._data_text() is not None or self._id is not None or self._retry is not None

    def _data_text(self) -> str | None:
        return "\n".join(self._data) or None

    def _lines(self, text: str) -> Iterator[str]:
        """Complete lines, which end in \\n, \\r or \\r\\n; a piece may end between the two of the last."""
        if not self._begun and text:
            self._begun = True
            text = text.removeprefix("\ufeff")
        if self._after_return and text:
            self._after_return = False
            text = text.removeprefix("\n")
        self._rest += text
        begin = 0
        # What earlier pieces were searched for is not searched again: a long line comes in many pieces.
        while found := _END_OF_LINE.search(self._rest, max(begin, self._scanned)):
            end = found.start()
            yield self._rest[begin:end]
            begin = end + 1
            if self._rest[end] == "\r":
                if begin == len(self._rest):
                    self._after_return = True
                elif self._rest[begin] == "\n":
                    begin += 1
        self._rest = self._rest[begin:]
        self._scanned = len(self._rest)
        if len(self._rest) + self._size > MOST_CHARACTERS:
            raise UnreadableAnswerError("the stream sent an event without end")

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        self._size += len(line)
        match name:
            case "event":
                self._event = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdecimal() and len(value) < 10:
                self._retry = int(value)
            case _:
                return  # a comment, or a field of a later day

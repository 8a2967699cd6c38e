"""A place in the feed, as partners hold it: opaque to them, and good for as long as the feed keeps its signals."""

from __future__ import annotations

import re
from typing import NamedTuple

from stratum.common.v1.error_reason_pb2 import ErrorReason

from services.shared.errors import InvalidArgument

_SHAPE = re.compile(r"([0-9a-f]{16})-(\d{1,18})", re.ASCII)


class Cursor(NamedTuple):
    """Behind the signal at `position` of the feed that was begun as `epoch`."""

    epoch: str
    position: int

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """The place that a cursor names. Raises InvalidArgument (INVALID_CURSOR) for one that we never gave."""
        shape = _SHAPE.fullmatch(text)
        if shape is None:
            raise InvalidArgument(ErrorReason.INVALID_CURSOR, "the cursor to resume from is not one of ours")
        return cls(shape[1], int(shape[2]))

    def __str__(self) -> str:
        return f"{self.epoch}-{self.position}"

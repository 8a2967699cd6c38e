"""Names that a caller asked with, checked before anything is looked for by them."""

from __future__ import annotations

from collections.abc import Iterable

from stratum.common.v1.error_reason_pb2 import ErrorReason

from services.shared.errors import InvalidArgument


def word(field: str, value: str) -> str:
    """The value of a field that names something. Raises InvalidArgument for an empty one, and for the one character
    that PostgreSQL's text cannot hold."""
    if not value or "\0" in value:
        raise wrong(field, "is empty" if not value else "holds a character that no name has")
    return value


def words(field: str, values: Iterable[str]) -> tuple[str, ...]:
    """The values of a repeated field, each once, in order. Raises InvalidArgument, as for one `word`."""
    return tuple(sorted({word(field, value) for value in values}))


def wrong(field: str, why: str) -> InvalidArgument:
    """What is raised for a field that cannot be as it is: `why` goes on behind its name, as in "is empty"."""
    return InvalidArgument(ErrorReason.INVALID_ARGUMENT, f"{field} {why}", field=field)

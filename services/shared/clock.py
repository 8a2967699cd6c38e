"""The only place that reads the clock. Rules never do: time is event time and travels with the data."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The present moment, with its zone."""
    return datetime.now(UTC)  # noqa: TID251 - this is the seam the ban points to

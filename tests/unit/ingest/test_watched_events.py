"""Which lists of watched events are refused."""

from __future__ import annotations

import pytest
from stratum.ingest.v1.ingest_service_pb2 import SetWatchedEventsRequest

from services.ingest.wire import MOST_WATCHED, check_watched
from services.shared.errors import InvalidArgument


@pytest.mark.parametrize(
    ("watcher", "events", "field"), [("", ["game"], "watcher"), ("alerts", ["game"] * (MOST_WATCHED + 1), "event_ids")]
)
def test_a_list_without_a_name_or_without_an_end_is_refused(watcher: str, events: list[str], field: str) -> None:
    with pytest.raises(InvalidArgument, match=field):
        check_watched(SetWatchedEventsRequest(watcher=watcher, event_ids=events))


def test_a_watcher_may_watch_nothing() -> None:
    check_watched(SetWatchedEventsRequest(watcher="alerts"))

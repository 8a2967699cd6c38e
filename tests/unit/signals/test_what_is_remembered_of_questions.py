"""Questions are remembered, as far as they are short: their number is bounded, so their size has to be as well."""

from __future__ import annotations

from stratum.signals.v1.signals_service_pb2 import ListSignalsRequest

from services.signals import wire
from services.signals.api import REMEMBERED_BYTES, wanted
from services.signals.over_http import asked

SHORT = b"book=betmgm&tier=HIGH"
LONG = b"&".join(b"book=%d" % number for number in range(REMEMBERED_BYTES // 5))


def test_a_query_is_read_once_and_a_long_one_each_time_to_the_same() -> None:
    assert asked(SHORT) is asked(SHORT)
    assert asked(LONG) is not asked(LONG)
    assert asked(LONG) == asked(LONG)


def test_a_request_is_understood_once_and_a_long_one_each_time_to_the_same() -> None:
    short, long = wire.serialized(asked(SHORT)), wire.serialized(ListSignalsRequest(book=["x" * REMEMBERED_BYTES]))
    assert wanted(short) is wanted(short)
    assert wanted(long) is not wanted(long)
    assert wanted(long) == wanted(long)

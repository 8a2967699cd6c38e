"""ListSignals over a real database: every filter, both orders, both views, and pages that stay stable."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status
from stratum.signals.v1 import signal_pb2 as signals
from stratum.signals.v1 import signals_service_pb2 as service

from services.signals import wire
from services.signals.feed_testing import NOON, a_signal, publish
from services.signals.model import Direction, SignalType, Tier, TimeBucket

A_BOARD = [
    a_signal("nba-move"),
    a_signal("wnba-move", sport_key="basketball_wnba", event_id="event-2", composite_score=40.0, tier=Tier.LOW),
    a_signal("total", market="totals", direction=Direction.OVER, composite_score=90.0, tier=Tier.HIGH, strength=95),
    a_signal("early", observed_at=NOON - timedelta(hours=9), time_bucket=TimeBucket.OPEN, velocity=None),
    a_signal("steam", signal_type=SignalType.STEAM, velocity=2.5, books=("fanduel", "pinnacle")),
    a_signal("apart", signal_type=SignalType.DISLOCATION, book="bovada", books=("bovada",), velocity=None),
]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, {"nba-move", "wnba-move", "total", "early", "steam", "apart"}),
        ({"sport_key": ["basketball_wnba"]}, {"wnba-move"}),
        ({"sport_key": ["basketball_wnba", "basketball_nba"], "event_id": ["event-2"]}, {"wnba-move"}),
        ({"event_id": ["event-2", "event-of-nobody"]}, {"wnba-move"}),
        ({"market": ["totals"]}, {"total"}),
        ({"signal_type": [signals.SignalType.STEAM]}, {"steam"}),
        ({"type": [signals.SignalType.STEAM]}, {"steam"}),
        ({"type": [signals.SignalType.STEAM], "signal_type": [signals.SignalType.DISLOCATION]}, {"steam", "apart"}),
        ({"direction": [signals.Direction.OVER]}, {"total"}),
        ({"tier": [signals.Tier.HIGH, signals.Tier.LOW]}, {"total", "wnba-move"}),
        ({"time_bucket": [signals.TimeBucket.OPEN]}, {"early"}),
        ({"book": ["pinnacle"]}, {"steam"}),
        ({"book": ["bovada", "fanduel"]}, {"apart", "steam"}),
        ({"since": wire.stamp(NOON)}, {"nba-move", "wnba-move", "total", "steam", "apart"}),
        ({"until": wire.stamp(NOON)}, {"early"}),
        ({"min_score": 60.5}, {"nba-move", "total", "early", "steam", "apart"}),
        ({"min_score": 60.6}, {"total"}),
        ({"min_strength": 95}, {"total"}),
        ({"velocity_gt": 0.5}, {"steam"}),
        ({"market": ["totals"], "tier": [signals.Tier.LOW]}, set()),
    ],
)
async def test_each_filter_lets_through_what_it_names(served: Any, filters: dict[str, Any], found: set[str]) -> None:
    await publish(served.database, A_BOARD)
    answer = await served.ask.ListSignals(service.ListSignalsRequest(**filters))
    assert {signal.id for signal in answer.signals} == found


async def test_the_highest_score_comes_first_and_the_later_of_two_equals(served: Any) -> None:
    await publish(served.database, A_BOARD)
    answer = await served.ask.ListSignals(service.ListSignalsRequest())
    assert [signal.id for signal in answer.signals] == ["total", "apart", "steam", "early", "nba-move", "wnba-move"]


async def test_by_time_the_newest_comes_first(served: Any) -> None:
    await publish(served.database, A_BOARD)
    answer = await served.ask.ListSignals(service.ListSignalsRequest(order_by=service.OrderBy.TIME))
    assert [signal.id for signal in answer.signals] == ["apart", "steam", "total", "wnba-move", "nba-move", "early"]


async def test_the_basic_view_leaves_the_long_lists_out_and_the_full_view_has_them(served: Any) -> None:
    await publish(served.database, [a_signal("one")])
    (basic,) = (await served.ask.ListSignals(service.ListSignalsRequest())).signals
    (full,) = (await served.ask.ListSignals(service.ListSignalsRequest(view=service.View.FULL))).signals
    assert (len(basic.books_moved), len(basic.books_holding), len(basic.snapshot_ids)) == (0, 0, 0)
    assert (len(full.books_moved), len(full.books_holding), len(full.snapshot_ids)) == (2, 1, 2)
    assert list(basic.books) == ["betmgm", "draftkings"]
    assert wire.basic_view(full) == basic


async def test_a_signal_of_the_feed_says_when_it_was_published_and_where_it_stands(served: Any) -> None:
    await publish(served.database, [a_signal("one"), a_signal("two")], published_at=NOON + timedelta(seconds=3))
    answer = await served.ask.ListSignals(service.ListSignalsRequest(order_by=service.OrderBy.TIME))
    two, one = answer.signals
    assert wire.moment(one.published_at) == NOON + timedelta(seconds=3)
    assert one.cursor.endswith("-1")
    assert two.cursor.endswith("-2")


async def test_a_fact_is_shown_by_its_strongest_signal_and_among_equals_by_steam(served: Any) -> None:
    fact = {"fact_id": "fact", "strength": 80}
    await publish(
        served.database,
        [
            a_signal("sync", signal_type=SignalType.MULTIBOOK_SYNC, **fact),
            a_signal("steam", signal_type=SignalType.STEAM, **fact),
            a_signal("move", **{**fact, "strength": 79}),
            a_signal("of-another-fact"),
        ],
    )
    answer = await served.ask.ListSignals(service.ListSignalsRequest(collapse=service.Collapse.FACT))
    assert {signal.id for signal in answer.signals} == {"steam", "of-another-fact"}


async def test_a_fact_is_shown_by_the_strongest_signal_that_the_filters_let_through(served: Any) -> None:
    fact = {"fact_id": "fact"}
    await publish(
        served.database,
        [
            a_signal("steam", signal_type=SignalType.STEAM, strength=90, **fact),
            a_signal("move", strength=80, **fact),
            a_signal("sync", signal_type=SignalType.MULTIBOOK_SYNC, strength=70, **fact),
        ],
    )
    request = service.ListSignalsRequest(
        collapse=service.Collapse.FACT, type=[signals.SignalType.MOVE, signals.SignalType.MULTIBOOK_SYNC]
    )
    assert [signal.id for signal in (await served.ask.ListSignals(request)).signals] == ["move"]


@pytest.mark.parametrize("order_by", [service.OrderBy.SCORE, service.OrderBy.TIME])
async def test_a_walk_skips_and_repeats_nothing_while_signals_arrive(served: Any, order_by: Any) -> None:
    def some(prefix: str) -> list[Any]:
        # Scores and times repeat, so that pages end between equals.
        return [
            a_signal(
                f"{prefix}-{number}",
                composite_score=float(10 + number % 5),
                observed_at=NOON + timedelta(minutes=number % 7),
            )
            for number in range(23)
        ]

    await publish(served.database, some("before"))
    seen: list[str] = []
    async for page in _walk(served, order_by=order_by, page_size=4):
        seen.extend(signal.id for signal in page)
        await publish(served.database, some(f"meanwhile-{len(seen)}"))
    assert sorted(seen) == sorted(f"before-{number}" for number in range(23))


async def test_the_last_page_has_no_token_even_when_it_is_full(served: Any) -> None:
    await publish(served.database, [a_signal(f"signal-{number}") for number in range(4)])
    pages = [page async for page in _walk(served, page_size=2)]
    assert [len(page) for page in pages] == [2, 2]


async def test_five_hundred_signals_in_full_fit_on_a_page(served: Any) -> None:
    await publish(served.database, [a_signal(f"signal-{number}") for number in range(501)])
    request = service.ListSignalsRequest(page_size=500, view=service.View.FULL)
    answer = await served.ask.ListSignals(request)
    assert len(answer.signals) == 500
    assert answer.next_page_token


@pytest.mark.parametrize(
    ("wrong", "reason", "field"),
    [
        ({"page_size": 501}, "INVALID_ARGUMENT", "page_size"),
        ({"page_size": -1}, "INVALID_ARGUMENT", "page_size"),
        ({"page_token": "made-up"}, "INVALID_PAGE_TOKEN", None),
        ({"min_score": 101.0}, "INVALID_ARGUMENT", "min_score"),
        ({"min_score": float("nan")}, "INVALID_ARGUMENT", "min_score"),
        ({"min_strength": -1}, "INVALID_ARGUMENT", "min_strength"),
        ({"velocity_gt": float("inf")}, "INVALID_ARGUMENT", "velocity_gt"),
        ({"tier": [0]}, "INVALID_ARGUMENT", "tier"),
        ({"type": [99]}, "INVALID_ARGUMENT", "signal_type"),
        ({"view": 9}, "INVALID_ARGUMENT", "view"),
        ({"order_by": 9}, "INVALID_ARGUMENT", "order_by"),
        ({"collapse": 9}, "INVALID_ARGUMENT", "collapse"),
        ({"sport_key": [""]}, "INVALID_ARGUMENT", "sport_key"),
        ({"book": ["a\0b"]}, "INVALID_ARGUMENT", "book"),
        ({"since": {"seconds": 10**13}}, "INVALID_ARGUMENT", "since"),
    ],
)
async def test_a_wrong_question_is_refused_by_name(
    served: Any, wrong: dict[str, Any], reason: str, field: str | None
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await served.ask.ListSignals(service.ListSignalsRequest(**wrong))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    info = error_info(refused.value)
    assert info.reason == reason
    assert info.metadata.get("field") == field


async def test_a_page_token_is_good_for_its_own_filters_only(served: Any) -> None:
    await publish(served.database, A_BOARD)
    first = await served.ask.ListSignals(service.ListSignalsRequest(page_size=1))
    request = service.ListSignalsRequest(page_size=1, page_token=first.next_page_token, market=["totals"])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await served.ask.ListSignals(request)
    assert error_info(refused.value).reason == "INVALID_PAGE_TOKEN"


async def test_a_signal_that_is_published_again_stays_as_it_was(served: Any) -> None:
    await publish(served.database, [a_signal("one", strength=70)])
    await publish(served.database, [a_signal("one", strength=71), a_signal("two")])
    answer = await served.ask.ListSignals(service.ListSignalsRequest())
    assert {signal.id: signal.strength for signal in answer.signals} == {"one": 70, "two": 70}


async def _walk(served: Any, **asked: Any) -> AsyncIterator[list[signals.Signal]]:
    token = ""
    while True:
        page = await served.ask.ListSignals(service.ListSignalsRequest(page_token=token, **asked))
        yield list(page.signals)
        token = page.next_page_token
        if not token:
            return


def error_info(error: grpc.aio.AioRpcError) -> ErrorInfo:
    """The one detail that every error of ours has."""
    status = rpc_status.from_call(error)
    assert status is not None
    (detail,) = status.details
    info = ErrorInfo()
    assert detail.Unpack(info)
    return info

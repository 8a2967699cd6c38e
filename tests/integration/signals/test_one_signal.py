"""One signal in full, why it was said, who holds the old number now, and what was held back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import grpc.aio
import pytest
from sqlalchemy import insert
from stratum.signals.v1 import signal_pb2 as signals
from stratum.signals.v1 import signals_service_pb2 as service

from services.shared.clock import utc_now
from services.shared.testing import eventually
from services.signals import wire
from services.signals.feed_testing import CONFIGURATION, NOON, a_signal, a_span, hold_back, publish
from services.signals.model import Direction, Reason, SignalType
from services.signals.rules import RuleSettings, observe
from services.signals.store import stage
from services.signals.testing import a_board


async def test_a_signal_is_given_whole(served: Any) -> None:
    await publish(served.database, [a_signal("one")])
    answer = await served.ask.GetSignal(service.GetSignalRequest(id="one"))
    assert wire.signal(a_signal("one")).books_holding == answer.signal.books_holding
    assert answer.signal.cursor.endswith("-1")


async def test_who_holds_the_old_number_now_is_read_from_the_events_newest_state(served: Any) -> None:
    board = a_board(draftkings=-6.5, betmgm=-6.5, caesars=-5.5)
    state, _, _ = observe(None, board.observation, RuleSettings())
    async with served.database.begin() as connection:
        row = {"partition": 0, "applied_revision": 1, "awaiting_keyframe": False, "state": wire.dump_state(state)}
        await connection.execute(insert(stage.event_state), {"event_id": state.event_id, **row})
    moved = a_signal("one", event_id=state.event_id, direction=Direction.TOWARD_HOME)
    await publish(served.database, [moved])
    answer = await served.ask.GetSignal(service.GetSignalRequest(id="one"))
    assert [holding.book for holding in answer.books_holding_now] == ["caesars"]
    assert wire.moment(answer.holding_observed_at) == state.observed_at


async def test_nobody_holds_anything_where_the_event_is_not_known(served: Any) -> None:
    await publish(served.database, [a_signal("one")])
    answer = await served.ask.GetSignal(service.GetSignalRequest(id="one"))
    assert not answer.books_holding_now
    assert not answer.HasField("holding_observed_at")


@pytest.mark.parametrize("method", ["GetSignal", "ExplainSignal"])
async def test_an_unknown_signal_is_not_found(served: Any, method: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await getattr(served.ask, method)(service.GetSignalRequest(id="nobody"))
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


async def test_an_explanation_names_rule_configuration_inputs_and_steps(served: Any) -> None:
    await publish(served.database, [a_signal("one", signal_type=SignalType.STEAM)])
    answer = await served.ask.ExplainSignal(service.ExplainSignalRequest(id="one"))
    assert answer.signal.id == "one"
    assert answer.rule.startswith("STEAM:")
    assert answer.configuration == CONFIGURATION
    assert [(given.snapshot_id, given.role) for given in answer.inputs] == [
        ("snapshot-1", "from"),
        ("snapshot-2", "to"),
    ]
    assert list(answer.steps) == ["two books moved"]
    assert (answer.rules_version, answer.config_hash) == ("v1", "0123456789abcdef")


async def test_a_span_that_goes_on_stays_one_suppression(served: Any) -> None:
    later = NOON + timedelta(minutes=5)
    await hold_back(served.database, [a_span()])
    await hold_back(served.database, [a_span(count=2, last_seen_at=later), a_span(count=3, last_seen_at=later)])
    await hold_back(served.database, [a_span(count=1)])
    (span,) = (await served.ask.ListSuppressions(service.ListSuppressionsRequest())).suppressions
    assert (span.count, wire.moment(span.first_seen_at), wire.moment(span.last_seen_at)) == (3, NOON, later)


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, {"event-3", "event-2", "event-1"}),
        ({"event_id": ["event-2"]}, {"event-2"}),
        ({"sport_key": ["basketball_wnba"]}, {"event-3"}),
        ({"market": ["totals"]}, {"event-2"}),
        ({"signal_type": [signals.SignalType.MOVE]}, {"event-3"}),
        ({"reason": ["against", "cap"]}, {"event-3"}),
        ({"since": wire.stamp(NOON + timedelta(minutes=2))}, {"event-3", "event-2"}),
        ({"until": wire.stamp(NOON + timedelta(minutes=1))}, {"event-1"}),
    ],
)
async def test_each_filter_of_the_suppressions_lets_through_what_it_names(
    served: Any, filters: dict[str, Any], found: set[str]
) -> None:
    minute = timedelta(minutes=1)
    await hold_back(
        served.database,
        [
            a_span(),
            a_span(event_id="event-2", market="totals", first_seen_at=NOON + minute, last_seen_at=NOON + 5 * minute),
            a_span(
                event_id="event-3",
                sport_key="basketball_wnba",
                signal_type=SignalType.MOVE,
                reason=Reason.AGAINST,
                first_seen_at=NOON + 2 * minute,
                last_seen_at=NOON + 2 * minute,
            ),
        ],
    )
    answer = await served.ask.ListSuppressions(service.ListSuppressionsRequest(**filters))
    assert {span.event_id for span in answer.suppressions} == found


async def test_suppressions_page_from_the_newest_beginning_while_spans_go_on(served: Any) -> None:
    spans = [a_span(event_id=f"event-{number}", first_seen_at=NOON + timedelta(minutes=number)) for number in range(9)]
    await hold_back(served.database, spans)
    seen: list[str] = []
    token = ""
    while True:
        page = await served.ask.ListSuppressions(service.ListSuppressionsRequest(page_size=2, page_token=token))
        seen.extend(span.event_id for span in page.suppressions)
        token = page.next_page_token
        if not token:
            break
        # A span that goes on does not jump over the reader.
        await hold_back(served.database, [a_span(event_id="event-0", count=2, last_seen_at=NOON + timedelta(hours=1))])
    assert seen == [f"event-{number}" for number in range(8, -1, -1)]


async def test_the_age_of_the_data_is_said_once_there_is_any(served: Any) -> None:
    assert "x-data-age" not in await _initial_metadata(served)
    served.feed.received()
    assert float((await _initial_metadata(served))["x-data-age"]) == pytest.approx(0.0, abs=5.0)


async def test_the_age_of_the_data_outlives_the_process(serve_feed: Any) -> None:
    first = await serve_feed(poll_seconds=0.05)
    await first.store.note_received(utc_now() - timedelta(seconds=1000))
    second = await serve_feed(first.database, poll_seconds=0.05)

    async def told() -> bool:
        age = (await _initial_metadata(second)).get("x-data-age")
        return age is not None and 1000.0 <= float(age) < 1060.0

    assert await eventually(told)


async def test_what_another_process_received_counts_as_well(serve_feed: Any) -> None:
    writer = await serve_feed(poll_seconds=0.05)
    reader = await serve_feed(writer.database, poll_seconds=0.05)
    writer.feed.received()

    async def told() -> bool:
        return reader.feed.data_age_seconds() is not None

    assert await eventually(told)


async def _initial_metadata(served: Any) -> dict[str, str]:
    call = served.ask.ListSignals(service.ListSignalsRequest())
    await call
    return dict(await call.initial_metadata())

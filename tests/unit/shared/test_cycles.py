"""Cycles are counted after the commit and told of once, when they are over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from services.shared.cycles import CycleLog, Share, Tallies, add, cycle_id, grouped

FIRST = datetime(2026, 1, 15, 18, 0, 0, 250_000, tzinfo=UTC)
SECOND = FIRST + timedelta(minutes=1)


def a_batch(*shares: tuple[datetime, int], sport_key: str = "nba") -> Tallies:
    tallies: Tallies = {}
    for observed_at, points in shares:
        add(tallies, Share(sport_key, observed_at, {"consensus_points_written": points}))
    return tallies


def told(*batches: Tallies, quiet: bool = False) -> list[dict[str, Any]]:
    log = CycleLog("consensus", 0, None)
    with capture_logs() as lines:
        for batch in batches:
            log.committed(batch)
        if quiet:
            log.quiet()
    assert log.waiting == (not quiet)
    return [dict(line) for line in lines if line["event"] == "cycle"]


def test_a_cycle_is_told_of_when_the_next_one_comes() -> None:
    (line,) = told(a_batch((FIRST, 2), (FIRST, 0)), a_batch((FIRST, 1)), a_batch((SECOND, 5)))
    assert (line["cycle_id"], line["events_processed"]) == ("nba@2026-01-15T18:00:00.250Z", 3)
    assert line["consensus_points_written"] == 3


def test_the_last_cycle_is_told_of_when_nothing_more_comes() -> None:
    lines = told(a_batch((FIRST, 2)), a_batch((SECOND, 1)), quiet=True)
    assert [line["cycle_id"] for line in lines] == [cycle_id("nba", FIRST), cycle_id("nba", SECOND)]


def test_another_sports_poll_ends_nothing() -> None:
    assert told(a_batch((FIRST, 2)), a_batch((SECOND, 2), sport_key="wnba")) == []


def test_cycles_that_are_over_at_once_are_told_of_in_one_line() -> None:
    many = [FIRST + timedelta(minutes=number) for number in range(40)]
    (line,) = told(a_batch(*((moment, 1) for moment in many)))
    assert (line["cycles"], line["events_processed"], line["consensus_points_written"]) == (39, 39, 39)
    assert line["through"] == cycle_id("nba", many[38])


def test_metrics_rise_by_what_was_committed() -> None:
    labels = {"stage": "counted", "sport_key": "nba", "result": "consensus_points_written"}
    CycleLog("counted", 0, None).committed(a_batch((FIRST, 2), (SECOND, 5)))
    assert REGISTRY.get_sample_value("stratum_cycle_results_total", labels) == 7
    assert REGISTRY.get_sample_value("stratum_cycle_messages_total", {"stage": "counted", "sport_key": "nba"}) == 2


def test_counts_behind_a_dot_are_shown_in_their_group() -> None:
    shown = grouped({"signals_created_total": 3, "signals_created_by_type.MOVE": 2, "signals_created_by_type.STEAM": 1})
    assert shown == {"signals_created_total": 3, "signals_created_by_type": {"MOVE": 2, "STEAM": 1}}

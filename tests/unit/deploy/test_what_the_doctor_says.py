"""What the doctor says to what was seen: well, soon not, or not; and for the last two, what to do."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from rich.console import Console

from deploy import doctor
from deploy.doctor import Finding, Outcome
from services.ingest.config import Config

NOW = datetime(2026, 1, 15, 18, 0, tzinfo=UTC)
GIB = 1 << 30
OK, WARN, FAIL, SKIP = Outcome.OK, Outcome.WARN, Outcome.FAIL, Outcome.SKIP


def a_stream(fill: float = 0.1, discard: str = "new", storage: str = "file") -> dict[str, object]:
    config = {"max_bytes": 1000, "discard": discard, "storage": storage}
    return {"config": config, "state": {"bytes": round(fill * 1000), "messages": 7}}


def streams(**given: dict[str, object]) -> Finding:
    known = {name: a_stream() for name in ("OBSERVATIONS", "MARKETS", "SIGNALS")} | given
    return next(found for found in doctor.streams(known) if found.check == "stream MARKETS")


CASES: list[tuple[Finding, Outcome]] = [
    (doctor.python_version((3, 11)), OK),
    (doctor.python_version((3, 10)), FAIL),
    (doctor.distributions([], []), OK),
    (doctor.distributions([], ["NATS"]), WARN),
    (doctor.distributions(["grpcio"], []), FAIL),
    (doctor.ports({}, ours=False), OK),
    (doctor.ports({5432: "postgres"}, ours=False), WARN),
    (doctor.ports({5432: "postgres"}, ours=True), OK),
    (doctor.disk(Path("/"), 60 * GIB, 100 * GIB), OK),
    (doctor.disk(Path("/"), 60 * GIB, 1000 * GIB), WARN),
    (doctor.disk(Path("/"), 2 * GIB, 1000 * GIB), FAIL),
    (doctor.disk(Path("/"), GIB // 2, GIB), FAIL),
    (doctor.secrets_closed(0o40700), OK),
    (doctor.secrets_closed(0o40750), FAIL),
    (doctor.secrets_closed(None), SKIP),
    (doctor.settings({}), OK),
    (doctor.settings({"ingest": {"ODDS_API_KYE": "is no setting of this service"}}), FAIL),
    (doctor.database(180000, "on", "on"), OK),
    (doctor.database(180000, "off", "on"), FAIL),
    (doctor.migrations({"ingest": "0005"}, {"ingest": "0005"}), OK),
    (doctor.migrations({"ingest": "0001"}, {"ingest": "0005"}), FAIL),
    (doctor.migrations({}, {"ingest": "0005"}), FAIL),
    (doctor.roles({"ingest": True}, [], []), OK),
    (doctor.roles({"ingest": False}, [], []), FAIL),
    (doctor.roles({"ingest": True}, ["signals in ingest"], []), FAIL),
    (doctor.roles({"ingest": True}, [], ["ingest"]), FAIL),
    (doctor.bus(True, "2.15"), OK),
    (doctor.bus(False, "2.15"), FAIL),
    (streams(), OK),
    (streams(MARKETS=a_stream(0.7)), WARN),
    (streams(MARKETS=a_stream(0.95)), FAIL),
    (streams(MARKETS=a_stream(discard="old")), FAIL),
    (streams(MARKETS=a_stream(storage="memory")), FAIL),
    (doctor.ready("ingest", []), OK),
    (doctor.ready("ingest", ["check_syncs_writes: set sync_interval: always"]), FAIL),
    (doctor.ready("ingest", None), FAIL),
    (doctor.lag("signals", 3.0), OK),
    (doctor.lag("signals", 3_000.0), WARN),
    (doctor.lag("signals", 300_000.0), FAIL),
    (doctor.lag("signals", None), WARN),
    (doctor.lease("here", NOW + timedelta(seconds=5), NOW, polls=True), OK),
    (doctor.lease("here", NOW - timedelta(seconds=5), NOW, polls=True), FAIL),
    (doctor.lease(None, None, NOW, polls=True), FAIL),
    (doctor.lease(None, None, NOW, polls=False), OK),
    (doctor.feed("nba", 30.0, 60.0, 0, "", polls=True), OK),
    (doctor.feed("nba", 200.0, 60.0, 0, "", polls=True), WARN),
    (doctor.feed("nba", 30.0, 60.0, 1, "unavailable", polls=True), WARN),
    (doctor.feed("nba", 900.0, 60.0, 9, "key_refused", polls=True), FAIL),
    (doctor.feed("nba", None, 60.0, 9, "unavailable", polls=True), FAIL),
    (doctor.feed("nba", 900.0, 60.0, 0, "", polls=False), OK),
    (doctor.dead_letters({"ingest": 0, "signals": 0}, None), OK),
    (doctor.dead_letters({"ingest": 0, "signals": 2}, NOW), WARN),
    (doctor.outbox({"ingest": 3})[0], OK),
    (doctor.outbox({"ingest": 3_000})[0], WARN),
    (doctor.outbox({"ingest": 30_000})[0], FAIL),
    (doctor.partitions_ahead({}), SKIP),
    (doctor.partitions_ahead({"ingest.odds_snapshots": True}), OK),
    (doctor.partitions_ahead({"ingest.odds_snapshots": False}), WARN),
    (doctor.key("", 12), OK),
    (doctor.key("", 0), FAIL),
    (doctor.key("no_key"), WARN),
    (doctor.key("key_refused"), FAIL),
    (doctor.key("out_of_credits"), FAIL),
    (doctor.key("/v4/sports: TimeoutError"), WARN),
    (doctor.clock(0.4), OK),
    (doctor.clock(-7.0), WARN),
    (doctor.clock(120.0), FAIL),
    (doctor.clock(None), SKIP),
    (doctor.collector("", reachable=False), SKIP),
    (doctor.collector("http://collector:4317", reachable=True), OK),
    (doctor.collector("http://collector:4317", reachable=False), WARN),
]


@pytest.mark.parametrize(("found", "outcome"), CASES, ids=[f"{found.check}: {found.said}" for found, _ in CASES])
def test_what_was_seen_is_judged_and_what_is_not_well_is_followed_by_what_to_do(
    found: Finding, outcome: Outcome
) -> None:
    assert found.outcome is outcome
    assert found.said
    assert bool(found.advice) == (outcome in (WARN, FAIL))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"odds_api_poll_interval_seconds": 10.0, "odds_api_key": SecretStr("k")}, "refreshes"),
        ({"odds_api_clock": "provider", "odds_api_key": SecretStr("k")}, "whole seconds"),
        ({"odds_api_base_url": "http://127.0.0.1:8090", "odds_api_clock_rate": 40.0}, "clock is our own"),
    ],
)
def test_settings_that_are_allowed_and_were_mistakes_are_named(given: dict[str, object], said: str) -> None:
    (found,) = doctor.questionable(Config(**given))
    assert said in found.said
    assert doctor.questionable(Config()) == []


def test_one_failure_is_enough_and_a_warning_is_none() -> None:
    warned = doctor.key("no_key")
    assert not doctor.failed([warned])
    assert doctor.failed([warned, doctor.bus(False, "2.15")])
    told = json.loads(json.dumps(doctor.as_json([warned])))
    assert (told["well"], told["findings"][0]["outcome"]) == (True, "warn")


def test_what_is_shown_is_what_was_said_whatever_signs_are_in_it() -> None:
    console = Console(width=200)
    with console.capture() as shown:
        console.print(doctor.as_table([doctor.distributions([], ["NATS"])]))
    assert "pip install 'stratum[local]'" in shown.get()

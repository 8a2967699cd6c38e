"""Retention over the real schemas: what it makes, drops and leaves, alone and beside others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from deploy import retention, schema
from deploy.local.postgres import PostgresServer
from services.shared import keeping
from services.shared.clock import utc_now
from services.signals import wire
from services.signals.rules import RuleSettings, observe
from services.signals.testing import NOON, a_board

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DATABASE = "template_retention"
_numbers = count(1)


@pytest.fixture(scope="module")
def template(postgres_server: PostgresServer, passwords: dict[str, str]) -> dict[str, str]:
    """The logins of a database with every service's schema."""
    schema.upgrade(postgres_server.url(), passwords, DATABASE)
    return passwords


class Stored:
    """A database of one test's own: retention over it, and its rows as the superuser sees them."""

    def __init__(self, url: str, connect: Callable[[], psycopg.Connection]) -> None:
        self.url = url
        self.connect = connect

    def retention(self, now: datetime = NOW, **options: Any) -> dict[str, keeping.Report]:
        """One run that nobody disturbs."""
        done = retention.run(self.url, now, **options)
        assert not done.busy
        return {report.table: report for report in done.reports}

    def rows(self, statement: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        """What the database answers."""
        with self.connect() as connection:
            return connection.execute(statement, parameters).fetchall()

    def snapshots(self, *days: date) -> None:
        """A snapshot on each of these days, which are made as a service makes them."""
        with self.connect() as connection:
            connection.execute("SELECT ingest.keep_days('{odds_snapshots}', %s)", [list(days)])
            for day in days:
                connection.execute(
                    "INSERT INTO ingest.odds_snapshots (id, observed_at, event_id, book, market, player, outcome, "
                    "price) VALUES (%s, %s, 'game', 'betmgm', 'h2h', '', 'home', 1.9)",
                    [str(day), datetime.combine(day, datetime.min.time(), UTC)],
                )

    def made_on_time(self, table: LiteralString) -> None:
        """Lets all partitions look as if they had been made before their day."""
        with self.connect() as connection:
            for (name,) in connection.execute(
                "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass", [table]
            ).fetchall():
                where = sql.Identifier(*name.split("."))
                connection.execute(sql.SQL("COMMENT ON TABLE {} IS 'made 2020-01-01 00:00:00+00'").format(where))

    def days_of(self, table: LiteralString) -> set[str]:
        """The days that a table has partitions for."""
        found = self.rows(
            "SELECT right(inhrelid::regclass::text, 8) FROM pg_inherits WHERE inhparent = %s::regclass", table
        )
        return {day for (day,) in found}


@pytest.fixture
def stored(postgres_server: PostgresServer, template: dict[str, str]) -> Iterator[Stored]:
    name = f"retention_{next(_numbers)}"

    def connect(database: str = name, **options: Any) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1",
            port=postgres_server.port,
            user="postgres",
            password=postgres_server.password,
            dbname=database,
            **options,
        )

    with connect("postgres", autocommit=True) as connection:
        copied = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(DATABASE))
        connection.execute(copied)
    yield Stored(schema.service_url(postgres_server.url(), schema.MIGRATOR, template, name), connect)
    with connect("postgres", autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


SNAPSHOTS = "ingest.odds_snapshots"
OLD, YOUNG = date(2024, 12, 1), date(2026, 2, 1)


def test_a_day_whose_time_is_over_goes_whole_and_the_coming_days_are_there(stored: Stored) -> None:
    stored.snapshots(OLD, YOUNG)
    stored.made_on_time("ingest.odds_snapshots")
    done = stored.retention()[SNAPSHOTS]
    assert (done.partitions_made, done.partitions_dropped, done.rows_removed) == (4, 1, 1)
    assert done.bytes_freed > 0
    assert {"20260301", "20260302", "20260303", "20260304", "20260201"} <= stored.days_of("ingest.odds_snapshots")
    assert "20241201" not in stored.days_of("ingest.odds_snapshots")
    assert stored.rows("SELECT id FROM ingest.odds_snapshots") == [("2026-02-01",)]


def test_a_second_run_finds_nothing_to_do_and_says_when_the_next_day_is_due(stored: Stored) -> None:
    stored.snapshots(OLD, YOUNG)
    stored.made_on_time("ingest.odds_snapshots")
    stored.retention()
    again = stored.retention()
    assert all((report.partitions_made, report.partitions_dropped) == (0, 0) for report in again.values())
    assert again[SNAPSHOTS].next_due == datetime(2026, 2, 2, tzinfo=UTC) + timedelta(days=400)


def test_what_was_written_late_is_kept_as_long_as_what_was_written_in_time(stored: Stored) -> None:
    stored.snapshots(OLD)
    stored.retention(utc_now() + timedelta(days=399))
    assert "20241201" in stored.days_of("ingest.odds_snapshots")
    stored.retention(utc_now() + timedelta(days=401))
    assert "20241201" not in stored.days_of("ingest.odds_snapshots")


def test_a_dry_run_says_the_same_and_does_nothing(stored: Stored) -> None:
    stored.snapshots(OLD, YOUNG)
    stored.made_on_time("ingest.odds_snapshots")
    before = stored.days_of("ingest.odds_snapshots")
    said = stored.retention(dry_run=True)
    assert stored.days_of("ingest.odds_snapshots") == before
    assert stored.retention() == said


def test_nothing_is_dropped_that_is_kept_for_ever(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGEST_SNAPSHOTS_RETENTION_DAYS", "0")
    stored.snapshots(OLD)
    stored.made_on_time("ingest.odds_snapshots")
    done = stored.retention()[SNAPSHOTS]
    assert (done.partitions_dropped, done.next_due) == (0, None)


def test_a_schema_on_which_another_run_works_is_left_to_it(stored: Stored) -> None:
    with stored.connect() as other:
        other.execute("SELECT pg_advisory_lock(%s, hashtext('consensus'))", [retention._LOCK])
        done = retention.run(stored.url, NOW)
    assert done.busy == ["consensus"]
    assert {report.table.partition(".")[0] for report in done.reports} == {"signals", "ingest", "billing"}


def test_a_table_that_stays_in_use_is_left_to_the_next_run(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "LOCK_TIMEOUT", "10ms")
    monkeypatch.setattr(keeping, "LOCK_ATTEMPTS", 2)
    stored.snapshots(OLD, OLD + timedelta(days=1))
    stored.made_on_time("ingest.odds_snapshots")
    with stored.connect() as reader:
        reader.execute("SELECT count(*) FROM ingest.odds_snapshots")
        done = stored.retention()[SNAPSHOTS]
    assert (done.partitions_dropped, done.left) == (0, ["the table was in use, so 2 days stay"])
    assert stored.retention()[SNAPSHOTS].partitions_dropped == 2


def test_a_drop_waits_for_a_writer_and_then_goes_on(stored: Stored) -> None:
    stored.snapshots(OLD)
    stored.made_on_time("ingest.odds_snapshots")
    with stored.connect() as writer:
        writer.execute("LOCK TABLE ingest.odds_snapshots IN ROW EXCLUSIVE MODE")
        found: list[int] = []
        run = threading.Thread(target=lambda: found.append(stored.retention()[SNAPSHOTS].partitions_dropped))
        run.start()
        _until_somebody_waits(stored)
        writer.rollback()
        run.join(30)
    assert found == [1]


def test_two_who_need_the_same_day_both_get_it(stored: Stored) -> None:
    with stored.connect() as one, stored.connect() as other:
        assert _made(one, OLD) > 0
        later: list[int] = []
        waiting = threading.Thread(target=lambda: later.append(_made(other, OLD)))
        waiting.start()
        _until_somebody_waits(stored)
        one.commit()
        waiting.join(30)
        other.commit()
    assert later == [0]
    assert "20241201" in stored.days_of("ingest.odds_snapshots")


def test_readers_and_writers_of_other_days_do_not_wait_for_a_day_that_is_made(stored: Stored) -> None:
    stored.snapshots(YOUNG)
    with stored.connect() as maker:
        _made(maker, OLD)
        with stored.connect() as other:
            other.execute("SET lock_timeout = '10ms'")
            assert other.execute("SELECT count(*) FROM ingest.odds_snapshots").fetchone() == (1,)
            other.execute("UPDATE ingest.odds_snapshots SET price = 2.0")


def test_a_day_that_is_rolled_back_is_made_again(stored: Stored) -> None:
    with stored.connect() as writer:
        made = _made(writer, OLD)
        writer.rollback()
        assert _made(writer, OLD) == made > 0


def test_old_rows_of_small_tables_go(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "BATCH_ROWS", 3)
    with stored.connect() as connection:
        connection.execute(
            "INSERT INTO ingest.polls (sport_key, observed_at, failure, events, quotes, changes, snapshots) "
            "SELECT 'nba', timestamptz '2026-03-01 12:00+00' - day * interval '1 day', '', 1, 1, 1, 1 "
            "FROM generate_series(1, 100) AS day"
        )
        connection.execute("INSERT INTO ingest.keyframe_requests VALUES ('old', '2026-02-27'), ('new', '2026-03-01')")
    done = stored.retention()
    assert done["ingest.polls"].rows_removed == 10
    assert stored.rows("SELECT count(*) FROM ingest.polls") == [(90,)]
    assert stored.rows("SELECT event_id FROM ingest.keyframe_requests") == [("new",)]


def test_a_game_long_over_keeps_its_count_and_one_that_cannot_be_read_is_said(stored: Stored) -> None:
    board = a_board(**dict.fromkeys(("betmgm", "draftkings", "fanduel", "pinnacle", "caesars"), -5.5))
    state, _, _ = observe(None, board.observation, RuleSettings())
    whole = wire.dump_state(state)
    assert len(whole) > keeping.STUB_BYTES
    with stored.connect() as connection:
        for event_id, kept in (("over", whole), ("unreadable", b"\x01" * 1000)):
            connection.execute("INSERT INTO signals.event_state VALUES (%s, 0, 4711, false, %s)", [event_id, kept])
    day_before = stored.retention(NOON + timedelta(days=30))["signals.event_state"]
    day_after = stored.retention(NOON + timedelta(days=31))["signals.event_state"]
    assert (day_before.rows_removed, day_after.rows_removed) == (0, 1)
    assert day_after.left == ["1 states cannot be read, the first is that of unreadable"]
    held = stored.rows("SELECT applied_revision, state FROM signals.event_state WHERE event_id = 'over'")
    assert held == [(4711, wire.dump_state(None))]


def test_a_market_whose_end_nobody_told_is_no_present_one_and_its_game_is_over(stored: Stored) -> None:
    with stored.connect() as connection:
        for event_id, seen in (("silent", NOW - timedelta(days=31)), ("steady", NOW)):
            connection.execute(
                "INSERT INTO consensus.games (event_id, sport_key, home_team, away_team, observed_at, in_play, "
                "markets, books) VALUES (%s, 'nba', 'Home', 'Away', %s, false, '{h2h}', 5)",
                [event_id, seen],
            )
            connection.execute("INSERT INTO consensus.current_market VALUES (%s, 'h2h', '', 'nba')", [event_id])
    assert stored.retention()["consensus.current_market"].rows_removed == 1
    assert stored.rows("SELECT event_id FROM consensus.current_market") == [("steady",)]
    assert stored.rows("SELECT event_id, books FROM consensus.games ORDER BY event_id") == [
        ("silent", 0),
        ("steady", 5),
    ]


def test_the_command_of_the_cluster_says_it_in_one_line(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STRATUM_DATABASE_URL", stored.url)
    monkeypatch.setattr(retention, "configure_logging", lambda _: None)
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(retention, "log", _Said(said))
    assert retention.main([]) == 0
    assert [entry["event"] for entry in said] == ["retention"]
    assert {table["table"] for table in said[0]["tables"]} >= {SNAPSHOTS, "signals.signal", "consensus.quote_history"}


def test_a_wrong_setting_is_refused_before_anything_is_done(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STRATUM_DATABASE_URL", stored.url)
    monkeypatch.setenv("INGEST_SNAPSHOTS_RETENTION_DAYS", "0.5")
    assert retention.main([]) == 2
    assert "INGEST_SNAPSHOTS_RETENTION_DAYS: Value error, is 0, which keeps for ever" in capfd.readouterr().err


class _Said:
    """A logger that keeps what it is told."""

    def __init__(self, said: list[dict[str, Any]]) -> None:
        self._said = said

    def info(self, event: str, **facts: Any) -> None:
        self._said.append({"event": event, **facts})


def _made(connection: psycopg.Connection, day: date) -> int:
    row = connection.execute("SELECT ingest.keep_days('{odds_snapshots}', %s)", [[day]]).fetchone()
    assert row is not None
    return int(row[0])


def _until_somebody_waits(stored: Stored) -> None:
    for _ in range(2000):
        if stored.rows(
            "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database() "
            "AND pg_sleep(0.005) IS NOT NULL"
        ):
            return
    raise AssertionError("nobody waits")


def test_what_a_repeated_change_is_recognised_by_stays_for_two_days_and_the_ledger_for_a_season(stored: Stored) -> None:
    with stored.connect() as connection:
        connection.execute(
            "INSERT INTO billing.idempotency (caller, key, method, request_digest, response, noted_at) VALUES "
            "('acct_1', 'old', 'm', '', '', '2026-02-27 11:59+00'), "
            "('acct_1', 'new', 'm', '', '', '2026-02-27 12:01+00')"
        )
        connection.execute("SELECT billing.keep_days('{usage_ledger}', %s)", [[OLD, YOUNG]])
    stored.made_on_time("billing.usage_ledger")
    done = stored.retention()
    assert (done["billing.idempotency"].rows_removed, done["billing.usage_ledger"].partitions_dropped) == (1, 1)
    assert stored.rows("SELECT key FROM billing.idempotency") == [("new",)]
    assert "20260201" in stored.days_of("billing.usage_ledger")

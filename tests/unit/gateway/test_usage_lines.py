"""What a line of the access log means."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stratum.billing.v1.metering_service_pb2 import UsageLine

from gateway.usage.lines import Nothing, Unreadable, read, read_all
from gateway.usage.testing import METHOD, a_line


def test_an_admitted_call_becomes_a_line_for_the_ledger():
    line = read(a_line("r1"), "gateway-1")
    assert isinstance(line, UsageLine)
    assert line.started_at.ToDatetime(UTC) == datetime(2026, 11, 26, 5, 24, 52, 800_000, tzinfo=UTC)
    line.ClearField("started_at")
    assert line == UsageLine(
        request_id="r1",
        duration_milliseconds=12,
        account_id="acct_1",
        key_id="key_1",
        method=METHOD,
        path="/api/v1/intel/signals",
        status=200,
        bytes_sent=17_000,
        gateway="gateway-1",
    )


@pytest.mark.parametrize("account", [None, "", "-"])
def test_a_call_that_nobody_was_let_in_for_is_not_for_the_ledger(account):
    assert read(a_line(account=account, key=None), "g") is Nothing.NOT_ADMITTED


@pytest.mark.parametrize("request_id", ["chosen", None])
def test_an_account_that_a_caller_made_up_before_envoy_knew_a_route_is_not_believed(request_id):
    line = a_line(request_id, method=None, status=400, why="path_normalization_failed", account="acct_victim")
    assert read(line, "g") is Nothing.NOT_ADMITTED


def test_a_refused_call_of_an_account_is_for_the_ledger():
    line = read(a_line(status=429), "g")
    assert isinstance(line, UsageLine)
    assert line.status == 429


def test_a_stream_that_has_not_answered_yet_is_told_by_a_later_line():
    assert read(a_line(status=0, kind="DownstreamPeriodic"), "g") is Nothing.NOT_ANSWERED


def test_a_caller_who_left_before_the_answer_is_in_the_ledger_with_status_0():
    line = read(a_line(status=0, why=None, flags="DC"), "g")
    assert isinstance(line, UsageLine)
    assert line.status == 0


@pytest.mark.parametrize(
    ("said", "test"),
    [(None, False), ("-", False), ("live", False), (False, False), ("test", True), (True, True), ("true", True)],
)
def test_a_test_key_is_told_from_a_live_one(said, test):
    line = read(a_line(test=said), "g")
    assert isinstance(line, UsageLine)
    assert line.test is test


def test_a_query_that_should_not_be_in_the_log_gets_no_further():
    line = read(a_line(path="/api/v1/intel/signals?api_key=stratum_live_x"), "g")
    assert isinstance(line, UsageLine)
    assert line.path == "/api/v1/intel/signals"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"not JSON",
        a_line()[:-20],
        a_line(at="yesterday"),
        a_line(at="2026-11-26T05:24:52.800"),
        a_line(at=None),
        a_line(status="two hundred"),
        a_line(status=2**40),
        a_line(request_id=None),
        a_line(key=None),
        a_line(test="perhaps"),
        a_line(path="\ud800"),
        b'{"account":"\xff","at":"2026-11-26T05:24:52.800Z"}',
    ],
)
def test_what_cannot_be_read_says_why(line):
    outcome = read(line, "g")
    assert isinstance(outcome, Unreadable)
    assert outcome.why


def test_what_is_said_of_an_unreadable_line_holds_nothing_of_it():
    outcome = read(a_line(status="stratum_live_secret"), "g")
    assert isinstance(outcome, Unreadable)
    assert "secret" not in outcome.why


@given(torn=st.integers(1, len(a_line("torn")) - 3))
def test_a_line_behind_one_that_was_broken_off_is_found(torn):
    broken, whole = a_line("torn")[:torn], a_line("whole")
    (piece, unreadable), (rest, line) = read_all(broken + whole, "g")
    assert (piece, rest) == (broken, whole)
    assert isinstance(unreadable, Unreadable)
    assert isinstance(line, UsageLine)
    assert line.request_id == "whole"


@given(path=st.text())
def test_no_caller_can_write_where_a_line_begins(path):
    forged = path + a_line("forged", account="acct_victim").decode()
    broken = json.dumps({"account": 7, "path": forged}).encode()
    assert [isinstance(outcome, Unreadable) for _, outcome in read_all(broken, "g")] == [True]
    line = a_line("mine", path=forged)
    ((_, outcome),) = read_all(line, "g")
    assert isinstance(outcome, UsageLine)
    assert outcome.request_id == "mine"


@given(line=st.binary(max_size=200))
def test_any_bytes_are_read_or_said_to_be_unreadable_and_none_of_them_is_lost(line):
    assert b"".join(piece for piece, _ in read_all(line, "g")) == line

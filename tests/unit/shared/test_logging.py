"""Logs: what is in every line, and what is in none."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import pytest
import structlog

from services.shared import tracing
from services.shared.logging import configure_logging, logger, masked

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What was logged, once logging is set up as a service sets it up; set back afterwards."""
    before = structlog.get_config()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure_logging("signals", "INFO", "json")
    (handler,) = root.handlers
    assert isinstance(handler, logging.StreamHandler)
    written = StringIO()
    handler.setStream(written)
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**before)


def test_a_line_says_who_when_and_how_bad(lines: Lines):
    logger("services.signals.api").warning("something happened", count=3)
    (line,) = lines()
    assert line["service"] == "signals"
    assert line["event"] == "something happened"
    assert line["level"] == "warning"
    assert line["count"] == 3
    assert line["timestamp"].endswith("Z")


def test_a_line_says_of_which_trace_it_is_where_one_is_followed(lines: Lines, monkeypatch: pytest.MonkeyPatch):
    logger("a").info("outside")
    monkeypatch.setattr(tracing, "trace_id", lambda: "0af7651916cd43dd8448eb211c80319c")
    logger("a").info("inside")
    outside, inside = lines()
    assert "trace_id" not in outside
    assert inside["trace_id"] == "0af7651916cd43dd8448eb211c80319c"


def test_what_is_bound_to_the_call_is_in_its_lines(lines: Lines):
    with structlog.contextvars.bound_contextvars(request_id="abc"):
        logger("a").info("inside")
        logging.getLogger("library").warning("inside too")
    logger("a").info("outside")
    assert [line.get("request_id") for line in lines()] == ["abc", "abc", None]


def test_lines_below_the_level_are_left_out(lines: Lines):
    logger("a").debug("too fine")
    logging.getLogger("library").debug("too fine")
    assert lines() == []


SECRETS = [
    {"password": "hunter2"},
    {"odds_api_key": "hunter2"},
    {"headers": {"Authorization": "Bearer hunter2"}},
    {"address": "postgresql+psycopg://signals:hunter2@db:5432/stratum"},
    {"url": "https://api.the-odds-api.com/v4/sports?apiKey=hunter2&regions=us"},
    {"urls": ["nats://token:hunter2@bus:4222"]},
    {"error": ValueError("cannot reach https://x/y?api_key=hunter2")},
]


@pytest.mark.parametrize("facts", SECRETS, ids=[next(iter(facts)) for facts in SECRETS])
def test_no_secret_is_shown(lines: Lines, facts: dict[str, Any]):
    logger("a").info("with a secret", **facts)
    logging.getLogger("library").warning("with a secret: %s", facts)
    shown = json.dumps(lines())
    assert "with a secret" in shown
    assert "hunter2" not in shown


def test_no_secret_is_shown_in_a_traceback(lines: Lines):
    try:
        raise ConnectionError("postgresql://signals:hunter2@db/stratum refused, password=hunter2")
    except ConnectionError:
        logger("a").exception("failed")
        logging.getLogger("library").exception("failed")
    found = lines()
    assert all("ConnectionError" in line["exception"] for line in found)
    assert "hunter2" not in json.dumps(found)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
        ("http://user@host/path", "http://user@host/path"),
        ("apiKey=abc&x=1", "apiKey=***&x=1"),
        ("the token ring: nothing", "the token ring: nothing"),
    ],
)
def test_masking_leaves_everything_else_as_it_is(text: str, shown: str):
    assert masked(text) == shown

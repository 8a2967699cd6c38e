"""The evening that test keys read: a function of its settings, under a name that stands for all of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest

from deploy.sandbox.config import Config
from deploy.sandbox.evening import BEGINS_AT, EDITION, Evening

EVENING = Evening(seed=4, games=3, minutes=20)


def test_equal_settings_make_equal_answers():
    assert list(EVENING.answers()) == list(Evening(seed=4, games=3, minutes=20).answers())


def test_there_is_an_answer_a_minute_from_the_first_to_the_last():
    times = [at for at, _ in EVENING.answers()]
    assert (times[0], times[-1], len(times)) == (BEGINS_AT, EVENING.ends_at, 21)


@pytest.mark.parametrize("change", [{"seed": 5}, {"games": 4}, {"minutes": 21}])
def test_another_evening_has_another_name(change: dict[str, int]):
    assert replace(EVENING, **change).name != EVENING.name


def test_a_name_is_the_epoch_of_a_feed():
    assert len(EVENING.name) == 16
    assert int(EVENING.name, 16) >= 0


def test_a_market_that_answers_otherwise_is_another_edition():
    """Where this fails, the evening has changed under its name: raise EDITION, and write both here."""
    answers = json.dumps([body for _, body in Config().evening.answers()])
    assert (EDITION, hashlib.sha256(answers.encode()).hexdigest()[:16]) == (1, "9fe79aefe550e87c")

"""A process that dies is started again, a bounded number of times; one that has done its work is left in peace."""

import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import psutil
import pytest

from deploy.children import SHORT_LIVES, GaveUpError, Household, Kept, Program

FOREVER = "import time\nwhile True: time.sleep(60)"
DEADLINE_SECONDS = 20.0


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def household(said: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Household]:
    monkeypatch.setattr("deploy.children.FIRST_PAUSE_SECONDS", 0.0)
    household = Household(said.append)
    yield household
    household.stop()


def a_program(tmp_path: Path, code: str) -> Program:
    return Program([sys.executable, "-c", code], tmp_path / "log", {})


def watched_until(household: Household, kept: Kept, restarts: int) -> None:
    deadline = monotonic() + DEADLINE_SECONDS
    while kept.restarts < restarts and not kept.finished and monotonic() < deadline:
        household.watch()


def test_a_killed_program_is_started_again_and_it_is_said(
    household: Household, said: list[str], tmp_path: Path
) -> None:
    kept = household.add("consensus", a_program(tmp_path, FOREVER), tmp_path / "log")
    killed = kept.runnable.pid
    psutil.Process(killed).kill()

    watched_until(household, kept, restarts=1)

    assert kept.runnable.running
    assert kept.runnable.pid != killed
    assert "consensus ended by signal 9" in said[0]


def test_a_program_that_has_done_its_work_stays_down(household: Household, said: list[str], tmp_path: Path) -> None:
    kept = household.add("ingest", a_program(tmp_path, ""), tmp_path / "log", may_finish=True)

    watched_until(household, kept, restarts=1)

    assert kept.finished
    assert said == []


def test_a_program_that_ends_again_and_again_is_given_up(household: Household, tmp_path: Path) -> None:
    kept = household.add("signals", a_program(tmp_path, "raise SystemExit(3)"), tmp_path / "log")

    with pytest.raises(GaveUpError, match="signals ended 9 times in a row with 3"):
        watched_until(household, kept, restarts=SHORT_LIVES + 1)


def test_one_that_is_killed_on_purpose_is_started_again_as_often_as_that_happens(
    household: Household, tmp_path: Path
) -> None:
    kept = household.add("signals", a_program(tmp_path, FOREVER), tmp_path / "log")

    for restarts in range(1, SHORT_LIVES + 3):
        kept.kill()
        watched_until(household, kept, restarts)

    assert kept.runnable.running


def test_stopping_leaves_nothing_running(household: Household, tmp_path: Path) -> None:
    pids = [
        household.add(name, a_program(tmp_path, FOREVER), tmp_path / "log").runnable.pid for name in ("one", "another")
    ]

    household.stop()

    assert not any(psutil.pid_exists(pid) for pid in pids)

"""Which faults a run tries follows from its seed, and a long run tries every kind on everybody it can meet."""

from __future__ import annotations

from collections import Counter

from tests.faults import schedule
from tests.faults.schedule import KILL, LONG, PROCESSES, TARGETS, drawn


def test_a_seed_draws_the_same_faults_again_and_another_seed_others() -> None:
    assert drawn(7, LONG) == drawn(7, LONG)
    assert drawn(7, LONG) != drawn(8, LONG)


def test_a_long_run_kills_a_hundred_times_and_everybody_about_as_often() -> None:
    killed = Counter(fault.target for fault in drawn(1, LONG) if fault.kind == KILL)
    assert sum(killed.values()) >= 100
    assert killed.keys() == set(PROCESSES)
    assert max(killed.values()) - min(killed.values()) <= 1


def test_a_long_run_meets_every_target_of_every_kind() -> None:
    met = {(fault.kind, fault.target) for fault in drawn(1, LONG)}
    assert met == {(kind, target) for kind, targets in TARGETS.items() for target in targets}


def test_every_kind_has_its_targets_and_its_place_in_both_runs() -> None:
    assert TARGETS.keys() == LONG.keys() == schedule.SHORT.keys()

"""When a provider that fails is left alone, and for how long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.ingest.circuit import FAILURES_TO_OPEN, LONGEST_PAUSES, Circuit, State

PAUSE = 60.0


def after(*failed_at: float) -> Circuit:
    """A circuit whose calls failed at these times."""
    circuit = Circuit()
    for moment in failed_at:
        circuit = circuit.after_failure(moment, PAUSE)
    return circuit


def test_two_failures_in_a_row_are_not_enough_and_three_are() -> None:
    assert after(1.0, 2.0).state(2.0) is State.CLOSED
    assert after(1.0, 2.0, 3.0).state(3.0) is State.OPEN


def test_an_answer_in_between_begins_again() -> None:
    assert Circuit.after_answer() == Circuit()


def test_after_the_pause_one_call_finds_out() -> None:
    opened = after(1.0, 2.0, 3.0)
    assert (opened.seconds_left(13.0), opened.state(62.9), opened.state(63.0)) == (50.0, State.OPEN, State.HALF_OPEN)


def test_every_further_failure_doubles_the_pause() -> None:
    again = after(1.0, 2.0, 3.0, 63.0)
    assert (again.state(182.0), again.state(183.0)) == (State.OPEN, State.HALF_OPEN)


@given(st.lists(st.floats(0.0, 1e6), min_size=FAILURES_TO_OPEN, max_size=40).map(sorted))
def test_a_pause_has_an_end(moments: list[float]) -> None:
    circuit = after(*moments)
    assert PAUSE <= circuit.pause_seconds <= PAUSE * LONGEST_PAUSES
    assert circuit.state(moments[-1] + circuit.pause_seconds) is State.HALF_OPEN

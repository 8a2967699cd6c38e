"""Whether the provider is worth asking: after some failed calls in a row it is left alone for a while. Pure.

Closed, calls go out. After enough failures it opens, and nothing is asked, so nothing is spent, until a pause has
passed. Then it is half open: one call may find out. If that fails too, the next pause is twice as long.

Each process has its own, and time comes in as an argument. (The packages for this keep their own clocks and count one
call at a time; ours asks something free first, and the pause is in the provider's time.)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

#: Calls that failed in a row, each after all its attempts.
FAILURES_TO_OPEN = 3
#: The longest pause, in first ones.
LONGEST_PAUSES = 16.0


class State(IntEnum):
    """As the metric shows it."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


@dataclass(frozen=True, slots=True)
class Circuit:
    """How the last calls went. Times are seconds of any clock that only goes forward."""

    failures: int = 0
    opened_at: float = 0.0
    pause_seconds: float = 0.0

    def state(self, now: float) -> State:
        """What may be asked now."""
        if self.failures < FAILURES_TO_OPEN:
            return State.CLOSED
        return State.OPEN if now < self.opened_at + self.pause_seconds else State.HALF_OPEN

    def seconds_left(self, now: float) -> float:
        """How long nothing is asked."""
        return max(0.0, self.opened_at + self.pause_seconds - now) if self.state(now) is State.OPEN else 0.0

    def after_failure(self, now: float, first_pause_seconds: float) -> Circuit:
        """The call failed, whatever was tried."""
        failures = self.failures + 1
        if failures < FAILURES_TO_OPEN:
            return Circuit(failures)
        pause = max(first_pause_seconds, min(first_pause_seconds * LONGEST_PAUSES, self.pause_seconds * 2.0))
        return Circuit(failures, now, pause)

    @staticmethod
    def after_answer() -> Circuit:
        """The provider answered, be it with a refusal: it is there."""
        return Circuit()

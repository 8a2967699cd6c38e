"""When a call is made again, and when it is given up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stratum_client.errors import (
    ConnectionFailedError,
    RateLimitedError,
    StratumError,
    UnavailableError,
)

#: A number from 0 (inclusive) to 1, another one each time.
Chance = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Retries:
    """How often, and for how long, a call is made again.

    Made again are calls that were refused for their number (429), that the API could not answer (502, 503, 504), and
    that got no answer at all. Nothing else is: what was refused for a reason would be refused again.
    """

    #: Attempts at most where the API could not answer. Those that were refused for their number do not count: they end
    #: by `total_seconds`.
    attempts: int = 4
    #: One attempt may take as long: to connect, and then to be answered.
    attempt_seconds: float = 15.0
    #: The whole call may take as long, with every attempt and every pause.
    total_seconds: float = 60.0
    #: The first pause is between nothing and this, the next between nothing and twice this, and so on.
    first_pause_seconds: float = 0.5
    #: No pause of our own choice is longer. What the API asks for with `Retry-After` may be.
    longest_pause_seconds: float = 8.0

    def pause(self, problem: StratumError, attempt: int, failed: int, chance: Chance) -> float | None:
        """Seconds to wait after an attempt (counted from 1), of which `failed` were not answered; None: give up."""
        match problem:
            case RateLimitedError(retry_after_seconds=asked):
                if asked:  # a little later than asked for, so that not all who wait come at the same moment
                    return asked + chance() * self.first_pause_seconds
                return self.first_pause_seconds + self._jittered(attempt, chance)
            case UnavailableError(retry_after_seconds=asked) if failed < self.attempts:
                return max(asked or 0.0, self._jittered(failed, chance))
            case ConnectionFailedError() if failed < self.attempts:
                return self._jittered(failed, chance)
            case _:
                return None

    def _jittered(self, failed: int, chance: Chance) -> float:
        return chance() * backoff(failed, self.first_pause_seconds, self.longest_pause_seconds)


@dataclass(frozen=True, slots=True)
class Reconnects:
    """How a stream is opened again that broke off, and when it is lost."""

    #: Nothing for as long, not even a heartbeat, and the connection counts as dead. Heartbeats come each 15 s.
    quiet_seconds: float = 45.0
    #: The first pause is between nothing and this; the server's `retry:` takes its place.
    first_pause_seconds: float = 1.0
    longest_pause_seconds: float = 30.0
    #: A connection that lived as long was a good one: pauses are short again.
    settled_seconds: float = 30.0
    #: Without a signal or a good connection for as long, the stream is lost.
    give_up_seconds: float = 300.0


def backoff(attempt: int, first: float, longest: float) -> float:
    """The longest pause after an attempt, counted from 1: doubled each time, up to an end."""
    return min(longest, first * 2.0 ** min(attempt - 1, 30))

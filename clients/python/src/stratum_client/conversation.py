"""One call with its repetitions, as a conversation with whoever does the I/O: it says what to do and is told what came.

The client that waits and the one for asyncio both hold it, so they behave alike; tests hold it without any network.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from itertools import count

from stratum_client.calls import Request
from stratum_client.errors import ApiError, ConnectionFailedError, StratumError, UnreadableAnswerError, error_of
from stratum_client.retries import Chance, Retries
from stratum_client.seen import Seen

Clock = Callable[[], float]

NOT_MODIFIED = 304


@dataclass(frozen=True, slots=True)
class Send:
    """Send it, and say what came: a Reply or a Failure, within the time."""

    request: Request
    seconds: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, whatever its status."""

    status: int
    #: Names in any case.
    headers: Mapping[str, str]
    body: bytes

    @property
    def request_id(self) -> str | None:
        """The call, as the API's logs know it."""
        return self.headers.get("x-request-id")


@dataclass(frozen=True, slots=True)
class Failure:
    """No answer."""

    error: Exception

    def problem(self) -> ConnectionFailedError:
        """The same, as our callers know it."""
        problem = ConnectionFailedError(f"{type(self.error).__name__}: {self.error}".removesuffix(": "))
        problem.__cause__ = self.error
        return problem


def problem_of(outcome: Reply | Failure) -> StratumError | None:
    """What is wrong with an outcome; None when it is an answer, or says that nothing is new."""
    if isinstance(outcome, Failure):
        return outcome.problem()
    if outcome.status >= 400:
        return error_of(outcome.status, outcome.headers, outcome.body)
    if not 200 <= outcome.status < 300 and outcome.status != NOT_MODIFIED:
        return UnreadableAnswerError(f"status {outcome.status} is none of the API's", outcome.request_id)
    return None


def conversation(
    request: Request, retries: Retries, seen: Seen, clock: Clock, chance: Chance
) -> Generator[Send | Wait, Reply | Failure | None, Reply]:
    """Sends the request until it is answered; returns the answer. Raises what the last attempt came to."""
    give_up_at = clock() + retries.total_seconds
    failed = 0
    for attempt in count(1):
        pause = seen.pause(clock())
        # Where there is no time to wait for our turn, the API may say what it thinks of the call.
        if 0 < pause < give_up_at - clock():
            yield Wait(pause)
        outcome = yield Send(request, min(retries.attempt_seconds, max(give_up_at - clock(), 0.001)))
        assert outcome is not None
        if isinstance(outcome, Reply):
            seen.note(outcome.headers, clock())
        problem = problem_of(outcome)
        if problem is None:
            assert isinstance(outcome, Reply)
            return outcome
        failed += not (isinstance(problem, ApiError) and problem.status == 429)
        wait = retries.pause(problem, attempt, failed, chance)
        if wait is None or clock() + wait >= give_up_at:
            raise problem
        yield Wait(wait)
    raise AssertionError("attempts do not end by themselves")

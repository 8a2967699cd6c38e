"""When a call is made again, and when it is given up: the whole policy, without a network and without waiting."""

from collections.abc import Iterator

import httpx
import pytest
from stratum_client import (
    AccessDeniedError,
    ApiError,
    AuthenticationError,
    ConflictError,
    ConnectionFailedError,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
    Retries,
    ServerError,
    StratumError,
    UnavailableError,
    UnreadableAnswerError,
)
from stratum_client.calls import Request
from stratum_client.conversation import Failure, Reply, Send, conversation
from stratum_client.retries import backoff
from stratum_client.seen import Seen

REQUEST = Request("GET", "/api/v1/intel/signals", {})
DOWN = Failure(httpx.ConnectError("refused"))
LIMITED = {"x-ratelimit-limit": "300", "ratelimit-policy": '"default";q=300;w=60', "x-ratelimit-reset": "60"}


def reply(status: int, body: bytes = b"{}", **headers: str) -> Reply:
    return Reply(status, httpx.Headers({name.replace("_", "-"): value for name, value in headers.items()}), body)


class Held:
    """A conversation that was held to its end: what was sent and waited, with a clock that waiting moves on."""

    def __init__(
        self,
        *outcomes: Reply | Failure,
        retries: Retries = Retries(),  # noqa: B008
        chance: float = 0.5,
        seen: Seen | None = None,
        answer_seconds: float = 0.0,
    ) -> None:
        self.now = 1000.0
        self.waits: list[float] = []
        self.sent: list[Send] = []
        self.answer: Reply | None = None
        self.error: StratumError | None = None
        coming: Iterator[Reply | Failure] = iter(outcomes)
        talk = conversation(REQUEST, retries, seen or Seen(), lambda: self.now, lambda: chance)
        outcome: Reply | Failure | None = None
        try:
            while True:
                step = talk.send(outcome)
                if isinstance(step, Send):
                    self.sent.append(step)
                    self.now += answer_seconds
                    outcome = next(coming, outcomes[-1])
                else:
                    self.waits.append(step.seconds)
                    self.now += step.seconds
                    outcome = None
        except StopIteration as answered:
            self.answer = answered.value
        except StratumError as error:
            self.error = error


@pytest.mark.parametrize("status", [200, 201, 304])
def test_an_answer_is_an_answer(status: int) -> None:
    held = Held(reply(status))
    assert held.answer is not None
    assert (held.answer.status, len(held.sent), held.waits) == (status, 1, [])


@pytest.mark.parametrize("outcome", [DOWN, reply(502), reply(503), reply(504)])
def test_what_was_not_answered_is_sent_four_times_with_growing_pauses(outcome: Reply | Failure) -> None:
    held = Held(outcome)
    assert isinstance(held.error, UnavailableError | ConnectionFailedError)
    assert (len(held.sent), held.waits) == (4, [0.25, 0.5, 1.0])


def test_an_answer_after_failures_is_an_answer() -> None:
    held = Held(DOWN, reply(503), reply(200))
    assert held.answer is not None
    assert len(held.sent) == 3


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequestError),
        (401, AuthenticationError),
        (403, AccessDeniedError),
        (404, NotFoundError),
        (409, ConflictError),
        (405, InvalidRequestError),
        (418, InvalidRequestError),
        (500, ServerError),
        (599, ServerError),
        (302, UnreadableAnswerError),
    ],
)
def test_what_would_be_refused_again_is_not_sent_again(status: int, kind: type[StratumError]) -> None:
    held = Held(reply(status, retry_after="1"))
    assert type(held.error) is kind
    assert (len(held.sent), held.waits) == (1, [])


def test_what_was_refused_for_its_number_is_sent_again_when_the_api_says_and_little_later() -> None:
    held = Held(reply(429, retry_after="7"), reply(200))
    assert held.answer is not None
    assert held.waits == [7.25]


def test_refusals_for_the_number_do_not_count_as_attempts_and_end_with_the_deadline() -> None:
    held = Held(reply(429, retry_after="9"))
    assert isinstance(held.error, RateLimitedError)
    assert held.error.retry_after_seconds == 9
    assert (len(held.sent), held.now - 1000) == (7, pytest.approx(55.5))


def test_refusals_for_the_number_leave_the_other_attempts_as_many_as_there_are() -> None:
    held = Held(*[reply(429, retry_after="1")] * 5, *[reply(503)] * 3, reply(200))
    assert held.answer is not None


def test_a_pause_that_would_end_after_the_deadline_is_not_begun() -> None:
    held = Held(reply(429, retry_after="61"))
    assert isinstance(held.error, RateLimitedError)
    assert held.waits == []


def test_refusals_that_do_not_say_how_long_are_asked_less_and_less_often() -> None:
    held = Held(reply(429), retries=Retries(total_seconds=20))
    assert held.waits == [0.75, 1.0, 1.5, 2.5, 4.5, 4.5, 4.5]


def test_unavailable_may_ask_for_a_longer_pause() -> None:
    assert Held(reply(503, retry_after="5"), reply(200)).waits == [5.0]


def test_no_attempt_is_given_more_time_than_is_left() -> None:
    held = Held(DOWN, retries=Retries(attempts=10, attempt_seconds=15, total_seconds=40), answer_seconds=15, chance=0.0)
    assert [send.seconds for send in held.sent] == [15, 15, 10]


@pytest.mark.parametrize("chance", [0.0, 0.999])
def test_pauses_are_between_nothing_and_a_doubled_longest(chance: float) -> None:
    assert Held(DOWN, chance=chance).waits == pytest.approx([chance * 0.5, chance * 1.0, chance * 2.0])


def test_pauses_grow_to_an_end() -> None:
    assert [backoff(attempt, 1.0, 30.0) for attempt in (1, 2, 3, 6, 10_000)] == [1.0, 2.0, 4.0, 30.0, 30.0]


def test_the_last_permitted_call_makes_the_next_one_wait_for_a_token() -> None:
    seen = Seen()
    Held(reply(200, **LIMITED | {"x-ratelimit-remaining": "0"}), seen=seen)
    held = Held(reply(200), seen=seen)
    assert held.waits == [pytest.approx(0.2)]


def test_nobody_waits_while_calls_are_left() -> None:
    seen = Seen()
    Held(reply(200, **LIMITED | {"x-ratelimit-remaining": "1"}), seen=seen)
    assert Held(reply(200), seen=seen).waits == []


def test_those_who_wait_for_tokens_wait_one_behind_the_other() -> None:
    seen = Seen()
    seen.note(httpx.Headers(LIMITED | {"x-ratelimit-remaining": "0"}), 0.0)
    assert [seen.pause(0.0) for _ in range(3)] == pytest.approx([0.2, 0.4, 0.6])
    assert seen.pause(10.0) == 0.0


def test_without_a_policy_a_token_takes_a_second_at_most() -> None:
    seen = Seen()
    seen.note(httpx.Headers({"x-ratelimit-limit": "5", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "60"}), 0.0)
    assert seen.pause(0.0) == 1.0


def test_an_error_says_everything_that_the_api_said() -> None:
    body = b"""{"code": 7, "message": "the key has no markets:read", "details": [{"@type":
        "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SCOPE_MISSING", "domain": "stratum",
        "metadata": {"scope": "markets:read"}}], "request_id": "f9be"}"""
    error = Held(reply(403, body)).error
    assert isinstance(error, AccessDeniedError)
    assert (error.code, error.reason, error.metadata, error.request_id) == (
        7,
        "SCOPE_MISSING",
        {"scope": "markets:read"},
        "f9be",
    )
    assert str(error) == "403 SCOPE_MISSING: the key has no markets:read (request f9be)"


def test_a_state_that_forbids_a_call_is_a_conflict_though_http_calls_it_a_bad_request() -> None:
    error = Held(reply(400, b'{"code": 9, "details": [{"reason": "KEY_NOT_ACTIVE"}]}')).error
    assert type(error) is ConflictError


@pytest.mark.parametrize("body", [b"", b"<html>Bad gateway</html>", b"[]", b'{"code": "x"}', b"\xff", b'"text"'])
def test_an_error_that_something_in_between_wrote_is_an_error_too(body: bytes) -> None:
    error = Held(reply(403, body, x_request_id="f9be")).error
    assert isinstance(error, ApiError)
    assert (error.status, error.code, error.reason, error.request_id) == (403, None, "UNSPECIFIED", "f9be")


def test_a_reason_of_a_later_day_is_a_reason() -> None:
    error = Held(reply(403, b'{"code": 7, "details": [{"reason": "MOON_IN_WRONG_PHASE"}]}')).error
    assert isinstance(error, ApiError)
    assert error.reason == "MOON_IN_WRONG_PHASE"

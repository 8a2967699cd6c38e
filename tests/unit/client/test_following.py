"""How a stream is kept, resumed and given up: the whole policy, without a network and without waiting."""

from collections.abc import Callable

import httpx
import pytest
from stratum_client import (
    ApiError,
    AuthenticationError,
    Ended,
    Heartbeat,
    Reconnects,
    Signal,
    StratumError,
    StreamItem,
    StreamLostError,
    Truncated,
    UnreadableAnswerError,
)
from stratum_client.calls import Request
from stratum_client.conversation import Failure, Reply, Wait
from stratum_client.following import Close, Following, Hand, Open, Opened, Outcome, Read
from stratum_client.seen import Seen

DOWN = Failure(httpx.ConnectError("refused"))
CUT = Failure(httpx.ReadError("reset"))
OPENED = Opened(httpx.Headers({"content-type": "text/event-stream"}))
OPENING = b"retry: 3000\nid: f-1\n\n"


def signal(number: int) -> bytes:
    return b'id: f-%d\nevent: signal\ndata: {"id":"s%d","observed_at":"2026-11-26T12:00:00Z"}\n\n' % (number, number)


def refused(status: int, **headers: str) -> Reply:
    return Reply(status, httpx.Headers({name.replace("_", "-"): value for name, value in headers.items()}), b"{}")


class Held:
    """A stream that got what the test gives it, one connection after another, until that or its patience ends.

    Each connection is an outcome of opening, and the pieces that are read behind it; `for_seconds` is how long each
    piece takes. Behind the last connection everything is down.
    """

    def __init__(
        self,
        *connections: tuple[Outcome | bytes, ...],
        after: str | None = None,
        heartbeats: bool = False,
        policy: Reconnects = Reconnects(),  # noqa: B008
        for_seconds: float = 0.0,
        until: Callable[["Held"], bool] = lambda _: False,
    ) -> None:
        self.now = 500.0
        self.opened: list[Request] = []
        self.waits: list[float] = []
        self.items: list[StreamItem] = []
        self.cursors: list[str | None] = []
        self.error: StratumError | None = None
        self.following = Following(
            Request("GET", "/api/v1/intel/signals:watch", {}),
            after=after,
            heartbeats=heartbeats,
            policy=policy,
            opening_seconds=60.0,
            seen=Seen(),
            clock=lambda: self.now,
            chance=lambda: 0.5,
        )
        coming = [list(connection) for connection in connections]
        pieces: list[Outcome] = []
        talk = self.following.run()
        outcome: Outcome = None
        try:
            while not until(self):
                action = talk.send(outcome)
                outcome = None
                match action:
                    case Open(request, _):
                        self.opened.append(request)
                        pieces = coming.pop(0) if coming else [DOWN]
                        outcome = pieces.pop(0)
                    case Read():
                        self.now += for_seconds
                        outcome = pieces.pop(0) if pieces else CUT
                    case Wait(seconds):
                        self.waits.append(seconds)
                        self.now += seconds
                    case Hand(item):
                        self.items.append(item)
                        self.cursors.append(self.following.cursor)
                    case Close():
                        pieces = []
        except StratumError as error:
            self.error = error

    @property
    def resumed_after(self) -> list[str | None]:
        return [request.headers.get("last-event-id") for request in self.opened]


def ids(held: Held) -> list[str]:
    return [item.id for item in held.items if isinstance(item, Signal)]


def test_a_stream_goes_on_behind_the_last_signal_wherever_it_breaks_off() -> None:
    held = Held(
        (OPENED, OPENING, signal(2) + signal(3)[:20]), (OPENED, signal(3)), until=lambda held: ids(held)[1:] != []
    )
    assert ids(held) == ["s2", "s3"]
    assert held.resumed_after == [None, "f-2"]


def test_a_stream_begins_where_it_is_told() -> None:
    assert Held((OPENED, OPENING), after="f-0", until=lambda held: bool(held.opened)).resumed_after == ["f-0"]


def test_heartbeats_move_the_place_without_being_handed_over() -> None:
    held = Held((OPENED, OPENING, b": hb\nid: f-9\n\n", CUT), until=lambda held: len(held.opened) == 2)
    assert (held.items, held.resumed_after) == ([], [None, "f-9"])


def test_whoever_asks_for_heartbeats_gets_them_and_the_ends() -> None:
    stream = OPENING + b': hb\nid: f-9\n\nevent: end\ndata: {"reason":"draining"}\n\n'
    held = Held((OPENED, stream), heartbeats=True, until=lambda held: len(held.opened) == 2)
    assert held.items == [Heartbeat(cursor="f-1"), Heartbeat(cursor="f-9"), Ended(reason="draining")]


def test_an_end_is_followed_by_another_connection_after_as_long_as_the_server_said() -> None:
    held = Held(
        (OPENED, OPENING, b'event: end\ndata: {"reason":"max_age"}\n\n'), until=lambda held: len(held.opened) == 2
    )
    assert (held.waits, held.resumed_after) == ([1.5], [None, "f-1"])


def test_a_gap_is_handed_over_and_the_stream_goes_on_behind_it() -> None:
    gap = b'id: g-5\nevent: truncated\ndata: {"reason":"retention","cursor":"g-5"}\n\n'
    held = Held((OPENED, gap), after="f-1", until=lambda held: len(held.opened) == 2)
    assert held.items == [Truncated(reason="retention", cursor="g-5")]
    assert held.resumed_after == ["f-1", "g-5"]


def test_what_is_being_dealt_with_is_not_behind_us_yet() -> None:
    held = Held((OPENED, OPENING, signal(2) + signal(3)), until=lambda held: len(held.items) == 2)
    assert held.cursors == ["f-1", "f-2"]


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_that_lasts_ends_the_stream_for_good(status: int) -> None:
    held = Held((OPENED, OPENING, CUT), (refused(status),))
    assert isinstance(held.error, ApiError)
    assert (held.error.status, len(held.opened)) == (status, 2)


def test_a_key_that_is_revoked_while_the_stream_is_open_ends_it() -> None:
    held = Held((OPENED, OPENING, signal(2), b'event: end\ndata: {"reason":"key_revoked"}\n\n'), (refused(401),))
    assert ids(held) == ["s2"]
    assert isinstance(held.error, AuthenticationError)


@pytest.mark.parametrize("outcome", [DOWN, refused(500), refused(503), refused(429)])
def test_what_may_pass_is_tried_again_less_and_less_often_until_the_stream_is_lost(outcome: Outcome) -> None:
    held = Held((OPENED, OPENING, CUT), *[(outcome,)] * 100)
    assert isinstance(held.error, StreamLostError)
    assert held.error.cursor == "f-1"
    assert held.waits[:6] == [1.5, 3.0, 6.0, 12.0, 15.0, 15.0]
    assert 280 < held.now - 500 < 300


def test_too_many_streams_are_asked_again_when_the_server_said() -> None:
    held = Held((refused(429, retry_after="5"),), (OPENED, OPENING), until=lambda held: len(held.opened) == 2)
    assert held.waits == [5.5]


def test_a_stream_that_never_opened_is_given_up_as_a_call_is() -> None:
    held = Held()
    assert isinstance(held.error, StreamLostError)
    assert held.now - 500 < 60
    assert held.error.__cause__ is not None


def test_a_server_that_hangs_up_at_once_is_not_asked_for_ever() -> None:
    held = Held(*[(OPENED, OPENING, CUT)] * 1000)
    assert isinstance(held.error, StreamLostError)
    assert len(held.opened) < 30


def test_signals_keep_a_stream_alive_that_breaks_off_again_and_again() -> None:
    held = Held(*[(OPENED, signal(number), CUT) for number in range(200)], until=lambda held: len(held.items) == 200)
    assert held.error is None
    assert max(held.waits) == 15.0


def test_a_connection_that_lived_makes_the_pauses_short_again() -> None:
    hour = (OPENED, *[b": hb\nid: f-1\n\n"] * 10)
    held = Held(*[(DOWN,)] * 3, hour, (DOWN,), hour, for_seconds=15.0, until=lambda held: len(held.opened) == 6)
    assert held.waits == [0.5, 1.0, 2.0, 0.5, 1.0]


def test_what_is_no_stream_is_not_read_as_one() -> None:
    held = Held((Opened(httpx.Headers({"content-type": "text/html"})), b"<html>"))
    assert isinstance(held.error, UnreadableAnswerError)


def test_events_of_a_later_day_are_passed_over() -> None:
    held = Held((OPENED, b"id: f-5\nevent: weather\ndata: rain\n\n", CUT), until=lambda held: len(held.opened) == 2)
    assert (held.items, held.resumed_after) == ([], [None, "f-5"])


def test_a_signal_that_cannot_be_read_is_not_passed_over() -> None:
    held = Held((OPENED, b"id: f-5\nevent: signal\ndata: {}\n\n"))
    assert isinstance(held.error, UnreadableAnswerError)

"""A stream with everything that happens to it, as a conversation with whoever does the I/O.

It is opened, read, and opened again behind the last cursor wherever it breaks off. It ends for good when it is refused
for a reason that lasts, or when it does not come back in time.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from stratum_client.calls import Request
from stratum_client.conversation import Clock, Failure, Reply, Wait, problem_of
from stratum_client.decoding import decode
from stratum_client.errors import (
    ApiError,
    ConnectionFailedError,
    RateLimitedError,
    ServerError,
    StratumError,
    StreamLostError,
    UnavailableError,
    UnreadableAnswerError,
)
from stratum_client.models import Heartbeat, Signal, Truncated
from stratum_client.retries import Chance, Reconnects, backoff
from stratum_client.seen import Seen
from stratum_client.server_sent import Block, Parser
from stratum_client.words import Message


class Ended(Message, frozen=True, kw_only=True):
    """The server ended the connection and said why; the stream goes on in another one."""

    reason: str = ""


#: What a stream hands over. `Heartbeat` and `Ended` only to those who ask for them.
StreamItem: TypeAlias = Signal | Truncated | Heartbeat | Ended


@dataclass(frozen=True, slots=True)
class Open:
    """Open it, and say what came: an Opened, a Reply that refuses, or a Failure."""

    request: Request
    #: After as long without a byte the connection counts as dead.
    quiet_seconds: float


@dataclass(frozen=True, slots=True)
class Read:
    """Read the next bytes: none at the end. Or a Failure."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection."""


@dataclass(frozen=True, slots=True)
class Hand:
    """Hand the item over, and come back when the next one is wanted."""

    item: StreamItem


@dataclass(frozen=True, slots=True)
class Opened:
    """The stream is open."""

    headers: Mapping[str, str]


Action: TypeAlias = Open | Read | Close | Hand | Wait
Outcome: TypeAlias = Opened | Reply | Failure | bytes | None


class Following:
    """One stream, over as many connections as it takes."""

    def __init__(
        self,
        request: Request,
        *,
        after: str | None,
        heartbeats: bool,
        policy: Reconnects,
        opening_seconds: float,
        seen: Seen,
        clock: Clock,
        chance: Chance,
    ) -> None:
        #: Everything up to here was handed over, and the next item was asked for: going on here repeats nothing that
        #: was dealt with, and leaves nothing out.
        self.cursor = after
        self._request = request
        self._heartbeats = heartbeats
        self._policy = policy
        self._opening_seconds = opening_seconds
        self._seen = seen
        self._clock = clock
        self._chance = chance
        self._first_pause = policy.first_pause_seconds
        self._was_open = False
        self._opened_at: float | None = None
        self._progressed = False

    def run(self) -> Generator[Action, Outcome, None]:
        """Without end. Raises StreamLostError, ApiError and UnreadableAnswerError."""
        attempt = 0
        trouble_since = self._clock()
        while True:
            if pause := self._seen.pause(self._clock()):
                yield Wait(min(pause, self._policy.longest_pause_seconds))
            problem = yield from self._connection()
            now = self._clock()
            if self._opened_at is not None and now - self._opened_at >= self._policy.settled_seconds:
                attempt, trouble_since = 0, now
            elif self._progressed:
                trouble_since = now
            attempt += 1
            wait = self._pause(problem, attempt)
            limit = self._policy.give_up_seconds if self._was_open else self._opening_seconds
            if now + wait - trouble_since >= limit:
                raise StreamLostError(now - trouble_since, self.cursor) from problem
            yield Wait(wait)

    def _pause(self, problem: StratumError | None, attempt: int) -> float:
        pause = self._chance() * backoff(attempt, self._first_pause, self._policy.longest_pause_seconds)
        asked = problem.retry_after_seconds if isinstance(problem, ApiError) else None
        return pause + (asked or 0.0)

    def _connection(self) -> Generator[Action, Outcome, StratumError | None]:
        """One connection to its end; returns what it failed by, None where it was ended."""
        self._progressed, self._opened_at = False, None
        more = {"last_event_id": self.cursor} if self.cursor else {}
        # Compressed, heartbeats would wait in somebody's buffer until there is enough to squeeze.
        request = self._request.with_headers(accept="text/event-stream", accept_encoding="identity", **more)
        opened = yield Open(request, self._policy.quiet_seconds)
        if isinstance(opened, Opened):
            self._seen.note(opened.headers, self._clock())
            if not opened.headers.get("content-type", "").startswith("text/event-stream"):
                raise UnreadableAnswerError("what was opened is no stream", opened.headers.get("x-request-id"))
            self._was_open, self._opened_at = True, self._clock()
            problem = yield from self._read()
            yield Close()
            return problem
        assert isinstance(opened, Reply | Failure)
        if isinstance(opened, Reply):
            self._seen.note(opened.headers, self._clock())
        problem = problem_of(opened)
        if problem is None or not _may_pass(problem):
            raise problem or UnreadableAnswerError("an answer where a stream was asked for")
        return problem

    def _read(self) -> Generator[Action, Outcome, StratumError | None]:
        parser = Parser()
        while True:
            piece = yield Read()
            if isinstance(piece, Failure):
                return piece.problem()
            assert isinstance(piece, bytes)
            if not piece:
                return ConnectionFailedError("the stream was cut off")
            for block in parser.feed(piece):
                if block.retry_milliseconds is not None:
                    self._first_pause = min(block.retry_milliseconds / 1000, self._policy.longest_pause_seconds)
                item = _item(block)
                self._progressed = self._progressed or isinstance(item, Signal)
                if isinstance(item, Signal | Truncated) or (item is not None and self._heartbeats):
                    yield Hand(item)
                if block.id is not None:
                    self.cursor = block.id or None
                if isinstance(item, Ended):
                    return None


def _item(block: Block) -> StreamItem | None:
    """What a block means; None for what only moves the reader's place, and for events of a later day."""
    match block.event, block.data:
        case "signal", str(data):
            return decode(Signal, data)
        case "truncated", str(data):
            return decode(Truncated, data)
        case "end", str(data):
            return decode(Ended, data)
        case "message", None if block.id is not None:
            return Heartbeat(cursor=block.id)
        case _:
            return None


def _may_pass(problem: StratumError) -> bool:
    """Whether opening the stream again may help: a bug of the server's may be gone with its next release."""
    return isinstance(problem, RateLimitedError | UnavailableError | ServerError | ConnectionFailedError)

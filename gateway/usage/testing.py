"""What the tests of the usage reader need: lines as Envoy writes them, and a billing that misbehaves as told."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import Any
from uuid import uuid4

import grpc.aio
from stratum.billing.v1.metering_service_pb2 import RecordUsageRequest, RecordUsageResponse, UsageLine
from stratum.billing.v1.metering_service_pb2_grpc import (
    MeteringServiceServicer,
    add_MeteringServiceServicer_to_server,
)
from stratum.common.v1.error_reason_pb2 import ErrorReason

from services.shared.errors import InvalidArgument, Unavailable
from services.shared.principal import Guard
from services.shared.server import Interceptor
from services.shared.testing import RING

METHOD = "stratum.signals.v1.SignalsService/ListSignals"


def a_line(request_id: str | None = "", **said: Any) -> bytes:
    """An admitted call as Envoy writes it, with what is `said` in place of the usual."""
    line = {
        "account": "acct_1",
        "at": "2026-11-26T05:24:52.800Z",
        "bytes_sent": 17_000,
        "flags": "-",
        "key": "key_1",
        "kind": "DownstreamEnd",
        "method": METHOD,
        "milliseconds": 12,
        "path": "/api/v1/intel/signals",
        "request_id": uuid4().hex if request_id == "" else request_id,
        "status": 200,
        "test": None,
        "verb": "GET",
        "why": "via_upstream",
        **said,
    }
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


class Mood(Enum):
    """What billing does with a call."""

    WELL = "enters the lines and answers"
    FAILS = "enters nothing and fails"
    FAILS_AFTERWARDS = "enters the lines and fails"
    LATE = "enters the lines and answers when nobody waits any more"
    DIES_AFTERWARDS = "enters the lines, and is gone before it answers"


class Billing(MeteringServiceServicer):
    """Keeps what it was given, as the ledger would: a repeat is recognised, and a different one conflicts."""

    def __init__(self, mood: Callable[[], Mood] = lambda: Mood.WELL) -> None:
        """`mood` is asked for each call."""
        self.port = 0
        self.mood = mood
        self.late_seconds = 2.0
        self.ledger: dict[str, UsageLine] = {}
        self.counts: Counter[str] = Counter()
        self.calls: list[int] = []
        """How many lines each call had."""
        self.moods: Counter[Mood] = Counter()
        #: Lines of these request ids are not taken.
        self.refused: set[str] = set()
        self._server = self._made()
        self._deaths: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens on a free port, or again on the one that it had."""
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        """Hangs up at once. It may be started again, and then knows what it knew."""
        await self._server.stop(None)
        self._server = self._made()

    async def close(self) -> None:
        """The end, also of a death that is under way."""
        await asyncio.gather(*self._deaths)
        await self.stop()

    async def RecordUsage(self, request: RecordUsageRequest, context: Any) -> RecordUsageResponse:  # noqa: ARG002 - the contract
        mood = self.mood()
        self.moods[mood] += 1
        self.calls.append(len(request.lines))
        if any(line.request_id in self.refused for line in request.lines):
            raise InvalidArgument(ErrorReason.INVALID_ARGUMENT, "a line is not one")
        if mood is Mood.FAILS:
            raise Unavailable(ErrorReason.UNAVAILABLE, "not now")
        answer = self._enter(request)
        match mood:
            case Mood.FAILS_AFTERWARDS:
                raise Unavailable(ErrorReason.UNAVAILABLE, "the answer is lost")
            case Mood.LATE:
                await asyncio.sleep(self.late_seconds)
            case Mood.DIES_AFTERWARDS:
                death = asyncio.create_task(self._die())
                self._deaths.add(death)
                death.add_done_callback(self._deaths.discard)
                await asyncio.Event().wait()
        return answer

    async def _die(self) -> None:
        await self.stop()
        await self.start()

    def _enter(self, request: RecordUsageRequest) -> RecordUsageResponse:
        answer = RecordUsageResponse()
        for line in request.lines:
            known = self.ledger.setdefault(line.request_id, line)
            result = "recorded" if known is line else "repeated" if known == line else "conflicting"
            setattr(answer, result, getattr(answer, result) + 1)
            self.counts[result] += 1
        return answer

    def _made(self) -> grpc.aio.Server:
        server = grpc.aio.server(
            interceptors=[Interceptor(default_deadline_seconds=60.0, guard=Guard(RING))],
            options=[("grpc.so_reuseport", 0)],
        )
        add_MeteringServiceServicer_to_server(self, server)
        return server

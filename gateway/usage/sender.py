"""Hands lines to billing, and tells what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc
import grpc.aio
from stratum.billing.v1.metering_service_pb2 import RecordUsageRequest, UsageLine
from stratum.billing.v1.metering_service_pb2_grpc import MeteringServiceStub

from services.shared.logging import logger

log = logger(__name__)


@dataclass(slots=True)
class Answer:
    """What became of a batch."""

    recorded: int = 0
    repeated: int = 0
    conflicting: int = 0
    unrated: int = 0
    #: The numbers of lines that billing will never take, with its words.
    refused: list[tuple[int, str]] = field(default_factory=list)


class Sender:
    """Every call ends: with an answer, or an error within the deadline. Repeating it is harmless, and the reader's."""

    def __init__(self, metering: MeteringServiceStub, call_seconds: float) -> None:
        self._metering = metering
        self._call_seconds = call_seconds

    async def send(self, lines: Sequence[UsageLine]) -> Answer:
        """Returns when every line is in the ledger or refused. Raises grpc.aio.AioRpcError."""
        answer = Answer()
        await self._send(lines, 0, answer)
        return answer

    async def _send(self, lines: Sequence[UsageLine], first: int, answer: Answer) -> None:
        try:
            said = await self._metering.RecordUsage(RecordUsageRequest(lines=lines), timeout=self._call_seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                raise
            # One line that can never be taken must not keep the others: it is found by halving.
            if len(lines) == 1:
                log.error("billing refuses a line", request_id=lines[0].request_id, said=error.details())
                answer.refused.append((first, error.details() or "INVALID_ARGUMENT"))
                return
            middle = len(lines) // 2
            await self._send(lines[:middle], first, answer)
            await self._send(lines[middle:], first + middle, answer)
        else:
            answer.recorded += said.recorded
            answer.repeated += said.repeated
            answer.conflicting += said.conflicting
            answer.unrated += said.unrated

"""Stand-ins for the services: canned answers over real gRPC, behind the interceptor that the services use."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import grpc.aio
from google.api.httpbody_pb2 import HttpBody
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from stratum.common.v1.error_reason_pb2 import ErrorReason
from stratum.consensus.v1 import consensus_service_pb2 as consensus
from stratum.consensus.v1 import consensus_service_pb2_grpc as consensus_grpc
from stratum.ingest.v1 import ingest_service_pb2 as ingest
from stratum.ingest.v1 import ingest_service_pb2_grpc as ingest_grpc
from stratum.signals.v1 import signal_pb2
from stratum.signals.v1 import signals_service_pb2 as signals
from stratum.signals.v1 import signals_service_pb2_grpc as signals_grpc

from services.shared import reply
from services.shared.errors import InvalidArgument, NotFound
from services.shared.server import Interceptor

M = TypeVar("M", bound=Message)

# What must never reach a caller.
SECRET = "postgresql://signals:hunter2@db:5432"  # noqa: S105 - planted, so that a leak is seen
ETAG = 'W/"feed-17"'
DATA_AGE = "2.5"
FIRST_EVENTS = b'retry: 2000\n\nid: 7.1\nevent: signal\ndata: {"id":"a"}\n\n: heartbeat\n\n'
LAST_EVENTS = b'id: 7.2\nevent: signal\ndata: {"id":"b"}\n\nevent: end\ndata: {"reason":"drain"}\n\n'


def filled(message: M, depth: int = 3) -> M:
    """The message with every field set; messages inside messages as deep as told."""
    for field in message.DESCRIPTOR.fields:
        _fill(message, field, depth)
    return message


def _fill(message: Any, field: Any, depth: int) -> None:
    if field.message_type is None:
        value = {
            FieldDescriptor.CPPTYPE_STRING: "text",
            FieldDescriptor.CPPTYPE_BOOL: True,
            FieldDescriptor.CPPTYPE_DOUBLE: 0.5,
            FieldDescriptor.CPPTYPE_ENUM: 1,
        }.get(field.cpp_type, 7)
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)
    elif field.message_type.GetOptions().map_entry:
        getattr(message, field.name)["text"] = "text"
    elif field.message_type.full_name == "google.protobuf.Timestamp":
        getattr(message, field.name).CopyFrom(Timestamp(seconds=1_767_636_000, nanos=250_000_000))
    elif depth:
        inner = getattr(message, field.name)
        filled(inner.add() if field.is_repeated else inner, depth - 1)


class StandIns(
    signals_grpc.SignalsServiceServicer, consensus_grpc.ConsensusServiceServicer, ingest_grpc.IngestServiceServicer
):
    """All three services on one port. What a call's `event_id` or `id` says decides how it ends; see `_misbehave`."""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[Any] = []
        """What arrived, oldest first."""
        self.metadata: list[dict[str, str]] = []
        """The metadata of each of them."""
        self.signals: dict[str, signal_pb2.Signal] = {}
        """Signals by id that are given as they are, in place of one with every field set."""
        self.go_on = asyncio.Event()
        """A stream sends its first events at once, and the last ones when this is set."""
        self._server = grpc.aio.server(interceptors=[Interceptor(default_deadline_seconds=60.0, guard=None)])

    async def start(self) -> None:
        """Listen on a free port of 127.0.0.1."""
        signals_grpc.add_SignalsServiceServicer_to_server(self, self._server)
        consensus_grpc.add_ConsensusServiceServicer_to_server(self, self._server)
        ingest_grpc.add_IngestServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()

    async def stop(self) -> None:
        """Hang up at once."""
        await self._server.stop(None)

    async def ReadSignals(self, request: Any, context: Any) -> HttpBody:  # noqa: N802
        answer = await self.ListSignals(request, context)
        rendered = json_format.MessageToJson(
            answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=None
        )
        return HttpBody(content_type="application/json", data=rendered.encode())

    async def ListSignals(self, request: Any, context: Any) -> signals.ListSignalsResponse:  # noqa: N802
        await self._received(request, context, *request.event_id)
        full = filled(signal_pb2.Signal(snapshot_ids=["k5zq3wd6j2v4y7mhn2p6r5s2t3u4x5aa"] * 40))
        return signals.ListSignalsResponse(signals=[full] * (request.page_size or 50))

    async def GetSignal(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._received(request, context, request.id)
        if request.id in self.signals:
            # As signals are stored: with the entries of a map in order.
            return signals.GetSignalResponse(signal=self.signals[request.id]).SerializeToString(deterministic=True)
        return filled(signals.GetSignalResponse())

    async def ExplainSignal(self, request: Any, context: Any) -> signals.ExplainSignalResponse:  # noqa: N802
        await self._received(request, context, request.id)
        return filled(signals.ExplainSignalResponse())

    async def StreamSignals(self, request: Any, context: Any) -> AsyncIterator[HttpBody]:  # noqa: N802
        await self._received(request, context, request.after)
        yield HttpBody(content_type="text/event-stream", data=FIRST_EVENTS)
        await self.go_on.wait()
        yield HttpBody(data=LAST_EVENTS)

    async def ListSuppressions(self, request: Any, context: Any) -> signals.ListSuppressionsResponse:  # noqa: N802
        await self._received(request, context)
        return filled(signals.ListSuppressionsResponse())

    async def ListConsensus(self, request: Any, context: Any) -> consensus.ListConsensusResponse:  # noqa: N802
        await self._received(request, context)
        return filled(consensus.ListConsensusResponse())

    async def ListConsensusHistory(self, request: Any, context: Any) -> consensus.ListConsensusHistoryResponse:  # noqa: N802
        await self._received(request, context)
        return filled(consensus.ListConsensusHistoryResponse())

    async def ListGames(self, request: Any, context: Any) -> consensus.ListGamesResponse:  # noqa: N802
        await self._received(request, context)
        return consensus.ListGamesResponse()

    async def GetGame(self, request: Any, context: Any) -> consensus.GetGameResponse:  # noqa: N802
        await self._received(request, context, request.event_id)
        return filled(consensus.GetGameResponse(), depth=5)

    async def GetFeedHealth(self, request: Any, context: Any) -> ingest.GetFeedHealthResponse:  # noqa: N802
        await self._received(request, context)
        return filled(ingest.GetFeedHealthResponse())

    async def _received(self, request: Any, context: Any, *wishes: str) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        for wish in wishes:
            await _misbehave(wish, context)
        reply.say("x-data-age", DATA_AGE)
        reply.tag(ETAG)


async def _misbehave(wish: str, context: Any) -> None:
    match wish:
        case "missing":
            raise NotFound(ErrorReason.SIGNAL_NOT_FOUND, "no signal missing", signal_id="missing")
        case "unreadable":
            raise InvalidArgument(ErrorReason.INVALID_CURSOR, "the cursor is not one of ours")
        case "broken":
            raise RuntimeError(SECRET)
        case "bare":  # as gRPC itself answers on a fault: a status without details
            await context.abort(grpc.StatusCode.UNKNOWN, SECRET)
        case "slow":
            await asyncio.Event().wait()

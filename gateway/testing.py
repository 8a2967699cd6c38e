"""Stand-ins for the services: canned answers over real gRPC, behind the interceptor and the guard that services use."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

import grpc.aio
from google.api.httpbody_pb2 import HttpBody
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from stratum.billing.v1 import access_service_pb2 as access
from stratum.billing.v1 import access_service_pb2_grpc as access_grpc
from stratum.billing.v1 import billing_service_pb2 as billing
from stratum.billing.v1 import billing_service_pb2_grpc as billing_grpc
from stratum.billing.v1.account_pb2 import Account, RateLimit
from stratum.common.v1.error_reason_pb2 import ErrorReason
from stratum.consensus.v1 import consensus_service_pb2 as consensus
from stratum.consensus.v1 import consensus_service_pb2_grpc as consensus_grpc
from stratum.ingest.v1 import ingest_service_pb2 as ingest
from stratum.ingest.v1 import ingest_service_pb2_grpc as ingest_grpc
from stratum.signals.v1 import signal_pb2
from stratum.signals.v1 import signals_service_pb2 as signals
from stratum.signals.v1 import signals_service_pb2_grpc as signals_grpc

from services.shared import api_keys, reply
from services.shared.errors import InvalidArgument, NotFound, ResourceExhausted
from services.shared.keyring import Keyring
from services.shared.principal import Guard
from services.shared.server import Interceptor
from services.shared.testing import RING

M = TypeVar("M", bound=Message)

# The pepper under which tests keep keys.
PEPPERS_WRITTEN = f"1:{'7b' * 32}"
PEPPERS = Keyring.parse(PEPPERS_WRITTEN)
SCOPES = ("signals:read", "markets:read", "account:read", "keys:write")
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


class Table:
    """Billing's table of keys and accounts, for a test to fill. Every change is the next revision."""

    def __init__(self) -> None:
        self.revision = 0
        self.epoch = "first"
        self._accounts: dict[str, tuple[int, access.AccountAccess]] = {}
        self._keys: dict[str, tuple[int, access.KeyAccess]] = {}

    def account(self, account_id: str, requests: int = 6000, per_seconds: int = 60, **fields: Any) -> str:
        """Puts an account that may do everything, but for the fields of AccountAccess that are given. Gives its id."""
        included, used = fields.setdefault("included_units", 10_000), fields.get("used_units", 0)
        said = access.AccountAccess(
            account_id=account_id,
            **{
                "api_access_enabled": True,
                "standing": Account.Standing.GOOD,
                "rate_limit": RateLimit(requests=requests, per_seconds=per_seconds),
                "period_start": Timestamp(seconds=1_767_225_600),
                "period_end": Timestamp(seconds=1_769_904_000),
                "overage_units": max(0, used - included),
                **fields,
            },
        )
        self.revision += 1
        self._accounts[account_id] = (self.revision, said)
        return account_id

    def key(
        self, key_id: str, account_id: str, scopes: Sequence[str] = SCOPES, *, live: bool = True, **fields: Any
    ) -> str:
        """Puts a new key, good for everything but for the fields of KeyAccess that are given. Gives its secret."""
        secret = api_keys.made(api_keys.LIVE if live else api_keys.TEST)
        version, digest = PEPPERS.sign(secret.encode())
        said = access.KeyAccess(
            key_id=key_id,
            account_id=account_id,
            **{"lineage": key_id, "pepper_version": version, "hash": digest, "live": live, "scopes": scopes, **fields},
        )
        self.revision += 1
        self._keys[key_id] = (self.revision, said)
        return secret

    def alter_key(self, key_id: str, alter: Callable[[access.KeyAccess], object]) -> None:
        """Lets `alter` change what is said of a key."""
        said = access.KeyAccess()
        said.CopyFrom(self._keys[key_id][1])
        alter(said)
        self.revision += 1
        self._keys[key_id] = (self.revision, said)

    def revoke(self, key_id: str) -> None:
        """Ends a key now."""
        self.alter_key(key_id, lambda said: said.revoked_at.FromSeconds(int(time.time())))

    def answer(self, after_revision: int) -> access.GetAccessTableResponse:
        """What billing says."""
        complete = after_revision == 0 or after_revision > self.revision
        behind = 0 if complete else after_revision
        return access.GetAccessTableResponse(
            revision=self.revision,
            complete=complete,
            accounts=[said for revision, said in self._accounts.values() if revision > behind],
            keys=[said for revision, said in self._keys.values() if revision > behind],
            epoch=self.epoch,
        )


class StandIns(
    signals_grpc.SignalsServiceServicer,
    consensus_grpc.ConsensusServiceServicer,
    ingest_grpc.IngestServiceServicer,
    billing_grpc.BillingServiceServicer,
    access_grpc.AccessServiceServicer,
):
    """All services on one port. What a call's `event_id` or `id` says decides how it ends; see `_misbehave`."""

    def __init__(self, port: int = 0) -> None:
        """A port of 0 takes a free one."""
        self.port = port
        self.table = Table()
        """Who may call; given out by AccessService."""
        self.requests: list[Any] = []
        """What arrived, oldest first."""
        self.metadata: list[dict[str, str]] = []
        """The metadata of each of them."""
        self.signals: dict[str, signal_pb2.Signal] = {}
        """Signals by id that are given as they are, in place of one with every field set."""
        self.go_on = asyncio.Event()
        """A stream sends its first events at once, and the last ones when this is set."""
        guard = Guard(RING, recorded=None)
        self._server = grpc.aio.server(interceptors=[Interceptor(default_deadline_seconds=60.0, guard=guard)])

    async def start(self) -> None:
        """Listen on 127.0.0.1."""
        signals_grpc.add_SignalsServiceServicer_to_server(self, self._server)
        consensus_grpc.add_ConsensusServiceServicer_to_server(self, self._server)
        ingest_grpc.add_IngestServiceServicer_to_server(self, self._server)
        billing_grpc.add_BillingServiceServicer_to_server(self, self._server)
        access_grpc.add_AccessServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        """Hang up at once."""
        await self._server.stop(None)

    async def ReadSignals(self, request: Any, context: Any) -> HttpBody:
        answer = await self.ListSignals(request, context)
        rendered = json_format.MessageToJson(
            answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=None
        )
        return HttpBody(content_type="application/json", data=rendered.encode())

    async def ListSignals(self, request: Any, context: Any) -> signals.ListSignalsResponse:
        await self._received(request, context, *request.event_id)
        full = filled(signal_pb2.Signal(snapshot_ids=["k5zq3wd6j2v4y7mhn2p6r5s2t3u4x5aa"] * 40))
        return signals.ListSignalsResponse(signals=[full] * (request.page_size or 50))

    async def GetSignal(self, request: Any, context: Any) -> Any:
        await self._received(request, context, request.id)
        if request.id in self.signals:
            # As signals are stored: with the entries of a map in order.
            return signals.GetSignalResponse(signal=self.signals[request.id]).SerializeToString(deterministic=True)
        return filled(signals.GetSignalResponse())

    async def ExplainSignal(self, request: Any, context: Any) -> signals.ExplainSignalResponse:
        await self._received(request, context, request.id)
        return filled(signals.ExplainSignalResponse())

    async def StreamSignals(self, request: Any, context: Any) -> AsyncIterator[HttpBody]:
        await self._received(request, context, request.after)
        yield HttpBody(content_type="text/event-stream", data=FIRST_EVENTS)
        await self.go_on.wait()
        yield HttpBody(data=LAST_EVENTS)

    async def ListSuppressions(self, request: Any, context: Any) -> signals.ListSuppressionsResponse:
        await self._received(request, context)
        return filled(signals.ListSuppressionsResponse())

    async def ListConsensus(self, request: Any, context: Any) -> consensus.ListConsensusResponse:
        await self._received(request, context)
        return filled(consensus.ListConsensusResponse())

    async def ListConsensusHistory(self, request: Any, context: Any) -> consensus.ListConsensusHistoryResponse:
        await self._received(request, context)
        return filled(consensus.ListConsensusHistoryResponse())

    async def ListGames(self, request: Any, context: Any) -> consensus.ListGamesResponse:
        await self._received(request, context)
        return consensus.ListGamesResponse()

    async def GetGame(self, request: Any, context: Any) -> consensus.GetGameResponse:
        await self._received(request, context, request.event_id)
        return filled(consensus.GetGameResponse(), depth=5)

    async def GetFeedHealth(self, request: Any, context: Any) -> ingest.GetFeedHealthResponse:
        await self._received(request, context)
        return filled(ingest.GetFeedHealthResponse())

    async def GetUsage(self, request: Any, context: Any) -> billing.GetUsageResponse:
        await self._received(request, context)
        return filled(billing.GetUsageResponse())

    async def ListUsageLedger(self, request: Any, context: Any) -> billing.ListUsageLedgerResponse:
        await self._received(request, context)
        return filled(billing.ListUsageLedgerResponse())

    async def ExportUsageLedger(self, request: Any, context: Any) -> AsyncIterator[HttpBody]:
        await self._received(request, context)
        yield HttpBody(content_type="text/csv", data=b"request_id,part\n")
        yield HttpBody(data=b"a,0\n")

    async def QuoteUsage(self, request: Any, context: Any) -> billing.QuoteUsageResponse:
        await self._received(request, context)
        return filled(billing.QuoteUsageResponse())

    async def GetPlan(self, request: Any, context: Any) -> billing.GetPlanResponse:
        await self._received(request, context)
        return filled(billing.GetPlanResponse())

    async def ListOwnKeys(self, request: Any, context: Any) -> billing.ListOwnKeysResponse:
        await self._received(request, context)
        return filled(billing.ListOwnKeysResponse())

    async def RotateOwnKey(self, request: Any, context: Any) -> billing.RotateOwnKeyResponse:
        await self._received(request, context)
        return filled(billing.RotateOwnKeyResponse())

    async def RevokeOwnKey(self, request: Any, context: Any) -> billing.RevokeOwnKeyResponse:
        await self._received(request, context)
        return filled(billing.RevokeOwnKeyResponse())

    async def ReportLeakedKey(self, request: Any, context: Any) -> billing.ReportLeakedKeyResponse:
        await self._received(request, context)
        return billing.ReportLeakedKeyResponse(revoked=True)

    async def GetAccessTable(self, request: Any, context: Any) -> access.GetAccessTableResponse:  # noqa: ARG002 - the contract
        return self.table.answer(request.after_revision)

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
        case "crowded":
            raise ResourceExhausted(ErrorReason.TOO_MANY_STREAMS, "too many")
        case "broken":
            raise RuntimeError(SECRET)
        case "bare":  # as gRPC itself answers on a fault: a status without details
            await context.abort(grpc.StatusCode.UNKNOWN, SECRET)
        case "given_up":  # as a service that ends answers what it cannot finish
            await context.abort(grpc.StatusCode.CANCELLED, SECRET)
        case "slow":
            await asyncio.Event().wait()

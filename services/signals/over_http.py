"""ReadSignals by plain HTTP/1.1, for the gateway: the same handler, guard, tags and errors as over gRPC.

gRPC's Python server costs several times what the handler does, and so does translating in Envoy what is JSON already;
see docs/decisions/0018. What differs is only who reads the query and who writes the status: here, as the transcoder
does it there. To the interceptor a call looks like any other.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn, TypeVar
from urllib.parse import unquote_to_bytes

import grpc
import msgspec
from google.api.httpbody_pb2 import HttpBody
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status
from stratum.common.v1.error_reason_pb2 import ErrorReason
from stratum.signals.v1.signals_service_pb2 import ListSignalsRequest

from services.shared.errors import InvalidArgument
from services.shared.server import Interceptor
from services.signals.api import REMEMBERED_BYTES, SignalsApi

METHOD = "stratum.signals.v1.SignalsService/ReadSignals"
#: gRPC's number of a status, in front of the text that goes with it.
_DETAILS = "grpc-status-details-bin"
_FIELDS = {name: field for field in ListSignalsRequest.DESCRIPTOR.fields for name in (field.name, field.json_name)}
_OF_CODE = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}

#: So much of a name or value that is wrong is told back, and logged: a caller may send 15 KB of it.
_TOLD = 100
_WHOLE = re.compile(r"[+-]?[0-9]+")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|NaN|-?Infinity")

N = TypeVar("N", int, float)
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = Sequence[tuple[str, str]]


class FeedOverHttp:
    """An ASGI application with one page. It answers GET with the page, whatever the path: the gateway has chosen it."""

    def __init__(self, api: SignalsApi, interceptor: Interceptor) -> None:
        async def read(query: bytes, call: _Call) -> HttpBody:
            return await api.ReadSignals(asked(query), call)  # type: ignore[arg-type]  # it asks nothing of it

        self._answer = interceptor.unary(read, METHOD)

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """One request, as ASGI has it."""
        # As gRPC reads metadata: ASCII, and nothing else is a header of ours.
        given = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        call = _Call(given)
        try:
            message = await self._answer(scope["query_string"], call)
        except _RefusedError as refused:
            status, body = refused.http_status, refused.body
        else:
            # The interceptor gives bytes in place of a body that the caller has.
            status, body = 200, message.data if isinstance(message, HttpBody) else b""
        headers = [(name.encode(), value.encode()) for name, value in call.headers]
        headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class _Call:
    """What the interceptor asks of a call, of one that came by HTTP."""

    def __init__(self, metadata: Headers) -> None:
        self.headers: Headers = ()
        self._metadata = metadata

    def invocation_metadata(self) -> Headers:
        return self._metadata

    def time_remaining(self) -> None:
        return None

    def code(self) -> None:
        return None

    async def send_initial_metadata(self, headers: Headers) -> None:
        self.headers = headers

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        raise _RefusedError(status)


class _RefusedError(Exception):
    """The call ended with a status."""

    def __init__(self, status: grpc.Status) -> None:
        super().__init__(status.details)
        self.http_status = _OF_CODE.get(status.code, 500)
        whole = Status.FromString(dict(status.trailing_metadata)[_DETAILS])
        # As the transcoder writes it; the gateway adds the fourth field to both.
        self.body = msgspec.json.encode(
            json_format.MessageToDict(
                whole, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
        )


def asked(query: bytes) -> ListSignalsRequest:
    """The request of a query, read as the transcoder reads it; not to be changed, others may hold the same one. Raises
    InvalidArgument."""
    return _remembered(query) if len(query) <= REMEMBERED_BYTES else _requested(query)


def _requested(query: bytes) -> ListSignalsRequest:
    request = ListSignalsRequest()
    for part in query.split(b"&"):
        name, equals, value = part.partition(b"=")
        if name and equals:
            _set(request, _unescaped(name), _unescaped(value))
    return request


_remembered = lru_cache(maxsize=1024)(_requested)


def _unescaped(escaped: bytes) -> str:
    try:
        return unquote_to_bytes(escaped).decode()
    except UnicodeDecodeError:
        raise _wrong("query", "is not UTF-8") from None


def _set(request: ListSignalsRequest, name: str, value: str) -> None:
    field = _FIELDS.get(name)
    if field is None:
        raise _wrong(name, "is no parameter of this")
    try:
        read = _read(field, value)
        if field.is_repeated:
            getattr(request, field.name).append(read)
        elif isinstance(read, Timestamp):
            getattr(request, field.name).CopyFrom(read)
        else:
            setattr(request, field.name, read)
    except (ValueError, OverflowError):
        raise _wrong(field.name, f"cannot be read: {value[:_TOLD]}") from None


def _read(field: FieldDescriptor, value: str) -> Any:
    """The value of a field. Raises ValueError."""
    if field.enum_type is not None:
        number = _numbers(field).get(value.upper())
        return _known(field, _number(_WHOLE, value, int)) if number is None else number
    if field.message_type is not None:
        moment = Timestamp()
        moment.FromJsonString(value)
        return moment
    if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        return _number(_DECIMAL, value, float)
    return value if field.cpp_type == FieldDescriptor.CPPTYPE_STRING else _number(_WHOLE, value, int)


def _numbers(field: FieldDescriptor) -> Mapping[str, int]:
    assert field.enum_type is not None
    return {value.name: value.number for value in field.enum_type.values}


def _known(field: FieldDescriptor, number: int) -> int:
    if number not in _numbers(field).values():
        raise ValueError("no value of this enum")
    return number


def _number(form: re.Pattern[str], value: str, convert: Callable[[str], N]) -> N:
    # Python also reads spaces, underscores and other names of infinity.
    if form.fullmatch(value) is None:
        raise ValueError("not a number")
    return convert(value)


def _wrong(name: str, why: str) -> InvalidArgument:
    name = name[:_TOLD]
    return InvalidArgument(ErrorReason.INVALID_ARGUMENT, f"malformed request: {name} {why}", field=name)

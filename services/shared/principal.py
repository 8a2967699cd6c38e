"""Who is asking: said by the authorisation server, signed, and believed by no service without the signature.

A principal travels as the header `x-stratum-principal`: `p1.<version>.<payload>.<hash>`, the payload JSON in base64url,
the hash HMAC-SHA-256 over all before it under one of the ring's secrets. It is good for a minute, for one method, and a
partner's for the request whose id it names; a stray pod that cannot sign gets nowhere, and what it overhears is soon
useless. Services that call one another sign for themselves.
"""

from __future__ import annotations

import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import grpc
import grpc.aio
import msgspec
from grpc.aio import ClientCallDetails
from stratum.common.v1.access_pb2 import Access
from stratum.common.v1.error_reason_pb2 import ErrorReason

from services.shared import contracts
from services.shared.errors import DomainError, PermissionDenied, Unauthenticated
from services.shared.keyring import Keyring

HEADER = "x-stratum-principal"
SECONDS = 60.0
#: How far two machines' clocks may be apart.
SKEW_SECONDS = 5.0
_FORM = "p1"
_OURS = "stratum."


class Principal(msgspec.Struct, frozen=True, omit_defaults=True, rename={"method": "m", "expires_at": "e"}):
    """Somebody who may call one method, until a time. Exactly one of `service` and `key_id` is set."""

    #: stratum.signals.v1.SignalsService/ReadSignals
    method: str
    #: Seconds since 1970.
    expires_at: float
    #: One of our own: ingest, signals, cli.
    service: str = ""
    account_id: str = ""
    key_id: str = ""
    scopes: tuple[str, ...] = ()
    request_id: str = ""
    #: A test key's: reads a recorded evening, and is not counted.
    test: bool = False


#: Who is asking, in a handler; None where nobody has to say it.
current: ContextVar[Principal | None] = ContextVar("principal", default=None)


def partner() -> Principal:
    """Whose key the call came with. Raises Unauthenticated where it came without one."""
    principal = current.get()
    if principal is None or not principal.key_id:
        raise Unauthenticated(ErrorReason.PRINCIPAL_INVALID, "only a partner's key can call this")
    return principal


def signed(principal: Principal, ring: Keyring) -> str:
    """The principal as it travels."""
    body = f"{_FORM}.{ring.newest}.{_encoded(msgspec.json.encode(principal))}"
    return f"{body}.{_encoded(ring.sign(body.encode())[1])}"


def read(header: str, ring: Keyring, now: float) -> Principal:
    """The principal of a header. Raises Unauthenticated when it is not signed by us, or its time is over."""
    body, _, mac = header.rpartition(".")
    try:
        form, version, payload = body.split(".")
        if form != _FORM or not ring.signs(body.encode(), int(version), _decoded(mac)):
            raise ValueError("not signed by us")
        principal = msgspec.json.decode(_decoded(payload), type=Principal)
    except ValueError as error:
        raise _refused("the caller is not who the call says") from error
    if not now - SKEW_SECONDS <= principal.expires_at <= now + SECONDS + SKEW_SECONDS:
        raise _refused("what says who the caller is, is too old")
    return principal


class Guard:
    """Lets a call in, or not: what each method's `access` asks for, by the principal that came with it."""

    def __init__(self, ring: Keyring, clock: Callable[[], float] = time.time, *, recorded: bool | None = False) -> None:
        """With an empty ring nobody is let in but to public methods.

        `recorded` says that what is guarded is the recorded evening, which is for test keys alone, as all else is for
        live ones; None lets in both.
        """
        self._ring = ring
        self._clock = clock
        self._recorded = recorded

    def admit(self, method: str, metadata: Sequence[tuple[str, str | bytes]], request_id: str) -> Principal | None:
        """Who is asking; None for a method that everybody may call. Raises Unauthenticated or PermissionDenied."""
        declared = contracts.by_full_name().get(method)
        if declared is None and not method.startswith(_OURS):
            return None  # gRPC's own: health and reflection
        if declared is not None and declared.level == Access.Level.PUBLIC:
            return None
        header = next((value for name, value in metadata if name == HEADER), "")
        principal = read(header if isinstance(header, str) else "", self._ring, self._clock())
        if principal.method != method:
            raise _refused("the caller was let in to another call")
        if problem := _problem(principal, declared, request_id):
            raise problem
        if principal.key_id and self._recorded not in (None, principal.test):
            raise PermissionDenied(ErrorReason.TEST_KEY, "test keys read the recorded evening, live keys the market")
        return principal


def _problem(principal: Principal, method: contracts.Method | None, request_id: str) -> DomainError | None:
    if principal.service:
        return None
    if method is None or method.level == Access.Level.INTERNAL:
        return PermissionDenied(ErrorReason.PRINCIPAL_INVALID, "only our own services call this")
    if principal.request_id != request_id:
        return _refused("the caller was let in to another call")
    if method.scope not in principal.scopes:
        return PermissionDenied(
            ErrorReason.SCOPE_MISSING, f"the key was not granted {method.scope}", scope=method.scope
        )
    return None


def client_interceptors(service: str, ring: Keyring) -> list[grpc.aio.ClientInterceptor]:
    """What a channel from one of our own to another needs, so that its calls are let in."""
    signature = _Signature(service, ring)
    return [_Unary(signature), _Stream(signature)]


class _Signature:
    """One of our own, signed anew for each call: cheap, and never old."""

    def __init__(self, service: str, ring: Keyring) -> None:
        self._service, self._ring = service, ring

    def on(self, details: ClientCallDetails) -> ClientCallDetails:
        # For this method only: whoever overhears a question for the table of keys cannot issue one.
        method = details.method if isinstance(details.method, str) else details.method.decode()
        principal = Principal(method.removeprefix("/"), expires_at=time.time() + SECONDS, service=self._service)
        metadata = grpc.aio.Metadata(*(details.metadata or ()), (HEADER, signed(principal, self._ring)))
        return ClientCallDetails(details.method, details.timeout, metadata, details.credentials, details.wait_for_ready)


class _Unary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, signature: _Signature) -> None:
        self._signature = signature

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._signature.on(client_call_details), request)


class _Stream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, signature: _Signature) -> None:
        self._signature = signature

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._signature.on(client_call_details), request)


def _refused(message: str) -> Unauthenticated:
    return Unauthenticated(ErrorReason.PRINCIPAL_INVALID, message)


def _encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))

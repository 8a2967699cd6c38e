"""Answers Envoy's one question: who is this, may they, and how fast. Raw ASGI, because every call waits for it.

Envoy asks with the caller's own method and path behind `/check`, and with the headers that its configuration names. A
call is let through by 200, with the headers that it goes on with; every other status is the answer its caller gets.
Nothing is logged here for a call, and nothing is waited for: all that is needed is in memory.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_to_bytes

from prometheus_client import REGISTRY, CollectorRegistry, Counter
from stratum.common.v1.access_pb2 import Access
from stratum.common.v1.error_reason_pb2 import ErrorReason

from gateway.authz import refusals
from gateway.authz.buckets import Buckets
from gateway.authz.limits import Headers, headers_of, limit_of
from services.shared import api_keys, contracts, principal
from services.shared.access import AccessTable, Account, Refusal, refusal
from services.shared.keyring import Keyring
from services.shared.principal import Principal

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

#: Put by Envoy in front of the caller's path.
PREFIX = "/check"
HEALTH = "/healthz"
SANDBOX = b"test"
_PREFIXES = (api_keys.LIVE.encode(), api_keys.TEST.encode())
_NOTHING: MutableMapping[str, Any] = {"type": "http.response.body", "body": b""}
_ALLOWED = "ALLOWED"
_Answer = tuple[int, Headers, bytes]


class Authz:
    """The application."""

    def __init__(
        self,
        table: AccessTable,
        buckets: Buckets,
        peppers: Keyring,
        ring: Keyring,
        clock: Callable[[], float] = time.time,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        """`ring` signs the principals; `peppers` are what keys are hashed with."""
        #: Whether Envoy shall ask us: we know whose buckets are how full, and do not end.
        self.is_open = False
        self._table = table
        self._buckets = buckets
        self._peppers = peppers
        self._ring = ring
        self._clock = clock
        self._methods: Mapping[bytes, contracts.Method] = {
            method.full_name.encode(): method
            for method in contracts.methods()
            if method.level in (Access.Level.PAID, Access.Level.KEY)
        }
        checks = Counter("stratum_authz_checks_total", "Calls by what was decided.", ["outcome"], registry=registry)
        outcomes = [ErrorReason.Value.Name(reason) for reason in refusals.STATUS]
        self._counted = {outcome: checks.labels(outcome) for outcome in (_ALLOWED, *outcomes)}
        #: Of each account that was seen: what its headers say, and of which state of it.
        self._usage: dict[str, tuple[Account, Headers]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's own
        """One request. Envoy sends no body, so none is awaited."""
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        if path.startswith(PREFIX):
            status, headers, body = self.check(dict(scope["headers"]), scope["query_string"])
        elif path == HEALTH:
            status, headers, body = self._health()
        else:
            status, headers, body = 404, [(b"content-length", b"0")], b""
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body} if body else _NOTHING)

    def check(self, asked: Mapping[bytes, bytes], query: bytes) -> _Answer:
        """What becomes of a call with these headers, their names in lower case, and this query string."""
        request_id = asked.get(b"x-request-id", b"").decode("latin-1")
        if query and _holds_a_key(query):
            return self._refused(refusals.KEY_IN_QUERY, request_id)
        authorization = asked.get(b"authorization")
        if not authorization:
            return self._refused(refusals.KEY_MISSING, request_id)
        scheme, _, credentials = authorization.partition(b" ")
        secret = credentials.strip()
        if scheme.lower() != b"bearer" or not api_keys.is_well_formed(secret.decode("latin-1")):
            return self._refused(refusals.KEY_MALFORMED, request_id)
        method = self._methods.get(asked.get(b"x-stratum-method", b""))
        if method is None or not self._table.is_filled:
            return self._refused(refusals.ACCESS_UNDECIDED, request_id)

        now = self._clock()
        key = self._table.by_hash(self._peppers.every(secret))
        account = self._table.account(key.account_id) if key is not None else None
        address = asked.get(b"x-stratum-address", b"").decode("latin-1")
        sandbox = asked.get(b"x-stratum-environment") == SANDBOX
        problem = refusal(key, account, method, address, now, sandbox=sandbox)
        if problem is not None:
            return self._refused(problem, request_id)
        assert key is not None, "an unknown key is refused"
        assert account is not None, "a key without an account is refused"
        if not account.requests:
            return self._refused(refusals.ACCESS_UNDECIDED, request_id)

        limit = limit_of(account.requests, account.per_seconds)
        taken = self._buckets.take(key.lineage, limit)
        said = headers_of(limit, taken)
        if not taken.allowed:
            status, headers, body = self._refused(refusals.rate_limited(taken.retry_after_seconds), request_id)
            return status, headers + said, body
        caller = Principal(
            method=method.full_name,
            expires_at=now + principal.SECONDS,
            account_id=key.account_id,
            key_id=key.key_id,
            scopes=key.scopes,
            request_id=request_id,
            test=not key.live,
        )
        said += (
            (b"x-stratum-principal", principal.signed(caller, self._ring).encode()),
            (b"x-stratum-account", key.account_id.encode()),
            (b"x-stratum-key", key.key_id.encode()),
            (b"content-length", b"0"),
        )
        if key.live and method.level == Access.Level.PAID:
            said += self._usage_of(account)
        self._counted[_ALLOWED].inc()
        return 200, said, b""

    def _health(self) -> _Answer:
        well = self.is_open and self._table.is_filled
        body = b'{"status":"ok"}' if well else b'{"status":"not now"}'
        return 200 if well else 503, [refusals.JSON, (b"content-length", b"%d" % len(body))], body

    def _refused(self, problem: Refusal, request_id: str) -> _Answer:
        self._counted[ErrorReason.Value.Name(problem.reason)].inc()
        return refusals.rendered(problem, request_id)

    def _usage_of(self, account: Account) -> Headers:
        known = self._usage.get(account.account_id)
        if known is None or known[0] is not account:
            known = self._usage[account.account_id] = (account, usage_headers(account))
        return known[1]


def usage_headers(account: Account) -> Headers:
    """What the ledger had counted of an account a few seconds ago."""
    period_end = datetime.fromtimestamp(account.period_end, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return [
        (b"x-usage-used", b"%d" % account.used_units),
        (b"x-usage-remaining", b"%d" % max(0, account.included_units - account.used_units)),
        (b"x-usage-overage", b"%d" % account.overage_units),
        (b"x-usage-period-end", period_end.encode()),
    ]


def _holds_a_key(query: bytes) -> bool:
    plain = (unquote_to_bytes(query) if b"%" in query else query).lower()
    return any(prefix in plain for prefix in _PREFIXES)

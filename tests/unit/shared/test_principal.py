"""Who is asking, and who is believed."""

import time

import msgspec
import pytest
from grpc.aio import ClientCallDetails
from hypothesis import given
from hypothesis import strategies as st
from stratum.common.v1.error_reason_pb2 import ErrorReason

from services.shared import principal
from services.shared.errors import DomainError, PermissionDenied, Unauthenticated
from services.shared.keyring import Keyring
from services.shared.principal import Guard, Principal

RING = Keyring.parse(f"1:{'33' * 32}")
STRANGERS = Keyring.parse(f"1:{'44' * 32}")
NOW = 1_800_000_000.0
READ = "stratum.signals.v1.SignalsService/ReadSignals"
TYPED = "stratum.signals.v1.SignalsService/ListSignals"
REPORT = "stratum.billing.v1.BillingService/ReportLeakedKey"
PARTNER = Principal(
    method=READ,
    expires_at=NOW + 60,
    account_id="acct_1",
    key_id="key_1",
    scopes=("signals:read",),
    request_id="r1",
)
SERVICE = Principal(method=TYPED, expires_at=NOW + 60, service="signals")


def admitted(
    caller: Principal | None, method: str = READ, request_id: str = "r1", ring: Keyring = RING, at: float = NOW
) -> Principal | None:
    metadata = [] if caller is None else [(principal.HEADER, principal.signed(caller, ring))]
    return Guard(RING, lambda: at).admit(method, metadata, request_id)


def refused(caller: Principal | None, **asked: object) -> DomainError:
    with pytest.raises(DomainError) as error:
        admitted(caller, **asked)  # type: ignore[arg-type]
    return error.value


def test_a_partner_is_let_in_to_the_call_he_was_admitted_to() -> None:
    assert admitted(PARTNER) == PARTNER


def test_a_service_is_let_in_to_internal_methods() -> None:
    assert admitted(SERVICE, method=TYPED) == SERVICE


def test_what_one_of_our_own_signs_is_good_for_one_method() -> None:
    issue = "stratum.billing.v1.AccountsService/IssueKey"
    assert isinstance(refused(SERVICE, method=issue), Unauthenticated)


async def test_one_of_our_own_signs_for_the_method_that_it_calls() -> None:
    unary, _ = principal.client_interceptors("signals", RING)
    called = []

    async def call(details: ClientCallDetails, request: object) -> None:
        called.append(details)

    await unary.intercept_unary_unary(call, ClientCallDetails(f"/{TYPED}", None, None, None, None), None)  # type: ignore[attr-defined]
    header = str(dict(called[0].metadata or ())[principal.HEADER])
    assert (principal.read(header, RING, time.time()).method, called[0].method) == (TYPED, f"/{TYPED}")


def test_nobody_has_to_be_vouched_for_at_a_public_method() -> None:
    assert admitted(None, method=REPORT) is None


def test_gRPCs_own_methods_are_open() -> None:  # noqa: N802 - gRPC's own spelling
    assert admitted(None, method="grpc.health.v1.Health/Check") is None


def test_who_is_not_vouched_for_is_refused() -> None:
    assert isinstance(refused(None), Unauthenticated)


def test_what_another_ring_signed_is_refused() -> None:
    assert isinstance(refused(PARTNER, ring=STRANGERS), Unauthenticated)


@pytest.mark.parametrize("at", [NOW + 66, NOW - 6])
def test_a_principal_is_good_for_a_minute(at: float) -> None:
    assert isinstance(refused(PARTNER, at=at), Unauthenticated)


def test_a_principal_is_good_for_one_request() -> None:
    assert isinstance(refused(PARTNER, request_id="r2"), Unauthenticated)


def test_a_principal_is_good_for_one_method() -> None:
    other = "stratum.signals.v1.SignalsService/GetSignal"
    assert isinstance(refused(PARTNER, method=other), Unauthenticated)


def test_a_scope_that_was_not_granted_is_named() -> None:
    error = refused(msgspec.structs.replace(PARTNER, scopes=("markets:read",)))
    assert (error.reason, error.metadata["scope"]) == (ErrorReason.SCOPE_MISSING, "signals:read")


@pytest.mark.parametrize("method", [TYPED, "stratum.signals.v1.SignalsService/NotYetDeclared"])
def test_a_partner_never_reaches_an_internal_method(method: str) -> None:
    caller = msgspec.structs.replace(PARTNER, method=method, scopes=("signals:read", ""))
    assert isinstance(refused(caller, method=method), PermissionDenied)


@pytest.mark.parametrize(("recorded", "test"), [(False, True), (True, False)])
def test_test_keys_read_the_recorded_evening_and_live_ones_the_market(recorded: bool, test: bool) -> None:
    caller = msgspec.structs.replace(PARTNER, test=test)
    metadata = [(principal.HEADER, principal.signed(caller, RING))]
    with pytest.raises(PermissionDenied) as refused:
        Guard(RING, lambda: NOW, recorded=recorded).admit(READ, metadata, "r1")
    assert refused.value.reason == ErrorReason.TEST_KEY


def test_with_an_empty_ring_nobody_is_let_in() -> None:
    metadata = [(principal.HEADER, principal.signed(SERVICE, RING))]
    with pytest.raises(Unauthenticated):
        Guard(Keyring.parse(""), lambda: NOW).admit(READ, metadata, "r1")


@given(st.text())
def test_whatever_else_stands_in_the_header_is_refused(header: str) -> None:
    with pytest.raises(Unauthenticated):
        principal.read(header, RING, NOW)


@given(st.data())
def test_a_principal_with_one_character_changed_is_refused(data: st.DataObject) -> None:
    header = principal.signed(PARTNER, RING)
    at = data.draw(st.integers(0, len(header) - 1))
    other = data.draw(st.sampled_from("AZaz09._-").filter(lambda letter: letter != header[at]))
    changed = header[:at] + other + header[at + 1 :]
    try:
        # The last character of a base64 text has bits that stand for nothing.
        assert principal.read(changed, RING, NOW) == PARTNER
        assert at == len(header) - 1
    except Unauthenticated:
        assert changed != header

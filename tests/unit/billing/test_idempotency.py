"""What a caller may put into `Idempotency-Key`, and what tells two calls apart."""

from __future__ import annotations

import pytest
from stratum.billing.v1.accounts_service_pb2 import RevokeKeyRequest
from stratum.billing.v1.billing_service_pb2 import RevokeOwnKeyRequest

from services.billing.changes import Issued
from services.billing.idempotency import Call, key_from
from services.billing.testing import a_key
from services.shared.errors import InvalidArgument


def test_a_key_is_taken_as_it_came() -> None:
    assert key_from([("x-other", "1"), ("idempotency-key", "9f8e-42")], required=True) == "9f8e-42"


@pytest.mark.parametrize("metadata", [None, [], [("idempotency-key", "")]])
def test_without_a_key_a_call_is_refused_where_it_is_needed_and_served_where_not(metadata: object) -> None:
    assert key_from(metadata, required=False) == ""  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument) as refused:
        key_from(metadata, required=True)  # type: ignore[arg-type]
    assert refused.value.reason_name == "IDEMPOTENCY_KEY_MISSING"


@pytest.mark.parametrize("key", ["k" * 256, "tab\t", "ümlaut"])
def test_a_key_that_cannot_be_kept_is_refused(key: str) -> None:
    with pytest.raises(InvalidArgument):
        key_from([("idempotency-key", key)], required=False)


def test_the_same_fields_of_another_method_are_another_call() -> None:
    one = Call.of("a", "k", RevokeKeyRequest(key_id="key_1"))
    assert one == Call.of("a", "k", RevokeKeyRequest(key_id="key_1"))
    assert one != Call.of("a", "k", RevokeKeyRequest(key_id="key_2"))
    assert one.method != Call.of("a", "k", RevokeOwnKeyRequest(key_id="key_1")).method


def test_a_key_that_was_just_made_shows_its_secret_to_nobody_who_prints_it() -> None:
    issued = Issued(a_key(hash=b"HASHHASH"), "stratum_live_secret")
    assert "stratum_live_secret" not in repr(issued)
    assert "HASHHASH" not in repr(issued)

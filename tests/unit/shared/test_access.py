"""The table of keys and accounts, and why a call is refused."""

from itertools import pairwise

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from stratum.billing.v1.access_service_pb2 import AccountAccess, GetAccessTableResponse, KeyAccess
from stratum.billing.v1.account_pb2 import Account, RateLimit
from stratum.common.v1.error_reason_pb2 import ErrorReason

from services.shared import contracts
from services.shared.access import AccessTable, Applied, is_within, networks_of, refusal

NOW = 1_800_000_000.0
PAID = contracts.by_full_name()["stratum.signals.v1.SignalsService/ReadSignals"]
FREE = contracts.by_full_name()["stratum.billing.v1.BillingService/GetPlan"]
HERE = "203.0.113.7"


def account(account_id="acct", **fields):
    given = {
        "api_access_enabled": True,
        "standing": Account.Standing.GOOD,
        "rate_limit": RateLimit(requests=300, per_seconds=60),
        "included_units": 100,
        **fields,
    }
    return AccountAccess(account_id=account_id, **given)


def key(key_id="key", account_id="acct", **fields):
    given = {
        "lineage": key_id,
        "pepper_version": 1,
        "hash": key_id.encode(),
        "live": True,
        "scopes": ["signals:read", "account:read"],
        **fields,
    }
    return KeyAccess(key_id=key_id, account_id=account_id, **given)


def answer(revision, *parts, complete=False, epoch="first"):
    return GetAccessTableResponse(
        revision=revision,
        complete=complete,
        epoch=epoch,
        accounts=[part for part in parts if isinstance(part, AccountAccess)],
        keys=[part for part in parts if isinstance(part, KeyAccess)],
    )


def table(*parts):
    made = AccessTable()
    made.apply(answer(5, *parts, complete=True))
    return made


def why(*parts, method=PAID, address=HERE, now=NOW, sandbox=False, which="key"):
    """The name of the reason for which a key does not open a method; empty when it does."""
    known = table(*parts)
    found = known.by_id(which)
    said = refusal(found, known.account(found.account_id) if found else None, method, address, now, sandbox=sandbox)
    return ErrorReason.Value.Name(said.reason) if said else ""


def at(seconds):
    return Timestamp(seconds=int(seconds))


def test_a_new_table_knows_nothing_and_says_so():
    made = AccessTable()
    assert (made.is_filled, made.revision, len(made)) == (False, 0, 0)


def test_a_whole_table_without_keys_is_a_table():
    made = AccessTable()
    assert made.apply(answer(0, complete=True)) is Applied.CHANGED
    assert made.is_filled


def test_a_key_is_found_by_each_of_its_hashes_and_by_its_id():
    made = table(account(), key(pepper_version=2, hash=b"two"))
    assert made.by_hash([(1, b"two")]) is None
    assert made.by_hash([(3, b"x"), (2, b"two")]) is made.by_id("key") is not None


def test_what_changed_is_put_over_what_was_known():
    made = table(account(), key("a"), key("b"))
    assert made.apply(answer(6, key("b", revoked_at=at(NOW)), key("c"))) is Applied.CHANGED
    assert [made.by_id(one).revoked for one in "abc"] == [False, True, False]
    assert made.revision == 6


def test_a_whole_table_takes_the_place_of_what_was_known():
    made = table(account(), key("a"), key("b"))
    made.apply(answer(9, account(), key("b"), complete=True))
    assert made.by_id("a") is None
    assert made.by_hash([(1, b"a")]) is None
    assert made.by_id("b") is not None


def test_a_key_that_is_hashed_anew_is_no_longer_found_by_its_old_hash():
    made = table(account(), key(hash=b"old"))
    made.apply(answer(6, key(pepper_version=2, hash=b"new")))
    assert made.by_hash([(1, b"old")]) is None
    assert made.by_hash([(2, b"new")]) is not None


@pytest.mark.parametrize("other", [answer(6, key("new"), epoch="second"), answer(4, key("new"))])
def test_an_answer_of_another_table_is_not_mixed_in(other):
    made = table(account(), key())
    before = made.snapshot()
    assert made.apply(other) is Applied.ASK_ALL
    assert made.snapshot() == before
    assert made.apply(answer(2, account(), key("new"), epoch="second", complete=True)) is Applied.CHANGED
    assert (made.epoch, made.revision, made.by_id("key")) == ("second", 2, None)


def test_a_part_of_a_table_is_no_beginning():
    assert AccessTable().apply(answer(5, account(), key())) is Applied.ASK_ALL


def test_an_answer_without_news_changes_nothing():
    assert table(account(), key()).apply(answer(5)) is Applied.NOTHING


def test_what_was_used_is_no_change_of_rights():
    made = table(account(), key())
    made.apply(answer(6, account(used_units=5, overage_units=2)))
    assert (made.revision, made.rights_revision, made.account("acct").used_units) == (6, 5, 5)
    made.apply(answer(7, account(used_units=5, overage_units=2, standing=Account.Standing.SUSPENDED)))
    assert made.rights_revision == 7


CHANGES = st.lists(
    st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 2)).map(
        lambda drawn: key(
            drawn[0], hash=f"{drawn[0]}{drawn[2]}".encode(), **({"revoked_at": at(NOW)} if drawn[1] else {})
        )
    ),
    max_size=8,
)


@given(CHANGES, st.integers(0, 8))
def test_changes_one_by_one_lead_to_the_same_as_the_whole_table(changes, cut):
    step_by_step = AccessTable()
    step_by_step.apply(answer(1, account(), complete=True))
    for revision, change in enumerate(changes, start=2):
        step_by_step.apply(answer(revision, change))
    at_once = AccessTable()
    at_once.apply(step_by_step.snapshot())
    for one in "abc":
        assert at_once.by_id(one) == step_by_step.by_id(one)
        for version in range(3):
            hashed = [(1, f"{one}{version}".encode())]
            assert at_once.by_hash(hashed) == step_by_step.by_hash(hashed)


def test_a_good_key_opens_what_it_was_granted():
    assert why(account(), key()) == ""
    assert why(account(), key(), method=FREE) == ""


PAST, FUTURE = at(NOW - 1), at(NOW + 1)
#: What may be wrong with a key, in the order in which it is said.
WRONG = {
    "KEY_REVOKED": {"revoked_at": PAST},
    "KEY_EXPIRED": {"expires_at": PAST},
    "ADDRESS_NOT_ALLOWED": {"allowed_addresses": ["198.51.100.0/24"]},
    "ACCOUNT_SUSPENDED": {"account_id": "suspended"},
    "NOT_ENTITLED": {"account_id": "without"},
    "TEST_KEY": {"live": False},
    "SCOPE_MISSING": {"scopes": ["markets:read"]},
}
ACCOUNTS = (
    account(),
    account("suspended", standing=Account.Standing.SUSPENDED),
    account("without", api_access_enabled=False),
)


@pytest.mark.parametrize("reason", WRONG)
def test_each_wrong_has_its_own_reason(reason):
    assert why(*ACCOUNTS, key(**WRONG[reason])) == reason


@pytest.mark.parametrize(("first", "second"), list(pairwise(WRONG)))
def test_of_two_wrongs_the_first_is_said(first, second):
    both = {**WRONG[second], **WRONG[first]}
    if {first, second} == {"NOT_ENTITLED", "TEST_KEY"}:
        assert why(*ACCOUNTS, key(**both)) == "TEST_KEY"  # a test key needs no purchase
    else:
        assert why(*ACCOUNTS, key(**both)) == first


def test_a_key_that_nobody_issued_is_unknown():
    assert why(account(), which="nobodys") == "KEY_UNKNOWN"


def test_a_key_of_an_account_that_is_not_known_opens_nothing():
    assert why(key()) == "NOT_ENTITLED"


def test_an_account_of_which_no_standing_is_known_is_not_served():
    assert why(account(standing=Account.Standing.UNSPECIFIED), key()) == "ACCOUNT_SUSPENDED"


def test_a_payment_that_failed_changes_nothing_yet():
    assert why(account(standing=Account.Standing.GRACE), key()) == ""


def test_an_account_that_bought_nothing_sees_its_own_and_tries_with_a_test_key():
    without = account(api_access_enabled=False)
    assert why(without, key(), method=FREE) == ""
    assert why(without, key(live=False), sandbox=True) == ""


def test_only_test_keys_read_the_sandbox():
    assert why(account(), key(live=False), sandbox=True) == ""
    assert why(account(), key(), sandbox=True) == "TEST_KEY"


def test_a_key_expires_at_its_moment():
    expiring = key(expires_at=at(NOW))
    assert why(account(), expiring, now=NOW - 0.001) == ""
    assert why(account(), expiring, now=NOW) == "KEY_EXPIRED"


@pytest.mark.parametrize(
    ("allowed", "address", "good"),
    [
        ([], HERE, True),
        ([HERE], HERE, True),
        (["203.0.113.0/24"], HERE, True),
        (["203.0.113.9/24"], HERE, True),
        (["198.51.100.1", "203.0.113.0/29"], HERE, True),
        (["198.51.100.1"], HERE, False),
        ([HERE], f"::ffff:{HERE}", True),
        ([f"::ffff:{HERE}"], HERE, True),
        (["::ffff:203.0.113.0/120"], HERE, True),
        (["::ffff:203.0.113.0/120"], "203.0.114.1", False),
        (["2001:db8::/32"], "2001:db8::1", True),
        (["2001:db8::/32"], HERE, False),
        (["2001:db8::/32"], "2001:db8::1%eth0", True),
        (["0.0.0.0/0"], "2001:db8::1", False),
        (["::/0"], HERE, False),
        (["not an address"], HERE, False),
        (["not an address", HERE], HERE, True),
        ([HERE], "", False),
        ([HERE], "203.0.113.7, 198.51.100.1", False),
    ],
)
def test_an_allow_list_lets_in_whom_it_names(allowed, address, good):
    assert why(account(), key(allowed_addresses=allowed), address=address) == ("" if good else "ADDRESS_NOT_ALLOWED")


@given(st.ip_addresses(v=4), st.integers(0, 32))
def test_an_address_and_its_mapped_form_are_one(address, length):
    network = networks_of((f"{address}/{length}",))
    assert is_within(str(address), network)
    assert is_within(f"::ffff:{address}", network)


def test_an_open_stream_ends_for_what_changed_and_not_for_where_it_comes_from():
    made = table(account(), key(allowed_addresses=["198.51.100.1"]), key("test", live=False))
    assert made.ended("key", PAID, NOW) is None
    assert made.ended("test", PAID, NOW) is None
    made.apply(answer(6, key(revoked_at=at(NOW))))
    assert made.ended("key", PAID, NOW).reason == ErrorReason.KEY_REVOKED
    assert made.ended("nobodys", PAID, NOW).reason == ErrorReason.KEY_UNKNOWN

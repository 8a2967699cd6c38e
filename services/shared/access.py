"""Who may use what, decided in memory: the table of keys and accounts, and why a call is refused.

Pure: time and addresses come in as arguments, the table's changes as the answers of billing's AccessService. Nothing
here knows a secret: a key is found by the keyed hash of its secret, or by its id.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from google.protobuf.timestamp_pb2 import Timestamp
from stratum.billing.v1.access_service_pb2 import AccountAccess, GetAccessTableResponse, KeyAccess
from stratum.billing.v1.account_pb2 import Account as AccountMessage
from stratum.common.v1.access_pb2 import Access
from stratum.common.v1.error_reason_pb2 import ErrorReason

from services.shared.contracts import Method

Network = IPv4Network | IPv6Network
Hash = tuple[int, bytes]
_MAPPED = IPv6Network("::ffff:0:0/96")


@dataclass(frozen=True, slots=True)
class Account:
    """What an account may do, and how much of it it has done. Times are seconds since 1970."""

    account_id: str
    api_access_enabled: bool
    suspended: bool
    #: So many requests each `per_seconds`, for each lineage of keys; 0: nothing was said, so nothing is let through.
    requests: int
    per_seconds: int
    included_units: int
    used_units: int
    #: Counted above the limit that held then. Another limit changes nothing in them.
    overage_units: int
    period_end: float


@dataclass(frozen=True, slots=True)
class Key:
    """What a key opens. Times are seconds since 1970."""

    key_id: str
    account_id: str
    #: Whose rate limit it has: its own, or that of the key that it succeeded by rotation.
    lineage: str
    live: bool
    scopes: tuple[str, ...]
    #: From where it may be used; None: from anywhere.
    networks: tuple[Network, ...] | None
    #: Infinite for a key that does not expire.
    expires_at: float
    revoked: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call is not let through: the reason, and the sentence that its caller reads."""

    reason: ErrorReason.Value.ValueType
    message: str
    metadata: Mapping[str, str]


class Applied(Enum):
    """What became of an answer of billing's."""

    #: The table is what it was.
    NOTHING = "nothing"
    CHANGED = "changed"
    #: The answer belongs to another table: ask behind 0. Until then the table is what it was.
    ASK_ALL = "ask all"


class AccessTable:
    """The newest that is known of all keys and accounts. Empty at first: revision 0, of no epoch."""

    def __init__(self) -> None:
        self.revision = 0
        #: The newest change of what anybody may do: what was used in the meantime is none.
        self.rights_revision = 0
        #: Of the database that it comes from; empty for a table that never had an answer.
        self.epoch = ""
        self._accounts: dict[str, AccountAccess] = {}
        self._keys: dict[str, KeyAccess] = {}
        self._account_of: dict[str, Account] = {}
        self._key_of: dict[str, Key] = {}
        self._by_hash: dict[Hash, Key] = {}

    def __len__(self) -> int:
        """How many keys it knows, revoked ones included."""
        return len(self._key_of)

    @property
    def is_filled(self) -> bool:
        """Whether it ever had an answer: an empty table of an epoch knows that there are no keys."""
        return bool(self.epoch)

    def apply(self, answer: GetAccessTableResponse) -> Applied:
        """Takes an answer in. One that is no whole table counts only on top of the same epoch, and not backwards."""
        if answer.complete:
            return self._replace(answer)
        if answer.epoch != self.epoch or answer.revision < self.revision:
            return Applied.ASK_ALL
        if answer.revision == self.revision:
            return Applied.NOTHING
        rights = bool(answer.keys) or any(self._has_other_rights(account) for account in answer.accounts)
        for account in answer.accounts:
            self._put_account(account)
        for key in answer.keys:
            self._put_key(key)
        self.revision = answer.revision
        if rights:
            self.rights_revision = answer.revision
        return Applied.CHANGED

    def snapshot(self) -> GetAccessTableResponse:
        """The whole table as billing would say it: applied to an empty one, it gives the same."""
        return GetAccessTableResponse(
            revision=self.revision,
            complete=True,
            accounts=self._accounts.values(),
            keys=self._keys.values(),
            epoch=self.epoch,
        )

    def by_hash(self, hashes: Iterable[Hash]) -> Key | None:
        """The key whose secret has one of these hashes, each with the version of the pepper that it was made with."""
        for one in hashes:
            if (key := self._by_hash.get(one)) is not None:
                return key
        return None

    def by_id(self, key_id: str) -> Key | None:
        """The key with this id."""
        return self._key_of.get(key_id)

    def account(self, account_id: str) -> Account | None:
        """The account with this id."""
        return self._account_of.get(account_id)

    def ended(self, key_id: str, method: Method, now: float) -> Refusal | None:
        """Why a stream that a key opened must end now; None while it may go on. From where it comes does not change."""
        key = self.by_id(key_id)
        return standing(key, self.account(key.account_id) if key else None, method, now)

    def _replace(self, answer: GetAccessTableResponse) -> Applied:
        same = answer.epoch == self.epoch and answer.revision == self.revision
        self._accounts.clear()
        self._keys.clear()
        self._account_of.clear()
        self._key_of.clear()
        self._by_hash.clear()
        for account in answer.accounts:
            self._put_account(account)
        for key in answer.keys:
            self._put_key(key)
        self.revision = self.rights_revision = answer.revision
        self.epoch = answer.epoch
        return Applied.NOTHING if same else Applied.CHANGED

    def _has_other_rights(self, message: AccountAccess) -> bool:
        before = self._account_of.get(message.account_id)
        after = _account(message)
        if before is None:
            return True
        return replace(before, used_units=after.used_units, overage_units=after.overage_units) != after

    def _put_account(self, message: AccountAccess) -> None:
        self._accounts[message.account_id] = message
        self._account_of[message.account_id] = _account(message)

    def _put_key(self, message: KeyAccess) -> None:
        if (before := self._keys.get(message.key_id)) is not None:
            self._by_hash.pop((before.pepper_version, before.hash), None)
        key = _key(message)
        self._keys[message.key_id] = message
        self._key_of[message.key_id] = key
        self._by_hash[message.pepper_version, message.hash] = key


def refusal(
    key: Key | None, account: Account | None, method: Method, address: str, now: float, *, sandbox: bool
) -> Refusal | None:
    """Why a well-formed key does not open a method from an address; None when it does, as far as its rate allows.

    The first reason counts, in the order unknown, revoked, expired, address, suspended, not entitled, a test key where
    only a live one is good, scope. `sandbox`: the call goes to the recorded evening that test keys read.
    """
    if key is None:
        return _UNKNOWN
    if (problem := _ended(key, now)) is not None:
        return problem
    if key.networks is not None and not is_within(address, key.networks):
        return _ELSEWHERE
    if (problem := _unentitled(key, account, method)) is not None:
        return problem
    if key.live == sandbox:
        return _NOT_THE_SANDBOXS if sandbox else _TEST_KEY
    if method.scope and method.scope not in key.scopes:
        return _missing(method.scope)
    return None


def standing(key: Key | None, account: Account | None, method: Method, now: float) -> Refusal | None:
    """The part of `refusal` that may change while a stream is open: key, account and scope."""
    if key is None:
        return _UNKNOWN
    if (problem := _ended(key, now) or _unentitled(key, account, method)) is not None:
        return problem
    if method.scope and method.scope not in key.scopes:
        return _missing(method.scope)
    return None


def is_within(address: str, networks: Iterable[Network]) -> bool:
    """Whether an address is in one of the networks. What is no address is in none; ::ffff:192.0.2.7 is 192.0.2.7."""
    try:
        found = _plain(ip_address(address.partition("%")[0]))
    except ValueError:
        return False
    return any(found in network for network in networks)


@lru_cache(maxsize=4096)
def networks_of(allowed: tuple[str, ...]) -> tuple[Network, ...] | None:
    """The networks of an allow-list; None, which is anywhere, only for an empty one. An entry that cannot be read
    allows nothing: a mistake must not open a key to everybody."""
    if not allowed:
        return None
    networks: list[Network] = []
    for written in allowed:
        try:
            network = ip_network(written, strict=False)
        except ValueError:
            continue
        if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED.prefixlen and network.subnet_of(_MAPPED):
            mapped = network.network_address.ipv4_mapped
            assert mapped is not None, "it lies within the mapped ones"
            network = IPv4Network((mapped, network.prefixlen - _MAPPED.prefixlen))
        networks.append(network)
    return tuple(networks)


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _ended(key: Key, now: float) -> Refusal | None:
    if key.revoked:
        return _REVOKED
    return _EXPIRED if now >= key.expires_at else None


def _unentitled(key: Key, account: Account | None, method: Method) -> Refusal | None:
    if account is None:
        return _NOT_ENTITLED
    if account.suspended:
        return _SUSPENDED
    if method.level == Access.Level.PAID and key.live and not account.api_access_enabled:
        return _NOT_ENTITLED
    return None


def _account(message: AccountAccess) -> Account:
    return Account(
        account_id=message.account_id,
        api_access_enabled=message.api_access_enabled,
        suspended=message.standing not in (AccountMessage.Standing.GOOD, AccountMessage.Standing.GRACE),
        requests=max(0, message.rate_limit.requests),
        per_seconds=max(1, message.rate_limit.per_seconds),
        included_units=message.included_units,
        used_units=message.used_units,
        overage_units=message.overage_units,
        period_end=seconds(message.period_end),
    )


def _key(message: KeyAccess) -> Key:
    return Key(
        key_id=message.key_id,
        account_id=message.account_id,
        lineage=message.lineage or message.key_id,
        live=message.live,
        scopes=tuple(message.scopes),
        networks=networks_of(tuple(message.allowed_addresses)),
        expires_at=seconds(message.expires_at) if message.HasField("expires_at") else math.inf,
        revoked=message.HasField("revoked_at"),
    )


def seconds(time: Timestamp) -> float:
    """A moment as seconds since 1970."""
    return time.seconds + time.nanos / 1e9


def _said(reason: ErrorReason.Value.ValueType, message: str) -> Refusal:
    return Refusal(reason, message, {})


@lru_cache(maxsize=64)
def _missing(scope: str) -> Refusal:
    return Refusal(ErrorReason.SCOPE_MISSING, f"the key was not granted {scope}", {"scope": scope})


_UNKNOWN = _said(ErrorReason.KEY_UNKNOWN, "the key is not one of ours")
_REVOKED = _said(ErrorReason.KEY_REVOKED, "the key was revoked")
_EXPIRED = _said(ErrorReason.KEY_EXPIRED, "the key has expired")
_ELSEWHERE = _said(ErrorReason.ADDRESS_NOT_ALLOWED, "the key may not be used from this address")
_SUSPENDED = _said(ErrorReason.ACCOUNT_SUSPENDED, "the account is suspended")
_NOT_ENTITLED = _said(ErrorReason.NOT_ENTITLED, "the account has no access to the API")
_TEST_KEY = _said(ErrorReason.TEST_KEY, "a test key cannot do this: it reads a recorded evening")
_NOT_THE_SANDBOXS = _said(ErrorReason.TEST_KEY, "only a test key reads the recorded evening")

"""What changes accounts and keys, each in the caller's transaction: read, decide, write, and say so on the bus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from secrets import token_hex
from typing import NoReturn

from sqlalchemy.ext.asyncio import AsyncConnection
from stratum.billing.v1 import account_pb2 as proto
from stratum.billing.v1.accounts_service_pb2 import UpdateAccountRequest
from stratum.billing.v1.events_pb2 import AccountEvent
from stratum.common.v1.error_reason_pb2 import ErrorReason

from services.billing import entitlements, store, wire
from services.billing.entitlements import KeyWish, Refusal, RefusedError
from services.billing.events import AccountEvents, Clock, access_changed, key_revoked
from services.billing.model import Account, ApiKey, RevokedReason
from services.shared import api_keys, contracts
from services.shared.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from services.shared.keyring import Keyring

#: The scope with which a key makes its own successor.
ROTATES = "keys:write"
#: So much of an id that is none of ours is told back.
_TOLD = 64


@dataclass(frozen=True, slots=True)
class Issued:
    """A key that was just made. Its secret is told once, to whoever asked for it."""

    key: ApiKey
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Rotated:
    """A key's successor, and how long the key itself goes on."""

    successor: Issued
    old_key_expires_at: datetime


class Changes:
    """Every change holds its account before it looks at anything, so that what it decides by is still so when it is
    committed; and it ends with the access table's next revision and an event that names it (`store.take_turn`)."""

    def __init__(self, events: AccountEvents, peppers: Keyring, clock: Clock) -> None:
        self._events = events
        self._peppers = peppers
        self._clock = clock
        self._scopes = frozenset(method.scope for method in contracts.methods() if method.scope)

    async def create_account(self, connection: AsyncConnection, given: proto.Account) -> Account:
        """Makes an account. Raises InvalidArgument."""
        with _refusals():
            made = entitlements.checked(wire.new_account(given, f"acct_{token_hex(10)}", self._clock()))
        revision = await store.next_revision(connection)
        await store.add_account(connection, made, revision)
        await self._say(connection, made.id, revision)
        return made

    async def update_account(self, connection: AsyncConnection, request: UpdateAccountRequest) -> Account:
        """Changes the fields that the request names. Raises InvalidArgument or NotFound."""
        held, now = await _held_account(connection, request.account.id), self._clock()
        used = await store.used_periods(connection, [held.id], now)
        with _refusals():
            change = entitlements.changed(held, wire.changes(request), used.get(held.id), now)
        revision = await store.next_revision(connection)
        await store.write_account(connection, change.account, revision)
        if change.present is not None:
            await store.write_period(connection, held.id, change.present)
        await store.write_coming_terms(connection, change.account, now)
        await self._say(connection, held.id, revision)
        return change.account

    async def issue_key(self, connection: AsyncConnection, account_id: str, wish: KeyWish) -> Issued:
        """Makes a key. Raises InvalidArgument, NotFound or FailedPrecondition (TOO_MANY_KEYS)."""
        held, now = await _held_account(connection, account_id), self._clock()
        with _refusals():
            wish = entitlements.granted(wish, self._scopes, now)
            entitlements.has_room(await store.count_active_keys(connection, held.id, now))
        issued = self._made(held.id, wish, now)
        revision = await store.next_revision(connection)
        await store.add_key(connection, issued.key, revision)
        await self._say(connection, held.id, revision)
        return issued

    async def rotate_key(
        self, connection: AsyncConnection, key_id: str, overlap: str, account_id: str | None = None
    ) -> Rotated:
        """Makes a key's successor. With an account it asks for itself: only a key of its own is found, and there is an
        end to how many it makes in a day.

        Raises InvalidArgument, NotFound or FailedPrecondition (KEY_NOT_ACTIVE, TOO_MANY_KEYS).
        """
        held, now = await _held_key(connection, key_id, account_id), self._clock()
        with _refusals():
            if account_id is not None:
                since = now - entitlements.NEW_KEYS_WITHIN
                entitlements.may_rotate(await store.count_new_keys(connection, account_id, since))
            active = await store.count_active_keys(connection, held.account_id, now)
            rotation = entitlements.rotated(held, overlap, active, now)
        made = self._made(held.account_id, rotation.successor, now)
        issued = replace(made, key=replace(made.key, lineage=held.lineage, replaces=held.id))
        revision = await store.next_revision(connection)
        await store.write_key_end(connection, rotation.old, revision)
        await store.add_key(connection, issued.key, revision)
        ended = [key_revoked(rotation.old, now)] if rotation.old.revoked_at is not None else []
        await self._say(connection, held.account_id, revision, ended)
        return Rotated(issued, rotation.old_key_expires_at)

    async def revoke_key(self, connection: AsyncConnection, key_id: str, account_id: str | None = None) -> ApiKey:
        """Ends a key now; one that was revoked before stays as it was. With an account only a key of its own is found.
        Raises NotFound."""
        return await self._revoked(connection, await _held_key(connection, key_id, account_id), RevokedReason.REVOKED)

    async def revoke_leaked_key(self, connection: AsyncConnection, secret: str, found_at: str) -> bool:
        """Ends the key with this secret, if it is one of ours; whether it is, and opens nothing any more. One that may
        rotate keys takes its successors along.

        Text that is no key is looked up nowhere and locks nothing. Raises InvalidArgument for a long `found_at`.
        """
        with _refusals():
            found_at = entitlements.place_of_find(found_at)
        secret = secret.strip()
        if not api_keys.is_well_formed(secret):
            return False
        found = await store.find_key(connection, self._peppers.every(secret.encode()))
        if found is None:
            return False
        held = await _held_key(connection, found.id, None)
        ended = await self._revoked(connection, held, RevokedReason.LEAKED, found_at)
        if ROTATES in ended.scopes:
            # Whoever found it may have made himself a successor first.
            keys = await store.list_keys(connection, ended.account_id, self._clock())
            for key in entitlements.successors(ended, keys):
                await self._revoked(connection, key, RevokedReason.LEAKED, found_at)
        return True

    async def _revoked(
        self, connection: AsyncConnection, held: ApiKey, reason: RevokedReason, found_at: str = ""
    ) -> ApiKey:
        now = self._clock()
        ended = entitlements.revoked(held, reason, now)
        if ended != held:
            revision = await store.next_revision(connection)
            await store.write_key_end(connection, ended, revision)
            await self._say(connection, held.account_id, revision, [key_revoked(ended, now, found_at)])
        return ended

    def _made(self, account_id: str, wish: KeyWish, now: datetime) -> Issued:
        if not self._peppers:
            raise Unavailable(ErrorReason.UNAVAILABLE, "no key can be made: API_KEY_PEPPERS is not set")
        secret = api_keys.made(api_keys.LIVE if wish.live else api_keys.TEST)
        version, digest = self._peppers.sign(secret.encode())
        key_id = f"key_{token_hex(10)}"
        return Issued(
            ApiKey(
                id=key_id,
                account_id=account_id,
                lineage=key_id,
                replaces=None,
                name=wish.name,
                live=wish.live,
                pepper_version=version,
                hash=digest,
                hint=api_keys.hint(secret),
                scopes=wish.scopes,
                allowed_addresses=wish.allowed_addresses,
                created_at=now,
                expires_at=wish.expires_at,
            ),
            secret,
        )

    async def _say(
        self, connection: AsyncConnection, account_id: str, revision: int, ended: Sequence[AccountEvent] = ()
    ) -> None:
        await self._events.add(connection, [*ended, access_changed(account_id, revision, self._clock())])


async def account(connection: AsyncConnection, account_id: str) -> Account:
    """An account, to look at. Raises NotFound."""
    found = await store.load_account(connection, account_id) if "\0" not in account_id else None
    return found or _no_account(account_id)


async def _held_account(connection: AsyncConnection, account_id: str) -> Account:
    """An account, to change. Raises NotFound."""
    found = await store.lock_accounts(connection, [account_id]) if "\0" not in account_id else []
    return found[0] if found else _no_account(account_id)


async def _held_key(connection: AsyncConnection, key_id: str, account_id: str | None) -> ApiKey:
    """A key, whosever, or only one of the account's, to change. Raises NotFound."""
    found = await store.load_key(connection, key_id) if "\0" not in key_id else None
    if found is None or account_id not in {None, found.account_id}:
        raise NotFound(ErrorReason.KEY_NOT_FOUND, "the account has no key with this id", key_id=key_id[:_TOLD])
    await _held_account(connection, found.account_id)
    # While we waited for the account somebody may have ended the key.
    return await store.load_key(connection, key_id) or found


def _no_account(account_id: str) -> NoReturn:
    raise NotFound(ErrorReason.ACCOUNT_NOT_FOUND, "no account has this id", account_id=account_id[:_TOLD])


@contextmanager
def _refusals() -> Iterator[None]:
    """What the rules refuse, as the caller is told it."""
    try:
        yield
    except RefusedError as refused:
        if refused.refusal is Refusal.TOO_MANY_KEYS:
            raise FailedPrecondition(ErrorReason.TOO_MANY_KEYS, refused.message) from None
        if refused.refusal is Refusal.KEY_NOT_ACTIVE:
            raise FailedPrecondition(ErrorReason.KEY_NOT_ACTIVE, refused.message) from None
        raise InvalidArgument(ErrorReason.INVALID_ARGUMENT, refused.message, field=refused.field) from None

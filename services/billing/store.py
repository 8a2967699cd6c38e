"""The queries about accounts, keys, the access table and idempotency. Every write happens in the caller's transaction.

The tables themselves are declared in `tables.py`, because the ledger has its own queries about some of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, Table, and_, func, or_, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.billing.model import Account, ApiKey, Period, RevokedReason, Standing, UsedPeriod
from services.billing.tables import access_table, account, api_key, idempotency, metadata, usage_period

__all__ = ["metadata"]

#: Of an account's keys that are over, so many are listed.
LISTED_KEYS = 500
#: PostgreSQL knows our lock by two numbers; these are ours alone.
_TURN = text("SELECT pg_advisory_xact_lock(20261127, 0)")
_SNAPSHOT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
_NO_REVISION = 0


async def take_turn(connection: AsyncConnection) -> None:
    """From here to the commit we are alone among those who change the access table or add to the outbox. Repeating it
    in a transaction costs next to nothing.

    Whoever publishes takes everything up to an id as published, of whichever partition, so ids have to rise in the
    order of the commits over the whole outbox. The turn comes last: whoever has it waits for nobody any more, because
    the rows that it writes then are of accounts that it holds already (`lock_accounts`). So nobody waits in a circle.
    """
    await connection.execute(_TURN)


async def next_revision(connection: AsyncConnection) -> int:
    """The access table's next revision, in the order in which it becomes visible: with our turn, until the commit."""
    await take_turn(connection)
    statement = update(access_table).values(revision=access_table.c.revision + 1).returning(access_table.c.revision)
    return int(await connection.scalar(statement) or _NO_REVISION)


# Accounts.


async def load_account(connection: AsyncConnection, account_id: str) -> Account | None:
    """An account; None where there is none with this id."""
    row = (await connection.execute(select(account).where(account.c.id == account_id))).mappings().one_or_none()
    return None if row is None else _account(row)


async def lock_accounts(connection: AsyncConnection, account_ids: Sequence[str]) -> list[Account]:
    """The accounts, by id, which nobody else changes or counts for until the commit, and neither what belongs to them:
    whoever writes a key or a period holds its account. Before `take_turn`."""
    column = account.c.id
    rows = await connection.execute(
        select(account).where(column == func.any(list(account_ids))).order_by(column).with_for_update(key_share=True)
    )
    return [_account(row) for row in rows.mappings()]


async def list_accounts(connection: AsyncConnection, after: str, limit: int) -> list[Account]:
    """Accounts behind an id, by id."""
    rows = await connection.execute(select(account).where(account.c.id > after).order_by(account.c.id).limit(limit))
    return [_account(row) for row in rows.mappings()]


async def every_account(connection: AsyncConnection) -> list[Account]:
    """All accounts, in no order."""
    return [_account(row) for row in (await connection.execute(select(account))).mappings()]


async def touch_accounts(connection: AsyncConnection, account_ids: Sequence[str], revision: int) -> None:
    """Says that what the access table tells of these accounts is another, where nothing in their rows is."""
    mine = account.c.id == func.any(list(account_ids))
    await connection.execute(update(account).where(mine).values(revision=revision))


async def add_account(connection: AsyncConnection, added: Account, revision: int) -> None:
    """Writes a new account."""
    await connection.execute(insert(account).values(**asdict(added), revision=revision))


async def write_account(connection: AsyncConnection, changed: Account, revision: int) -> None:
    """Writes an account that is there."""
    values = asdict(changed)
    statement = update(account).where(account.c.id == values.pop("id"))
    await connection.execute(statement.values(**values, revision=revision))


async def used_periods(connection: AsyncConnection, account_ids: Iterable[str], now: datetime) -> dict[str, UsedPeriod]:
    """What is kept of the periods that hold a moment, by account; nothing of those in which nothing was counted."""
    column = usage_period.c
    rows = await connection.execute(
        select(usage_period).where(
            column.account_id == func.any(list(account_ids)), column.period_start <= now, now < column.period_end
        )
    )
    return {row["account_id"]: _used_period(row) for row in rows.mappings()}


async def write_period(connection: AsyncConnection, account_id: str, present: UsedPeriod) -> None:
    """Writes a period's end and terms, and leaves alone what was counted in it."""
    terms = {
        "period_end": present.period.end,
        "soft_limit": present.soft_limit,
        "overage_rate_cents": present.overage_rate_cents,
    }
    statement = insert(usage_period).values(
        account_id=account_id, period_start=present.period.start, used_units=0, overage_units=0, **terms
    )
    await connection.execute(statement.on_conflict_do_update(index_elements=["account_id", "period_start"], set_=terms))


async def write_coming_terms(connection: AsyncConnection, changed: Account, now: datetime) -> None:
    """Gives an account's terms to the period that comes next, if something was counted in it already: a gateway's clock
    may be ahead of ours."""
    column = usage_period.c
    coming = and_(column.account_id == changed.id, column.period_start > now)
    terms = {"soft_limit": changed.api_usage_soft_limit, "overage_rate_cents": changed.api_overage_rate_cents}
    await connection.execute(update(usage_period).where(coming).values(**terms))


# Keys.


async def load_key(connection: AsyncConnection, key_id: str) -> ApiKey | None:
    """A key; None where there is none with this id."""
    row = (await connection.execute(select(api_key).where(api_key.c.id == key_id))).mappings().one_or_none()
    return None if row is None else _key(row)


async def find_key(connection: AsyncConnection, hashes: Sequence[tuple[int, bytes]]) -> ApiKey | None:
    """The key with one of these hashes, each under its version of the pepper; None where there is none."""
    if not hashes:
        return None
    place = tuple_(api_key.c.pepper_version, api_key.c.hash)
    rows = await connection.execute(select(api_key).where(place.in_(hashes)).limit(1))
    row = rows.mappings().one_or_none()
    return None if row is None else _key(row)


async def list_keys(connection: AsyncConnection, account_id: str, now: datetime) -> list[ApiKey]:
    """An account's keys, newest first: every active one, and the newest of those that are over."""
    over = ~_is_active(now)
    rows = await connection.execute(
        select(api_key)
        .where(api_key.c.account_id == account_id)
        .order_by(over, api_key.c.created_at.desc(), api_key.c.id)
        .limit(LISTED_KEYS)
    )
    return sorted((_key(row) for row in rows.mappings()), key=lambda key: key.created_at, reverse=True)


async def count_active_keys(connection: AsyncConnection, account_id: str, now: datetime) -> int:
    """How many of an account's keys are neither revoked nor expired."""
    statement = select(func.count()).select_from(api_key).where(api_key.c.account_id == account_id, _is_active(now))
    return int(await connection.scalar(statement) or 0)


async def count_new_keys(connection: AsyncConnection, account_id: str, since: datetime) -> int:
    """How many of an account's keys were made since a moment, whatever became of them."""
    mine = and_(api_key.c.account_id == account_id, api_key.c.created_at > since)
    return int(await connection.scalar(select(func.count()).select_from(api_key).where(mine)) or 0)


async def add_key(connection: AsyncConnection, added: ApiKey, revision: int) -> None:
    """Writes a new key."""
    await connection.execute(insert(api_key).values(**_columns(added), revision=revision))


async def write_key_end(connection: AsyncConnection, ended: ApiKey, revision: int) -> None:
    """Writes when and why a key is over. Nothing else of a key ever changes here."""
    statement = update(api_key).where(api_key.c.id == ended.id)
    await connection.execute(
        statement.values(
            expires_at=ended.expires_at,
            revoked_at=ended.revoked_at,
            revoked_reason=ended.revoked_reason,
            revision=revision,
        )
    )


# The access table.


@dataclass(frozen=True, slots=True)
class AccessRows:
    """What changed in the access table behind a revision, or all of it."""

    epoch: str
    revision: int
    complete: bool
    accounts: Sequence[Account]
    #: By account, where something was counted.
    used: Mapping[str, UsedPeriod]
    keys: Sequence[ApiKey]


async def load_access(connection: AsyncConnection, after: int, now: datetime) -> AccessRows:
    """What changed behind a revision; everything behind 0 or one that we never had.

    Must be the transaction's first question: all answers are of one moment.
    """
    await connection.execute(_SNAPSHOT)
    table = (await connection.execute(select(access_table.c.epoch, access_table.c.revision))).one()
    complete = not 0 < after <= table.revision
    behind = _NO_REVISION if complete else after
    # Rows come with revisions from 1 on, so that everything is behind 0.
    accounts = await connection.execute(
        select(account).where(account.c.revision > behind).order_by(account.c.revision, account.c.id)
    )
    changed = [_account(row) for row in accounts.mappings()]
    keys = await connection.execute(
        select(api_key).where(api_key.c.revision > behind).order_by(api_key.c.revision, api_key.c.id)
    )
    return AccessRows(
        epoch=table.epoch,
        revision=table.revision,
        complete=complete,
        accounts=changed,
        used=await used_periods(connection, [each.id for each in changed], now) if changed else {},
        keys=[_key(row) for row in keys.mappings()],
    )


# Idempotency.


@dataclass(frozen=True, slots=True)
class Noted:
    """What a caller's idempotency key was used for, and what it led to."""

    method: str
    request_digest: bytes
    response: bytes


async def claim(connection: AsyncConnection, caller: str, key: str, method: str, digest: bytes) -> Noted | None:
    """Takes a caller's idempotency key for this call: None. Where it was taken before: what for.

    While another transaction has it in hand, waits for that one's end.
    """
    column = idempotency.c
    claimed = await connection.scalar(
        insert(idempotency)
        .values(caller=caller, key=key, method=method, request_digest=digest, response=b"")
        .on_conflict_do_nothing()
        .returning(column.key)
    )
    if claimed is not None:
        return None
    row = (
        await connection.execute(
            select(column.method, column.request_digest, column.response).where(
                column.caller == caller, column.key == key
            )
        )
    ).one()
    return Noted(row.method, row.request_digest, row.response)


async def note_response(connection: AsyncConnection, caller: str, key: str, response: bytes) -> None:
    """Keeps what a claimed key led to. Whoever calls it has taken every secret out."""
    mine = and_(idempotency.c.caller == caller, idempotency.c.key == key)
    await connection.execute(update(idempotency).where(mine).values(response=response))


# Rows and values.


def _is_active(now: datetime) -> Any:
    return and_(api_key.c.revoked_at.is_(None), or_(api_key.c.expires_at.is_(None), api_key.c.expires_at > now))


def _account(row: RowMapping) -> Account:
    return Account(**{**_without_revision(account, row), "standing": Standing(row["standing"])})


def _key(row: RowMapping) -> ApiKey:
    reason = row["revoked_reason"]
    return ApiKey(
        **{
            **_without_revision(api_key, row),
            "scopes": tuple(row["scopes"]),
            "allowed_addresses": tuple(row["allowed_addresses"]),
            "revoked_reason": None if reason is None else RevokedReason(reason),
        }
    )


def _used_period(row: RowMapping) -> UsedPeriod:
    return UsedPeriod(
        Period(row["period_start"], row["period_end"]),
        row["soft_limit"],
        row["overage_rate_cents"],
        row["used_units"],
        row["overage_units"],
    )


def _without_revision(table: Table, row: RowMapping) -> dict[str, Any]:
    return {column.name: row[column.name] for column in table.columns if column.name != "revision"}


def _columns(key: ApiKey) -> dict[str, Any]:
    return asdict(key) | {"scopes": list(key.scopes), "allowed_addresses": list(key.allowed_addresses)}

"""The ledger of usage in the database: the SQL of everything that counting reads and writes.

Counting a batch is one transaction: rows, sums, notices and what is said of them are there together or not at all, and
whatever dies in between, the same batch can come again. Whoever counts takes locks in this order, so that nobody waits
in a circle: the clock (shared), the accounts by their id, what belongs to these accounts, days that have to be made,
rows by their key, and last the access table and the outbox, which are the announcer's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from stratum.billing.v1.events_pb2 import AccountEvent, UsageAnomaly, UsageThresholdReached
from stratum.common.v1.error_reason_pb2 import ErrorReason
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

from services.billing import anomaly
from services.billing.anomaly import Anomaly
from services.billing.counting import (
    AccountPeriod,
    Counted,
    Entry,
    Facts,
    Growth,
    Periods,
    Plan,
    RowKey,
    Sifted,
    count,
    sift,
)
from services.billing.rating import KeyFacts, Line, MethodKind, Part, Unrated, rate
from services.billing.tables import days
from services.shared.database import Database
from services.shared.errors import NotFound, Unavailable
from services.shared.identity import hashed_id, milliseconds

HOUR = timedelta(hours=1)
#: A computed period is at most a year long, so no period that ended earlier before a moment can touch the one it is in.
_LONGEST_PERIOD = timedelta(days=367)
#: Advisory locks are told apart by number. Unlike a row's lock this one is given in the order in which it is asked for:
#: writers that hold it shared, one after the other without a pause, cannot keep the sealer waiting for ever.
_CLOCK_LOCK = 5_024_001
#: So often a batch is counted again because another batch had some of its request ids for another account.
_ATTEMPTS = 3
#: Accounts whose past is read at once, 28 days of hours each.
_ACCOUNTS_AT_ONCE = 100


class Announcer(Protocol):
    """How others learn what changes. Whoever uses it is alone with that from then on until his commit, so it comes last
    in a transaction."""

    async def changed(self, connection: AsyncConnection, account_ids: Sequence[str]) -> None:
        """Gives accounts that the caller holds the access table's next revision, for whoever asks what changed."""
        ...

    async def say(self, connection: AsyncConnection, event: AccountEvent) -> None:
        """Keeps an event in the caller's transaction, behind all earlier ones of its account."""
        ...

    def committed(self) -> None:
        """Says that a transaction which said something is committed, so that it leaves at once."""
        ...


@dataclass(frozen=True, slots=True)
class LineToCount:
    """A line, and its bytes as they came: those of an unrated one are kept."""

    line: Line
    raw: bytes


@dataclass(slots=True)
class Recorded:
    """What became of a batch's lines."""

    recorded: int = 0
    repeated: int = 0
    conflicting: list[Line] = field(default_factory=list)
    unrated: list[tuple[Unrated, LineToCount]] = field(default_factory=list)
    #: Units that were counted now.
    units: int = 0
    #: Thresholds that were said now: account and percent.
    notices: list[tuple[str, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SealedHour:
    """An hour that is closed now."""

    hour: datetime
    rollups: int
    anomalies: Mapping[str, Anomaly]


class _OvertakenError(Exception):
    """Another transaction entered one of our rows for another account while we counted."""


# ruff: noqa: S608 - the only names put into these statements are those of our own tables and columns


def _unnest(**columns: str) -> str:
    """Rows of arrays, one a column: `unnest(CAST(:a AS text[]), …) AS given (a, …)`."""
    arrays = ", ".join(f"CAST(:{name} AS {type_}[])" for name, type_ in columns.items())
    return f"unnest({arrays}) AS given ({', '.join(columns)})"


_READ_CLOCK = text("SELECT sealed_until FROM billing.usage_clock")
_SHARE_CLOCK = text(f"SELECT pg_advisory_xact_lock_shared({_CLOCK_LOCK})")
_STOP_CLOCK = text(f"SELECT pg_advisory_xact_lock({_CLOCK_LOCK})")

_PLAN_COLUMNS = "id, period_anchor, api_plan_code, api_usage_soft_limit, api_overage_rate_cents"
#: Every transaction that counts for an account, or changes it or its keys, waits here for the one before it. A key that
#: refers to the account may be made meanwhile.
_LOCK_ACCOUNTS = text(
    f"SELECT {_PLAN_COLUMNS} FROM billing.account WHERE id = ANY(CAST(:ids AS text[])) ORDER BY id FOR NO KEY UPDATE"
)
_READ_ACCOUNTS = text(f"SELECT {_PLAN_COLUMNS} FROM billing.account WHERE id = ANY(CAST(:ids AS text[]))")
_READ_KEYS = text("SELECT id, account_id, live FROM billing.api_key WHERE id = ANY(CAST(:ids AS text[]))")
_READ_PERIODS = text(
    "SELECT account_id, period_start, period_end, soft_limit, overage_rate_cents, used_units, overage_units "
    "FROM billing.usage_period WHERE account_id = ANY(CAST(:ids AS text[])) AND period_end > :after"
)
#: A look-up a row, each in the one day that can hold it: the limit keeps the planner from reading everything between
#: the earliest and the latest line instead, of which there may be weeks. The bounds leave only the days between them to
#: look at.
_READ_KNOWN = text(
    "SELECT given.started_at, given.request_id, given.part, known.account_id, known.key_id, known.method, known.status "
    f"FROM {_unnest(started_at='timestamptz', request_id='text', part='smallint')} "
    "JOIN LATERAL (SELECT account_id, key_id, method, status FROM billing.usage_ledger AS ledger "
    "WHERE ledger.started_at = given.started_at AND ledger.request_id = given.request_id AND ledger.part = given.part "
    "AND ledger.started_at BETWEEN :earliest AND :latest LIMIT 1) AS known ON true"
)
_ENTRY_TYPES = {
    "started_at": "timestamptz",
    "request_id": "text",
    "part": "smallint",
    "account_id": "text",
    "key_id": "text",
    "method": "text",
    "path": "text",
    "status": "smallint",
    "units": "smallint",
    "overage_units": "smallint",
    "period_start": "timestamptz",
    "billed_hour": "timestamptz",
    "late": "boolean",
    "gateway": "text",
}
_ADD_ENTRIES = text(
    f"INSERT INTO billing.usage_ledger ({', '.join(_ENTRY_TYPES)}, recorded_at) "
    f"SELECT {', '.join(_ENTRY_TYPES)}, :now FROM {_unnest(**_ENTRY_TYPES)} "
    "ORDER BY started_at, request_id, part ON CONFLICT DO NOTHING"
)
_GROW_PERIODS = text(
    "INSERT INTO billing.usage_period AS kept (account_id, period_start, period_end, soft_limit, overage_rate_cents, "
    "used_units, overage_units) SELECT account_id, period_start, period_end, soft_limit, overage_rate_cents, units, "
    "overage_units FROM "
    + _unnest(
        account_id="text",
        period_start="timestamptz",
        period_end="timestamptz",
        soft_limit="integer",
        overage_rate_cents="integer",
        units="bigint",
        overage_units="bigint",
    )
    + " ON CONFLICT (account_id, period_start) DO UPDATE SET used_units = kept.used_units + EXCLUDED.used_units, "
    "overage_units = kept.overage_units + EXCLUDED.overage_units, soft_limit = EXCLUDED.soft_limit, "
    "overage_rate_cents = EXCLUDED.overage_rate_cents"
)
_GROW_DAYS = text(
    "INSERT INTO billing.usage_day AS kept (account_id, day, key_id, period_start, requests, units) "
    "SELECT account_id, day, key_id, period_start, requests, units FROM "
    + _unnest(
        account_id="text", day="date", key_id="text", period_start="timestamptz", requests="bigint", units="bigint"
    )
    + " ON CONFLICT (account_id, day, key_id, period_start) DO UPDATE SET "
    "requests = kept.requests + EXCLUDED.requests, units = kept.units + EXCLUDED.units"
)
_GROW_HOURS = text(
    "INSERT INTO billing.usage_rollup AS kept (account_id, hour, period_start, units, overage_units, late_units) "
    "SELECT account_id, hour, period_start, units, overage_units, late_units FROM "
    + _unnest(
        account_id="text",
        hour="timestamptz",
        period_start="timestamptz",
        units="bigint",
        overage_units="bigint",
        late_units="bigint",
    )
    + " ON CONFLICT (account_id, hour, period_start) DO UPDATE SET units = kept.units + EXCLUDED.units, "
    "overage_units = kept.overage_units + EXCLUDED.overage_units, late_units = kept.late_units + EXCLUDED.late_units"
)
_ADD_NOTICES = text(
    "INSERT INTO billing.usage_notice (account_id, period_start, threshold_percent, reached_at, used_units, "
    "included_units) SELECT account_id, period_start, threshold_percent, reached_at, used_units, included_units FROM "
    + _unnest(
        account_id="text",
        period_start="timestamptz",
        threshold_percent="smallint",
        reached_at="timestamptz",
        used_units="bigint",
        included_units="bigint",
    )
    + " ON CONFLICT DO NOTHING RETURNING account_id, period_start, threshold_percent"
)
_KEEP_UNRATED = text(
    "INSERT INTO billing.usage_unrated (request_id, reason, line, noted_at) SELECT request_id, reason, line, :now FROM "
    + _unnest(request_id="text", reason="text", line="bytea")
    + " ORDER BY request_id ON CONFLICT (request_id) DO UPDATE SET reason = EXCLUDED.reason, line = EXCLUDED.line"
)
#: Whoever changes a key holds its account, as we do.
_NOTE_USE = text(
    "UPDATE billing.api_key AS key SET last_used_at = given.last_used_at FROM "
    + _unnest(id="text", last_used_at="timestamptz")
    + " WHERE key.id = given.id AND (key.last_used_at IS NULL OR key.last_used_at < given.last_used_at)"
)

_ADVANCE_CLOCK = text("UPDATE billing.usage_clock SET sealed_until = :until WHERE sealed_until = :hour")
_SEAL = text(
    "UPDATE billing.usage_rollup SET sealed_at = :now WHERE hour >= :hour AND hour < :until AND sealed_at IS NULL"
)
_NEXT_ACCOUNTS = text("SELECT id FROM billing.account WHERE id > :after ORDER BY id LIMIT :size")
#: Units that became known late are not those of the hour that they are billed under.
_READ_HOURS = text(
    "SELECT account_id, hour, sum(units - late_units)::bigint AS units FROM billing.usage_rollup "
    "WHERE account_id = ANY(CAST(:ids AS text[])) AND hour >= :since AND hour <= :hour GROUP BY account_id, hour"
)
_ADD_ANOMALIES = text(
    "INSERT INTO billing.usage_anomaly (account_id, hour, kind, units, noted_at) "
    "SELECT account_id, :hour, kind, units, :now FROM "
    + _unnest(account_id="text", kind="text", units="bigint")
    + " ORDER BY account_id ON CONFLICT DO NOTHING RETURNING account_id"
)


class Ledger:
    """The ledger, for those who write to it."""

    def __init__(self, database: Database, announcer: Announcer, methods: Mapping[str, MethodKind]) -> None:
        """`methods`: by its full name each method that is reached through the gateway."""
        self._database = database
        self._announcer = announcer
        self._methods = methods

    async def record(self, batch: Sequence[LineToCount], now: datetime) -> Recorded:
        """Enters a batch. When it returns, everything is committed. Raises Unavailable where other batches with the
        same request ids come in between again and again; the caller sends it once more."""
        if not batch:
            return Recorded()
        lines = sorted(batch, key=_place)
        try:
            async for attempt in AsyncRetrying(
                stop=stop_after_attempt(_ATTEMPTS), retry=retry_if_exception_type(_OvertakenError), reraise=True
            ):
                with attempt:
                    recorded = await self._record(lines, now)
        except _OvertakenError:
            raise Unavailable(ErrorReason.UNAVAILABLE, "other lines of the same requests come in between") from None
        if recorded.notices:
            self._announcer.committed()
        return recorded

    async def _record(self, lines: Sequence[LineToCount], now: datetime) -> Recorded:
        async with self._database.begin() as connection:
            await connection.execute(_SHARE_CLOCK)
            # A statement of its own: one that had waited for the lock would see the clock as it was before.
            sealed_until = (await connection.execute(_READ_CLOCK)).scalar_one()
            plans = await _plans(connection, _LOCK_ACCOUNTS, {each.line.account_id for each in lines})
            keys = await _keys(connection, {each.line.key_id for each in lines})
            recorded = Recorded()
            rated: list[tuple[Line, tuple[Part, ...]]] = []
            used: dict[str, datetime] = {}
            for each in lines:
                parts = rate(each.line, self._methods, keys, plans, now)
                if isinstance(parts, Unrated):
                    recorded.unrated.append((parts, each))
                    continue
                rated.append((each.line, parts))
                last = parts[-1].started_at
                if last > used.get(each.line.key_id, last - HOUR):
                    used[each.line.key_id] = last
            await _keep_unrated(connection, recorded.unrated, now)
            if not rated:
                return recorded
            # A repeat notes it as well, and changes nothing.
            await connection.execute(_NOTE_USE, {"id": list(used), "last_used_at": list(used.values())})
            sifted = sift(rated, await _known(connection, rated))
            recorded.recorded, recorded.repeated = sifted.recorded, sifted.repeated
            recorded.conflicting = sifted.conflicting
            if sifted.new:
                await self._count(connection, sifted, plans, sealed_until, now, recorded)
        return recorded

    async def _count(
        self,
        connection: AsyncConnection,
        sifted: Sifted,
        plans: Mapping[str, Plan],
        sealed_until: datetime,
        now: datetime,
        recorded: Recorded,
    ) -> None:
        moments = [part.started_at for _, part in sifted.new]
        accounts = {line.account_id for line, _ in sifted.new}
        kept = await _periods(connection, accounts, min(moments))
        counted = count(sifted.new, Periods(plans, kept), sealed_until)
        await days.keep(connection, moments)
        await _add_entries(connection, counted.entries, now)
        await _add_sums(connection, counted)
        grown = list(counted.grown())
        if not grown:
            return
        recorded.units = sum(growth.units for growth in grown)
        noticed = await _add_notices(connection, grown)
        await self._announcer.changed(connection, sorted({growth.period.account_id for growth in grown}))
        for growth, percent in noticed:
            await self._announcer.say(connection, _threshold_event(growth, percent, now))
            recorded.notices.append((growth.period.account_id, percent))

    async def sealed_until(self) -> datetime:
        """Where the open hours begin."""
        async with self._database.reading() as connection:
            moment: datetime = (await connection.execute(_READ_CLOCK)).scalar_one()
            return moment

    async def seal(self, hour: datetime, now: datetime, *, silences: bool) -> SealedHour | None:
        """Closes an hour and says which accounts were unlike themselves in it, in one transaction; None when somebody
        else has closed it. `silences`: whether what is missing in it is believed to be the accounts' doing.

        The past is read before, so that nobody who counts has to wait for it: the hour has been over for long, and a
        line that comes in just between is billed in it, and only not judged.
        """
        found = await self._anomalies(hour)
        if not silences:
            found = {key: one for key, one in found.items() if one.kind is not anomaly.AnomalyKind.SILENCE}
        async with self._database.begin() as connection:
            await connection.execute(_STOP_CLOCK)
            span = {"hour": hour, "until": hour + HOUR}
            if not (await connection.execute(_ADVANCE_CLOCK, span)).rowcount:
                return None
            rollups = (await connection.execute(_SEAL, {**span, "now": now})).rowcount
            said = await _add_anomalies(connection, found, hour, now)
            for account_id in sorted(said):
                await self._announcer.say(connection, _anomaly_event(account_id, hour, found[account_id], now))
        if said:
            self._announcer.committed()
        return SealedHour(hour, rollups, {account_id: found[account_id] for account_id in said})

    async def _anomalies(self, hour: datetime) -> dict[str, Anomaly]:
        since = hour - anomaly.PAST_HOURS * HOUR
        found: dict[str, Anomaly] = {}
        counted: set[str] = set()
        after = ""
        while True:
            async with self._database.reading() as connection:
                rows = await connection.execute(_NEXT_ACCOUNTS, {"after": after, "size": _ACCOUNTS_AT_ONCE})
                ids = list(rows.scalars())
                if not ids:
                    return anomaly.believed(found, counted)
                hours = (await connection.execute(_READ_HOURS, {"ids": ids, "since": since, "hour": hour})).all()
            after = ids[-1]
            units_of: dict[str, list[int]] = {}
            for account_id, at, units in hours:
                units_of.setdefault(account_id, [0] * (anomaly.PAST_HOURS + 1))[(at - since) // HOUR] = units
            for account_id, units in units_of.items():
                if units[-1]:
                    counted.add(account_id)
                if one := anomaly.judge(units[:-1], units[-1]):
                    found[account_id] = one


async def period_at(connection: AsyncConnection, account_id: str, moment: datetime) -> AccountPeriod:
    """The period of an account that holds a moment, with what is counted in it, whether anything was counted yet or
    not. Raises NotFound (ACCOUNT_NOT_FOUND)."""
    plans = await _plans(connection, _READ_ACCOUNTS, [account_id])
    if account_id not in plans:
        raise NotFound(ErrorReason.ACCOUNT_NOT_FOUND, f"no account {account_id}", account_id=account_id)
    return Periods(plans, await _periods(connection, plans, moment)).at(account_id, moment)


def _place(each: LineToCount) -> tuple[float, str]:
    started_at = each.line.started_at
    return (started_at.timestamp() if started_at else 0.0, each.line.request_id)


async def _plans(connection: AsyncConnection, statement: Any, account_ids: Iterable[str]) -> dict[str, Plan]:
    rows = await connection.execute(statement, {"ids": sorted(_storable(account_ids))})
    return {row[0]: Plan(*row[1:]) for row in rows}


async def _keys(connection: AsyncConnection, key_ids: Iterable[str]) -> dict[str, KeyFacts]:
    rows = await connection.execute(_READ_KEYS, {"ids": sorted(_storable(key_ids))})
    return {row[0]: KeyFacts(*row[1:]) for row in rows}


def _storable(ids: Iterable[str]) -> Iterable[str]:
    """PostgreSQL knows no text with a zero in it, so nothing has such an id."""
    return (one for one in ids if "\0" not in one)


async def _periods(connection: AsyncConnection, account_ids: Iterable[str], earliest: datetime) -> list[AccountPeriod]:
    rows = await connection.execute(_READ_PERIODS, {"ids": sorted(account_ids), "after": earliest - _LONGEST_PERIOD})
    return [AccountPeriod(*row) for row in rows]


async def _known(connection: AsyncConnection, rated: Sequence[tuple[Line, tuple[Part, ...]]]) -> dict[RowKey, Facts]:
    keys = {(part.started_at, line.request_id, part.part) for line, parts in rated for part in parts}
    started_ats, request_ids, parts = (list(column) for column in zip(*sorted(keys), strict=True))
    rows = await connection.execute(
        _READ_KNOWN,
        {
            "started_at": started_ats,
            "request_id": request_ids,
            "part": parts,
            "earliest": started_ats[0],
            "latest": started_ats[-1],
        },
    )
    return {(row[0], row[1], row[2]): Facts(*row[3:]) for row in rows}


async def _add_entries(connection: AsyncConnection, entries: Sequence[Entry], now: datetime) -> None:
    columns = dict(zip(Entry._fields, map(list, zip(*entries, strict=True)), strict=True))
    added = (await connection.execute(_ADD_ENTRIES, {**columns, "now": now})).rowcount
    if added != len(entries):
        raise _OvertakenError


async def _add_sums(connection: AsyncConnection, counted: Counted) -> None:
    grown = [growth for _, growth in sorted(counted.periods.items())]
    await connection.execute(
        _GROW_PERIODS,
        {
            "account_id": [growth.period.account_id for growth in grown],
            "period_start": [growth.period.start for growth in grown],
            "period_end": [growth.period.end for growth in grown],
            "soft_limit": [growth.period.soft_limit for growth in grown],
            "overage_rate_cents": [growth.period.overage_rate_cents for growth in grown],
            "units": [growth.units for growth in grown],
            "overage_units": [growth.overage_units for growth in grown],
        },
    )
    days_of = sorted(counted.days.items(), key=lambda item: item[0])
    await connection.execute(
        _GROW_DAYS,
        {
            "account_id": [key[0] for key, _ in days_of],
            "day": [key[1] for key, _ in days_of],
            "key_id": [key[2] for key, _ in days_of],
            "period_start": [key[3] for key, _ in days_of],
            "requests": [day.requests for _, day in days_of],
            "units": [day.units for _, day in days_of],
        },
    )
    if not counted.hours:
        return
    hours = sorted(counted.hours.items(), key=lambda item: item[0])
    await connection.execute(
        _GROW_HOURS,
        {
            "account_id": [key[0] for key, _ in hours],
            "hour": [key[1] for key, _ in hours],
            "period_start": [key[2] for key, _ in hours],
            "units": [hour.units for _, hour in hours],
            "overage_units": [hour.overage_units for _, hour in hours],
            "late_units": [hour.late_units for _, hour in hours],
        },
    )


async def _add_notices(connection: AsyncConnection, grown: Sequence[Growth]) -> list[tuple[Growth, int]]:
    """Notes the thresholds that are reached; those that nobody had noted before, in the order of the accounts."""
    reached = [(growth, percent, at) for growth in grown for percent, at in growth.reached]
    if not reached:
        return []
    rows = await connection.execute(
        _ADD_NOTICES,
        {
            "account_id": [growth.period.account_id for growth, _, _ in reached],
            "period_start": [growth.period.start for growth, _, _ in reached],
            "threshold_percent": [percent for _, percent, _ in reached],
            "reached_at": [at for _, _, at in reached],
            "used_units": [growth.period.used_units + growth.units for growth, _, _ in reached],
            "included_units": [growth.period.soft_limit for growth, _, _ in reached],
        },
    )
    new = {tuple(row) for row in rows}
    return [
        (growth, percent)
        for growth, percent, _ in reached
        if (growth.period.account_id, growth.period.start, percent) in new
    ]


async def _keep_unrated(
    connection: AsyncConnection, unrated: Sequence[tuple[Unrated, LineToCount]], now: datetime
) -> None:
    if not unrated:
        return
    # An open stream has a line each minute, and its last one says what all of it is worth. They come in their order.
    last: dict[str, tuple[Unrated, LineToCount]] = {}
    for reason, each in sorted(unrated, key=lambda one: one[1].line.duration_milliseconds):
        # What cannot be read may have no id, or one that no index holds: such a line is known by its bytes.
        by_bytes = reason is Unrated.UNREADABLE
        last[hashlib.sha256(each.raw).hexdigest() if by_bytes else each.line.request_id] = (reason, each)
    await connection.execute(
        _KEEP_UNRATED,
        {
            "request_id": list(last),
            "reason": [str(reason) for reason, _ in last.values()],
            "line": [each.raw for _, each in last.values()],
            "now": now,
        },
    )


async def _add_anomalies(
    connection: AsyncConnection, found: Mapping[str, Anomaly], hour: datetime, now: datetime
) -> list[str]:
    if not found:
        return []
    rows = await connection.execute(
        _ADD_ANOMALIES,
        {
            "account_id": list(found),
            "kind": [str(one.kind) for one in found.values()],
            "units": [one.units for one in found.values()],
            "hour": hour,
            "now": now,
        },
    )
    return list(rows.scalars())


def _threshold_event(growth: Growth, percent: int, now: datetime) -> AccountEvent:
    period = growth.period
    event = AccountEvent(
        id=hashed_id("usage_threshold", period.account_id, str(milliseconds(period.start)), str(percent)),
        account_id=period.account_id,
        usage_threshold_reached=UsageThresholdReached(
            threshold_percent=percent,
            used_units=period.used_units + growth.units,
            included_units=period.soft_limit,
        ),
    )
    event.at.FromDatetime(now)
    event.usage_threshold_reached.period_start.FromDatetime(period.start)
    event.usage_threshold_reached.period_end.FromDatetime(period.end)
    return event


def _anomaly_event(account_id: str, hour: datetime, found: Anomaly, now: datetime) -> AccountEvent:
    event = AccountEvent(
        id=hashed_id("usage_anomaly", account_id, str(milliseconds(hour))),
        account_id=account_id,
        usage_anomaly=UsageAnomaly(
            kind=UsageAnomaly.Kind.Value.Value(found.kind),
            units=found.units,
            usual_units=found.usual_units,
            usual_spread=found.usual_spread,
        ),
    )
    event.at.FromDatetime(now)
    event.usage_anomaly.hour.FromDatetime(hour)
    return event

"""The ledger of credits: nothing is asked that the day's or the month's budget, or the provider, has no credits for.

A reservation is committed before each attempt, in a transaction of its own that holds the poller's lease and the rows
of the day and the month: two who reserve take turns, and one whose term is over reserves nothing. What was reserved
counts as spent. The answer's `x-requests-last` replaces it; if none comes, because the call timed out, the process died
or the header is missing, it stays.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime

from prometheus_client import Counter, Gauge
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.ingest import store
from services.ingest.cadence import Budget, Limit
from services.ingest.config import Config
from services.ingest.provider import Asked, BudgetExhausted, Ledger, NoLedger, Quota
from services.ingest.recorder import Recorder
from services.ingest.store import Limits, Spend
from services.shared.clock import utc_now
from services.shared.database import Database
from services.shared.logging import logger

log = logger(__name__)

reserved_total = Counter("stratum_ingest_credits_reserved_total", "Credits reserved before attempts.", ["endpoint"])
settled_total = Counter("stratum_ingest_credits_settled_total", "Credits that attempts reported to cost.", ["endpoint"])
kept_total = Counter(
    "stratum_ingest_credits_kept_total",
    "Credits spent as forecast: the attempt did not report.",
    ["endpoint"],
)
remaining_credits = Gauge(
    "stratum_ingest_credits_remaining", "Credits left, of the budgets and as the provider last said.", ["of"]
)

#: A transaction that holds the lease, and raises LeaseLost where it is somebody else's.
Transaction = Callable[[], AbstractAsyncContextManager[AsyncConnection]]


class CreditLedger:
    """The ledger of one holder of the lease, in the database."""

    def __init__(
        self,
        database: Database,
        transaction: Transaction,
        term: int,
        limits: Limits,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """`clock` says in which day and month a call falls; both are UTC's, as the provider's month is."""
        self._database = database
        self._transaction = transaction
        self._term = term
        self._limits = limits
        self._clock = clock
        self._under_way: dict[int, Asked] = {}

    async def reserve(self, asked: Asked, attempt: int) -> int:
        """The number of a committed reservation. Raises BudgetExhausted, LeaseLost and the database's errors."""
        spend = Spend(asked.endpoint, asked.sport_key, asked.credits, attempt, self._term)
        async with self._transaction() as connection:
            reserved = await store.reserve_credits(connection, spend, self._limits, self._clock())
        if isinstance(reserved, Limit):
            raise BudgetExhausted(asked.path, reserved)
        self._under_way[reserved] = asked
        reserved_total.labels(asked.endpoint).inc(asked.credits)
        return reserved

    async def settle(self, reservation: int | None, quota: Quota) -> None:
        """Keeps what an attempt reported. If that cannot be written the forecast stays, which is the safe side."""
        try:
            async with self._database.begin() as connection:
                if reservation is not None:
                    await store.settle_credits(connection, reservation, _cost(quota), quota.remaining, self._clock())
                elif quota.remaining is not None:
                    await store.note_remaining(connection, quota.remaining, self._clock())
        except SQLAlchemyError as error:
            log.warning("a call could not be settled: its forecast counts as spent", error=type(error).__name__)
        asked = self._under_way.pop(reservation, None) if reservation is not None else None
        if asked is not None:
            cost = _cost(quota)
            counter = kept_total if cost is None else settled_total
            counter.labels(asked.endpoint).inc(asked.credits if cost is None else cost)


def _cost(quota: Quota) -> int | None:
    return None if quota.last is None else max(0, quota.last)


def limits_of(config: Config) -> Limits:
    """The budget of the settings."""
    day, month = config.limits
    return Limits(day, month)


def open_ledger(config: Config, database: Database, recorder: Recorder) -> Ledger:
    """The ledger in which the holder of a recorder's lease spends; a provider without a limit needs none."""
    limits = limits_of(config)
    if limits == Limits():
        return NoLedger()
    return CreditLedger(database, recorder.transaction, recorder.term, limits)


async def load_budget(config: Config, connection: AsyncConnection) -> Budget:
    """What is left now, shown in the metrics too; nothing is limited where there is no budget."""
    limits = limits_of(config)
    if limits == Limits():
        return Budget()
    budget = await store.load_budget(connection, limits, utc_now())
    for name, left in (("day", budget.day), ("month", budget.month), ("provider", budget.provider)):
        if left is not None:
            remaining_credits.labels(name).set(left)
    return budget

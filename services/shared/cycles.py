"""What each poll led to, counted where it happens: a row, a log line and metrics a poll, in every service.

A cycle is one poll of one sport. Its key, the sport and the poll's `observed_at`, travels in every message, so each
service counts its own share and nobody is told anything for it. `stratum kpis` puts the shares together.

A stage adds up a batch and writes it in the batch's transaction, one statement for all of its cycles, so a message that
comes twice counts once. A worker has rows of its own: two of them never wait for one another here. Metrics and the log
line come after the commit. A cycle's line is written when a later poll of the sport comes, or when nothing has come for
a moment; where several are over at once, as in a replay, one line tells of all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Column, DateTime, Index, Integer, MetaData, SmallInteger, Table, Text, TextClause, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from services.shared import metrics
from services.shared.logging import logger

log = logger(__name__)

#: A cycle of which nothing has been heard for so long is over, as far as its log line goes.
QUIET_SECONDS = 2.0


class Share(NamedTuple):
    """What one message adds to its cycle. Counts are named as in docs/ops-kpis.md; a dot leads into a group."""

    sport_key: str
    observed_at: datetime
    counts: Mapping[str, int]


@dataclass(slots=True)
class Tally:
    """What some messages of one cycle add up to."""

    messages: int = 0
    counts: Counter[str] = field(default_factory=Counter)


Tallies = dict[tuple[str, datetime], Tally]


def cycle_id(sport_key: str, observed_at: datetime) -> str:
    """A cycle's name, the same in every service, table and log line."""
    return f"{sport_key}@{observed_at.isoformat(timespec='milliseconds').replace('+00:00', 'Z')}"


def cycles_table(metadata: MetaData) -> Table:
    """Declares a stage's table of cycles on a service's metadata. Made by `services.shared.migrations.tables`."""
    return Table(
        "cycles",
        metadata,
        Column("sport_key", Text, primary_key=True),
        Column("observed_at", DateTime(timezone=True), primary_key=True),
        #: The worker's lowest partition.
        Column("worker", SmallInteger, primary_key=True, autoincrement=False),
        Column("messages", Integer, nullable=False),
        #: By name, as `Share` has them.
        Column("counts", JSONB, nullable=False),
        #: When the first and the last of it were written, by the database's clock.
        Column("first_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
        Column("last_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
        # What retention removes by, and what shows the last ones.
        Index("cycles_by_time", "observed_at"),
    )


def add(tallies: Tallies, share: Share) -> None:
    """Counts a message."""
    key = (share.sport_key, share.observed_at)
    tally = tallies.get(key)
    if tally is None:
        tally = tallies[key] = Tally()
    tally.messages += 1
    # Once a message: a Counter's own `update` took four times as long.
    counts = tally.counts
    for name, count in share.counts.items():
        counts[name] = counts.get(name, 0) + count


class CycleLog:
    """The cycles of one stage and worker: what is written of them, and what is told."""

    def __init__(self, stage: str, worker: int, table: Table | None) -> None:
        """`worker` tells the rows of several workers apart; without a table nothing is written, only told."""
        self._stage = stage
        self._worker = worker
        self._open: Tallies = {}
        self._add = None if table is None else self._addition(table.fullname)

    @staticmethod
    def _addition(name: str) -> TextClause:
        return text(
            f"INSERT INTO {name} AS held (sport_key, observed_at, worker, messages, counts) "  # noqa: S608 - our own table
            "SELECT sport_key, observed_at, :worker, messages, counts FROM json_to_recordset(CAST(:rows AS json)) "
            "AS given (sport_key text, observed_at timestamptz, messages integer, counts jsonb) "
            "ON CONFLICT (sport_key, observed_at, worker) DO UPDATE SET messages = held.messages + excluded.messages, "
            "last_at = clock_timestamp(), counts = coalesce((SELECT jsonb_object_agg(key, total) FROM "
            "(SELECT key, sum(CAST(value AS bigint)) AS total FROM (SELECT * FROM jsonb_each_text(held.counts) "
            "UNION ALL SELECT * FROM jsonb_each_text(excluded.counts)) AS each GROUP BY key) AS sums), '{}')"
        )

    @property
    def waiting(self) -> bool:
        """Whether a cycle is still to be told of."""
        return bool(self._open)

    async def write(self, connection: AsyncConnection, tallies: Tallies) -> None:
        """Adds a batch's counts, in its transaction."""
        if tallies and self._add is not None:
            rows = [
                {"sport_key": sport_key, "observed_at": observed_at, "messages": tally.messages, "counts": tally.counts}
                for (sport_key, observed_at), tally in sorted(tallies.items())
            ]
            await connection.execute(self._add, {"worker": self._worker, "rows": msgspec.json.encode(rows).decode()})

    def committed(self, tallies: Tallies) -> None:
        """Counts a batch, and tells of the cycles that a later one of their sport has ended."""
        for (sport_key, observed_at), tally in tallies.items():
            metrics.cycle_messages.labels(self._stage, sport_key).inc(tally.messages)
            for name, count in tally.counts.items():
                metrics.cycle_results.labels(self._stage, sport_key, name).inc(count)
            held = self._open.setdefault((sport_key, observed_at), Tally())
            held.messages += tally.messages
            held.counts.update(tally.counts)
        newest: dict[str, datetime] = {}
        for sport_key, observed_at in self._open:
            newest[sport_key] = max(observed_at, newest.get(sport_key, observed_at))
        self._tell([key for key in self._open if key[1] < newest[key[0]]])

    def quiet(self) -> None:
        """Nothing has come for a moment: tells of what is left."""
        self._tell(list(self._open))

    def _tell(self, over: Iterable[tuple[str, datetime]]) -> None:
        cycles = sorted(over, key=lambda key: key[1])
        if not cycles:
            return
        messages = 0
        counts: Counter[str] = Counter()
        for key in cycles:
            tally = self._open.pop(key)
            messages += tally.messages
            counts.update(tally.counts)
        several = {"cycles": len(cycles), "through": cycle_id(*cycles[-1])} if len(cycles) > 1 else {}
        log.info(
            "cycle",
            stage=self._stage,
            cycle_id=cycle_id(*cycles[0]),
            sport_key=cycles[0][0],
            events_processed=messages,
            **several,
            **grouped(counts),
        )


def grouped(counts: Mapping[str, int]) -> dict[str, Any]:
    """Counts with those behind a dot in groups: `signals_created_by_type.MOVE` becomes one of a mapping."""
    shown: dict[str, Any] = {}
    for name, count in sorted(counts.items()):
        group, dot, member = name.partition(".")
        if dot:
            shown.setdefault(group, {})[member] = count
        else:
            shown[name] = count
    return shown

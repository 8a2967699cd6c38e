"""Whether two runs are equal, as docs/determinism.md says: row by row, by primary key, in every column that counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table
from stratum.signals.v1.signal_pb2 import Signal

from deploy.stack import Stack
from services.consensus import store as consensus
from services.ingest import store as ingest
from services.signals import store as signals
from services.signals.render import replay_line

#: The tables that are compared, each with the columns that are left out. Nobody decides about books in a recording.
COMPARED: Mapping[Table, frozenset[str]] = {
    signals.signal: frozenset({"published_at", "feed_position"}),
    signals.suppression: frozenset(),
    signals.configuration: frozenset(),
    consensus.consensus_snapshots: frozenset(),
    consensus.quote_history: frozenset(),
    consensus.games: frozenset(),
    consensus.current_market: frozenset(),
    ingest.games: frozenset(),
    ingest.game_starts: frozenset(),
    ingest.odds_snapshots: frozenset(),
    ingest.disappearances: frozenset(),
}
#: Of these, the serialized signals are compared decoded, without what a repeated run may fill differently.
SERIALIZED = {"signals.signal": ("basic", "full")}

Rows = dict[tuple[Any, ...], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that only one run has, or that the two have differently."""

    table: str
    key: tuple[Any, ...]
    undisturbed: tuple[Any, ...] | None
    disturbed: tuple[Any, ...] | None


async def kept_by(stack: Stack) -> dict[str, Rows]:
    """What a run has left in every table that is compared."""
    return {table.fullname: await _rows(stack, table, without) for table, without in COMPARED.items()}


def differences(undisturbed: Mapping[str, Rows], disturbed: Mapping[str, Rows]) -> list[Difference]:
    """Everything in which two runs differ, by table and key."""
    return [
        Difference(table, key, rows.get(key), disturbed[table].get(key))
        for table, rows in undisturbed.items()
        for key in sorted(rows.keys() | disturbed[table].keys(), key=repr)
        if rows.get(key) != disturbed[table].get(key)
    ]


async def _rows(stack: Stack, table: Table, without: frozenset[str]) -> Rows:
    key = [column.name for column in table.primary_key]
    others = [column.name for column in table.columns if column.name not in without and column.name not in key]
    serialized = SERIALIZED.get(table.fullname, ())
    columns = ", ".join(f'"{name}"' for name in (*key, *others))
    found = await stack.rows(f"SELECT {columns} FROM {table.fullname}")
    return {
        row[: len(key)]: tuple(
            replay_line(Signal.FromString(value)) if name in serialized else _plain(value)
            for name, value in zip(others, row[len(key) :], strict=True)
        )
        for row in found
    }


def _plain(value: Any) -> Any:
    return repr(value) if isinstance(value, dict | list) else value

"""Everything on this machine, with signals shown as they arrive, for somebody who has never seen it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import psycopg
from rich.console import Console
from rich.table import Table

from deploy import figures, watch
from deploy.accounts import Partner
from deploy.simulator import calibration
from deploy.simulator.market import Market
from deploy.stack import Recorded, Simulated, Stack, StackSettings
from gateway.envoy import NOTICE

COMPARED_WITH = "wnba_15m"
EXAMPLES = (
    "intel/signals?tier=HIGH&tier=MEDIUM&collapse=fact",
    "intel/signals:watch",
    "intel/games",
    "intel/health",
    "usage",
    "usage/ledger",
)


@dataclass(slots=True)
class Shown:
    """What was shown so far."""

    signals: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, signal: watch.Signal) -> None:
        """Count one signal by type and tier."""
        self.signals[signal["signal_type"], signal["tier"]] += 1


async def run(settings: StackSettings, console: Console, seconds: float | None) -> None:
    """Starts everything and shows signals for so many seconds, or until it is cancelled. Raises StackFailedError."""
    console.print(f"Stratum, with {settings.market}. Profile: {settings.profile}.", style="bold", soft_wrap=True)
    seen = Shown()
    async with Stack(settings, lambda sentence: console.print(f"  {sentence}", style="dim")) as stack:
        partner = await stack.make_partner("demo")
        introduce(stack, partner, console)
        showing = asyncio.create_task(_show(stack, partner, console, seen))
        failing = asyncio.create_task(stack.failed())
        try:
            done, _ = await asyncio.wait([showing, failing], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (showing, failing):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(showing, failing, return_exceptions=True)
            console.print(by_type_and_tier(_nested(seen.signals)) if seen.signals else "No signals yet.")
            console.print(await _looked(stack))
            console.print("stopping everything…", style="dim")
    console.print("Everything has ended; nothing is left running.", style="bold")


def introduce(stack: Stack, partner: Partner, console: Console) -> None:
    """Addresses, and what to try first."""
    url = stack.gateway_url
    places = Table.grid(padding=(0, 2))
    for name, address in (
        ("gateway", f"{url}/api/v1/intel/signals"),
        ("documentation", f"{url}/docs"),
        ("metrics", "  ".join(stack.metrics_url(service) for service in ("ingest", "consensus", "signals"))),
    ):
        places.add_row(name, address)
    console.print()
    console.print(places)
    console.print(NOTICE, style="yellow", soft_wrap=True)
    made = "An account was made for you. Its key, and one that reads a recorded evening and costs nothing:"
    console.print(made, soft_wrap=True)
    console.print(f"  export STRATUM_URL={url}", soft_wrap=True)
    console.print(f"  export STRATUM_API_KEY={partner.key}", soft_wrap=True)
    console.print(f"  export STRATUM_TEST_KEY={partner.test_key}", soft_wrap=True)
    console.print("Try, in another terminal, after these three lines:", style="bold")
    for path in EXAMPLES:
        console.print(_curl("$STRATUM_URL", path, "$STRATUM_API_KEY"), soft_wrap=True, highlight=False)
    if isinstance(stack.settings.market, Simulated):
        market = stack.settings.market
        wall = market.cadence / market.speed
        console.print(f"\nA poll every {market.cadence:g} s of the market's time, which is {wall:g} s here.")
    elif isinstance(stack.settings.market, Recorded):
        console.print("\nThe recording is walked through as fast as it goes.")
    console.print("\nThe feed, in one line to copy:", style="bold")
    console.print(_curl(url, EXAMPLES[0], partner.key), soft_wrap=True, highlight=False)
    console.print("\nSignals, as the market makes them:\n")


def _curl(url: str, path: str, key: str) -> str:
    return f'  curl -sN -H "Authorization: Bearer {key}" "{url}/api/v1/{path}"'


def comparison(name: str, run: Mapping[str, float], seed: int | None = None) -> Table:
    """A run's figures beside a recorded series', and beside the seed's simulated market sampled as that series was.

    The ratio is that of the last two columns.
    """
    theirs = calibration.RECORDED[name]
    columns = {"this run": run} if run else {}
    if seed is not None:
        ours = calibration.simulated(Market(seed, calibration.OPENED_AT), theirs.gap_seconds, calibration.HOURS[name])
        columns[f"simulated, at {theirs.gap_seconds / 60:.0f} min"] = ours.named()
    columns["recorded"] = theirs.named()
    table = Table(title=f"The market before its games, beside the recorded series {name}")
    table.add_column("figure", no_wrap=True)
    for heading in (*columns, "ratio"):
        table.add_column(heading, justify="right")
    for figure in theirs.named():
        values = [column.get(figure) for column in columns.values()]
        shown = ["–" if value is None else f"{value:.3g}" for value in values]
        before, last = values[-2:]
        table.add_row(figure, *shown, "–" if before is None or last is None else f"{before / last:.2f}")
    return table


def by_type_and_tier(signals: Mapping[str, Mapping[str, int]]) -> Table:
    """How many signals of each type and tier."""
    tiers = ("HIGH", "MEDIUM", "LOW")
    table = Table(title="Signals")
    table.add_column("type")
    for tier in (*tiers, "all"):
        table.add_column(tier, justify="right")
    for kind, counted in sorted(signals.items()):
        numbers = [counted.get(tier, 0) for tier in tiers]
        table.add_row(kind, *(str(number) for number in (*numbers, sum(numbers))))
    return table


async def _looked(stack: Stack) -> Table | str:
    """The run's market in figures; a sentence where the database cannot be asked any more."""
    market = stack.settings.market
    try:
        run = await figures.of_run(stack)
    except psycopg.Error:
        return "The run's figures could not be read: the database does not answer."
    recording = market.recording.folder.name if isinstance(market, Recorded) else ""
    name = recording if recording in calibration.RECORDED else COMPARED_WITH
    return comparison(name, run, market.seed if isinstance(market, Simulated) else None)


async def _show(stack: Stack, partner: Partner, console: Console, seen: Shown) -> None:
    async for signal in watch.signals(stack.gateway_url, partner.key):
        seen.add(signal)
        console.print(watch.shown(signal), soft_wrap=True)


def _nested(signals: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for (kind, tier), number in signals.items():
        nested.setdefault(kind, {})[tier] = number
    return nested

"""Signals as they come, from the gateway's stream, and as a reader at a terminal wants to see them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import aiohttp
from rich.text import Text

TIER_STYLES = {"HIGH": "bold red", "MEDIUM": "yellow", "LOW": "cyan"}
#: Half a second after a broken stream; the cursor makes sure that nothing is missed.
PAUSE_SECONDS = 0.5

Signal = dict[str, Any]


async def signals(gateway_url: str, key: str) -> AsyncIterator[Signal]:
    """Every signal from now on, in full; a stream that ends is taken up where it ended."""
    cursor = ""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while True:
            headers = {"Authorization": f"Bearer {key}", **({"Last-Event-ID": cursor} if cursor else {})}
            try:
                async with session.get(
                    f"{gateway_url}/api/v1/intel/signals:watch", params={"view": "FULL"}, headers=headers
                ) as response:
                    response.raise_for_status()
                    async for event, identity, data in _events(response.content):
                        cursor = identity or cursor
                        if event == "signal":
                            yield json.loads(data)
            except (aiohttp.ClientError, TimeoutError):
                pass  # the gateway or the service is being started again
            await asyncio.sleep(PAUSE_SECONDS)


async def _events(lines: aiohttp.StreamReader) -> AsyncIterator[tuple[str, str, str]]:
    """Server-Sent Events: (event, id, data), comments left out."""
    event, identity = "message", ""
    data: list[str] = []
    async for raw in lines:
        line = raw.decode().rstrip("\r\n")
        if not line:
            if data:
                yield event, identity, "\n".join(data)
            event, data = "message", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            event = value
        elif name == "id":
            identity = value
        elif name == "data":
            data.append(value)


def shown(signal: Signal) -> Text:
    """A signal in two lines: what happened, and why it was said."""
    tier = signal["tier"]
    style = TIER_STYLES.get(tier, "")
    at = datetime.fromisoformat(signal["observed_at"]).strftime("%m-%d %H:%M:%S")
    text = Text()
    text.append(f"{at} ", "dim")
    text.append(f"{signal['signal_type'].replace('MULTIBOOK_', ''):<12}", style)
    text.append(f"{tier:<7}{signal['composite_score']:>5.1f}  ", style)
    text.append(f"{signal['away_team']} at {signal['home_team']}", "bold")
    text.append(f"  {signal['market']} {_value(signal, 'from_value')} → {_value(signal, 'to_value')}", style)
    text.append(f"  {signal['direction'].lower().replace('_', ' ')}\n")
    text.append(" " * 15 + "; ".join(_reasons(signal)), "dim")
    return text


def _value(signal: Signal, name: str) -> str:
    value = signal.get(name)
    if value is None:
        return "?"
    if signal["market"].startswith("h2h"):
        return f"{value:.1%}"
    return f"{value:+g}" if signal["market"].startswith("spreads") else f"{value:g}"


def _reasons(signal: Signal) -> list[str]:
    reasons = []
    if signal["signal_type"] == "DISLOCATION":
        reasons.append(f"{signal.get('book')} stands apart from {_others(signal)}")
    else:
        movers = ", ".join(sorted({move["book"] for move in signal["books_moved"]}))
        minutes = signal.get("elapsed_seconds", 0) / 60
        of = f"{signal['clusters_moved']} of {signal['clusters_in_panel']}"
        reasons.append(f"{of} moved within {minutes:.1f} min: {movers}")
    holding = [_holding(signal, book) for book in signal["books_holding"]]
    if holding:
        reasons.append(f"still the old number: {', '.join(holding)}")
    until = signal.get("minutes_to_tip")
    if until is not None:
        reasons.append(f"{until / 60:.1f} h to the start" if until >= 60 else f"{until:.0f} min to the start")
    return reasons


def _others(signal: Signal) -> str:
    return f"{signal['clusters_in_panel']} others"


def _holding(signal: Signal, book: dict[str, Any]) -> str:
    line = f" {book['line']:+g}" if "line" in book and signal["market"].startswith("spreads") else ""
    line = line or (f" {book['line']:g}" if "line" in book else "")
    value = f" ({book['ev_now']:+.1%})" if "ev_now" in book else ""
    return f"{book['book']}{line} at {book['price']:.2f}{value}"

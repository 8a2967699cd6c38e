"""A generated board of any size, written as a recording: what the benchmarks feed to the pipeline."""

from __future__ import annotations

import io
import json
import random
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

START = datetime(2026, 1, 10, 12, tzinfo=UTC)
CADENCE = timedelta(seconds=60)
TIP = timedelta(hours=10)
BOOKS = (
    *(
        "ballybet",
        "betmgm",
        "betonlineag",
        "betrivers",
        "betus",
        "bovada",
        "draftkings",
        "espnbet",
        "fanatics",
        "fanduel",
    ),
    *(
        "fliff",
        "hardrockbet",
        "kalshi",
        "lowvig",
        "mybookieag",
        "novig",
        "pinnacle",
        "polymarket",
        "prophetx",
        "williamhill_us",
    ),
)


def write_board(
    folder: Path, events: int, responses: int, books: int = 10, share_changed: float = 0.05, seed: int = 1
) -> Path:
    """Write a recording in which `share_changed` of all book markets change between responses; return its folder."""
    chance = random.Random(seed)
    names = BOOKS[:books]
    board = {(event, book): _opening(chance) for event in range(events) for book in names}
    folder.mkdir(parents=True, exist_ok=True)
    index = ["utc\tarchive\tmember"]
    with tarfile.open(folder / "board.tar.xz", "w:xz", preset=0) as archive:
        for number in range(responses):
            at = START + number * CADENCE
            if number:
                for quotes in board.values():
                    for market in quotes:
                        if chance.random() < share_changed:
                            _move(quotes, market, chance)
            body = json.dumps([_event(event, names, board, at) for event in range(events)]).encode()
            member = f"{at:%Y%m%dT%H%M%SZ}.json"
            info = tarfile.TarInfo(member)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
            index.append(f"{at:%Y-%m-%dT%H:%M:%SZ}\tboard.tar.xz\t{member}")
    (folder / "INDEX.tsv").write_text("\n".join(index) + "\n")
    return folder


def _opening(chance: random.Random) -> dict[str, list[float]]:
    """Each market of one book: the canonical side's line and the two decimal prices."""
    return {
        "h2h": [0.0, round(chance.uniform(1.6, 2.3), 2), round(chance.uniform(1.6, 2.3), 2)],
        "spreads": [chance.randrange(-12, 13) / 2, 1.91, 1.91],
        "totals": [220 + chance.randrange(-10, 11) / 2, 1.91, 1.91],
    }


def _move(quotes: dict[str, list[float]], market: str, chance: random.Random) -> None:
    line, price, _ = quotes[market]
    moved = round(min(2.6, max(1.5, price + chance.choice((-0.03, -0.02, 0.02, 0.03)))), 2)
    quotes[market][1:] = [moved, round(1 / (1.047 - 1 / moved), 2)]
    if market != "h2h" and chance.random() < 0.25:
        quotes[market][0] = line + chance.choice((-0.5, 0.5))


def _event(
    number: int, books: tuple[str, ...], board: dict[tuple[int, str], dict[str, list[float]]], at: datetime
) -> dict[str, Any]:
    home, away = f"Home {number}", f"Away {number}"
    read = f"{at - timedelta(seconds=20):%Y-%m-%dT%H:%M:%SZ}"

    def market(key: str, line: float, price: float, other: float) -> dict[str, Any]:
        names = ("Over", "Under") if key == "totals" else (home, away)
        points = {"h2h": (None, None), "spreads": (line, -line), "totals": (line, line)}[key]
        outcomes = [
            {"name": name, "price": value} | ({} if point is None else {"point": point})
            for name, value, point in zip(names, (price, other), points, strict=True)
        ]
        return {"key": key, "last_update": read, "outcomes": outcomes}

    return {
        "id": f"{number:032x}",
        "sport_key": "basketball_nba",
        "sport_title": "NBA",
        "commence_time": f"{START + TIP:%Y-%m-%dT%H:%M:%SZ}",
        "home_team": home,
        "away_team": away,
        "bookmakers": [
            {
                "key": book,
                "title": book,
                "last_update": read,
                "markets": [market(key, *values) for key, values in board[number, book].items()],
            }
            for book in books
        ],
    }

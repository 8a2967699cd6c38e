"""Every recorded answer through the normaliser: nothing breaks it, and what is left out is counted by reason."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.ingest.normalize import Rejection, normalize
from services.shared.testing import recorded_data

#: What each set holds, as measured; another number is a change of meaning, not of data.
EXPECTED: dict[str, tuple[int, dict[Rejection, int]]] = {
    "odd_shapes": (
        4590,
        {
            Rejection.NO_BOOKMAKERS: 837,
            Rejection.LAY_MARKET: 186,
            Rejection.UNKNOWN_OUTCOME: 57,
            Rejection.ALTERNATE_LINE: 568,
            Rejection.DUPLICATE_OUTCOME: 56,
            Rejection.ONE_SIDED: 9,
            Rejection.PLACEHOLDER_PRICE: 9,
        },
    ),
    "nba_historical_2023-24": (125150, {}),
    "nba_2h": (157526, {}),
    "wnba_15m": (440822, {Rejection.ONE_SIDED: 70, Rejection.PLACEHOLDER_PRICE: 70}),
    "props": (0, {Rejection.ALTERNATE_LINE: 48625}),
}


def members(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every recorded file of a folder, archives opened, in order of names."""
    for path in sorted(folder.iterdir()):
        if path.name.endswith(".tar.xz"):
            with tarfile.open(path) as archive:
                for member in archive:
                    file = archive.extractfile(member)
                    if file is not None:
                        yield member.name, opened(member.name, file.read())
        elif path.suffix in (".gz", ".json"):
            yield path.name, opened(path.name, path.read_bytes())


def opened(name: str, content: bytes) -> bytes:
    """A file's content, unpacked."""
    return gzip.decompress(content) if name.endswith(".gz") else content


def bodies(folder: Path) -> Iterator[object]:
    """Every recorded answer of a folder as the odds endpoints would have given it."""
    for name, content in members(folder):
        if not name.removesuffix(".gz").endswith(".json") or "error_bodies" in name or "2023-24_events" in name:
            continue
        body = json.loads(content)
        if isinstance(body, dict) and "data" in body:
            yield body["data"]  # the historical endpoint's envelope
        elif isinstance(body, dict) and "events" in body:
            yield from body["events"].values()  # event odds, by event id
        else:
            yield body


@pytest.mark.parametrize("name", EXPECTED)
def test_every_answer_of_a_recording_is_read_and_what_is_left_out_is_counted(
    name: str,
) -> None:
    accepted, rejected = tally(bodies(recorded_data(name)))
    print(f"{name}: accepted {accepted} outcomes, rejected {rejected or 'none'}")
    assert (accepted, rejected) == EXPECTED[name]


def test_the_capture_of_all_regions_is_read_with_its_lay_markets_and_outrights_left_out() -> None:
    accepted, rejected = tally(by_sport(recorded_data("multi_region")))
    print(f"multi_region: accepted {accepted} outcomes, rejected {rejected}")
    assert accepted > 10_000
    assert rejected[Rejection.LAY_MARKET] > 0
    assert rejected[Rejection.NO_TEAMS] > 0
    assert rejected.get(Rejection.MALFORMED, 0) == 0


def test_recorded_props_of_one_line_a_player_are_read_two_sided_or_not_at_all() -> None:
    accepted, rejected = tally(props(recorded_data("props", "2023-24_pra_odds.csv.gz")))
    print(f"2023-24_pra_odds: accepted {accepted} outcomes, rejected {rejected}")
    assert accepted > 1000
    assert rejected[Rejection.ONE_SIDED] > 0
    assert rejected.get(Rejection.MALFORMED, 0) == 0


def tally(answers: Iterator[object]) -> tuple[int, dict[Rejection, int]]:
    """Outcomes that passed, and those that did not by reason."""
    accepted = 0
    rejected: Counter[Rejection] = Counter()
    for body in answers:
        seen = normalize(body)
        accepted += sum(len(quote.outcomes) for event in seen.events for quote in event.quotes)
        rejected.update(seen.rejected)
    return accepted, dict(rejected)


def by_sport(folder: Path) -> Iterator[object]:
    """The capture of all regions, which was kept as tables, as the answers it was made of."""
    for name, content in members(folder):
        if not name.endswith("odds.csv"):
            continue
        events: dict[str, dict[str, Any]] = {}
        for row in csv.DictReader(io.StringIO(content.decode())):
            event = events.setdefault(
                row["event_id"],
                {
                    "id": row["event_id"],
                    **{field: row[field] or None for field in ("sport_key", "commence_time", "home_team", "away_team")},
                    "books": {},
                },
            )
            book = event["books"].setdefault(
                row["bookmaker_key"], {"key": row["bookmaker_key"], "title": row["bookmaker_title"], "markets": {}}
            )
            market = book["markets"].setdefault(
                row["market"], {"key": row["market"], "last_update": row["last_update"], "outcomes": []}
            )
            point = {"point": float(row["point"])} if row["point"] else {}
            market["outcomes"].append({"name": row["outcome_name"], "price": float(row["price"]), **point})
        yield [
            {**event, "bookmakers": [{**b, "markets": list(b["markets"].values())} for b in event["books"].values()]}
            for event in events.values()
        ]


def props(path: Path) -> Iterator[object]:
    """Recorded lines of players, one row a book and player, as event odds."""
    keys = {"BetOnline.ag": "betonlineag", "Caesars": "williamhill_us", "MyBookie.ag": "mybookieag"}
    with gzip.open(path, "rt") as file:
        for row in csv.DictReader(file):
            outcomes = [
                {
                    "name": name,
                    "description": row["player_name"],
                    "price": float(row[column]),
                    "point": float(row["line"]),
                }
                for name, column in (("Over", "over_price"), ("Under", "under_price"))
                if row[column]
            ]
            yield {
                "id": row["event_id"],
                "sport_key": "basketball_nba",
                "commence_time": row["timestamp"],
                "home_team": row["home_team"],
                "away_team": row["away_team"],
                "bookmakers": [
                    {
                        "key": keys.get(row["bookmaker"], re.sub("[^a-z0-9]+", "", row["bookmaker"].lower())),
                        "title": row["bookmaker"],
                        "markets": [{"key": "player_points_rebounds_assists", "outcomes": outcomes}],
                    }
                ],
            }

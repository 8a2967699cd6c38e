"""A signal at the terminal says what happened and why, in the market's own units."""

from typing import Any

import pytest

from deploy.watch import shown


def a_signal(**changes: Any) -> dict[str, Any]:
    return {
        "observed_at": "2026-11-22T23:05:10Z",
        "signal_type": "STEAM",
        "tier": "HIGH",
        "composite_score": 81.0,
        "home_team": "Houston Rockets",
        "away_team": "Toronto Raptors",
        "market": "spreads",
        "from_value": 9.5,
        "to_value": 8.5,
        "direction": "TOWARD_HOME",
        "clusters_moved": 6,
        "clusters_in_panel": 8,
        "elapsed_seconds": 168.0,
        "minutes_to_tip": 45.0,
        "books_moved": [{"book": "fanduel"}, {"book": "betmgm"}],
        "books_holding": [{"book": "bovada", "line": 9.5, "price": 1.909, "ev_now": 0.021}],
        **changes,
    }


@pytest.mark.parametrize(
    "part",
    [
        "23:05:10",
        "Toronto Raptors at Houston Rockets",
        "spreads +9.5 → +8.5  toward home",
        "6 of 8 moved within 2.8 min: betmgm, fanduel",
        "still the old number: bovada +9.5 at 1.91 (+2.1%)",
        "45 min to the start",
    ],
)
def test_a_movement_is_told_with_its_reasons(part: str) -> None:
    assert part in shown(a_signal()).plain


def test_head_to_head_values_are_percentages() -> None:
    assert "h2h 57.9% → 60.0%" in shown(a_signal(market="h2h", from_value=0.579, to_value=0.6)).plain


def test_a_dislocation_names_its_book() -> None:
    told = shown(a_signal(signal_type="DISLOCATION", book="lowvig", books_holding=[])).plain

    assert "lowvig stands apart from 8 others" in told


def test_an_absent_value_is_a_question_mark() -> None:
    signal = a_signal()
    del signal["from_value"]

    assert "spreads ? → +8.5" in shown(signal).plain

"""Which cadence the rules' windows are cut for: one file of settings a profile, and which one suits a series."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

#: The cadence that each profile is made for, in seconds between two answers.
CADENCES: Mapping[str, float] = {"live": 60.0, "sampled-5m": 300.0, "sampled-15m": 900.0, "sampled-2h": 7200.0}


def settings(profile: str) -> dict[str, str]:
    """The environment that a profile gives the services. Raises KeyError for one that does not exist."""
    if profile not in CADENCES:
        raise KeyError(profile)
    lines = (Path(__file__).parent / f"{profile}.env").read_text().splitlines()
    assigned = (line.partition("=") for line in lines if line.strip() and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in assigned}


def profile_for(median_gap_seconds: float) -> str:
    """The profile whose cadence is nearest to a series' median gap, by ratio."""
    gap = max(1.0, median_gap_seconds)
    return min(CADENCES, key=lambda profile: abs(math.log(gap / CADENCES[profile])))

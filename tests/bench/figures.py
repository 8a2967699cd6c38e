"""What a benchmark reports: a value, what it is measured against, and the ratio of the two."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement. The baseline was measured in the same run, so the ratio holds on any machine."""

    name: str
    value: float
    unit: str
    baseline: float | None = None
    baseline_is: str = ""

    @property
    def ratio(self) -> float | None:
        """The value by its baseline."""
        return round(self.value / self.baseline, 4) if self.baseline else None

    def __str__(self) -> str:
        against = "" if self.baseline is None else f"  {self.ratio:>9} × {self.baseline:,.2f} ({self.baseline_is})"
        return f"{self.name:<58}{self.value:>12,.2f} {self.unit:<18}{against}"


def write(figures: Sequence[Figure], path: Path) -> None:
    """The figures as JSON: name, value, unit, baseline, ratio."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(figure) | {"ratio": figure.ratio} for figure in figures], indent=2) + "\n")

"""What a benchmark reports: a value, what it is measured against, and the ratio of the two."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


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


def write(part: str, figures: Sequence[Figure], path: Path, run: Mapping[str, object]) -> None:
    """Keeps a part's figures in the file, in place of its earlier ones; other parts' stay. `run` tells of this run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = _kept(path)
    parts[part] = {**run, "figures": [asdict(figure) | {"ratio": figure.ratio} for figure in figures]}
    path.write_text(json.dumps(parts, indent=2) + "\n")
    path.with_suffix(".md").write_text("\n".join(_table(name, kept) for name, kept in sorted(parts.items())))


def _kept(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _table(part: str, run: Mapping[str, Any]) -> str:
    """A part as a Markdown table, as docs/performance.md holds it."""
    figures = run["figures"]
    told = ", ".join(f"{name} {value}" for name, value in run.items() if name != "figures")
    lines = [f"## {part.capitalize()}", "", told, "", "| what | value | ratio | to |", "|---|---:|---:|---|"]
    for figure in figures:
        ratio, baseline = figure["ratio"], figure["baseline"]
        against = "" if baseline is None else f"{figure['baseline_is']}: {_shown(baseline)} {figure['unit']}"
        value = f"{_shown(figure['value'])} {figure['unit']}"
        lines.append(f"| {figure['name']} | {value} | {'' if ratio is None else _shown(ratio)} | {against} |")
    return "\n".join([*lines, ""])


def _shown(number: object) -> str:
    """Three digits that count, and no more than the unit's ones."""
    assert isinstance(number, int | float)
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"

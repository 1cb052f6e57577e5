"""Rows of the table of targets: what was measured, with its spread, beside what it should be."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

Bound = Literal["at most", "at least"]


@dataclass(frozen=True, slots=True)
class Row:
    """One target. measured: a median; low and high: the quartiles around it, or the extremes where there are few.

    unit: empty for a ratio. note: how it was measured, where the words of the row do not say it.
    """

    what: str
    bound: Bound
    target: float
    measured: float
    low: float
    high: float
    unit: str = ""
    note: str = ""

    @property
    def met(self) -> bool:
        if not math.isfinite(self.measured):
            return False
        return self.measured <= self.target if self.bound == "at most" else self.measured >= self.target

    @property
    def missed_by(self) -> float:
        """What share of the target it is off by; 0 where it is met."""
        return 0.0 if self.met else abs(self.measured / self.target - 1)


def row(what: str, bound: Bound, target: float, values: Iterable[float], unit: str = "", note: str = "") -> Row:
    """The row of repeated measurements. Raises ValueError where there are none."""
    low, middle, high = spread(list(values))
    return Row(what, bound, target, middle, low, high, unit, note)


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile; of fewer than five values the extremes and the median."""
    if not values:
        raise ValueError("there is nothing to take a median of")
    edges = (25, 50, 75) if len(values) >= 5 else (0, 50, 100)
    low, middle, high = np.percentile(np.asarray(values, np.float64), edges)
    return float(low), float(middle), float(high)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Round by round, so that what the machine did in a round hits both. Raises ValueError where rounds are missing."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def as_json(rows: Iterable[Row]) -> list[dict[str, Any]]:
    return [asdict(each) | {"met": each.met} for each in rows]


def from_json(found: Iterable[dict[str, Any]]) -> list[Row]:
    return [Row(**{name: value for name, value in each.items() if name != "met"}) for each in found]


def write(path: Path, rows: Sequence[Row], **more: Any) -> None:
    """The rows and whatever else was found, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": as_json(rows), **more}, indent=2) + "\n", encoding="utf-8")

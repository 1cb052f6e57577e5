"""Whether memory grows: the drift of resident memory over time, with an interval that admits that it moves in steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

BLOCKS = 20
CONFIDENCE = 0.95
_WARM_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Drift:
    """Bytes per minute, with the ends of its interval. flat: it cannot be told from zero, or it falls."""

    bytes_per_minute: float
    low: float
    high: float
    flat: bool


def drift(minutes: Sequence[float], resident: Sequence[float]) -> Drift:
    """The mean change from block to block, over `BLOCKS` blocks of samples; the first half is left out as warming up.

    Memory moves in steps that stay: a regression of its level on time takes each step for a trend, and its interval is
    far too narrow (Granger and Newbold, Spurious regressions in econometrics, 1974). Changes are close to independent;
    the regression of them on a constant is their mean. Raises ValueError for fewer samples than blocks.
    """
    kept = slice(len(minutes) - int((1 - _WARM_SHARE) * len(minutes)), None)
    x, y = np.asarray(minutes, float)[kept], np.asarray(resident, float)[kept]
    if len(x) < BLOCKS:
        raise ValueError(f"{len(x)} samples are too few for {BLOCKS} blocks")
    at, level = (np.array([part.mean() for part in np.array_split(values, BLOCKS)]) for values in (x, y))
    changes = np.diff(level) / np.diff(at)
    middle = float(changes.mean())
    margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(changes) - 1) * stats.sem(changes))
    return Drift(round(middle, 1), round(middle - margin, 1), round(middle + margin, 1), middle - margin <= 0)

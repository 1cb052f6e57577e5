"""Whether memory grows: the drift of resident memory over time, with an interval that admits that it moves in steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BLOCKS = 30
CONFIDENCE = 0.95
WARM_SHARE = 0.25
"""Of the run, left out: of twenty minutes, the five that the console's history needs to fill."""
_LAGS = 7
_CRITICAL = 1.9600, 2.9694, 0.4160, -0.5324
"""Kiefer and Vogelsang (2005), table 1, Bartlett kernel, 97.5 %: coefficients of b, b², b³ behind the normal value."""


@dataclass(frozen=True, slots=True)
class Drift:
    """Bytes per minute, with the ends of its 95 % interval. flat: it cannot be told from zero, or it falls."""

    bytes_per_minute: float
    low: float
    high: float
    flat: bool


def drift(minutes: Sequence[float], resident: Sequence[float]) -> Drift:
    """The mean change from block to block, over `BLOCKS` blocks of samples; `WARM_SHARE` of them is left out.

    Memory moves in steps that stay: a regression of its level on time takes each step for a trend, and its interval is
    far too narrow (Granger and Newbold, Spurious regressions in econometrics, 1974). Its changes are regressed on a
    constant instead. They come in spells, too, so that their variance counts what neighbours share (Newey and West,
    1987), and the interval that this variance is an estimate from few blocks (Kiefer and Vogelsang, A new asymptotic
    theory for heteroskedasticity-autocorrelation robust tests, 2005). Raises ValueError for fewer samples than blocks.
    """
    kept = slice(int(WARM_SHARE * len(minutes)), None)
    x, y = np.asarray(minutes, float)[kept], np.asarray(resident, float)[kept]
    if len(x) < BLOCKS:
        raise ValueError(f"{len(x)} samples are too few for {BLOCKS} blocks")
    at, level = (np.array([part.mean() for part in np.array_split(values, BLOCKS)]) for values in (x, y))
    changes = np.diff(level) / np.diff(at)
    middle, margin = float(changes.mean()), _margin(changes)
    return Drift(round(middle, 1), round(middle - margin, 1), round(middle + margin, 1), middle - margin <= 0)


def _margin(changes: npt.NDArray[np.float64]) -> float:
    """Half the 95 % interval of the mean of `changes` [N], which need not be independent of each other."""
    count, off = len(changes), changes - changes.mean()
    shared = sum((1 - lag / (_LAGS + 1)) * (off[lag:] @ off[:-lag]) for lag in range(1, _LAGS + 1))
    variance = max(float(off @ off + 2 * shared), 0.0) / count
    share = (_LAGS + 1) / count
    critical = sum(each * share**power for power, each in enumerate(_CRITICAL))
    return float(critical * np.sqrt(variance / count))

"""How many requests at once a tier can hold without making them wait: learned from latency.

After the gradient limit of Netflix' concurrency-limits: the limit shrinks by the ratio of the latency without
load to the present one, and grows by a small queue while the two agree. What latency is without load is learned
anew every while, by holding only a few for a moment: the limit is back within some forty requests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

TOLERANCE = 1.5
SMOOTHING = 0.2
FIRST_LIMIT = 20
LOOK_EVERY = 1000
"""Requests between two looks at latency without load."""
_FEW = 4.0
_FORGET = 1.0002
_LEARN = 0.2


@dataclass(slots=True)
class GradientLimit:
    """Between `lowest` and `highest`; `limit` is what to enforce now."""

    highest: int
    lowest: int = 1
    _limit: float = 0.0
    _unloaded_seconds: float = math.inf
    _seen: int = 0

    def __post_init__(self) -> None:
        self._limit = float(min(self.highest, max(self.lowest, FIRST_LIMIT)))

    @property
    def limit(self) -> int:
        return int(self._limit)

    def finished(self, seconds: float, in_flight: int) -> None:
        """A request took `seconds` while `in_flight` were held, itself included."""
        if not (seconds > 0 and math.isfinite(seconds)):
            return
        self._learn(seconds)
        if in_flight * 2 < self._limit:
            return  # the limit was not what held it back, so its time says nothing about the limit
        self._seen += 1
        if self._seen % LOOK_EVERY == 0:
            self._limit = max(float(self.lowest), min(self._limit, _FEW))
            return
        gradient = max(0.5, min(1.0, TOLERANCE * self._unloaded_seconds / seconds))
        wanted = self._limit * gradient + math.sqrt(self._limit)
        smoothed = self._limit * (1 - SMOOTHING) + wanted * SMOOTHING
        self._limit = max(float(self.lowest), min(float(self.highest), smoothed))

    def _learn(self, seconds: float) -> None:
        """Quickly down, slowly up: a faster answer shows what is possible, a slower one may just have waited."""
        if not math.isfinite(self._unloaded_seconds):
            self._unloaded_seconds = seconds
        elif seconds < self._unloaded_seconds:
            self._unloaded_seconds += _LEARN * (seconds - self._unloaded_seconds)
        else:
            self._unloaded_seconds = min(seconds, self._unloaded_seconds * _FORGET)

"""What this machine's segments cost, and how long work waits here. Fed by what requests really took."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from services.domain import Segment, SegmentTime, Tier, TierProfile

_WINDOW = 31
_MAX_KEYS = 256


@dataclass(slots=True)
class Profiler:
    """Medians over the last runs of each (segment, batch size); bounded in both directions."""

    tier: Tier
    _runs: dict[tuple[Segment, int], deque[float]] = field(default_factory=dict)
    _queue: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    def record(self, segment: Segment, batch_size: int, seconds: float, queue_seconds: float) -> None:
        """Adds one run: its compute time, and how long it waited before."""
        key = (segment, batch_size)
        if key not in self._runs and len(self._runs) >= _MAX_KEYS:
            self._runs.pop(next(iter(self._runs)))
        self._runs.setdefault(key, deque(maxlen=_WINDOW)).append(seconds)
        self._queue.append(queue_seconds)

    def seconds(self, segment: Segment, batch_size: int) -> float | None:
        """Median seconds of a run, or None for what never ran here."""
        runs = self._runs.get((segment, batch_size))
        return statistics.median(runs) if runs else None

    def profile(self, runs: Iterable[tuple[Segment, int]] | None = None) -> TierProfile:
        """What is known now of `runs` (segment, batch size), or of everything that ran here.

        What never ran here is absent, which means unknown.
        """
        wanted = self._runs if runs is None else runs
        times = tuple(
            SegmentTime(segment, batch_size, seconds)
            for segment, batch_size in wanted
            if (seconds := self.seconds(segment, batch_size)) is not None
        )
        return TierProfile(self.tier, statistics.median(self._queue) if self._queue else 0.0, times)

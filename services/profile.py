"""What this machine's segments cost, and how long work waits here. Fed by what requests really took."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from services.domain import Segment, SegmentTime, Tier, TierProfile

_WINDOW = 31
_MAX_KEYS = 256


@dataclass(slots=True)
class RollingMedian:
    """The median of the last 31 values, kept sorted: it is asked for on every request."""

    _by_age: deque[float] = field(default_factory=deque)
    _by_size: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        if len(self._by_age) == _WINDOW:
            del self._by_size[bisect_left(self._by_size, self._by_age.popleft())]
        self._by_age.append(value)
        insort(self._by_size, value)

    def value(self) -> float | None:
        """None before the first value."""
        middle, odd = divmod(len(self._by_size), 2)
        if not self._by_size:
            return None
        return self._by_size[middle] if odd else (self._by_size[middle - 1] + self._by_size[middle]) / 2


@dataclass(slots=True)
class Profiler:
    """Medians over the last runs of each (segment, batch size); bounded in both directions."""

    tier: Tier
    _runs: dict[tuple[Segment, int], RollingMedian] = field(default_factory=dict)
    _queue: RollingMedian = field(default_factory=RollingMedian)

    def record(self, segment: Segment, batch_size: int, seconds: float, queue_seconds: float) -> None:
        """Adds one run: its compute time, and how long it waited before."""
        key = (segment, batch_size)
        if key not in self._runs:
            if len(self._runs) >= _MAX_KEYS:
                self._runs.pop(next(iter(self._runs)))
            self._runs[key] = RollingMedian()
        self._runs[key].add(seconds)
        self._queue.add(queue_seconds)

    def seconds(self, segment: Segment, batch_size: int) -> float | None:
        """Median seconds of a run, or None for what never ran here."""
        runs = self._runs.get((segment, batch_size))
        return runs.value() if runs is not None else None

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
        return TierProfile(self.tier, self._queue.value() or 0.0, times)

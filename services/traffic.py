"""Who is on a link right now, and since when nobody is."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from services.domain import Clock


@dataclass(slots=True, eq=False)
class Crossing:
    """One call while it is in flight: its own bytes, and those of all calls that were in flight with it."""

    nbytes: int
    probes: bool = False
    shared_bytes: int = 0


@dataclass(slots=True)
class Traffic:
    """The calls in flight over one link."""

    clock: Clock = time.monotonic
    _crossings: list[Crossing] = field(default_factory=list)
    _quiet_since: float = -math.inf

    @contextmanager
    def crossing(self, nbytes: int, probes: bool = False) -> Iterator[Crossing]:
        """A call of `nbytes` is in flight for as long as the body runs. A probe leaves the link quiet."""
        ours = Crossing(nbytes, probes, sum(other.nbytes for other in self._crossings))
        for other in self._crossings:
            other.shared_bytes += nbytes
        self._crossings.append(ours)
        try:
            yield ours
        finally:
            self._crossings.remove(ours)
            self._quiet_since = self._quiet_since if probes else self.clock()

    def quiet_seconds(self) -> float:
        """Since the last call that was no probe ended; 0 while one is in flight, infinite where there was none."""
        busy = any(not crossing.probes for crossing in self._crossings)
        return 0.0 if busy else self.clock() - self._quiet_since

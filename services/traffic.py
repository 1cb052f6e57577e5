"""Who is on a link right now, and since when nobody is."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from services.domain import Clock

_HELD = 16


@dataclass(slots=True, eq=False)
class Crossing:
    """One call while it is in flight: its own bytes, and those of all calls that were in flight with it.

    beyond_seconds: what the far side may need for it; infinite where nobody knows.
    """

    nbytes: int
    began: float
    probes: bool = False
    beyond_seconds: float = 0.0
    shared_bytes: int = 0


@dataclass(slots=True)
class Traffic:
    """The calls in flight over one link."""

    clock: Clock = time.monotonic
    _crossings: list[Crossing] = field(default_factory=list)
    _quiet_since: float = -math.inf
    _used_at: float = -math.inf
    _held: deque[float] = field(default_factory=lambda: deque(maxlen=_HELD))

    @contextmanager
    def crossing(self, nbytes: int, probes: bool = False, beyond_seconds: float = 0.0) -> Iterator[Crossing]:
        """A call of `nbytes` is in flight for as long as the body runs. A probe leaves the link quiet.

        beyond_seconds: what the far side should need. It is given as much as it needed lately, if that is more.
        """
        shared = sum(other.nbytes for other in self._crossings)
        beyond = 0.0 if probes else max(beyond_seconds, *self._held, 0.0)
        ours = Crossing(nbytes, self.clock(), probes, beyond, shared)
        for other in self._crossings:
            other.shared_bytes += nbytes
        self._crossings.append(ours)
        try:
            yield ours
        finally:
            self._crossings.remove(ours)
            self._quiet_since = self._quiet_since if probes else self.clock()

    def held(self, seconds: float) -> None:
        """Notes how long the far side had a call."""
        self._held.append(seconds)

    def waiting(self) -> list[tuple[int, float]]:
        """Of each call in flight, the bytes that it and those with it move, and its seconds so far on the network."""
        return [(each.nbytes + each.shared_bytes, self.on_network(each)) for each in self._crossings]

    def on_network(self, crossing: Crossing) -> float:
        """Seconds since it began, less what the far side should need."""
        return self.clock() - crossing.began - crossing.beyond_seconds

    def used(self) -> None:
        """Notes that a request was planned over this link, whether it crossed it or not."""
        self._used_at = self.clock()

    def unused_seconds(self) -> float:
        """Since then; infinite where there was none."""
        return self.clock() - self._used_at

    def quiet_seconds(self) -> float:
        """Since the last call that was no probe ended; 0 while one is in flight, infinite where there was none."""
        busy = any(not crossing.probes for crossing in self._crossings)
        return 0.0 if busy else self.clock() - self._quiet_since

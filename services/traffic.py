"""Who is on a link right now, and since when nobody is."""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from services.domain import Clock

FRESH_SECONDS = 2.0
"""For so long, what was seen of a link is reason enough not to try it: it may have recovered unseen."""
_CALLS = 16
_KINDS = 64


@dataclass(slots=True, eq=False)
class Crossing:
    """One call while it is in flight: its own bytes, and those of all calls that were in flight with it.

    beyond_seconds: what the far side may need for it; infinite where nobody knows.
    """

    nbytes: int
    began: float
    probes: bool = False
    beyond_seconds: float = math.inf
    shared_bytes: int = 0


@dataclass(slots=True)
class Traffic:
    """The calls in flight over one link."""

    clock: Clock = time.monotonic
    _crossings: list[Crossing] = field(default_factory=list)
    _quiet_since: float = -math.inf

    @contextmanager
    def crossing(self, nbytes: int, probes: bool = False, beyond_seconds: float = math.inf) -> Iterator[Crossing]:
        """A call of `nbytes` is in flight for as long as the body runs. A probe leaves the link quiet.

        beyond_seconds: what the far side may need for it; a probe needs nothing.
        """
        shared = sum(other.nbytes for other in self._crossings)
        ours = Crossing(nbytes, self.clock(), probes, 0.0 if probes else beyond_seconds, shared)
        for other in self._crossings:
            other.shared_bytes += nbytes
        self._crossings.append(ours)
        try:
            yield ours
        finally:
            self._crossings.remove(ours)
            self._quiet_since = self._quiet_since if probes else self.clock()

    @property
    def idle(self) -> bool:
        """Whether nothing at all is in flight."""
        return not self._crossings

    def waiting(self) -> list[tuple[int, float]]:
        """Of each call in flight, the bytes that it and those with it move, and its seconds so far on the network."""
        return [(each.nbytes + each.shared_bytes, self.on_network(each)) for each in self._crossings]

    def on_network(self, crossing: Crossing) -> float:
        """Seconds since it began, less what the far side should need."""
        return self.clock() - crossing.began - crossing.beyond_seconds

    def ahead_seconds(self, bytes_per_second: float) -> float:
        """Until the link has carried what is in flight, one call after the other; 0 where it should have by now."""
        free = -math.inf
        for each in self._crossings:
            free = max(free, each.began) + each.nbytes / bytes_per_second
        return max(free - self.clock(), 0.0)

    def quiet_seconds(self) -> float:
        """Since the last call that was no probe ended; 0 while one is in flight, infinite where there was none."""
        busy = any(not crossing.probes for crossing in self._crossings)
        return 0.0 if busy else self.clock() - self._quiet_since


@dataclass(slots=True)
class Held:
    """How long the far side had the last calls of each kind: how long it may have the next. Bounded."""

    clock: Clock = time.monotonic
    _seconds: OrderedDict[Hashable, deque[float]] = field(default_factory=OrderedDict)
    _noted_at: dict[Hashable, float] = field(default_factory=dict)

    def note(self, kind: Hashable, seconds: float) -> None:
        """Adds one answered call."""
        if kind not in self._seconds and len(self._seconds) >= _KINDS:
            forgotten, _ = self._seconds.popitem(last=False)
            del self._noted_at[forgotten]
        self._seconds.setdefault(kind, deque(maxlen=_CALLS)).append(seconds)
        self._seconds.move_to_end(kind)
        self._noted_at[kind] = self.clock()

    def shortest(self, kind: Hashable) -> float:
        """The shortest of the last 16: 0 where the last of them is no news, as the far side may have time again."""
        if self.clock() - self._noted_at.get(kind, -math.inf) > FRESH_SECONDS:
            return 0.0
        return min(self._seconds[kind])

    def longest(self, kind: Hashable, expected_seconds: float | None) -> float:
        """The longest of the last 16; before the first, what its whole plan should take; infinite without one."""
        if known := self._seconds.get(kind):
            return max(known)
        return math.inf if expected_seconds is None else expected_seconds

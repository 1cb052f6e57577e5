"""When the machine itself stood still, as a bystander saw who does nothing but look at the clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from services.domain import Clock

LEAST_SECONDS = 0.2
"""A look that comes so much too late tells of a stall: tiers take shorter silences of each other for an outage."""
_LOOK_SECONDS = 0.05

Stall = tuple[float, float]
"""From when until when, in seconds of the run."""


@dataclass(slots=True)
class Bystander:
    """Looks at the clock again and again, in a thread of its own. began: when the run did, on `clock`."""

    began: float
    clock: Clock = time.monotonic
    stalls: list[Stall] = field(default_factory=list)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While the body runs."""
        stop = threading.Event()
        thread = threading.Thread(target=self._watch, args=(stop,), name="bystander", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def looked(self, before: float, now: float) -> None:
        """Two looks, one after the other: nobody knows when between them the machine stood still."""
        if now - before >= _LOOK_SECONDS + LEAST_SECONDS:
            self.stalls.append((before - self.began, now - self.began))

    def _watch(self, stop: threading.Event) -> None:
        before = self.clock()
        while not stop.wait(_LOOK_SECONDS):
            now = self.clock()
            self.looked(before, now)
            before = now

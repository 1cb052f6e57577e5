"""When the machine itself stood still: as a bystander saw who does nothing but look at the clock, or its host says.

A virtual machine's processors may be given to others one by one; then some processes stand still, and others do not.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from services.domain import Clock

LEAST_SECONDS = 0.2
"""A look that comes so much too late tells of a stall: tiers take shorter silences of each other for an outage."""
STOLEN_SHARE = 0.1
"""Of all processors' time in a window: of four, one for 0.1 seconds."""
LOOK_SECONDS, WINDOW_SECONDS = 0.05, 0.25
_STAT = Path("/proc/stat")

Stall = tuple[float, float]
"""From when until when, in seconds of the run."""


def stolen_seconds() -> float:
    """For how long, all processors together, the host has had others run on them. 0 where it does not say."""
    try:
        return int(_STAT.read_text().split(maxsplit=9)[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


@dataclass(slots=True)
class Bystander:
    """Looks at the clock again and again, in a thread of its own. began: when the run did, on `clock`."""

    began: float
    clock: Clock = time.monotonic
    stolen: Callable[[], float] = stolen_seconds
    processors: int = os.cpu_count() or 1
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
        if now - before >= LOOK_SECONDS + LEAST_SECONDS:
            self.stalls.append((before - self.began, now - self.began))

    def was_taken(self, before: float, now: float, seconds: float) -> None:
        """Between two looks the host had given processors to others for so long."""
        if seconds >= STOLEN_SHARE * (now - before) * self.processors:
            self.stalls.append((before - self.began, now - self.began))

    def _watch(self, stop: threading.Event) -> None:
        before = begun = self.clock()
        stolen = self.stolen()
        while not stop.wait(LOOK_SECONDS):
            now = self.clock()
            self.looked(before, now)
            before = now
            if now - begun >= WINDOW_SECONDS:
                self.was_taken(begun, now, (taken := self.stolen()) - stolen)
                begun, stolen = now, taken

"""When to stop asking a peer that does not answer, and when to ask again: arithmetic on a clock, no I/O.

Trips on consecutive failures as Envoy's outlier detection does (five within 10 s); opens for a time that
doubles up to a bound; a health check that answers lets one request through, whose end decides.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum

from services.domain import Clock

FAILURES = 5
WINDOW_SECONDS = 10.0
FIRST_OPEN_SECONDS = 0.5
MAX_OPEN_SECONDS = 2.0
"""A check costs next to nothing, and whoever is back shall be used again within a few seconds."""


class BreakerState(IntEnum):
    """Whether requests pass."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


@dataclass(slots=True)
class Breaker:
    """One peer's. `allows` is asked before a call; each call that was allowed ends in `succeeded` or `failed`.

    A call whose outcome says nothing of the peer (cancelled, refused as the caller's error) ends in `unknown`.
    """

    clock: Clock = time.monotonic
    state: BreakerState = BreakerState.CLOSED
    _failed_at: deque[float] = field(default_factory=lambda: deque(maxlen=FAILURES))
    _opened_at: float = 0.0
    _open_seconds: float = FIRST_OPEN_SECONDS
    _trial: bool = False

    def allows(self) -> bool:
        """Whether a call may be made now; half open, one at a time."""
        if self.state is BreakerState.HALF_OPEN and not self._trial:
            self._trial = True
            return True
        return self.state is BreakerState.CLOSED

    @property
    def check_due(self) -> bool:
        """Whether the peer has been left alone for long enough to ask for its health."""
        return self.state is BreakerState.OPEN and self.clock() - self._opened_at >= self._open_seconds

    @property
    def due_seconds(self) -> float:
        """How long it is still to be left alone."""
        return max(self._opened_at + self._open_seconds - self.clock(), 0.0)

    def healthy(self) -> None:
        """The health check says that the peer serves: one request may try."""
        if self.state is BreakerState.OPEN:
            self.state, self._trial = BreakerState.HALF_OPEN, False

    def unhealthy(self) -> None:
        """The health check did not answer, or says that the peer does not serve."""
        if self.state is BreakerState.OPEN:
            self._open(2 * self._open_seconds)

    def succeeded(self) -> None:
        self.state, self._trial, self._open_seconds = BreakerState.CLOSED, False, FIRST_OPEN_SECONDS
        self._failed_at.clear()

    def failed(self) -> None:
        now = self.clock()
        if self.state is BreakerState.HALF_OPEN:
            self._open(2 * self._open_seconds)
            return
        self._failed_at.append(now)
        if self.state is BreakerState.CLOSED and self._too_many(now):
            self._open(FIRST_OPEN_SECONDS)

    def dead(self) -> None:
        """A health check got no answer either: more failures would tell nothing new."""
        if self.state is not BreakerState.OPEN:
            self._open(FIRST_OPEN_SECONDS if self.state is BreakerState.CLOSED else 2 * self._open_seconds)

    def unknown(self) -> None:
        """The call ended without telling; another may try."""
        self._trial = False

    def _too_many(self, now: float) -> bool:
        return len(self._failed_at) == FAILURES and now - self._failed_at[0] <= WINDOW_SECONDS

    def _open(self, seconds: float) -> None:
        self.state, self._trial = BreakerState.OPEN, False
        self._opened_at, self._open_seconds = self.clock(), min(seconds, MAX_OPEN_SECONDS)
        self._failed_at.clear()

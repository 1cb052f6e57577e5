"""Belief about the link above this tier, from what calls really took.

A call of b bytes up takes t = RTT + b / R on the network: the time at the caller less the time the far side
held it, so that no two clocks are compared. RTT and R are fitted apart, by the median of pairwise slopes
(Theil, 1950; Sen, 1968), which a minority of outliers cannot move. Where calls are too alike in size to tell
RTT from rate, the rate is *unknown*; a failed call teaches nothing and never reads as a fast link.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import combinations

from services.domain import Clock, LinkEstimate, Tier

_WINDOW = 24
_MIN_SAMPLES = 3
_MIN_SIZE_STEP_BYTES = 1024
_MAX_AGE_SECONDS = 60.0
_REFIT_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class _Call:
    at: float
    bytes_up: int
    seconds: float


@dataclass(slots=True)
class LinkEstimator:
    """Fits RTT and upstream rate to the last calls over one link. Expires with age."""

    source: Tier
    clock: Clock = time.monotonic
    _calls: deque[_Call] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _fit: LinkEstimate | None = None
    _fitted_at: float = -math.inf

    def record(self, bytes_up: int, network_seconds: float) -> None:
        """Adds one successful call: bytes sent, and network seconds as above."""
        self._calls.append(_Call(self.clock(), bytes_up, max(network_seconds, 0.0)))

    def estimate(self) -> LinkEstimate:
        """What is believed now; every unknown is None. Fitted anew at most five times a second."""
        now = self.clock()
        if self._fit is None or now - self._fitted_at >= _REFIT_SECONDS:
            self._fit, self._fitted_at = self._refit(now), now
        return self._fit

    def _refit(self, now: float) -> LinkEstimate:
        calls = [call for call in self._calls if now - call.at <= _MAX_AGE_SECONDS]
        if len(calls) < _MIN_SAMPLES:
            return LinkEstimate(self.source)
        slope = _slope(calls)
        rest = [call.seconds - (slope or 0.0) * call.bytes_up for call in calls]
        rtt = max(statistics.median(rest), 0.0) if slope is not None else min(c.seconds for c in calls)
        return LinkEstimate(
            self.source,
            rtt_seconds=rtt,
            up_bytes_per_second=1 / slope if slope else None,
            spread=statistics.median(abs(r - rtt) for r in rest) / rtt if slope is not None and rtt else None,
            age_seconds=now - calls[-1].at,
        )


def _slope(calls: list[_Call]) -> float | None:
    """Seconds per byte, or None where the sizes are too alike or the fit makes no sense."""
    slopes = [
        (b.seconds - a.seconds) / (b.bytes_up - a.bytes_up)
        for a, b in combinations(calls, 2)
        if abs(b.bytes_up - a.bytes_up) >= _MIN_SIZE_STEP_BYTES
    ]
    slope = statistics.median(slopes) if len(slopes) >= _MIN_SAMPLES else 0.0
    return slope if slope > 0 else None

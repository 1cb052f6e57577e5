"""How long the tiers above may take before a tier finishes by itself, and how near to a deadline it may still compute.

A plan says what it expects; of one that does not (fixed splits), what earlier answers took does.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field

from services.domain import Clock, Plan, Stage

PATIENCE = 2.0
MIN_PATIENCE_SECONDS = 0.1
"""How many times the expected seconds of a whole plan the tiers above may take before this tier finishes by itself,
where it can; at least so long, and as long as finishing takes: then waiting in vain costs no more than giving up in
vain would. A link that has just collapsed holds a request for longer than that."""

SEEN_PATIENCE, SEEN_LEAST_SECONDS = 3.0, 0.5
"""The same, of what all but a few of the earlier answers took, and at least longer: who fixed a plan wants it kept."""
_SHARE = 0.95
_WINDOW, _LEAST, _MAX_KEYS = 64, 3, 64

_LEAST_MARGIN_SECONDS, _LEAST_MARGIN_SHARE = 0.05, 0.05
"""The lesser of the two: nobody knows how busy a loop will be that was idle until now."""
_MOST_MARGIN_SHARE = 0.8
_KEPT, _HALF_LIFE_SECONDS = 0.97, 5.0
"""Of a lag, from run to run and with time: where few requests come, one stall would outlast many minutes of them."""

_Key = tuple[tuple[Stage, ...], int]


@dataclass(slots=True)
class Patience:
    """With the tiers above, by plan and about how many samples; bounded. times: of the seconds that a plan expects."""

    times: float = PATIENCE
    _seen: dict[_Key, deque[float]] = field(default_factory=dict)

    def seconds(self, plan: Plan, samples: int, rest_seconds: float = 0.0) -> float | None:
        """How long an answer from above may take; None while that is unknown. rest_seconds: finishing here takes."""
        if plan.expected_seconds is not None:
            return max(self.times * plan.expected_seconds, rest_seconds, MIN_PATIENCE_SECONDS)
        seen = self._seen.get(_key(plan, samples), ())
        if len(seen) < _LEAST:
            return None
        return max(SEEN_PATIENCE * sorted(seen)[int(_SHARE * len(seen))], SEEN_LEAST_SECONDS)

    def took(self, plan: Plan, samples: int, seconds: float) -> None:
        """Notes what an answer took."""
        if plan.expected_seconds is not None:
            return
        key = _key(plan, samples)
        if key not in self._seen and len(self._seen) >= _MAX_KEYS:
            self._seen.pop(next(iter(self._seen)))
        self._seen.setdefault(key, deque(maxlen=_WINDOW)).append(seconds)

    def in_vain(self, plan: Plan, samples: int, seconds: float) -> None:
        """Notes how long no answer came, where patience grows by it: it would have taken longer, who knows how much.

        Who had little time, and gave up sooner than answers come, tells nothing of them.
        """
        known = self.seconds(plan, samples)
        if known is not None and SEEN_PATIENCE * seconds > known:
            self.took(plan, samples, seconds)


@dataclass(slots=True)
class Lag:
    """How much later than it could this event loop goes on with what has been computed: the worst of lately.

    On a busy machine that is what an answer in hand waits for before it leaves.
    """

    clock: Clock = time.monotonic
    _worst: float = 0.0
    _at: float = 0.0

    def took(self, seconds: float) -> None:
        """A run had ended for so long when its request went on."""
        now = self.clock()
        self._worst, self._at = max(seconds, _KEPT * self._left(now)), now

    def margin_seconds(self, allowed_seconds: float) -> float:
        """How long before its deadline an answer should leave; a share, at most, of what its request was allowed."""
        least = min(_LEAST_MARGIN_SECONDS, _LEAST_MARGIN_SHARE * allowed_seconds)
        return min(max(self._left(self.clock()), least), _MOST_MARGIN_SHARE * allowed_seconds)

    def _left(self, now: float) -> float:
        """Of the worst, seconds."""
        return self._worst * math.exp2(-max(now - self._at, 0.0) / _HALF_LIFE_SECONDS)


def _key(plan: Plan, samples: int) -> _Key:
    return plan.stages, samples.bit_length()

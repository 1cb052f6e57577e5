"""Plans that could not be prepared are left alone for a while, so that nobody asks for them ten times a second."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from services.domain import Plan, Stage

_LEAST_SECONDS, _MOST_SECONDS = 1.0, 30.0
_MAX_PLANS = 64


@dataclass(slots=True)
class Pauses:
    """How long each plan is left alone: twice as long after each failure, until it can be prepared. Bounded."""

    _until: dict[tuple[Stage, ...], tuple[float, float]] = field(default_factory=dict)

    def over(self, plan: Plan, now: float) -> bool:
        """Whether it may be tried."""
        return now >= self._until.get(plan.stages, (-math.inf, 0.0))[0]

    def failed(self, plan: Plan, now: float, passing: bool = False) -> None:
        """Those that failed together count once. passing: for a reason that may be gone in a moment."""
        if not self.over(plan, now):
            return
        _, seconds = self._until.pop(plan.stages, (now, 0.0))
        if len(self._until) >= _MAX_PLANS:
            self._until.pop(next(iter(self._until)))
        seconds = _LEAST_SECONDS if passing else min(max(2 * seconds, _LEAST_SECONDS), _MOST_SECONDS)
        self._until[plan.stages] = now + seconds, seconds

    def prepared(self, plan: Plan) -> None:
        """The next failure is the first again."""
        self._until.pop(plan.stages, None)

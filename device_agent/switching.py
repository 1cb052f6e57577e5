"""When a better plan is worth a switch: at once when the link collapsed, else when the gain is real and stays.

A plan that follows every new estimate flaps, and each switch costs a warm-up; one that waits loses requests. So
the rule is uneven (degrade at once, improve slowly), and its price is bounded: between two switches
at least `dwell_seconds` pass, unless staying costs `collapse` times as much as going. What made a switch for that
reason may be over soon, and the first choice of all rests on the first news of a link: the next one is worth it from
`recovery` times on. A plan that was left because it missed its deadline is not gone back to before that time, however
little it needs otherwise.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from services.domain import Clock


@dataclass(frozen=True, slots=True)
class SwitchRule:
    """margin: a gain below this share is no reason. agreeing: decisions in a row before an improvement counts."""

    margin: float = 0.05
    agreeing: int = 2
    dwell_seconds: float = 5.0
    collapse: float = 1.25
    recovery: float = 1.1


RULE = SwitchRule()


@dataclass(slots=True)
class Switcher:
    """Remembers the plan's promise and the last switch. Costs are in whatever unit the policy minimises.

    The first plan was nobody's choice, so it is left at once.
    """

    rule: SwitchRule = RULE
    clock: Clock = time.monotonic
    _promised: float = math.inf
    _agreed: int = 0
    _switched_at: float = field(default=-math.inf)
    _collapsed: bool = False  # now, and at the last switch
    _rash: bool = False
    _late: bool = False  # now, and at the last switch
    _was_late: bool = False

    def due(self, current: float | None, best: float, late: bool = False) -> bool:
        """Whether to leave a plan of cost `current` (None: it cannot run any more) for one of cost `best`.

        late: it misses the deadline of the policy, and costs are seconds, whatever the policy minimises otherwise.
        """
        self._collapsed, self._late = current is None or current >= self.rule.collapse * best, late
        if current is None:
            return True
        rested = self.clock() - self._switched_at >= self.rule.dwell_seconds
        if late:
            return current > (1 + self.rule.margin) * best and (rested or self._collapsed)
        got_worse = current > (1 + self.rule.margin) * self._promised
        self._promised = min(self._promised, current)
        if current <= (1 + self.rule.margin) * best:
            self._agreed = 0
            return False
        self._agreed += 1
        first = self._switched_at == -math.inf
        sure = first or got_worse or self._agreed >= self.rule.agreeing
        pressing = current >= (self.rule.recovery if self._rash else self.rule.collapse) * best
        return sure and (rested or (pressing and not self._was_late))

    def kept(self, current: float) -> None:
        """Notes that the plan in force, of cost `current`, is the best there is."""
        self._promised, self._agreed = min(self._promised, current), 0

    def switched(self, promised: float) -> None:
        """Notes a switch to a plan of cost `promised`."""
        self._rash = self._collapsed or self._switched_at == -math.inf
        self._promised, self._agreed, self._switched_at = promised, 0, self.clock()
        self._was_late = self._late

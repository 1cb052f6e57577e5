"""What a plan takes for a request that finds others before it: at the device, and on the link that leads away. Pure.

Both queues are first come, first served, and the second moves on while the first is waited for: an answer takes
`expected + w + p * max(0, l - w - h)` seconds, where w is the wait for the device, l until the link has carried what is
in flight, h what the device needs before it sends, and p the probability that it sends at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from device_agent.planner import PlanCost, stay
from services.bundle import Manifest
from services.domain import Plan, Tier

_WORTH_IT = 0.95
"""Of what the chosen plan takes: queues are guessed at, and a gain below a twentieth is no reason to leave a plan."""


class Queues(NamedTuple):
    """Seconds until a run that came now would begin on the device, and until the link is free of what is in flight."""

    device: float = 0.0
    link: float = 0.0


NO_QUEUES = Queues()


@dataclass(frozen=True, slots=True)
class Queueing:
    """A plan that is ready, and what of it decides how it waits. head_seconds: on the device, before it sends.

    crosses: the probability that it sends.
    """

    plan: Plan
    seconds: float
    head_seconds: float
    crosses: float

    @classmethod
    def of(
        cls, found: PlanCost, manifest: Manifest, batch_size: int, leaving: tuple[float, ...] | None = None
    ) -> Queueing:
        """From what the planner says of a plan for a batch. leaving: as of a policy."""
        stage = found.plan.stage(Tier.DEVICE)
        cut = stage.segment.end if stage is not None else 0
        crosses = 0.0 if cut == manifest.last else 1 - (1 - stay(manifest, leaving)[cut]) ** batch_size
        head = found.terms["device compute"] + found.terms["encode 1"]
        return cls(found.plan, found.seconds, head, crosses)

    @property
    def computes(self) -> bool:
        """Whether the device runs anything, and so waits for its turn."""
        return not self.plan.stages[0].segment.empty

    def expected(self, queues: Queues) -> float:
        """Seconds until the answer."""
        wait = queues.device if self.computes else 0.0
        return self.seconds + wait + self.crosses * max(0.0, queues.link - wait - self.head_seconds)


def quickest(chosen: Queueing, others: Iterable[Queueing], queues: Queues) -> Queueing:
    """The one that is answered first, as the queues are; the chosen one, unless another is well before it."""
    best = min(others, key=lambda each: each.expected(queues), default=chosen)
    return best if best.expected(queues) < _WORTH_IT * chosen.expected(queues) else chosen

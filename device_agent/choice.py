"""The plan of one policy and batch size, with what else is ready beside it."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field

from device_agent.lead import Lead
from device_agent.queues import Queueing
from device_agent.switching import Switcher
from services.domain import Plan, Tier

_HERE = frozenset({Tier.DEVICE})
_AWAY = frozenset(Tier) - _HERE


@dataclass(slots=True)
class Spare:
    """A plan for which only `tiers` compute, once it is ready, where requests had to wait for others lately.

    lead: while it holds, this is about as good as the best such plan, which is good enough where queues are guessed at.
    """

    tiers: frozenset[Tier]
    ready: Queueing | None = None
    lead: Lead | None = None
    wanted_at: float = -math.inf
    preparing: asyncio.Task[None] | None = None


@dataclass(slots=True)
class Choice:
    """`switcher` decides when to leave `plan`.

    known: what is expected of the plan, once that can be told. lead: by how much it is the best, while it is.
    needs_link: whether a better link might make another plan the best. spares: plans that run nothing on the device,
    and nothing elsewhere, for requests that would wait for the device or for the link; one was taken at `spared_at`.
    """

    plan: Plan
    switcher: Switcher
    known: Queueing | None = None
    lead: Lead | None = None
    needs_link: bool = True
    spares: tuple[Spare, Spare] = field(default_factory=lambda: (Spare(_AWAY), Spare(_HERE)))
    asked_at: float = -math.inf
    spared_at: float = -math.inf
    considered_at: float = -math.inf
    switching: asyncio.Task[None] | None = None

    @property
    def under_way(self) -> bool:
        """Whether another plan is being prepared to take its place."""
        return self.switching is not None and not self.switching.done()

    def switches(self) -> list[asyncio.Task[None]]:
        """What prepares a plan for it."""
        return [task for task in (self.switching, *(spare.preparing for spare in self.spares)) if task]


def bucket(batch_size: int) -> int:
    """Batches of similar size share a plan: the power of two at or above."""
    return 1 << (batch_size - 1).bit_length()

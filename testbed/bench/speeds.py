"""How fast the tiers really ran, over what was measured: each tier's share of the machine changes with its load."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from services.domain import Tier
from services.front import Answer
from testbed.bench.costs import Costs
from testbed.bench.world import World

_LEAST_SECONDS = 0.0005
_LEAST_RUNS = 10


@dataclass(slots=True)
class Speeds:
    """Seconds that requests computed, over those that `costs` and the slowdowns say, for each tier."""

    costs: Costs
    world: World
    _ratios: dict[Tier, list[float]] = field(default_factory=lambda: {tier: [] for tier in Tier})

    def add(self, answer: Answer) -> None:
        """Takes in the tiers that ran their whole share of the plan; who leaves early says nothing of it."""
        hops = answer.response.trace.hops
        for index, hop in enumerate(hops):
            stage = answer.plan.stage(hop.tier)
            if stage is None or (index == len(hops) - 1 and answer.plan.stages[-1].tier is not hop.tier):
                continue
            told = self.costs.seconds(stage.segment.start, stage.segment.end) * self.world.slowdowns[hop.tier]
            if told >= _LEAST_SECONDS:
                self._ratios[hop.tier].append(hop.compute_seconds / told)

    def of(self, tier: Tier) -> float:
        """The median ratio; of all tiers together where this one hardly ran."""
        own = self._ratios[tier]
        every = own if len(own) >= _LEAST_RUNS else [ratio for found in self._ratios.values() for ratio in found]
        return statistics.median(every) if every else 1.0

    def applied(self) -> World:
        """The world with tiers as slow as they were."""
        slow: Mapping[Tier, float] = {tier: self.world.slowdowns[tier] * self.of(tier) for tier in Tier}
        return replace(
            self.world,
            device_slowdown=slow[Tier.DEVICE],
            edge_slowdown=slow[Tier.EDGE],
            cloud_slowdown=slow[Tier.CLOUD],
        )

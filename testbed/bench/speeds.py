"""How fast the tiers really ran, over what was measured: each tier's share of the machine changes with its load.

And how evenly: where requests wait for each other, those that take longer than others hold up more of them.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from services.bundle import Manifest
from services.domain import Tier
from services.front import Answer
from testbed.bench.costs import Costs
from testbed.bench.world import World

_LEAST_SECONDS = 0.0005
_LEAST_RUNS = 10

Paces = Mapping[Tier, Sequence[float]]
"""Of each tier, what runs took over their median; to be drawn from."""


@dataclass(slots=True)
class Speeds:
    """Seconds that requests of one sample computed, over those that `costs` and the slowdowns say, for each tier."""

    costs: Costs
    world: World
    manifest: Manifest
    _ratios: dict[Tier, list[float]] = field(default_factory=lambda: {tier: [] for tier in Tier})
    _besides: list[float] = field(default_factory=list)

    def add(self, answer: Answer, seconds: float, alone: bool = True) -> None:
        """Takes in each tier's share of the way, which ended at an exit; a degraded answer's was another.

        seconds: until the caller had it. alone: whether it found the device idle.
        """
        given, trace = answer.response.predictions, answer.response.trace
        if given.reasons.any():
            return
        if alone:
            here = trace.hops[0]
            self._besides.append(seconds - trace.seconds + here.queue_seconds + here.decode_seconds)
        left_at = self.manifest.exits[int(given.exits[0])].split_point
        for hop in trace.hops:
            stage = answer.plan.stage(hop.tier)
            told = 0.0 if stage is None else self._told(stage.segment.start, min(stage.segment.end, left_at))
            if (slowed := told * self.world.slowdowns[hop.tier]) >= _LEAST_SECONDS:
                self._ratios[hop.tier].append(hop.compute_seconds / slowed)

    def _told(self, start: int, end: int) -> float:
        """Of [start, end), which is run exit by exit."""
        inside = (spec.split_point for spec in self.manifest.exits if start < spec.split_point < end)
        return sum(self.costs.seconds(a, b) for a, b in pairwise((start, *inside, end)))

    def of(self, tier: Tier) -> float:
        """The median ratio; of all tiers together where this one hardly ran."""
        own = self._ratios[tier]
        every = own if len(own) >= _LEAST_RUNS else [ratio for found in self._ratios.values() for ratio in found]
        return statistics.median(every) if every else 1.0

    def paces(self) -> Paces:
        """How evenly each tier ran; nothing of one that hardly did."""
        ran = {tier: found for tier, found in self._ratios.items() if len(found) >= _LEAST_RUNS}
        return {tier: [ratio / statistics.median(found) for ratio in found] for tier, found in ran.items()}

    def applied(self) -> World:
        """The world with tiers as slow as they were, and a device that did besides what it did."""
        besides = statistics.median(self._besides) if len(self._besides) >= _LEAST_RUNS else self.world.agent_seconds
        slow: Mapping[Tier, float] = {tier: self.world.slowdowns[tier] * self.of(tier) for tier in Tier}
        return replace(
            self.world,
            device_slowdown=slow[Tier.DEVICE],
            edge_slowdown=slow[Tier.EDGE],
            cloud_slowdown=slow[Tier.CLOUD],
            agent_seconds=max(besides, 0.0),
        )

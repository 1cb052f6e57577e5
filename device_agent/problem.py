"""One planning problem: what is believed, what is wanted, and what is allowed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from device_agent import planner
from device_agent.planner import Beliefs, Options, PlanCost
from device_agent.queues import Queueing
from services.domain import Objective, Plan, Policy, Tier


@dataclass(frozen=True, slots=True)
class Problem:
    """Plans for batches of `size` samples."""

    beliefs: Beliefs
    policy: Policy
    size: int
    options: Options

    def best(self, count: int) -> list[PlanCost]:
        """The `count` best plans, best first."""
        return planner.rank(self.beliefs, self.policy, self.size, count, self.options)

    def cost(self, plan: Plan) -> PlanCost | None:
        """What `plan` is expected to cost; None where it cannot be run."""
        return planner.cost(self.beliefs, plan, self.policy, self.size, self.options)

    def queueing(self, found: PlanCost) -> Queueing:
        """What decides how long it waits for others."""
        return Queueing.of(found, self.beliefs.manifest, self.size, self.policy.leaving)

    def needed(self, found: PlanCost) -> float:
        """What the policy wants little of."""
        return {Objective.ENERGY: found.joules, Objective.BYTES: found.bytes}.get(self.policy.objective, found.seconds)

    def preference(self, found: PlanCost) -> tuple[bool, float]:
        """The less, the better: who meets the deadline comes first."""
        limit = self.policy.deadline_seconds
        return limit is not None and found.seconds > limit, self.needed(found)

    def compared(self, current: PlanCost, best: PlanCost) -> tuple[float, float, bool]:
        """What both need, or both take where `current` misses the deadline; and whether it does."""
        limit = self.policy.deadline_seconds
        if limit is not None and current.seconds > limit:
            return current.seconds, best.seconds, True
        return self.needed(current), self.needed(best), False

    def believing(self, beliefs: Beliefs) -> Problem:
        """The same by other beliefs."""
        return replace(self, beliefs=beliefs)

    def within(self, tiers: frozenset[Tier]) -> Problem:
        """The same where only `tiers` may compute."""
        return replace(self, options=replace(self.options, tiers=self.options.tiers & tiers))

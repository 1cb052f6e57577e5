"""What there is to say of the device's plans that no request tells: how often they changed, and what they forgo."""

from __future__ import annotations

from collections.abc import Iterator

from device_agent import planner
from device_agent.plans import Plans
from device_agent.replan import Replanner
from services.domain import Objective, Policy
from services.metrics.live import Reader, Reading


def of_plans(model: str, plans: Plans, policy: Policy) -> Reader:
    """The plans of `model`. Regret is that of the plan for one sample under `policy`, where latency is what counts."""

    def read() -> Iterator[Reading]:
        replanner = plans if isinstance(plans, Replanner) else None
        yield Reading("offramp_plan_changes_total", (model,), replanner.changes if replanner is not None else 0)
        seconds = regret(replanner, policy) if replanner is not None else None
        if seconds is not None:
            yield Reading("offramp_regret_seconds", (model,), seconds)

    return read


def regret(replanner: Replanner, policy: Policy) -> float | None:
    """Expected seconds of the plan in force less those of the best plan, as far as is believed now.

    None where the plan cannot be judged, or is chosen for something else than its seconds.
    """
    beliefs, options = replanner.beliefs(), replanner.options
    best = planner.rank(beliefs, policy, count=1, options=options)
    current = planner.cost(beliefs, replanner.chosen(policy, 1), policy, options=options)
    if policy.objective is not Objective.LATENCY or not best or current is None:
        return None
    return max(current.seconds - best[0].seconds, 0.0)

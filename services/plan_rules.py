"""What every plan must keep to, whoever made it."""

from __future__ import annotations

import functools

from services.domain import Plan, Request, Stage, Tier
from services.errors import InvalidInput


def check_plan(request: Request, tier: Tier, last: int) -> Stage:
    """This tier's part. Raises InvalidInput unless the plan joins up from input to output and that fits the request."""
    check_joins(request.plan, last)
    if request.at == last:
        raise InvalidInput(f"nothing is left to run after split point {last}, the output")
    stage = stage_of(request.plan, tier)
    if stage.segment.start != request.at:
        raise InvalidInput(f"the plan does not give split point {request.at} to the {tier.label}")
    return stage


@functools.lru_cache(maxsize=256)
def check_joins(plan: Plan, last: int) -> None:
    """Raises InvalidInput unless the stages join from input to output, upwards through the tiers.

    The same few plans come again and again; what is sound stays so, and only that is remembered.
    """
    at = 0
    for stage in plan.stages:
        if stage.segment.start != at or stage.segment.end < at:
            raise InvalidInput(f"the plan does not join up: {stage} follows split point {at}")
        at = stage.segment.end
    if at != last:
        raise InvalidInput(f"the plan ends at split point {at}, the network at {last}")
    tiers = [stage.tier for stage in plan.stages]
    if tiers != sorted(set(tiers)):
        raise InvalidInput("the plan visits tiers out of order")


def stage_of(plan: Plan, tier: Tier) -> Stage:
    """The stage of `tier` in `plan`. Raises InvalidInput where the plan passes it by."""
    stage = plan.stage(tier)
    if stage is None:
        raise InvalidInput(f"the plan has no part for the {tier.label}")
    return stage


def passes_on(plan: Plan, tier: Tier, codec: str) -> bool:
    """Whether `tier` runs nothing of `plan`, and hands an activation in `codec` on as it came."""
    stage, following = plan.stage(tier), plan.after(tier)
    return stage is not None and stage.segment.empty and following is not None and following.codec == codec

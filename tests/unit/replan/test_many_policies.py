"""More policies in turn than plans are kept for."""

from __future__ import annotations

from device_agent.replan import Replanner
from services.domain import Objective, Policy, Tier
from tests.fakes import FakeClock
from tests.replans import FAST, SLOW, Prepares, learnt

FLOORS = [Policy(min_accuracy=thousandth / 1000) for thousandth in range(1, 41)]


async def test_policies_that_take_turns_too_fast_to_be_planned_for_go_by_the_best_plan_in_place(
    replanner: Replanner, clock: FakeClock, prepares: Prepares
) -> None:
    plan = await learnt(replanner, clock, FAST)
    assert plan.after(Tier.DEVICE) is not None
    prepares.gate.clear()
    for _ in range(3):
        found = {replanner.plan(policy, 1).stages for policy in FLOORS}
    assert found == {plan.stages}
    await replanner.stop()


async def test_the_first_requests_with_a_new_wish_go_by_a_plan_that_suits_it(
    replanner: Replanner, clock: FakeClock, prepares: Prepares
) -> None:
    away = await learnt(replanner, clock, FAST)
    prepares.gate.clear()
    private, soon = Policy(privacy=True), Policy(Objective.BYTES, deadline_seconds=0.1)
    assert replanner.plan(private, 1).stages == replanner.fallback.stages  # the only one that keeps the input
    assert replanner.plan(soon, 1).stages == away.stages
    await replanner.stop()


async def test_a_plan_in_place_over_a_link_that_broke_down_is_taken_by_nobody_new(
    replanner: Replanner, clock: FakeClock, prepares: Prepares
) -> None:
    for link in (FAST, SLOW):
        plan = await learnt(replanner, clock, link)
    assert plan.after(Tier.DEVICE) is None
    prepares.gate.clear()
    assert replanner.plan(FLOORS[0], 1).stages == plan.stages
    await replanner.stop()

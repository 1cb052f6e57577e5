"""Plans of those who save bytes or energy, but have a deadline."""

from __future__ import annotations

import pytest

from device_agent.replan import REPLAN_SECONDS, Replanner
from services.domain import LinkEstimate, Objective, Plan, Policy, Tier
from tests.fakes import FakeClock
from tests.replans import FAST, UNKNOWN, told

SLUGGISH = LinkEstimate(Tier.DEVICE, 0.7, 1e8)
"""Over which an answer takes as long as the device, which needs 0.8 s, to a few hundredths."""


async def _learnt(replanner: Replanner, clock: FakeClock, policy: Policy, *links: LinkEstimate) -> Plan:
    clock.now += 2 * REPLAN_SECONDS
    replanner.plan(policy, 1)
    replanner.learn(told(*links), policy, 1)
    await replanner.settle()
    return replanner.plan(policy, 1)


@pytest.mark.parametrize("objective", [Objective.BYTES, Objective.ENERGY])
async def test_a_plan_that_misses_the_deadline_is_left_for_one_that_needs_more_and_meets_it(
    replanner: Replanner, clock: FakeClock, objective: Objective
) -> None:
    policy = Policy(objective, deadline_seconds=0.25)
    assert (await _learnt(replanner, clock, policy, UNKNOWN)).after(Tier.DEVICE) is None
    plan = await _learnt(replanner, clock, policy, FAST)
    assert plan.after(Tier.DEVICE) is not None
    assert plan.expected_seconds is not None
    assert plan.expected_seconds <= 0.25


async def test_a_deadline_that_is_met_and_missed_by_turns_changes_the_plan_once_in_five_seconds(
    replanner: Replanner, clock: FakeClock
) -> None:
    policy = Policy(Objective.BYTES, deadline_seconds=0.25)
    seconds = replanner.beliefs().profiles[Tier.DEVICE]
    for _ in range(50):
        for slowdown in (0.1, 1.0):
            changed = type(seconds)(Tier.DEVICE, 0.0, seconds.segments, seconds.codecs, slowdown, None)
            replanner.believe([changed], [FAST])
            await _learnt(replanner, clock, policy, FAST)
    assert 100 * 2 * REPLAN_SECONDS == 20
    assert 2 <= replanner.changes <= 2 * 20 / 5 + 2


async def test_where_nobody_meets_the_deadline_the_plan_that_misses_it_least_is_taken(
    replanner: Replanner, clock: FakeClock
) -> None:
    policy = Policy(Objective.BYTES, deadline_seconds=0.001)
    await _learnt(replanner, clock, policy, UNKNOWN)
    assert (await _learnt(replanner, clock, policy, FAST)).after(Tier.DEVICE) is not None
    kept = replanner.changes
    for _ in range(20):
        await _learnt(replanner, clock, policy, SLUGGISH)
    assert replanner.changes <= kept + 1

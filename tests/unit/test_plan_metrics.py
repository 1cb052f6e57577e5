"""What the device tells of its plans besides what its requests do."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from device_agent.plan_metrics import of_plans, regret
from device_agent.plans import FixedPlan
from device_agent.replan import Replanner
from services import bundle
from services.domain import Deadline, LinkEstimate, Objective, Plan, Policy, Segment, SegmentTime, Tier, TierProfile
from services.fixed import fixed_plan
from services.metrics.live import Reading
from tests.fakes import FakeClock

POLICY = Policy()
FAST = LinkEstimate(Tier.DEVICE, 0.001, 1e8)


class _Prepares:
    def ready(self, plan: Plan) -> bool:
        return False

    async def prepare(self, plan: Plan, deadline: Deadline) -> None:
        """Whatever it is, it is ready."""


def _profile(tier: Tier, seconds: float, last: int) -> TierProfile:
    """Every step takes `seconds`."""
    spans = [Segment(a, b) for a in range(last) for b in range(a + 1, last + 1) if a == 0 or b == last]
    return TierProfile(tier, 0.0, tuple(SegmentTime(s, 1, seconds * (s.end - s.start)) for s in spans))


@pytest.fixture
def replanner(tiny: Path) -> Replanner:
    """A device a hundred times slower than the edge, with the plan of somebody who did not know."""
    manifest = bundle.load(tiny).manifest
    fallback = fixed_plan(manifest, (manifest.last, manifest.last), ("fp32", "fp32"))
    made = Replanner(manifest, fallback, _Prepares(), clock=FakeClock(100.0))
    made.plan(POLICY, 1)
    made.believe([_profile(Tier.DEVICE, 0.1, manifest.last), _profile(Tier.EDGE, 0.001, manifest.last)], [FAST])
    return made


async def test_regret_is_what_a_switch_would_gain_and_none_after_it(replanner: Replanner) -> None:
    before = regret(replanner, POLICY)
    assert before is not None
    assert before > 0.5
    replanner.reconsider()
    await replanner.settle()
    assert regret(replanner, POLICY) == pytest.approx(0.0, abs=1e-9)


async def test_a_switch_is_one_change(replanner: Replanner) -> None:
    read = of_plans("tiny", replanner, POLICY)
    assert Reading("offramp_plan_changes_total", ("tiny",), 0) in list(read())
    replanner.reconsider()
    await asyncio.wait_for(replanner.settle(), 5)
    assert Reading("offramp_plan_changes_total", ("tiny",), 1) in list(read())


async def test_regret_in_seconds_is_not_told_of_a_plan_chosen_for_something_else(replanner: Replanner) -> None:
    assert regret(replanner, Policy(Objective.BYTES)) is None


async def test_nothing_is_regretted_where_too_little_is_known(tiny: Path) -> None:
    manifest = bundle.load(tiny).manifest
    fallback = fixed_plan(manifest, None, ("fp32", "fp32"))
    assert regret(Replanner(manifest, fallback, _Prepares(), clock=FakeClock()), POLICY) is None


def test_a_fixed_plan_never_changes(tiny: Path) -> None:
    plan = fixed_plan(bundle.load(tiny).manifest, None, ("fp32", "fp32"))
    assert list(of_plans("tiny", FixedPlan(plan), POLICY)()) == [Reading("offramp_plan_changes_total", ("tiny",), 0)]

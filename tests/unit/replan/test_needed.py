"""When nothing need be looked at: links that no plan could need, and plans that are certainly the best."""

from __future__ import annotations

from dataclasses import replace

import pytest

from device_agent import planner
from device_agent.plan_metrics import regret
from device_agent.replan import Replanner
from services.bundle import Manifest
from services.domain import LinkEstimate, Tier
from services.fixed import fixed_plan
from services.probing import WATCHED_FOR_SECONDS
from tests.fakes import FakeClock
from tests.replans import FAST, POLICY, SLOW, UNKNOWN, Prepares, learnt, profile_of


async def test_to_look_at_the_plan_is_not_to_need_the_link(replanner: Replanner, clock: FakeClock) -> None:
    await learnt(replanner, clock, FAST)
    clock.now += WATCHED_FOR_SECONDS
    regret(replanner, POLICY)
    replanner.chosen(POLICY, 1)
    assert not replanner.needs_link()


async def test_a_fallback_that_ends_on_the_device_is_known_for_the_plan_that_it_is(
    manifest: Manifest, prepares: Prepares, clock: FakeClock
) -> None:
    last = manifest.last
    ends_here = Replanner(manifest, fixed_plan(manifest, (last, last), ("int8", "int8")), prepares, clock=clock)
    ends_here.believe([profile_of(Tier.DEVICE, 0.1, last)], [])
    for _ in range(2):
        plan = await learnt(ends_here, clock, UNKNOWN)
    assert [stage.tier for stage in plan.stages] == [Tier.DEVICE]
    assert plan.expected_seconds is not None
    assert ends_here.changes == 0
    assert not ends_here.needs_link()


async def test_the_link_is_needed_by_plans_that_cross_it_and_by_those_that_would_if_it_were_better(
    replanner: Replanner, clock: FakeClock
) -> None:
    for link in (FAST, SLOW):
        await learnt(replanner, clock, link)
        assert replanner.needs_link()


async def test_a_link_that_is_too_long_for_any_plan_whatever_its_rate_is_not_needed(
    replanner: Replanner, clock: FakeClock
) -> None:
    assert replanner.needs_link() is False  # nobody asked
    replanner.plan(POLICY, 1)
    assert replanner.needs_link()  # nothing is known
    far = LinkEstimate(Tier.DEVICE, 100.0, 1e8)
    for _ in range(2):
        assert (await learnt(replanner, clock, far)).after(Tier.DEVICE) is None
    assert not replanner.needs_link()
    await learnt(replanner, clock, replace(far, rtt_seconds=0.1))
    assert replanner.needs_link()


async def test_a_link_that_was_short_once_is_needed_while_it_is_long(replanner: Replanner, clock: FakeClock) -> None:
    for rtt in (0.1, 100.0, 100.0):
        await learnt(replanner, clock, LinkEstimate(Tier.DEVICE, rtt, 1e8))
    assert replanner.plan(POLICY, 1).after(Tier.DEVICE) is None
    assert replanner.needs_link()


async def test_nothing_is_worked_out_while_the_best_plan_is_certainly_the_best(
    replanner: Replanner, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        plan = await learnt(replanner, clock, FAST)
    monkeypatch.setattr(planner, "rank", None)
    for change in (1.01, 0.99):
        slightly = replace(FAST, up_bytes_per_second=change * 1e8)
        assert await learnt(replanner, clock, slightly) == plan


async def test_a_link_that_no_plan_needs_may_change_as_it_will_without_anything_being_worked_out(
    replanner: Replanner, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = LinkEstimate(Tier.DEVICE, 100.0, 1e8)
    for _ in range(2):
        plan = await learnt(replanner, clock, far)
    ranked = planner.rank
    monkeypatch.setattr(planner, "rank", None)
    for link in (replace(far, up_bytes_per_second=1e3), replace(far, rtt_seconds=900.0), UNKNOWN):
        assert await learnt(replanner, clock, link) == plan
    monkeypatch.setattr(planner, "rank", ranked)
    assert not replanner.needs_link()
    await learnt(replanner, clock, FAST)  # shorter than it ever was
    assert (await learnt(replanner, clock, FAST)).after(Tier.DEVICE) is not None

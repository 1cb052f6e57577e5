"""Plans kept ready for requests that would wait: for the device, or for the link."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from device_agent import planner
from device_agent.queues import Queues
from device_agent.replan import REPLAN_SECONDS, Replanner
from services.bundle import Manifest
from services.domain import (
    LinkEstimate,
    Objective,
    Plan,
    Policy,
    Tier,
)
from services.errors import UpstreamUnavailable
from services.probing import WATCHED_FOR_SECONDS
from tests.fakes import FakeClock
from tests.replans import FAST, POLICY, SLOW, UNKNOWN, Prepares, Refuses, begin_switch, learnt, profile_of, told

MODERATE = LinkEstimate(Tier.DEVICE, 0.9, 1e8)
"""Over which the device alone, at 0.8 s, is a little quicker."""


async def _waited(replanner: Replanner, clock: FakeClock, seconds: float) -> Plan:
    """The plan of a request that finds the device busy for so long, after others did."""
    await learnt(replanner, clock, MODERATE)
    replanner.queues = lambda: Queues(device=seconds)
    replanner.plan(POLICY, 1)
    return await learnt(replanner, clock, MODERATE)


async def test_a_request_that_would_wait_for_the_device_goes_without_it(replanner: Replanner, clock: FakeClock) -> None:
    assert (await _waited(replanner, clock, 1.0)).stages[0].segment.empty
    assert not replanner.chosen(POLICY, 1).stages[0].segment.empty
    replanner.queues = Queues
    assert not replanner.plan(POLICY, 1).stages[0].segment.empty


async def test_a_short_wait_is_no_reason_to_go_without_the_device(replanner: Replanner, clock: FakeClock) -> None:
    assert not (await _waited(replanner, clock, 0.01)).stages[0].segment.empty


async def test_what_nobody_prepared_is_not_gone_without_the_device_for(
    replanner: Replanner, clock: FakeClock, prepares: Prepares
) -> None:
    await learnt(replanner, clock, MODERATE)
    prepares.error = UpstreamUnavailable("away")
    assert not (await _waited(replanner, clock, 1.0)).stages[0].segment.empty


async def test_a_request_that_would_wait_for_the_link_stays(replanner: Replanner, clock: FakeClock) -> None:
    assert (await learnt(replanner, clock, FAST)).stages[0].segment.empty
    replanner.queues = lambda: Queues(link=10.0)
    replanner.plan(POLICY, 1)
    assert [stage.tier for stage in (await learnt(replanner, clock, FAST)).stages] == [Tier.DEVICE]
    assert replanner.chosen(POLICY, 1).stages[-1].tier is Tier.EDGE


async def test_who_saves_energy_waits_for_the_device(replanner: Replanner, clock: FakeClock) -> None:
    frugal = Policy(Objective.ENERGY)
    replanner.queues = lambda: Queues(device=10.0)
    for _ in range(3):
        clock.now += 1
        replanner.learn(told(MODERATE), frugal, 1)
        await replanner.settle()
        plan = replanner.plan(frugal, 1)
    assert plan == replanner.chosen(frugal, 1)


async def test_a_spare_is_not_looked_for_again_while_nothing_has_moved(
    replanner: Replanner, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = await _waited(replanner, clock, 1.0)
    monkeypatch.setattr(planner, "rank", None)
    for _ in range(3):
        assert (await learnt(replanner, clock, MODERATE)).stages == away.stages


async def test_a_spare_that_was_prepared_while_the_link_changed_is_judged_by_the_link_as_it_is(
    replanner: Replanner, clock: FakeClock, prepares: Prepares
) -> None:
    await learnt(replanner, clock, MODERATE)
    replanner.queues = lambda: Queues(device=0.5)
    replanner.plan(POLICY, 1)
    prepares.gate.clear()
    for link in (MODERATE, replace(MODERATE, rtt_seconds=5.0)):
        clock.now += 2 * REPLAN_SECONDS
        replanner.learn(told(link), POLICY, 1)
        await asyncio.sleep(0)
    prepares.gate.set()
    await replanner.settle()
    plan = await learnt(replanner, clock, replace(MODERATE, rtt_seconds=5.0))
    assert [stage.tier for stage in plan.stages] == [Tier.DEVICE]


async def test_a_spare_is_judged_by_the_link_while_another_plan_is_being_prepared(
    replanner: Replanner, clock: FakeClock, prepares: Prepares
) -> None:
    assert (await _waited(replanner, clock, 1.0)).after(Tier.DEVICE) is not None
    prepares.gate.clear()
    for link in (FAST, FAST, UNKNOWN):
        clock.now += 10
        replanner.learn(told(link), POLICY, 1)
        await asyncio.sleep(0)
    assert replanner.plan(POLICY, 1).after(Tier.DEVICE) is None
    prepares.gate.set()
    await replanner.stop()


async def test_a_worse_spare_is_left_once_the_best_may_be_tried_again(
    replanner: Replanner, clock: FakeClock, manifest: Manifest
) -> None:
    beyond = LinkEstimate(Tier.EDGE, 0.001, 1e8)
    replanner.believe([profile_of(Tier.CLOUD, 0.001, manifest.last)], [beyond])
    away = await _waited(replanner, clock, 1.0)
    refuses = Refuses(away.stages)
    replanner.preparer = refuses
    await learnt(replanner, clock, UNKNOWN)
    for _ in range(4):
        other = await learnt(replanner, clock, MODERATE)
    assert other.stages[0].segment.empty
    assert other.stages != away.stages
    refuses.stages = ()
    for _ in range(3):
        clock.now += 10
        replanner.plan(POLICY, 1)
        await learnt(replanner, clock, MODERATE)
    assert (await learnt(replanner, clock, MODERATE)).stages == away.stages


async def test_a_spare_stays_while_a_better_one_is_being_prepared_and_goes_with_its_link(
    replanner: Replanner, clock: FakeClock, manifest: Manifest, prepares: Prepares
) -> None:
    away = await _waited(replanner, clock, 1.0)
    prepares.gate.clear()
    cloud, beyond = profile_of(Tier.CLOUD, 1e-5, manifest.last), LinkEstimate(Tier.EDGE, 1e-4, 1e9)
    replanner.believe([cloud], [beyond])

    async def next_plan(link: LinkEstimate) -> Plan:
        clock.now += 2 * REPLAN_SECONDS
        replanner.learn(told(link), POLICY, 1)
        await asyncio.sleep(0)
        return replanner.plan(POLICY, 1)

    assert (await next_plan(MODERATE)).stages == away.stages
    assert prepares.asked[-1].stages != away.stages
    assert (await next_plan(UNKNOWN)).after(Tier.DEVICE) is None
    prepares.gate.set()
    better = await learnt(replanner, clock, MODERATE)
    assert (better.stages[0].segment.empty, better.stages != away.stages) == (True, True)


async def test_a_queue_does_not_lengthen_the_promise_of_a_plan_that_is_about_to_be_left(
    replanner: Replanner, clock: FakeClock, prepares: Prepares
) -> None:
    plan = await learnt(replanner, clock, FAST)
    begin_switch(replanner, clock, prepares, SLOW)
    replanner.queues = lambda: Queues(link=0.1)
    assert replanner.plan(POLICY, 1) == plan
    await replanner.stop()


async def test_the_link_is_needed_by_those_who_took_a_spare_plan_over_it(
    replanner: Replanner, clock: FakeClock
) -> None:
    far = replace(MODERATE, rtt_seconds=0.95)  # too long for any plan, unless the device is busy
    await learnt(replanner, clock, far)
    await learnt(replanner, clock, far)
    assert not replanner.needs_link()
    replanner.queues = lambda: Queues(device=1.0)
    await learnt(replanner, clock, far)
    assert (await learnt(replanner, clock, far)).after(Tier.DEVICE) is not None
    assert replanner.needs_link()
    replanner.queues = Queues
    clock.now += WATCHED_FOR_SECONDS
    await learnt(replanner, clock, far)
    assert not replanner.needs_link()

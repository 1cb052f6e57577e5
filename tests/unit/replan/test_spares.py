"""Plans kept ready for requests that would wait: for the device, or for the link."""

from __future__ import annotations

from dataclasses import replace

import pytest

from device_agent import planner
from device_agent.queues import Queues
from device_agent.replan import Replanner
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
from tests.replans import FAST, POLICY, Prepares, learnt, told

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

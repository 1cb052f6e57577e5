"""A request that comes while the link keeps others waiting."""

from __future__ import annotations

from dataclasses import replace

import pytest

from device_agent.replan import Replanner
from services.domain import LinkEstimate, Tier
from tests.fakes import FakeClock
from tests.replans import FAST, POLICY, Prepares, learnt, told

HELD_UP = replace(FAST, rtt_seconds=5.0)


async def test_it_goes_by_what_is_believed_now_and_not_when_an_answer_last_came(
    replanner: Replanner, clock: FakeClock, prepares: Prepares
) -> None:
    assert (await learnt(replanner, clock, FAST)).after(Tier.DEVICE) is not None
    prepares.resident = (Tier.DEVICE,)
    clock.now += 0.02
    assert replanner.plan(POLICY, 1).after(Tier.DEVICE) is not None
    replanner.late = lambda: HELD_UP
    clock.now += 0.01
    assert replanner.plan(POLICY, 1).after(Tier.DEVICE) is None


@pytest.mark.parametrize("found", [None, FAST])
async def test_however_many_come_it_is_looked_at_a_hundred_times_a_second(
    replanner: Replanner, clock: FakeClock, found: LinkEstimate | None
) -> None:
    await learnt(replanner, clock, FAST)
    looked = list[float]()

    def late() -> LinkEstimate | None:
        looked.append(clock.now)
        return found

    replanner.late = late
    for _ in range(1000):
        clock.now += 0.001
        for size in (1, 2, 4):
            replanner.plan(POLICY, size)
    assert 80 <= len(looked) <= 100


async def test_what_was_seen_of_the_link_is_not_believed_over_what_came_since(
    replanner: Replanner, clock: FakeClock
) -> None:
    replanner.plan(POLICY, 2)
    assert (await learnt(replanner, clock, FAST)).after(Tier.DEVICE) is not None
    replanner.late = lambda: HELD_UP
    clock.now += 0.02
    replanner.plan(POLICY, 1)
    assert replanner.beliefs().links[Tier.DEVICE] == HELD_UP
    replanner.late = lambda: None
    clock.now += 0.003
    replanner.learn(told(FAST), POLICY, 1)
    clock.now += 0.002
    replanner.plan(POLICY, 2)
    assert replanner.beliefs().links[Tier.DEVICE] == FAST
    await replanner.stop()

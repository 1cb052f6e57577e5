"""Plans that cannot be prepared: left alone for a while, and others taken meanwhile."""

from __future__ import annotations

import logging

import pytest

from device_agent.replan import REPLAN_SECONDS, Replanner
from services.domain import Deadline, Plan
from services.errors import NotHeld, OfframpError, UpstreamUnavailable
from tests.fakes import FakeClock
from tests.replans import FAST, SLOW, Prepares, Refuses, learnt


@pytest.mark.parametrize(
    ("error", "least", "most"), [(NotHeld("not here"), 5, 9), (UpstreamUnavailable("away"), 90, 120)]
)
async def test_what_nobody_can_prepare_is_asked_for_less_and_less_and_who_is_away_each_second(
    replanner: Replanner, clock: FakeClock, prepares: Prepares, error: OfframpError, least: int, most: int
) -> None:
    await learnt(replanner, clock, FAST)
    prepares.error, asked = error, len(prepares.asked)
    for _ in range(600):
        await learnt(replanner, clock, SLOW)
    tried = prepares.asked[asked:]
    assert 600 * 2 * REPLAN_SECONDS == 120
    assert least <= max(map([plan.stages for plan in tried].count, {plan.stages for plan in tried})) <= most
    assert len(tried) <= 4 * most


async def test_the_next_best_plan_is_taken_while_the_best_cannot_be_prepared(
    replanner: Replanner, clock: FakeClock
) -> None:
    slow = await learnt(replanner, clock, SLOW)
    best = await learnt(replanner, clock, FAST)
    await learnt(replanner, clock, SLOW)
    refuses = Refuses(best.stages)
    replanner.preparer = refuses
    found = [(await learnt(replanner, clock, FAST)).stages for _ in range(20)]
    assert found[0] == slow.stages
    assert found[-1] not in (slow.stages, best.stages)
    assert [plan.stages for plan in refuses.asked].count(best.stages) <= 3


async def test_another_plan_is_still_switched_to_after_one_was_refused(replanner: Replanner, clock: FakeClock) -> None:
    fast = await learnt(replanner, clock, FAST)
    slow = await learnt(replanner, clock, SLOW)
    replanner.preparer = Refuses(fast.stages)
    for _ in range(3):
        await learnt(replanner, clock, FAST)
    assert (await learnt(replanner, clock, SLOW)).stages == slow.stages


async def test_a_mistake_while_a_plan_is_prepared_is_logged_and_not_repeated_at_once(
    replanner: Replanner, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(plan: Plan, deadline: Deadline) -> None:
        raise ValueError("a bug")

    old = await learnt(replanner, clock, FAST)
    monkeypatch.setattr(replanner.preparer, "prepare", broken)
    with caplog.at_level(logging.ERROR, "offramp"):
        for _ in range(20):
            assert (await learnt(replanner, clock, SLOW)).stages == old.stages
    mistakes = [record.exc_info[0] for record in caplog.records if record.exc_info]
    assert set(mistakes) == {ValueError}
    assert len(mistakes) <= 4 * 3

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from device_agent import planner
from device_agent.planner import Beliefs, Options, PlanCost
from device_agent.replan import REPLAN_SECONDS, Replanner, bucket
from device_agent.switching import SwitchRule
from services.bundle import CalibrationSpec, Manifest
from services.domain import CodecCost, LinkEstimate, Policy, Tier, TierProfile
from services.errors import UpstreamUnavailable
from services.fixed import fixed_plan
from tests.fakes import FakeClock
from tests.replans import FAST, MIDDLING, POLICY, SLOW, UNKNOWN, Prepares, begin_switch, hear, learnt, profile_of, told


async def test_on_a_fast_link_a_slow_device_sends_its_input_away(replanner: Replanner, clock: FakeClock) -> None:
    plan = await learnt(replanner, clock, FAST)
    assert plan.stages[0].segment.empty
    assert plan.stages[-1].tier is Tier.EDGE


async def test_when_the_link_collapses_the_next_decision_changes_the_plan(
    replanner: Replanner, clock: FakeClock
) -> None:
    await learnt(replanner, clock, FAST)
    assert [s.tier for s in (await learnt(replanner, clock, SLOW)).stages] == [Tier.DEVICE]


async def test_each_change_is_one_line_of_the_log(
    replanner: Replanner, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    away = await learnt(replanner, clock, FAST)
    with caplog.at_level(logging.INFO, "offramp"):
        here = await learnt(replanner, clock, SLOW)
    (line,) = (vars(record)["fields"] for record in caplog.records if record.getMessage() == "plan")
    assert here.stages != away.stages
    assert line["plan"] == str(here)
    assert here.expected_seconds is not None
    assert line["expected_ms"] == round(1000 * here.expected_seconds, 3) < line["was_ms"]


async def test_from_a_link_that_collapsed_the_next_request_flees_at_once_to_what_this_tier_has_ready(
    replanner: Replanner, clock: FakeClock, prepares: Prepares
) -> None:
    await learnt(replanner, clock, FAST)
    prepares.resident, asked = (Tier.DEVICE,), len(prepares.asked)
    hear(replanner, clock, UNKNOWN)
    assert [stage.tier for stage in replanner.plan(POLICY, 1).stages] == [Tier.DEVICE]
    assert len(prepares.asked) == asked


async def test_a_link_that_became_unknown_is_not_planned_over(replanner: Replanner, clock: FakeClock) -> None:
    await learnt(replanner, clock, FAST)
    assert [s.tier for s in (await learnt(replanner, clock, UNKNOWN)).stages] == [Tier.DEVICE]


async def test_requests_keep_the_old_plan_until_the_new_one_is_prepared(
    replanner: Replanner, clock: FakeClock, prepares: Prepares
) -> None:
    old = await learnt(replanner, clock, FAST)
    begin_switch(replanner, clock, prepares, SLOW)
    await asyncio.sleep(0)
    assert replanner.plan(POLICY, 1) == old
    prepares.gate.set()
    await replanner.settle()
    assert replanner.plan(POLICY, 1) == prepares.asked[-1] != old


async def test_from_a_link_that_died_while_another_plan_is_prepared_requests_flee_to_what_this_tier_has_ready(
    replanner: Replanner, clock: FakeClock, prepares: Prepares
) -> None:
    away = await learnt(replanner, clock, FAST)
    begin_switch(replanner, clock, prepares, SLOW)
    await asyncio.sleep(0)
    assert replanner.plan(POLICY, 1) == away
    prepares.resident, asked = (Tier.DEVICE,), len(prepares.asked)
    hear(replanner, clock, UNKNOWN)
    here, changes = replanner.plan(POLICY, 1), replanner.changes
    assert [stage.tier for stage in here.stages] == [Tier.DEVICE]
    prepares.gate.set()
    await replanner.settle()
    assert (replanner.plan(POLICY, 1), replanner.changes, len(prepares.asked)) == (here, changes, asked)


async def test_while_a_plan_is_prepared_no_other_that_needs_preparing_is(
    replanner: Replanner, clock: FakeClock, prepares: Prepares
) -> None:
    away = await learnt(replanner, clock, FAST)
    begin_switch(replanner, clock, prepares, SLOW)
    await asyncio.sleep(0)
    asked = len(prepares.asked)
    for link in (UNKNOWN, FAST, SLOW):
        hear(replanner, clock, link)
        await asyncio.sleep(0)
    assert (replanner.plan(POLICY, 1), len(prepares.asked)) == (away, asked)


async def test_a_plan_whose_link_died_while_it_was_prepared_is_not_put_in_place(
    replanner: Replanner, clock: FakeClock, prepares: Prepares
) -> None:
    here = await learnt(replanner, clock, SLOW)
    prepares.gate.clear()
    clock.now += 10
    for _ in range(2):
        clock.now += 2 * REPLAN_SECONDS
        replanner.learn(told(FAST), POLICY, 1)
        await asyncio.sleep(0)
    assert prepares.asked[-1].after(Tier.DEVICE) is not None
    changes = replanner.changes
    replanner.believe([], [UNKNOWN])
    prepares.gate.set()
    await replanner.settle()
    assert (replanner.plan(POLICY, 1), replanner.changes) == (here, changes)


async def test_an_edge_that_says_of_no_link_that_it_has_one_leads_nowhere(
    replanner: Replanner, manifest: Manifest
) -> None:
    edge, beyond = profile_of(Tier.EDGE, 0.001, manifest.last), LinkEstimate(Tier.EDGE, 0.01, 1e6)
    replanner.believe([edge], [beyond])
    replanner.believe([], [FAST])
    assert replanner.beliefs().links[Tier.EDGE] == beyond
    replanner.believe([edge], [])
    assert set(replanner.beliefs().links) == {Tier.DEVICE}


async def test_a_plan_that_is_kept_beside_a_slightly_better_one_says_what_is_expected_of_it_now(
    manifest: Manifest, prepares: Prepares, clock: FakeClock
) -> None:
    options = Options(codecs=(("fp32",), ("fp32",)), image_codecs=())
    fallback = fixed_plan(manifest, None, ("fp32", "fp32"))
    lazy = Replanner(manifest, fallback, prepares, options, SwitchRule(margin=10.0), clock)
    lazy.believe([profile_of(tier, 0.01, manifest.last) for tier in (Tier.DEVICE, Tier.EDGE)], [])
    first = await learnt(lazy, clock, FAST)
    slower = profile_of(first.stages[-1].tier, 0.012, manifest.last)
    lazy.believe([slower], [])
    kept = await learnt(lazy, clock, FAST)
    assert kept.stages == first.stages
    assert kept.expected_seconds is not None
    assert first.expected_seconds is not None
    assert kept.expected_seconds > 1.1 * first.expected_seconds


async def test_who_asks_for_more_accuracy_than_there_is_gets_the_most_accurate_plan(
    manifest: Manifest, prepares: Prepares, clock: FakeClock
) -> None:
    calibration = CalibrationSpec(
        samples=100, epsilon=0.01, delta=0.05, full_accuracy=0.9, accuracy=0.9, harmful_upper_bound=0.01
    )
    calibrated = manifest.model_copy(update={"calibration": calibration})
    found = Replanner(calibrated, fixed_plan(manifest, None, ("int8", "int8")), prepares, clock=clock)
    found.believe([profile_of(Tier.DEVICE, 0.1, manifest.last)], [UNKNOWN])
    found.plan(Policy(min_accuracy=0.95), 1)
    await found.settle()
    plan = found.plan(Policy(min_accuracy=0.95), 1)
    assert [stage.tier for stage in plan.stages] == [Tier.DEVICE]


async def test_only_a_few_plans_are_reconsidered_in_one_go_and_each_has_its_turn(
    replanner: Replanner, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in (1, 2, 4, 8, 16, 32, 64):
        replanner.plan(POLICY, size)
    await replanner.settle()
    considered: list[int] = []
    rank = planner.rank

    def noted(beliefs: Beliefs, policy: Policy, size: int, count: int, options: Options) -> list[PlanCost]:
        if beliefs.links[Tier.DEVICE] == SLOW:  # else it looks at links at their best
            considered.append(size)
        return rank(beliefs, policy, size, count, options)

    monkeypatch.setattr(planner, "rank", noted)
    replanner.believe([], [SLOW])
    for expected in (4, 7):  # the eighth is sure of its plan by then
        clock.now += REPLAN_SECONDS
        replanner.reconsider()
        assert len(considered) == expected
    assert set(considered) == {1, 2, 4, 8, 16, 32, 64}


async def test_a_plan_that_cannot_be_prepared_is_tried_again_later(
    replanner: Replanner, clock: FakeClock, prepares: Prepares
) -> None:
    old = await learnt(replanner, clock, FAST)
    prepares.error = UpstreamUnavailable("away")
    assert await learnt(replanner, clock, SLOW) == old
    prepares.error = None
    clock.now += 1.0
    assert await learnt(replanner, clock, SLOW) != old


async def test_plans_are_reconsidered_at_most_every_tenth_of_a_second(
    replanner: Replanner, clock: FakeClock, prepares: Prepares
) -> None:
    await learnt(replanner, clock, FAST)
    asked = len(prepares.asked)
    clock.now += REPLAN_SECONDS / 2
    replanner.learn(told(SLOW), POLICY, 1)
    await replanner.settle()
    assert len(prepares.asked) == asked


async def test_a_loaded_edge_is_avoided_though_its_answers_say_only_how_loaded_it_is(
    replanner: Replanner, clock: FakeClock, manifest: Manifest
) -> None:
    await learnt(replanner, clock, FAST)
    loaded = replace(profile_of(Tier.EDGE, 0.001, manifest.last), segments=(), slowdown=1000.0)
    clock.now += 2 * REPLAN_SECONDS
    replanner.learn(told(FAST, profiles=(loaded,)), POLICY, 1)
    await replanner.settle()
    assert [s.tier for s in replanner.plan(POLICY, 1).stages] == [Tier.DEVICE]


async def test_an_answer_tells_what_codecs_make_of_what_is_sent_and_nothing_else_of_them(
    replanner: Replanner, manifest: Manifest
) -> None:
    known = (CodecCost("jpeg90", 1.0, 2.0, 0.1), CodecCost("png", 1.0, 2.0, 0.5))
    replanner.believe([replace(profile_of(Tier.DEVICE, 0.001, manifest.last), codecs=known)], [])
    lately = TierProfile(Tier.DEVICE, codecs=(CodecCost("jpeg90", 9.0, 9.0, 0.3),))
    for _ in range(2):
        replanner.learn(told(FAST, profiles=(lately,)), POLICY, 1)
        codecs = replanner.beliefs().profiles[Tier.DEVICE].codecs
        assert codecs == (replace(known[0], ratio=0.3), known[1])
    replanner.learn(told(FAST, profiles=(lately,)), POLICY, 1)
    assert replanner.beliefs().profiles[Tier.DEVICE].codecs is codecs  # by which tables are kept
    await replanner.stop()


async def test_each_policy_has_a_plan_of_its_own(replanner: Replanner, clock: FakeClock) -> None:
    private = Policy(privacy=True)
    await learnt(replanner, clock, FAST)
    replanner.plan(private, 1)
    await replanner.settle()
    assert not replanner.plan(private, 1).stages[0].segment.empty
    assert replanner.plan(POLICY, 1).stages[0].segment.empty


async def test_who_leaves_otherwise_goes_like_the_rest_until_planned_for(
    replanner: Replanner, clock: FakeClock, manifest: Manifest
) -> None:
    plan = await learnt(replanner, clock, FAST)
    assert plan.stages != replanner.fallback.stages
    never = Policy(leaving=(0.0,) * len(manifest.exits))
    assert replanner.plan(never, 1) == plan
    assert replanner.plan(Policy(privacy=True), 1) == replanner.fallback


async def test_policies_without_end_are_not_kept(replanner: Replanner) -> None:
    for thousandth in range(100):
        replanner.plan(Policy(min_accuracy=thousandth / 1000), 1)
    await replanner.settle()
    assert len(replanner._choices) <= 32


async def test_what_is_prepared_for_a_policy_that_is_not_kept_is_given_up(
    replanner: Replanner, clock: FakeClock, prepares: Prepares
) -> None:
    begin_switch(replanner, clock, prepares, FAST)
    await asyncio.sleep(0)
    for thousandth in range(100):
        replanner.plan(Policy(min_accuracy=thousandth / 1000), 1)
    await asyncio.sleep(0)
    under_way = [task for task in asyncio.all_tasks() if not task.done()]
    assert len(prepares.asked) >= 1
    assert len(under_way) - 1 == len([switch for switch in replanner._switches() if not switch.done()])
    await replanner.stop()


async def test_the_plan_in_use_outlives_policies_that_were_asked_for_once(
    replanner: Replanner, clock: FakeClock
) -> None:
    plan = await learnt(replanner, clock, FAST)
    for thousandth in range(100):
        replanner.plan(Policy(min_accuracy=thousandth / 1000), 1)
        assert replanner.plan(POLICY, 1).stages == plan.stages
    await replanner.settle()


async def test_an_improvement_must_be_found_twice_in_a_row(replanner: Replanner, clock: FakeClock) -> None:
    local = await learnt(replanner, clock, SLOW)
    clock.now += 10
    for _ in range(4):
        for link in (MIDDLING, SLOW):
            assert (await learnt(replanner, clock, link)).stages == local.stages
    assert (await learnt(replanner, clock, MIDDLING)).stages == local.stages
    assert (await learnt(replanner, clock, MIDDLING)).stages != local.stages


async def test_stopping_leaves_no_switch_under_way(replanner: Replanner, clock: FakeClock, prepares: Prepares) -> None:
    begin_switch(replanner, clock, prepares, FAST)
    await asyncio.sleep(0)
    await replanner.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_knowing_nothing_it_keeps_the_fallback(manifest: Manifest, prepares: Prepares) -> None:
    fallback = fixed_plan(manifest, None, ("fp32", "fp32"))
    replanner = Replanner(manifest, fallback, prepares)
    replanner.plan(POLICY, 1)
    await replanner.settle()
    assert replanner.plan(POLICY, 1) == fallback


@pytest.mark.parametrize(("size", "expected"), [(1, 1), (2, 2), (3, 4), (8, 8), (9, 16), (256, 256)])
def test_batches_share_a_plan_by_powers_of_two(size: int, expected: int) -> None:
    assert bucket(size) == expected


async def test_news_of_the_link_are_for_plans_in_use_first(replanner: Replanner, clock: FakeClock) -> None:
    used, unused = Policy(), Policy(privacy=True)
    for policy in (used, unused):
        replanner.plan(policy, 1)
    await replanner.settle()
    clock.now += 10
    replanner.plan(used, 1)
    replanner.reconsider()
    clock.now += 0.1
    replanner.believe([], [FAST])
    for _ in range(2):
        replanner.reconsider()
        await replanner.settle()
    assert replanner.plan(used, 1).after(Tier.DEVICE) is not None
    assert replanner.plan(unused, 1).after(Tier.DEVICE) is None
    for _ in range(2):
        clock.now += 1
        replanner.reconsider()
        await replanner.settle()
    assert replanner.plan(unused, 1).after(Tier.DEVICE) is not None


async def test_a_profile_told_again_keeps_what_was_reckoned_from_it(replanner: Replanner, manifest: Manifest) -> None:
    known = replanner.beliefs().profiles[Tier.EDGE]
    replanner.believe([replace(profile_of(Tier.EDGE, 0.001, manifest.last), queue_seconds=1.0)], [])
    told = replanner.beliefs().profiles[Tier.EDGE]
    assert told.segments is known.segments
    assert told.queue_seconds == 1.0

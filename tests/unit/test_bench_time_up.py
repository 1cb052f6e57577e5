"""What becomes of a simulated request whose time is up."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import count, repeat
from pathlib import Path

import pytest

from services.domain import Plan, Tier
from services.errors import InvalidInput
from testbed.bench.compare import Bench, Trial
from testbed.bench.policies import Static
from testbed.bench.routes import plan_of
from testbed.bench.virtual import Simulation
from testbed.bench.world import Loop
from testbed.traces import ConstantRate, RateTrace
from tests.benches import BLOCK_SECONDS, tiny_bench


@pytest.fixture
def each(tiny: Path) -> Bench:
    return tiny_bench(tiny)


def test_who_is_left_to_a_device_without_time_for_it_gets_no_answer(each: Bench) -> None:
    last = each.workload.bundle.manifest.last
    hasty, dead = replace(each.world, limit_seconds=1.0), RateTrace.from_rates([*[0.0] * 60, 1e6])
    simulation = Simulation(hasty, each.journeys, dead)
    simulation.hops[Tier.DEVICE].breaker.dead()
    runs = simulation.open(Static(plan_of(last, 0, last, "pixels")), repeat(0), [0.0] * 9)
    in_time = math.floor(1.0 / (BLOCK_SECONDS * last * each.world.device_slowdown))
    assert sorted(runs.failed) == [False] * in_time + [True] * (9 - in_time)
    assert {seconds for seconds, failed in zip(runs.seconds, runs.failed, strict=True) if failed} == {1.0}


def test_on_a_link_that_stays_dead_the_device_finishes_in_time_or_the_caller_gives_up(each: Bench) -> None:
    last = each.workload.bundle.manifest.last
    dead, plan = RateTrace.from_rates([1e5, *[0.0] * 60]), plan_of(last, 0, last, "pixels")
    alone = BLOCK_SECONDS * last * each.world.device_slowdown
    for limit, failed in ((3 * alone, False), (1.5 * alone, True)):
        hasty = replace(each.world, limit_seconds=limit)
        runs = Simulation(hasty, each.journeys, dead).open(Static(plan), count(), [2.0])
        assert runs.failed == [failed]
        assert runs.seconds == pytest.approx([limit])


@pytest.mark.parametrize("known", [True, False])
def test_who_passed_an_exit_on_the_device_has_its_answer_when_time_is_up(each: Bench, known: bool) -> None:
    manifest = each.workload.bundle.manifest
    if not known:
        unlabelled = replace(each.workload, labels=None)
        each = replace(each, journeys=replace(each.journeys, workload=unlabelled, _known={}))
    dead, plan = RateTrace.from_rates([1e5, *[0.0] * 60]), plan_of(manifest.last, 2, manifest.last, "int8")
    assert manifest.exits[0].split_point <= 2
    runs = Simulation(each.world, each.journeys, dead).open(Static(plan), repeat(0), [2.0])
    assert runs.failed == [False]
    assert runs.right == [each.journeys.of(plan).early_right[0]]
    assert runs.exits == [0]
    assert (runs.right[0] is not None) is known
    assert runs.seconds == pytest.approx([each.world.limit_seconds])


def test_however_many_wait_each_waits_for_those_before_it_or_as_long_as_its_caller(each: Bench) -> None:
    last, limit = each.workload.bundle.manifest.last, each.world.limit_seconds
    simulation = Simulation(each.world, each.journeys, ConstantRate(1e5))
    runs = simulation.open(Static(plan_of(last, last)), repeat(0), [0.0] * 100)
    alone = BLOCK_SECONDS * last * each.world.device_slowdown
    turns = [alone * ahead for ahead in range(1, 101) if alone * ahead <= limit]
    found = sorted(zip(runs.failed, runs.seconds, strict=True))
    assert [failed for failed, _ in found] == [False] * len(turns) + [True] * (100 - len(turns))
    assert [seconds for _, seconds in found] == pytest.approx([*turns, *[limit] * (100 - len(turns))])


def test_a_caller_does_not_wait_longer_than_it_has_for_a_run_that_has_begun(each: Bench) -> None:
    last = each.workload.bundle.manifest.last
    alone = BLOCK_SECONDS * last * each.world.device_slowdown
    hasty = replace(each.world, limit_seconds=0.9 * alone)
    runs = Simulation(hasty, each.journeys, ConstantRate(1e5)).open(Static(plan_of(last, last)), repeat(0), [0.0])
    assert runs.failed == [True]
    assert runs.seconds == pytest.approx([0.9 * alone])


def test_the_device_does_not_wait_for_a_busy_tier_above_beyond_its_patience(each: Bench) -> None:
    last = each.workload.bundle.manifest.last
    plan = Plan(plan_of(last, 2, last, "int8").stages, expected_seconds=0.2)
    simulation = Simulation(each.world, each.journeys, ConstantRate(1e6))
    simulation.machines[Tier.EDGE].book(0.0, 9.0)
    runs = simulation.open(Static(plan), repeat(0), [0.0])
    assert runs.failed == [False]
    assert runs.seconds[0] < 2.0


def test_an_open_loop_in_which_nobody_would_come_is_refused() -> None:
    trial = Trial("t", ConstantRate(1e5), 0.01, Loop.OPEN, seed=0)
    with pytest.raises(InvalidInput, match=r"no request comes in 0.01 s at 0.02 a second; give more --seconds"):
        trial.arrivals(0.02)

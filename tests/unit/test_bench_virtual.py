from __future__ import annotations

from dataclasses import replace
from itertools import count, cycle, repeat
from pathlib import Path

import numpy as np
import pytest

from device_agent.queues import Queues
from services.domain import LinkEstimate, Plan, Policy, Segment, Tier
from services.model import Model
from services.patience import PATIENCE, SEEN_LEAST_SECONDS, SEEN_PATIENCE
from services.response import Predictions, Response, Trace
from testbed.bench import policies
from testbed.bench.compare import Bench, Trial, maker, run, simulate
from testbed.bench.journeys import Journeys
from testbed.bench.policies import BEST_STATIC, LATE_ORACLE, NAMES, NOW_ORACLE, ORACLE, OURS, Ours, Static
from testbed.bench.routes import plan_of
from testbed.bench.virtual import Simulation
from testbed.bench.workloads import Workload
from testbed.bench.world import Loop
from testbed.traces import ConstantRate, RateTrace, rate_lately, read_trace
from tests.benches import BLOCK_SECONDS, seconds_of, tiny_bench
from tests.fakes import FakeClock


@pytest.fixture
def each(tiny: Path) -> Bench:
    return tiny_bench(tiny)


def test_a_request_takes_what_its_parts_add_up_to(each: Bench) -> None:
    last, world = each.workload.bundle.manifest.last, each.world
    plan = plan_of(last, 0, last, "pixels")
    sent = 64 + world.header_bytes
    expected = sent / 1e5 + world.near_fixed_seconds + BLOCK_SECONDS * last * world.edge_slowdown
    assert seconds_of(each, plan, ConstantRate(1e5)) == pytest.approx(expected)


def test_a_simulated_tier_learns_how_large_images_are_from_those_it_sent(each: Bench) -> None:
    last, costs = each.workload.bundle.manifest.last, each.costs
    measured = next(cost for cost in costs.profiled if cost.codec == "jpeg90")
    each.journeys.costs = replace(costs, profiled=(replace(measured, ratio=measured.ratio / 2),))
    simulation = Simulation(each.world, each.journeys, ConstantRate(1e5))
    simulation.closed(Static(plan_of(last, 0, last, "jpeg90")), cycle(range(6)), 0.0, 20.0)
    (told,) = simulation.machines[Tier.DEVICE].profiler.profile(()).codecs
    assert told.ratio == pytest.approx(measured.ratio, rel=0.05)


def test_no_simulated_request_prepares_inputs(each: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(each.workload.bundle.manifest.last, 0, 1, "jpeg90")
    each.journeys.of(plan)  # which runs them all, once
    monkeypatch.delattr(Workload, "inputs")
    assert (
        len(Simulation(each.world, each.journeys, ConstantRate(1e5)).closed(Static(plan), cycle(range(6)), 0.0, 2.0))
        > 2
    )


def test_two_requests_at_once_wait_for_each_other(each: Bench) -> None:
    last = each.workload.bundle.manifest.last
    simulation = Simulation(each.world, each.journeys, ConstantRate(1e5))
    runs = simulation.open(Static(plan_of(last, last)), count(), [0.0, 0.0])
    alone = BLOCK_SECONDS * last * each.world.device_slowdown
    assert runs.seconds == pytest.approx([alone, 2 * alone])


def test_who_has_nothing_to_run_on_the_device_does_not_wait_for_it(each: Bench) -> None:
    last = each.workload.bundle.manifest.last
    local, away = plan_of(last, last), plan_of(last, 0, last, "pixels")
    alone = seconds_of(each, away, ConstantRate(1e5))

    class Turns(Static):
        def plan(self, policy: Policy, batch_size: int) -> Plan:
            self.fixed, before = away, self.fixed
            return before

    simulation = Simulation(each.world, each.journeys, ConstantRate(1e5))
    runs = simulation.open(Turns(local), repeat(0), [0.0, 0.001])
    assert dict(zip(runs.plans, runs.seconds, strict=True))[away] == pytest.approx(alone)


def test_a_plan_that_promised_something_is_not_waited_for_without_end(each: Bench) -> None:
    last = each.workload.bundle.manifest.last
    dead = RateTrace.from_rates([1e5, *[0.0] * 60])
    alone = BLOCK_SECONDS * last * each.world.device_slowdown
    for expected, patient in ((alone, PATIENCE * alone), (alone / 5, alone)):  # the rest here takes that, too
        promised = replace(plan_of(last, 0, last, "pixels"), expected_seconds=expected)
        runs = Simulation(each.world, each.journeys, dead).open(Static(promised), count(), [2.0])
        assert runs.failed == [False]
        assert runs.seconds == pytest.approx([patient + alone])


def test_who_finishes_on_the_device_leaves_at_its_exits(each: Bench) -> None:
    manifest = each.workload.bundle.manifest
    first = manifest.exits[0]
    leaving = (first.model_copy(update={"threshold": 0.0}), *manifest.exits[1:])
    loaded = replace(each.workload.bundle, manifest=manifest.model_copy(update={"exits": leaving}))
    workload = replace(each.workload, bundle=loaded)
    journeys = Journeys(workload, Model(loaded), each.costs, each.world.slowdowns)
    dead = RateTrace.from_rates([1e5, *[0.0] * 60])
    promised = replace(plan_of(manifest.last, 0, manifest.last, "pixels"), expected_seconds=1.0)
    runs = Simulation(each.world, journeys, dead).open(Static(promised), count(), [2.0])
    assert runs.exits == [first.index]
    here = BLOCK_SECONDS * first.split_point * each.world.device_slowdown
    assert runs.seconds == pytest.approx([PATIENCE * 1.0 + here])


def test_who_finishes_on_the_device_learns_nothing_of_the_tiers_above(each: Bench) -> None:
    told: list[list[Tier]] = []

    class Learning(Static):
        def learn(self, response: Response, policy: Policy, batch_size: int) -> None:
            told.append([profile.tier for profile in response.profiles])

    last = each.workload.bundle.manifest.last
    dead = RateTrace.from_rates([1e5, *[0.0] * 60])
    promised = replace(plan_of(last, 0, last, "pixels"), expected_seconds=0.2)
    Simulation(each.world, each.journeys, dead).open(Learning(promised), count(), [0.0, 2.0])
    assert told == [list(Tier), [Tier.DEVICE]]


def test_a_plan_that_promised_nothing_is_waited_for_by_what_it_took_before(each: Bench) -> None:
    last = each.workload.bundle.manifest.last
    collapsing = RateTrace.from_rates([*[1e6] * 10, *[0.0] * 60])
    fixed = Static(plan_of(last, 0, last, "pixels"))
    runs = Simulation(each.world, each.journeys, collapsing).open(fixed, repeat(0), [float(at) for at in range(11)])
    took = dict(zip(runs.at, runs.seconds, strict=True))
    alone = BLOCK_SECONDS * last * each.world.device_slowdown
    assert not any(runs.failed)
    assert took[10.0] == pytest.approx(max(SEEN_PATIENCE * took[9.0], SEEN_LEAST_SECONDS) + alone)


def test_a_dead_link_is_asked_no_more_until_it_answers_a_health_check(each: Bench) -> None:
    last = each.workload.bundle.manifest.last
    dying = RateTrace.from_rates([*[1e6] * 7, *[0.0] * 12, *[1e6] * 12])
    fixed = Static(plan_of(last, 0, last, "pixels"))
    arrivals = [2.0 * at for at in range(15)]
    runs = Simulation(each.world, each.journeys, dying).open(fixed, repeat(0), arrivals)
    _, took, sent = zip(*sorted(zip(runs.at, runs.seconds, runs.bytes, strict=True)), strict=True)
    alone, away = BLOCK_SECONDS * last * each.world.device_slowdown, took[0]
    assert took[:4] == pytest.approx([away] * 4)
    assert took[4] == pytest.approx(max(SEEN_PATIENCE * away, SEEN_LEAST_SECONDS) + alone)
    assert took[5:10] == pytest.approx([alone] * 5)
    assert [nbytes > 0 for nbytes in sent] == [True] * 5 + [False] * 5 + [True] * 5
    assert took[12:] == pytest.approx([away] * 3)


def test_a_short_call_in_vain_says_nothing_of_the_far_side(each: Bench) -> None:
    hop = Simulation(each.world, each.journeys, RateTrace.from_rates([*[0.0] * 9, 1e6])).hops[Tier.DEVICE]
    for expected in (None, 1.0):
        hop.ended(False, 0.149 if expected is None else 1.49, expected)
        hop.env.run(hop.env.now + 2.0)
        assert hop.breaker.allows()
    hop.ended(False, 0.15, None)
    hop.env.run(hop.env.now + 1.01)
    assert not hop.breaker.allows()


def test_of_plans_that_make_queues_the_one_that_is_really_best_is_found(each: Bench) -> None:
    trial = Trial("t", ConstantRate(600.0), 60.0, Loop.OPEN, seed=0)
    static = run(each, trial, [BEST_STATIC]).runs[BEST_STATIC]
    every = {plan.stages[0].segment.end: plan for plan in each.choices.plans}.values()
    tried = [np.mean(simulate(each, trial, lambda _, plan=plan: Static(plan)).seconds) for plan in every]
    assert np.mean(static.seconds) <= min(tried)


@pytest.mark.parametrize("loop", list(Loop))
def test_requests_begin_when_a_planner_may_have_found_its_link(each: Bench, loop: Loop) -> None:
    trial = Trial("t", RateTrace.from_rates([5e4, 1e4, 1e5, 1e4]), 3.0, loop, seed=3, start=2.0)
    for name in (OURS, "device"):
        runs = simulate(each, trial, maker(each, name))
        assert len(runs) > 1
        assert 2.0 <= min(runs.at) < 3.0
        assert max(runs.at) < 5.0
    first = simulate(each, trial, maker(each, OURS)).plans[0]
    assert first.expected_seconds is not None


def test_who_is_told_the_rate_is_told_that_of_packets_and_not_of_the_gaps_between_them(tmp_path: Path) -> None:
    (tmp_path / "steady").write_text("".join(f"{ms}\n" for ms in range(5, 1005, 5)))  # 1500 bytes every 5 ms
    steady = read_trace(tmp_path / "steady")
    for at in (0.0, 0.1, 0.5004, 0.7, 0.99, 3.3):
        assert rate_lately(steady, at) == pytest.approx(300_000, rel=0.03)


def test_all_policies_meet_the_same_requests(each: Bench) -> None:
    trial = Trial("t", RateTrace.from_rates([5e4, 1e4]), 6.0, Loop.OPEN, seed=3)
    found = run(each, trial, NAMES)
    assert list(found.runs) == list(NAMES)
    arrivals = [sorted(runs.at) for runs in found.runs.values()]
    assert all(each == pytest.approx(arrivals[0]) for each in arrivals)
    assert found.static is not None


def test_nobody_beats_the_oracle_and_hindsight_beats_what_is_fixed_beforehand(each: Bench) -> None:
    trial = Trial("t", RateTrace.from_rates([2e5, 2e5, 4e3, 4e3]), 20.0, Loop.CLOSED, seed=0)
    mean = {name: float(np.mean(runs.seconds)) for name, runs in run(each, trial, NAMES).runs.items()}
    assert all(mean[ORACLE] <= 1.01 * other for other in mean.values())
    assert mean[BEST_STATIC] <= min(mean[name] for name in ("device", "cloud-raw", "cloud-jpeg", "exits-fixed"))


@pytest.mark.parametrize(
    ("name", "stays"),
    [
        (NOW_ORACLE, [False, False, True, True, True, False, False]),
        (LATE_ORACLE, [False, False, False, True, True, True, False]),
    ],
)
def test_an_oracle_without_foresight_learns_of_a_change_when_it_comes_or_half_a_second_later(
    each: Bench, name: str, stays: list[bool]
) -> None:
    last = each.workload.bundle.manifest.last
    simulation = Simulation(each.world, each.journeys, RateTrace.from_rates([1e6, 0.0, 1e6]))
    found = []
    for at in (0.8, 0.99, 1.4, 1.8, 1.99, 2.4, 2.8):
        simulation.env.run(at)
        found.append(policies.oracle(name, each.choices, simulation.trusted()).plan(Policy(), 1).stages)
    assert [stages == plan_of(last, last).stages for stages in found] == stays


def test_the_late_oracle_makes_way_for_what_is_in_flight(each: Bench) -> None:
    simulation = Simulation(each.world, each.journeys, ConstantRate(1e6))
    late = policies.oracle(LATE_ORACLE, each.choices, simulation.trusted())
    assert late.plan(Policy(), 1).after(Tier.DEVICE) is not None
    with simulation.hops[Tier.DEVICE].traffic.crossing(10_000_000):
        assert late.plan(Policy(), 1).after(Tier.DEVICE) is None


def test_no_breaker_keeps_an_oracle_from_a_link_that_it_knows_to_be_back(each: Bench) -> None:
    simulation = Simulation(each.world, each.journeys, ConstantRate(1e6))
    oracle = policies.Oracle(each.choices, simulation.trusted())
    simulation.hops[Tier.DEVICE].breaker.dead()
    runs = simulation.open(oracle, repeat(0), [0.1])
    assert runs.plans[0].after(Tier.DEVICE) is not None
    assert runs.bytes[0] > 0


def test_ours_is_told_of_the_queues_that_its_requests_make(each: Bench) -> None:
    simulation = Simulation(each.world, each.journeys, ConstantRate(1e5))
    policy = maker(each, OURS)(simulation)
    assert isinstance(policy, policies.Ours)
    simulation.open(policy, repeat(0), [0.5, 1.0, 1.5])
    simulation.env.run(12.0)
    policy.close()
    assert simulation.queues() == Queues()
    simulation.machines[Tier.DEVICE].book(simulation.clock(), 0.3)
    with simulation.hops[Tier.DEVICE].traffic.crossing(40_000):
        queues = simulation.queues()
    assert queues.device == pytest.approx(0.3)
    assert queues.link == pytest.approx(0.4, rel=0.3)


def test_ours_finds_the_link_by_itself_and_leaves_it_when_it_collapses(each: Bench) -> None:
    rate = RateTrace.from_rates([*[1e6] * 20, *[500.0] * 20])
    runs = simulate(each, Trial("t", rate, 40.0, Loop.CLOSED, seed=0), maker(each, OURS))
    by_end = dict(zip(runs.at, runs.plans, strict=True))
    assert next(plan for at, plan in by_end.items() if at > 10).after(Tier.DEVICE) is not None
    late = [plan for at, plan in sorted(by_end.items(), key=lambda each: each[0]) if at > 20][3:]
    assert late
    assert all(plan.after(Tier.DEVICE) is None for plan in late)


def test_an_answer_that_was_long_under_way_may_still_change_the_plan(each: Bench) -> None:
    clock, manifest = FakeClock(), each.workload.bundle.manifest
    ours = policies.ours(manifest, each.costs, each.world, clock, Queues, lambda: None, each.options, each.rule)
    assert ours.plan(Policy(), 1).after(Tier.DEVICE) is None
    links = tuple(LinkEstimate(tier, 0.001, 1e8, age_seconds=0.0) for tier in (Tier.DEVICE, Tier.EDGE))
    for clock.now in np.arange(5.0, 8.0, 0.06):  # probes, while nothing was asked for long
        ours.told(())
        clock.now += 0.05
        ours.learn(Response(Predictions.empty(0, 1), Trace(), (), links), Policy(), 1)
    assert ours.plan(Policy(), 1).after(Tier.DEVICE) is not None
    ours.close()


def _over_the_link(each: Bench, clock: FakeClock, held_up: list[LinkEstimate]) -> tuple[Ours, LinkEstimate]:
    """Ours, on its way up a fast link at 3.5 s; it is late while there is something in `held_up`."""
    manifest = each.workload.bundle.manifest
    ours = policies.ours(
        manifest, each.costs, each.world, clock, Queues, lambda: next(iter(held_up), None), each.options, each.rule
    )
    links = tuple(LinkEstimate(tier, 0.001, 1e8, age_seconds=0.0) for tier in (Tier.DEVICE, Tier.EDGE))
    ours.plan(Policy(), 1)
    for clock.now in (1.0, 2.0, 3.0):
        ours.told(links)
        ours.plan(Policy(), 1)
    clock.now = 3.5
    ours.told(links)
    return ours, replace(links[0], rtt_seconds=5.0)


def test_a_link_that_keeps_calls_waiting_is_heeded_by_a_request_long_after_the_one_before(each: Bench) -> None:
    clock, held_up = FakeClock(), list[LinkEstimate]()
    ours, late = _over_the_link(each, clock, held_up)
    held_up.append(late)
    clock.now = 4.9  # neither in use, nor due
    ours.told(())
    clock.now = 5.5
    assert ours.plan(Policy(), 1).after(Tier.DEVICE) is None
    ours.close()


def test_what_was_seen_of_a_link_is_heeded_by_the_next_request_though_the_call_came_back(each: Bench) -> None:
    clock, held_up = FakeClock(), list[LinkEstimate]()
    ours, late = _over_the_link(each, clock, held_up)
    held_up.append(late)
    clock.now = 3.505
    assert ours.plan(Policy(), 1).after(Tier.DEVICE) is not None
    held_up.clear()
    clock.now = 3.512
    assert ours.plan(Policy(), 1).after(Tier.DEVICE) is None
    ours.close()


def test_a_simulation_repeats_itself(each: Bench) -> None:
    trial = Trial("t", RateTrace.from_rates([5e4, 1e4]), 10.0, Loop.OPEN, seed=3)
    first, again = (simulate(each, trial, maker(each, OURS)).seconds for _ in range(2))
    assert first == again


def test_dynamic_split_computing_follows_its_equations(each: Bench) -> None:
    manifest = each.workload.bundle.manifest
    fast, slow = (
        policies.DynamicSplit(manifest, each.costs, each.world, lambda rate=rate: rate).plan(Policy(), 1)
        for rate in (1e9, 1.0)
    )
    assert fast.stages[-1].segment == Segment(0, manifest.last)
    assert slow == plan_of(manifest.last, manifest.last)


def test_runs_vary_as_they_were_seen_to_by_the_seed_and_average_out(each: Bench) -> None:
    paces = {Tier.DEVICE: (0.5, 1.5)}
    device = Static(plan_of(each.workload.bundle.manifest.last, each.workload.bundle.manifest.last))

    def took(seed: int) -> list[float]:
        simulation = Simulation(each.world, each.journeys, ConstantRate(1e5), paces, seed)
        return simulation.closed(device, repeat(0), 0.0, 60.0).seconds

    even = Simulation(each.world, each.journeys, ConstantRate(1e5)).closed(device, repeat(0), 0.0, 1.0).seconds[0]
    assert sorted({round(seconds / even, 6) for seconds in took(1)}) == [0.5, 1.5]
    assert np.mean(took(1)) == pytest.approx(even, rel=0.1)
    assert took(1) == took(1) != took(2)

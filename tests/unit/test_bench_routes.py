"""The plans that the oracle and hindsight choose from, and what they are said to take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.domain import Policy, Tier
from services.plan_rules import passes_on
from testbed.bench import policies
from testbed.bench.compare import Bench, staying
from testbed.bench.routes import Choices, Network, _dominated, choices, crosses, over_trace, plan_of
from testbed.bench.world import FastRate
from testbed.traces import ConstantRate, RateTrace
from tests.benches import seconds_of, tiny_bench

_FEW = st.floats(0, 1).map(lambda value: round(value, 1))


@pytest.fixture
def each(tiny: Path) -> Bench:
    return tiny_bench(tiny)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(_FEW, _FEW, _FEW, _FEW, _FEW, st.booleans()), min_size=2, max_size=6),
    st.lists(_FEW, min_size=1, max_size=5).filter(any),
    _FEW,
    _FEW,
)
def test_no_option_that_was_left_out_is_ever_first(
    rows: list[tuple[float, float, float, float, float, bool]], rates: list[float], free: float, wait: float
) -> None:
    """Rows of before, head, stay, bytes, after, and whether the device computes; a link that is busy until `free`."""
    table, waits = np.array([row[:5] for row in rows]), np.array([row[5] for row in rows])
    every = Choices(tuple(plan_of(1, 1) for _ in rows), waits, *(np.ascontiguousarray(c) for c in table.T))
    seconds = every.seconds(FastRate(RateTrace.from_rates(rates)), np.zeros(1), np.full(1, free), wait)
    kept = [i for i in range(len(rows)) if not _dominated(table, waits, i)]
    assert seconds[kept].min() == pytest.approx(seconds.min())


def test_what_the_edge_hands_on_as_it_came_is_coded_once(each: Bench, tiny: Path) -> None:
    slow, last, rate = tiny_bench(tiny, coding=0.02), each.workload.bundle.manifest.last, ConstantRate(1e6)
    for plan, times in ((policies.relay(last, 0, "jpeg90"), 2), (plan_of(last, 0, 0, "jpeg90", "pixels"), 4)):
        assert seconds_of(slow, plan, rate) - seconds_of(each, plan, rate) == pytest.approx(0.02 * times)


def test_a_plan_that_the_edge_hands_on_is_said_to_take_what_it_takes(tiny: Path) -> None:
    each, rate = tiny_bench(tiny, coding=0.02), ConstantRate(1e6)
    world = replace(each.world, edge_slowdown=50.0, far_rtt_seconds=0.001)
    network = Network(each.workload.bundle.manifest, staying(each.journeys))
    found = choices(network, each.costs, world, each.options, Policy())
    each = replace(each, world=world, journeys=replace(each.journeys, slowdowns=world.slowdowns), choices=found)
    assert any(passes_on(plan, Tier.EDGE, plan.stages[1].codec) for plan in found.plans if len(plan.stages) > 1)
    took = [seconds_of(each, plan, rate) for plan in found.plans]
    assert over_trace(found, rate, 0.0, 0.25)[0] == pytest.approx(took, rel=0.03, abs=0.003)


def test_what_the_oracle_expects_is_what_the_simulation_does(each: Bench) -> None:
    rate = RateTrace.from_rates([2e4, 5e3, 1e5, 0.0, 3e4])
    expected = over_trace(each.choices, rate, 0.0, 5.0, every=0.5)
    for row, at in zip(expected, np.arange(0.0, 5.0, 0.5), strict=True):
        took = [seconds_of(each, plan, rate, float(at)) for plan in each.choices.plans]
        assert row == pytest.approx(took, rel=0.03, abs=0.003)  # a sample's bytes are not quite the mean


def test_no_plan_that_was_left_out_beats_the_options(each: Bench) -> None:
    last = each.workload.bundle.manifest.last
    rate = ConstantRate(3e4)
    best = min(seconds_of(each, plan, rate) for plan in each.choices.plans)
    others = [plan_of(last, s1, s2, "int8", "int8") for s1 in range(last) for s2 in range(s1, last + 1)]
    assert all(seconds_of(each, plan, rate) >= best - 0.02 for plan in others)


def test_a_trace_crosses_a_break_even_where_no_plan_is_good_everywhere() -> None:
    swapping = np.array([[1.0, 2.0], [2.0, 1.0]] * 10)
    assert crosses(swapping)
    assert not crosses(np.array([[1.0, 1.05], [1.05, 1.0]] * 10))
    assert not crosses(np.array([[1.0, 2.0]] * 20))

"""How fast tiers ran is told by what they ran, and by that alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from services.domain import DegradedReason, Tier
from services.front import Answer
from services.response import HopTrace, Predictions, Response, Trace
from testbed.bench.compare import Bench
from testbed.bench.routes import plan_of
from testbed.bench.speeds import Speeds
from tests.benches import BLOCK_SECONDS, tiny_bench


@pytest.fixture
def each(tiny: Path) -> Bench:
    return tiny_bench(tiny)


def _answer(each: Bench, exit_index: int, seconds: float, reason: DegradedReason = DegradedReason.NONE) -> Answer:
    """Of a request that the device ran for so many seconds."""
    last = each.workload.bundle.manifest.last
    given = Predictions.empty(1, 3)
    given.exits[:], given.reasons[:] = exit_index, int(reason)
    hop = HopTrace(Tier.DEVICE, 0.0, 0.0, seconds, 0.0, 0.0, 0, 0)
    return Answer("one", plan_of(last, last), Response(given, Trace((hop,))))


def _speeds(each: Bench) -> Speeds:
    return Speeds(each.costs, each.world, each.workload.bundle.manifest)


@pytest.mark.parametrize("exit_index", [0, -1])
def test_who_leaves_early_is_held_against_what_it_ran(each: Bench, exit_index: int) -> None:
    exits = each.workload.bundle.manifest.exits
    told = BLOCK_SECONDS * exits[exit_index].split_point * each.world.device_slowdown
    speeds = _speeds(each)
    speeds.add(_answer(each, exits[exit_index].index, 1.5 * told), 2 * told)
    assert speeds.of(Tier.DEVICE) == pytest.approx(1.5)


def test_a_degraded_answer_says_nothing_of_speed(each: Bench) -> None:
    speeds = _speeds(each)
    speeds.add(_answer(each, 0, 100.0, DegradedReason.UPSTREAM_UNAVAILABLE), 100.0)
    assert np.isclose(speeds.of(Tier.DEVICE), 1.0)


def _ran(each: Bench, *ratios: float, besides: float = 0.0, alone: bool = True) -> Speeds:
    """Who ran the whole network that many times as slowly as measured, and spent `besides` on each request."""
    manifest, speeds = each.workload.bundle.manifest, _speeds(each)
    told = BLOCK_SECONDS * manifest.last * each.world.device_slowdown
    for ratio in ratios:
        speeds.add(_answer(each, manifest.exits[-1].index, ratio * told), ratio * told + besides, alone)
    return speeds


def test_how_evenly_a_tier_ran_is_told_over_its_median_and_of_nobody_who_hardly_ran(each: Bench) -> None:
    ratios = [2.0] * 9 + [4.0] * 2
    paces = _ran(each, *ratios).paces()
    assert paces == {Tier.DEVICE: pytest.approx([1.0] * 9 + [2.0] * 2)}
    assert _ran(each, *ratios[:5]).paces() == {}


def test_what_a_request_costs_besides_is_told_by_those_that_found_the_device_idle(each: Bench) -> None:
    ratios = [1.0] * 10
    assert _ran(each, *ratios, besides=0.002).applied().agent_seconds == pytest.approx(0.002)
    assert _ran(each, *ratios, besides=0.002, alone=False).applied().agent_seconds == each.world.agent_seconds


def test_what_tiers_above_took_is_not_what_a_request_cost_besides(each: Bench) -> None:
    speeds, exit_index = _speeds(each), each.workload.bundle.manifest.exits[-1].index
    answer = _answer(each, exit_index, 0.010)
    here = answer.response.trace.hops[0]._replace(network_seconds=0.020, encode_seconds=0.001, queue_seconds=0.0003)
    above = HopTrace(Tier.EDGE, 0.001, 0.001, 0.050, 0.0, 0.0)
    away = Answer(answer.request_id, answer.plan, Response(answer.response.predictions, Trace((here, above))))
    for _ in range(10):
        speeds.add(away, 0.0015 + 0.010 + 0.020 + 0.001 + 0.052)
    assert speeds.applied().agent_seconds == pytest.approx(0.0015)

from __future__ import annotations

import pytest

from services.domain import Plan, Segment, Stage, Tier
from testbed.bench.policies import BEST_STATIC, ORACLE, OURS
from testbed.bench.results import Comparison, targets
from testbed.bench.statistics import Runs, Summary, summarise
from testbed.bench.world import Loop

_HERE = Plan((Stage(Tier.DEVICE, Segment(0, 3)),))
_THERE = Plan((Stage(Tier.DEVICE, Segment(0, 0)), Stage(Tier.EDGE, Segment(0, 3), "int8")))


def _runs(seconds: list[float], plan: Plan = _HERE) -> Runs:
    runs = Runs()
    for index, each in enumerate(seconds):
        runs.add(float(index), each, plan, nbytes=100, right=index % 2 == 0)
    return runs


def _summary(mean_ms: float) -> Summary:
    return Summary(1, mean_ms, mean_ms, mean_ms, mean_ms, 0.0, 0, 0.0, None, 0, {})


def _comparison(*means: tuple[float, float, float], crossing: bool = True) -> Comparison:
    """Ours, best static and the oracle on each trace."""
    found = Comparison("net", Loop.CLOSED, False, 100.0)
    for index, values in enumerate(means):
        names = (OURS, BEST_STATIC, ORACLE)
        found.traces[f"t{index}"] = {name: _summary(mean) for name, mean in zip(names, values, strict=True)}
        found.crossing[f"t{index}"] = crossing
    return found


def test_a_summary_counts_what_came_late_and_what_never_came() -> None:
    runs = _runs([0.1, 0.2, 0.4])
    runs.add(3.0, 0.05, _HERE, failed=True)
    found = summarise(runs, 0.3, with_truth=True, seed=0)
    assert (found.requests, found.failed, found.missed) == (4, 1, 0.5)
    assert found.mean_ms == pytest.approx(187.5)
    assert found.accuracy == 0.5


def test_switches_are_counted_in_the_order_in_which_requests_began() -> None:
    runs = Runs()
    for at, plan in ((2.0, _THERE), (0.0, _HERE), (1.0, _HERE)):
        runs.add(at, 0.1, plan)
    assert summarise(runs, 1.0, with_truth=False, seed=0).switches == 1


def test_switches_of_several_turns_are_counted_turn_by_turn_and_added_up() -> None:
    whole = Runs()
    for plans in ((_HERE, _THERE), (_HERE, _HERE), (_THERE, _HERE)):
        turn = Runs()
        for at, plan in enumerate(plans):
            turn.add(float(at), 0.1, plan)
        whole.take(turn)
    assert whole.turns == [[0, 1], [2, 3], [4, 5]]
    assert summarise(whole, 1.0, with_truth=False, seed=0).switches == 2


def test_turns_within_turns_stay_apart() -> None:
    pair, whole = Runs(), Runs()
    for plan in (_HERE, _THERE):
        pair.take(_runs([0.1, 0.1], plan))
    whole.take(pair)
    whole.take(Runs())
    whole.take(pair)
    assert whole.turns == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert whole.switches == 0


def test_probes_count_among_the_bytes() -> None:
    runs = _runs([0.1, 0.1])
    runs.extra_bytes = 50
    assert summarise(runs, 1.0, with_truth=False, seed=0).bytes == 125


def test_accuracy_without_truth_is_not_a_number() -> None:
    assert summarise(_runs([0.1]), 1.0, with_truth=False, seed=0).accuracy is None


def test_an_interval_holds_its_mean_and_repeats_with_the_seed() -> None:
    runs = _runs([0.1 + 0.01 * (i % 17) for i in range(300)])
    first, again = (summarise(runs, 1.0, with_truth=True, seed=7) for _ in range(2))
    low, high = first.ci["mean_ms"]
    assert low < first.mean_ms < high
    assert first.ci == again.ci


def test_bytes_and_switches_have_intervals_that_hold_them() -> None:
    runs = Runs(extra_bytes=600)
    for index in range(300):
        runs.add(float(index), 0.1, _HERE if index % 10 else _THERE, nbytes=100 * (index % 7))
    found = summarise(runs, 1.0, with_truth=False, seed=0)
    for value, (low, high) in ((found.bytes, found.ci["bytes"]), (found.switches, found.ci["switches"])):
        assert low < value < high


def test_targets_are_met_where_ours_is_close_to_the_oracle_and_far_from_hindsight() -> None:
    found = targets([_comparison((100, 140, 99), (100, 130, 98))], {})
    assert [target.met for target in found] == [True, True, True]


def test_one_bad_trace_misses_the_target_and_is_named() -> None:
    near, static, gain = targets([_comparison((100, 140, 99), (120, 100, 100))], {})
    assert (near.met, static.met, gain.met) == (False, False, False)
    assert "1.200 on t1" in near.found


def test_without_a_trace_that_crosses_there_is_nothing_to_judge() -> None:
    assert targets([_comparison((100, 140, 99), crossing=False)], {})[2].met is None


def test_a_simulation_that_is_off_misses() -> None:
    found = targets([], {"net": {OURS: 1.10, ORACLE: 0.80}})
    assert [(target.met, target.found) for target in found] == [(False, "1 of 2; worst 0.80 (oracle)")]


def test_runs_taken_over_count_as_ones_own() -> None:
    ours, theirs = Runs(extra_bytes=1), Runs(extra_bytes=2)
    for runs, seconds in ((ours, 0.1), (theirs, 0.3)):
        runs.add(0.0, seconds, _HERE)
    ours.take(theirs)
    assert (ours.seconds, len(ours), ours.extra_bytes) == ([0.1, 0.3], 2, 3)

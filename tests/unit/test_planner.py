"""The planner on problems small enough to solve by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from device_agent.planner import Beliefs, Options, PlanCost, cost, rank, stay
from services.bundle import CodecAccuracy, CurvePoint, ExitSpec
from services.domain import (
    CodecCost,
    Deadline,
    LinkEstimate,
    Objective,
    Plan,
    Policy,
    Request,
    Segment,
    SegmentTime,
    Stage,
    Tier,
    TierProfile,
)
from services.errors import InvalidInput
from services.plan_rules import check_plan
from tests.problems import chain, link, machine, random_problem, three

D, E, C = Tier
FAST, SLOW = 1e12, 1.0
LATENCY = Policy()
FP32 = Options(codecs=(("fp32",), ("fp32",)), image_codecs=())
SHAPES = [(1, 10, 10), (1, 5, 4), (1, 2, 2), (2,)]  # 400, 80, 16 bytes as fp32
EVEN = {D: [8.0, 8.0, 8.0], E: [2.0, 2.0, 2.0], C: [1.0, 1.0, 1.0]}


def best(beliefs: Beliefs, policy: Policy = LATENCY, options: Options = FP32, batch_size: int = 1) -> PlanCost:
    return rank(beliefs, policy, batch_size, 1, options)[0]


def between(near: float, far: float = FAST, rtt: float = 0.0) -> dict[str, LinkEstimate]:
    return {"near": link(D, near, rtt), "far": link(E, far, rtt)}


def test_a_slow_link_keeps_everything_on_the_device() -> None:
    assert str(best(three(chain(SHAPES), EVEN, **between(SLOW))).plan) == "device 0:3"


def test_fast_links_send_the_input_to_the_cloud_through_the_edge() -> None:
    found = best(three(chain(SHAPES), EVEN, **between(FAST)))
    assert str(found.plan) == "device 0:0 > edge 0:0 fp32 > cloud 0:3 fp32"
    assert found.seconds == pytest.approx(3.0)


def test_a_slow_second_link_ends_the_journey_at_the_edge() -> None:
    assert str(best(three(chain(SHAPES), EVEN, **between(FAST, SLOW))).plan) == "device 0:0 > edge 0:3 fp32"


def test_links_of_middling_speed_are_crossed_where_the_tensor_is_small() -> None:
    found = best(three(chain(SHAPES), EVEN, **between(10.0, 10.0)))  # 16 bytes cross split point 2
    assert str(found.plan) == "device 0:2 > edge 2:3 fp32"
    assert found.terms["network 1"] == pytest.approx(1.6)
    assert (found.seconds, found.bytes) == (pytest.approx(16 + 1.6 + 2), 16)


def test_every_plan_is_one_that_the_tiers_accept() -> None:
    for seed in range(60):
        problem = random_problem(seed)
        last = problem.beliefs.manifest.last
        for found in rank(problem.beliefs, problem.policy, problem.batch_size, 50, problem.options):
            for stage in found.plan.stages:
                request = Request("r", "", found.plan, stage.segment.start, np.zeros((1, 1), np.float32), Deadline(0))
                check_plan(request, stage.tier, last)
            assert found.plan.stages[-1].segment.end == last
            assert not found.plan.stages[-1].segment.empty


def test_exits_weigh_what_comes_after_them() -> None:
    found = cost(three(chain(SHAPES, {1: 0.75}), EVEN, **between(40.0)), split(1, 3), Policy(), options=FP32)
    assert found is not None
    assert found.terms["device compute"] == 8.0
    assert found.terms["network 1"] == pytest.approx(0.25 * 80 / 40)
    assert found.terms["edge compute"] == pytest.approx(0.25 * 4)
    assert found.bytes == pytest.approx(0.25 * 80)


def test_exits_inside_a_segment_weigh_the_pieces_behind_them() -> None:
    found = cost(three(chain(SHAPES, {1: 0.5, 2: 0.5}), EVEN), split(3, 3), Policy(), options=FP32)
    assert found is not None
    assert found.seconds == pytest.approx(8 + 0.5 * 8 + 0.25 * 8)


def test_what_is_believed_of_exits_goes_before_the_calibration() -> None:
    beliefs = replace(three(chain(SHAPES, {1: 0.5}), EVEN), stay=(1.0, 1.0, 1.0, 0.0))
    assert cost(beliefs, split(3, 3), Policy(), options=FP32).seconds == pytest.approx(24)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="2 stay rates for 4 split points"):
        rank(replace(beliefs, stay=(1.0, 0.0)), Policy())


def test_a_batch_crosses_a_hop_if_anybody_still_travels() -> None:
    beliefs = three(chain(SHAPES, {1: 0.75}), EVEN, **between(40.0, rtt=0.1))
    found = cost(beliefs, split(1, 3), Policy(), batch_size=4, options=FP32)
    assert found is not None
    some = 1 - 0.75**4
    assert found.terms["network 1"] == pytest.approx(some * 0.1 + 4 * 0.25 * 80 / 40)
    assert found.terms["edge compute"] == pytest.approx(4 * 0.25 * 4)  # known for one sample only: in proportion


def test_batches_between_those_measured_lie_on_a_line() -> None:
    times = tuple(SegmentTime(Segment(0, 3), size, seconds) for size, seconds in ((1, 1.0), (5, 3.0)))
    beliefs = Beliefs(chain(SHAPES), {D: TierProfile(D, segments=times)}, {})
    assert [best(beliefs, batch_size=n).seconds for n in (1, 3, 5, 10)] == pytest.approx([1, 2, 3, 6])


def test_a_segment_that_was_measured_itself_is_not_guessed_from_heads() -> None:
    edge = machine(E, EVEN[E])
    edge = replace(edge, segments=(*edge.segments, SegmentTime(Segment(1, 2), 1, 0.125)))
    beliefs = three(chain(SHAPES), EVEN)
    beliefs = replace(beliefs, profiles={**beliefs.profiles, E: edge})
    found = cost(beliefs, split(1, 2), Policy(), options=FP32)
    assert found is not None
    assert found.terms["edge compute"] == 0.125


def test_waiting_at_the_edge_and_slowness_count() -> None:
    beliefs = three(chain(SHAPES), EVEN, queue_seconds=0.5, slowdown=2.0)
    found = cost(beliefs, split(1, 2), Policy(), options=FP32)
    assert found is not None
    terms = [found.terms[name] for name in ("device compute", "queue 1", "edge compute", "queue 2", "cloud compute")]
    assert terms == [16.0, 0.5, 4.0, 0.5, 2.0]


def test_an_edge_that_only_passes_on_has_nobody_wait_for_its_workers() -> None:
    beliefs = three(chain(SHAPES), EVEN, queue_seconds=0.5)
    found = cost(beliefs, split(1, 1), Policy(), options=FP32)
    assert found is not None
    assert (found.terms["queue 1"], found.terms["queue 2"]) == (0.0, 0.5)


def test_codecs_cost_their_time_on_both_sides() -> None:
    costs = (CodecCost("int8", 0.001, 0.002, 0.25),)
    beliefs = three(chain(SHAPES), EVEN, **between(10.0), codecs=costs)
    found = cost(beliefs, split(1, 3, "int8"), Policy())
    assert found is not None
    assert (found.terms["encode 1"], found.terms["decode 1"]) == (pytest.approx(0.08), pytest.approx(0.16))
    assert found.bytes == 28


def test_measured_bytes_go_before_what_the_lossless_stage_makes_elsewhere_and_that_before_estimates() -> None:
    entry = CodecAccuracy(split_point=1, codec="int8+zstd", bytes_per_sample=7)
    ratios = (CodecCost("int8", 0, 0, 0.3), CodecCost("int8+zstd", 0, 0, 0.15))
    for manifest, codecs, expected in (
        (chain(SHAPES, codec_accuracy=[entry]), ratios, 7),
        (chain(SHAPES), ratios, 14),  # 20 levels and the range of one channel, halved as the ratios say
        (chain(SHAPES), (), 21),
    ):
        found = cost(three(manifest, EVEN, codecs=codecs), split(1, 3, "int8+zstd"), Policy())
        assert found is not None
        assert found.bytes == pytest.approx(expected)


def test_a_lossless_stage_is_not_believed_to_leave_less_than_it_was_measured_to_leave_there() -> None:
    constant = (CodecCost("fp16", 0, 0, 0.5), CodecCost("fp16+zstd", 0, 0, 0.001))
    entry = CodecAccuracy(split_point=1, codec="int8+zstd", bytes_per_sample=21)  # of 28, with its range
    found = cost(
        three(chain(SHAPES, codec_accuracy=[entry]), EVEN, codecs=constant), split(1, 3, "fp16+zstd"), Policy()
    )
    assert found is not None
    assert found.bytes == pytest.approx(40 * 21 / 28)


def test_without_a_lossless_stage_bytes_are_exact_whatever_the_ratio_elsewhere() -> None:
    found = cost(three(chain(SHAPES), EVEN, codecs=(CodecCost("int8", 0, 0, 0.9),)), split(1, 3, "int8"), Policy())
    assert found is not None
    assert found.bytes == 28


def test_an_image_travels_as_an_image_only_as_the_input() -> None:
    options = Options(codecs=(("fp32",), ("fp32",)), image_codecs=("jpeg90",))
    costs = (CodecCost("jpeg90", 0, 0, 0.01),)
    found = rank(three(chain(SHAPES), EVEN, **between(100.0), codecs=costs), Policy(), 1, 100, options)
    assert str(found[0].plan) == "device 0:0 > edge 0:0 jpeg90 > cloud 0:3 jpeg90"
    cuts = {stage.segment.start for each in found for stage in each.plan.stages if stage.codec == "jpeg90"}
    assert cuts == {0}
    without = rank(three(chain(SHAPES, image=False), EVEN, codecs=costs), Policy(), 1, 100, options)
    assert not any("jpeg90" in str(each.plan) for each in without)


def test_privacy_keeps_the_input_on_the_device() -> None:
    found = rank(three(chain(SHAPES), EVEN, **between(FAST)), Policy(privacy=True), 1, 1000)
    assert found
    assert all(each.plan.stages[0].segment.end >= 1 for each in found)


def test_a_tier_is_given_no_more_than_it_holds() -> None:
    beliefs = three(chain(SHAPES), EVEN, **between(FAST))
    cloud = replace(beliefs.profiles[C], holds=Segment(2, 3))
    found = best(replace(beliefs, profiles={**beliefs.profiles, C: cloud}))
    assert str(found.plan) == "device 0:0 > edge 0:2 fp32 > cloud 2:3 fp32"


@pytest.mark.parametrize("unknown", [E, C])
def test_an_unknown_machine_is_in_no_plan(unknown: Tier) -> None:
    beliefs = three(chain(SHAPES), EVEN, **between(FAST))
    known = {tier: profile for tier, profile in beliefs.profiles.items() if tier is not unknown}
    found = rank(replace(beliefs, profiles=known), Policy(), 1, 1000)
    assert found
    assert all(stage.tier < unknown for each in found for stage in each.plan.stages)


def test_without_links_or_without_knowing_them_everything_stays() -> None:
    beliefs = three(chain(SHAPES), EVEN)
    for near in (None, LinkEstimate(D), LinkEstimate(D, 0.1), LinkEstimate(D, None, 1e9), LinkEstimate(D, 0.1, 0.0)):
        links = {} if near is None else {**beliefs.links, D: near}
        assert [str(each.plan) for each in rank(replace(beliefs, links=links), Policy())] == ["device 0:3"]


def test_nothing_known_is_no_plan() -> None:
    assert rank(Beliefs(chain(SHAPES), {}, {}), Policy()) == []
    assert cost(Beliefs(chain(SHAPES), {}, {}), split(3, 3), Policy()) is None


def test_only_the_tiers_allowed_compute() -> None:
    beliefs = three(chain(SHAPES), EVEN)
    for tiers, expected in (
        ({D}, "device 0:3"),
        ({E}, "device 0:0 > edge 0:3 fp32"),
        ({C}, "device 0:0 > edge 0:0 fp32 > cloud 0:3 fp32"),
    ):
        found = rank(beliefs, Policy(), options=replace(FP32, tiers=frozenset(tiers)))
        assert [str(each.plan) for each in found] == [expected]


def test_a_late_plan_is_chosen_only_where_all_are_late() -> None:
    beliefs = three(chain(SHAPES), EVEN, **between(400.0))
    frugal = Policy(Objective.BYTES)
    assert str(best(beliefs, frugal).plan) == "device 0:3"
    assert best(beliefs, replace(frugal, deadline_seconds=5.0)).seconds <= 5.0
    fastest = best(beliefs)
    assert best(beliefs, replace(frugal, deadline_seconds=0.1)) == fastest


def test_energy_counts_computing_sending_and_waiting() -> None:
    options = replace(FP32, active_watts=5, idle_watts=2, joules_per_byte=0.1)
    found = cost(three(chain(SHAPES), EVEN, **between(80.0)), split(1, 3), Policy(), options=options)
    assert found is not None
    assert found.joules == pytest.approx(5 * 8 + 2 * (1 + 4) + 0.1 * 80)


def test_least_energy_is_not_least_latency() -> None:
    beliefs = three(chain(SHAPES), {D: [1.0] * 3, E: [2.0] * 3}, **between(FAST))
    assert str(best(beliefs).plan) == "device 0:3"
    options = replace(FP32, active_watts=10, idle_watts=0.1, joules_per_byte=0)
    assert str(best(beliefs, Policy(Objective.ENERGY), options).plan) == "device 0:0 > edge 0:3 fp32"


def test_bytes_tie_to_the_faster_plan_and_then_to_the_one_that_cuts_earlier() -> None:
    shapes, frugal = [(1, 10, 10), (1, 2, 2), (1, 2, 2), (2,)], Policy(Objective.BYTES, privacy=True)
    found = rank(three(chain(shapes), {D: [1.0] * 3, E: [2.0] * 3}, **between(FAST)), frugal, options=FP32)
    plans = ["device 0:3", "device 0:2 > edge 2:3 fp32", "device 0:1 > edge 1:3 fp32"]  # both of 16 bytes
    assert [str(each.plan) for each in found[:3]] == plans
    nobody = rank(three(chain(SHAPES, {1: 1.0}), EVEN, **between(FAST)), frugal, options=FP32)  # passes split point 1
    assert {each.bytes for each in nobody} == {0.0}
    assert [each.plan.stages[0].segment.end for each in nobody] == [1, 1, 1, 2, 2, 3]


def test_the_cost_of_a_fixed_plan_takes_tiers_that_do_nothing() -> None:
    beliefs = three(chain(SHAPES), EVEN)
    idle = Plan((Stage(D, Segment(0, 3)), Stage(E, Segment(3, 3), "int8"), Stage(C, Segment(3, 3), "int8")))
    assert cost(beliefs, idle, Policy()).seconds == 24  # type: ignore[union-attr]
    assert cost(Beliefs(beliefs.manifest, {D: beliefs.profiles[D]}, {}), idle, Policy()) is not None


@pytest.mark.parametrize(
    "stages",
    [
        [(D, 0, 1), (C, 1, 3)],
        [(D, 0, 1), (E, 2, 3)],
        [(D, 0, 2)],
        [(D, 1, 3)],
        [(D, 0, 2), (E, 2, 1), (C, 1, 3)],
        [(D, 0, 9)],
        [(E, 0, 3)],
        [],
    ],
)
def test_a_plan_that_does_not_go_from_tier_to_tier_has_no_cost(stages: list[tuple[Tier, int, int]]) -> None:
    plan = Plan(tuple(Stage(tier, Segment(a, b)) for tier, a, b in stages))
    assert cost(three(chain(SHAPES), EVEN), plan, Policy()) is None


def test_an_unknown_codec_is_refused() -> None:
    with pytest.raises(InvalidInput, match="unknown codec 'zip'"):
        rank(three(chain(SHAPES), EVEN), Policy(), options=replace(FP32, codecs=(("zip",), ("fp32",))))
    with pytest.raises(InvalidInput, match="no codec to choose from"):
        rank(three(chain(SHAPES), EVEN), Policy(), options=replace(FP32, codecs=((), ("fp32",))))


def test_who_stays_is_read_off_the_exits_curves() -> None:
    manifest = chain([*SHAPES[:-1], (1, 2, 2), (2,)], {1: 0.5, 2: 0.6})
    assert stay(manifest) == pytest.approx((1.0, 0.5, 0.2, 0.2, 0.0))
    curve = (CurvePoint(threshold=0.4, exit_rate=0.8), CurvePoint(threshold=0.6, exit_rate=0.4))
    for threshold, points, expected in ((0.0, (), 0), (1.01, curve, 1), (0.5, curve, 0.4), (0.5, (), 1)):
        early = ExitSpec(index=0, name="e", output="e", split_point=1, threshold=threshold, curve=points)
        exits = (early, manifest.exits[-1].model_copy(update={"index": 1}))
        assert stay(manifest.model_copy(update={"exits": exits}))[1] == pytest.approx(expected)


_SECONDS = st.floats(0.01, 2)
_SIZE = st.integers(1, 900)


@given(
    head=_SECONDS, tail=_SECONDS, server=_SECONDS, rate=st.floats(1, 1e4), sizes=st.tuples(*[st.integers(1, 900)] * 2)
)
def test_a_split_beats_full_offload_below_the_break_even_rate(
    head: float, tail: float, server: float, rate: float, sizes: tuple[int, int]
) -> None:
    """Dynamic Split Computing: if and only if R < (L_in - L_k) / (t_head,k + t_tail,k - t_server)."""
    whole, cut = max(sizes), min(sizes)
    slower = head + tail - server
    assume(slower > 1e-3)
    threshold = 4 * (whole - cut) / slower
    assume(abs(rate - threshold) > 1e-6 * max(rate, threshold))
    manifest = chain([(1, 1, whole), (1, 1, cut), (2,)])
    times = (SegmentTime(Segment(0, 2), 1, server), SegmentTime(Segment(1, 2), 1, tail))
    profiles = {
        D: TierProfile(D, segments=(SegmentTime(Segment(0, 1), 1, head),)),  # it cannot run the rest
        E: TierProfile(E, segments=times),
    }
    found = best(Beliefs(manifest, profiles, {D: link(D, rate)}))
    assert (found.plan.stages[0].segment.end == 1) == (rate < threshold)


def split(s1: int, s2: int, codec1: str = "fp32", codec2: str = "fp32", last: int = 3) -> Plan:
    stages = (Stage(D, Segment(0, s1)), Stage(E, Segment(s1, s2), codec1), Stage(C, Segment(s2, last), codec2))
    return Plan(tuple(stage for stage in stages if stage.tier is D or stage.segment.start < last))

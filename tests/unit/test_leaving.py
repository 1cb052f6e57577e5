"""A request with thresholds of its own leaves earlier or later than calibrated, and is planned accordingly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.agent import Agent, merged
from device_agent.costs import expected_leaving
from device_agent.planner import Beliefs, Options, cost, rank, stay
from device_agent.plans import FixedPlan
from services import bundle
from services.bundle import CurvePoint, Manifest
from services.domain import Deadline, Policy, Tier
from services.errors import InvalidInput
from services.front import Wishes
from services.model import Model
from tests.fakes import FakeClock
from tests.journeys import ALWAYS, NEVER, runtime, samples, stages
from tests.problems import calibration, chain, link, three

D, E, C = Tier
CURVE = (CurvePoint(threshold=0.4, exit_rate=0.8), CurvePoint(threshold=0.6, exit_rate=0.4))
FP32 = Options(codecs=(("fp32",), ("fp32",)), image_codecs=())
SHAPES = [(1, 10, 10), (1, 5, 4), (1, 2, 2), (2,)]
THREE = {D: [1.0, 30.0, 30.0], E: [0.5, 5.0, 5.0], C: [0.1, 1.0, 1.0]}


def network() -> Manifest:
    """Its exit after the first segment is left by everybody, as calibrated."""
    manifest = chain(SHAPES, {1: 1.0})
    early = manifest.exits[0].model_copy(update={"curve": CURVE, "threshold": 0.0})
    return manifest.model_copy(update={"exits": (early, *manifest.exits[1:])})


def beliefs() -> Beliefs:
    return three(network(), THREE, near=link(D, 100.0, 0.0), far=link(E, 1e12, 0.0))


def test_who_never_leaves_early_is_planned_for_the_whole_way() -> None:
    never = merged(Policy(), Wishes(thresholds=(1.5, 0.0)), network())
    assert rank(beliefs(), Policy(), 1, 1, FP32)[0].seconds == pytest.approx(1.0)
    found = rank(beliefs(), never, 1, 1, FP32)[0]
    assert str(found.plan) == "device 0:1 > edge 1:1 fp32 > cloud 1:3 fp32"
    assert found.seconds == pytest.approx(1.0 + 80 / 100 + 2.0)


def test_who_stops_at_an_early_exit_pays_for_nothing_behind_it() -> None:
    stops = merged(Policy(), Wishes(thresholds=(0.0, 0.0)), network())
    plan = rank(beliefs(), replace(stops, leaving=(0.0, 1.0)), 1, 1, FP32)[0].plan
    found = cost(beliefs(), plan, stops, 1, FP32)
    assert found is not None
    assert found.seconds == pytest.approx(1.0)


async def test_who_asks_for_an_accuracy_leaves_no_earlier_than_calibrated(tiny: Path, clock: FakeClock) -> None:
    model = Model(bundle.load(tiny))
    model.manifest = calibrated = model.manifest.model_copy(update={"calibration": calibration(0.85)})
    own, whole = tuple(spec.threshold for spec in calibrated.exits), stages((D, 0, 8))
    assert all(own[:-1])
    agent = Agent(runtime(model, clock), FixedPlan(whole), Policy(min_accuracy=0.85))
    for thresholds in ((0.0, 0.0, 0.0), (own[0] - 0.01, *own[1:]), (own[0], 0.0, 0.0)):
        with pytest.raises(InvalidInput, match=r"at least 0\.85"):
            await agent.infer(samples(1), Deadline(1e6, clock), wishes=Wishes(thresholds=thresholds))
    for thresholds in (own, NEVER):
        await agent.infer(samples(1), Deadline(1e6, clock), wishes=Wishes(thresholds=thresholds))
    with pytest.raises(InvalidInput, match=r"at least 0\.9"):
        merged(Policy(), Wishes(thresholds=ALWAYS, min_accuracy=0.9), calibrated)
    assert merged(Policy(), Wishes(thresholds=ALWAYS, min_accuracy=0.0), calibrated).min_accuracy == 0.0
    uncalibrated = calibrated.model_copy(update={"calibration": None})
    assert merged(Policy(), Wishes(thresholds=ALWAYS, min_accuracy=0.9), uncalibrated).min_accuracy == 0.9


def test_the_thresholds_that_are_named_to_who_would_leave_too_early_are_good_enough() -> None:
    found = network().model_copy(update={"calibration": calibration(0.85)})
    early = found.exits[0].model_copy(update={"threshold": 0.8260573148727417})
    found = found.model_copy(update={"exits": (early, *found.exits[1:])})
    with pytest.raises(InvalidInput) as refused:
        merged(Policy(), Wishes(thresholds=(0.8, 0.0), min_accuracy=0.85), found)
    named = str(refused.value).split("(")[1].split(")")[0].split(", ")
    assert merged(Policy(), Wishes(thresholds=(*map(float, named), 0.0), min_accuracy=0.85), found)


@given(threshold=st.floats(0, 2))
def test_the_share_that_leaves_comes_in_eighths_and_is_all_only_where_nobody_can_stay(threshold: float) -> None:
    leaving = expected_leaving(network(), (threshold, 0.0))[0]
    assert leaving in {*(eighth / 8 for eighth in range(8)), 15 / 16, 1.0}
    assert (leaving == 1.0) == (threshold == 0.0)


@pytest.mark.parametrize(("threshold", "share"), [(0.4, 0.75), (0.5, 0.625), (0.6, 0.375), (1.01, 0.0), (0.0, 1.0)])
def test_the_share_is_that_of_the_curve(threshold: float, share: float) -> None:
    assert expected_leaving(network(), (threshold, 0.0))[0] == share
    assert stay(network(), (share, 1.0))[1:] == pytest.approx((1 - share, 1 - share, 0.0))


def test_a_request_without_thresholds_is_planned_as_calibrated() -> None:
    assert merged(Policy(), Wishes(privacy=True), network()).leaving is None

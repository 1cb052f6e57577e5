"""The plans of a run: when each was in force, what it promised, and the run over the best plans for the true links."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from device_agent.client import Prediction
from services.bundle import Manifest
from services.domain import Tier, TierProfile
from testbed.load import Outcome
from testbed.local import LinkAsked
from testbed.plans import Leg, history, oracle_ratio
from tests.problems import chain, machine

SLOW, FAST = LinkAsked("1kbit", "500ms"), LinkAsked("1gbit", "1us")
DEVICE_SECONDS = 0.1


@pytest.fixture
def manifest() -> Manifest:
    return chain([(1, 4, 4), (2,), (2,)])


@pytest.fixture
def profiles() -> dict[Tier, TierProfile]:
    layers = {Tier.DEVICE: DEVICE_SECONDS / 2, Tier.EDGE: 0.001, Tier.CLOUD: 0.001}
    return {tier: machine(tier, [seconds] * 2) for tier, seconds in layers.items()}


def answered(at: float, seconds: float, plan: str = "here", trace: dict[str, Any] | None = None) -> Outcome:
    scores = np.array([1.0], np.float32)
    prediction = Prediction(0, scores, 1.0, 0, Tier.DEVICE, False, "", plan, "r", trace)
    return Outcome(0, 0, seconds, prediction, at=at)


def traced(expected_seconds: float | None, **compute: float) -> dict[str, Any]:
    """The trace of a request that computed for so many seconds on each of these tiers, and did nothing else."""
    stages = dict.fromkeys(("queue_seconds", "decode_seconds", "encode_seconds", "network_seconds"), 0.0)
    hops = [{"tier": tier, "compute_seconds": seconds} | stages for tier, seconds in compute.items()]
    return {"expected_seconds": expected_seconds, "hops": hops}


def test_a_plan_that_comes_back_is_in_force_twice() -> None:
    found = history([answered(at, 0.1, plan) for at, plan in ((3.0, "here"), (0.0, "here"), (1.0, "there"))])
    assert [(each["at_seconds"], each["plan"], each["requests"]) for each in found] == [
        (0.0, "here", 1),
        (1.0, "there", 1),
        (3.0, "here", 1),
    ]


def test_what_was_promised_is_held_against_what_passed_behind_the_devices_door() -> None:
    outcomes = [answered(at, 9.0, trace=traced(0.02, client=5.0, device=0.01, edge=0.03)) for at in (0.0, 1.0)]
    (found,) = history([*outcomes, answered(2.0, 0.07), Outcome(0, 0, 1.0, error="gone", at=0.5)])
    assert (found["requests"], found["expected_ms"], found["realised_ms"]) == (3, 20.0, 50.0)


def test_a_run_as_good_as_its_best_plan_has_a_ratio_of_one(
    manifest: Manifest, profiles: dict[Tier, TierProfile]
) -> None:
    legs = [Leg(0.0, SLOW, SLOW)]
    outcomes = [answered(0.0, 0.5 * DEVICE_SECONDS), answered(1.0, 1.5 * DEVICE_SECONDS)]
    assert oracle_ratio(outcomes, legs, manifest, profiles) == pytest.approx(1.0)


def test_each_request_is_held_against_the_links_of_its_leg(
    manifest: Manifest, profiles: dict[Tier, TierProfile]
) -> None:
    legs = [Leg(0.0, SLOW, SLOW), Leg(5.0, FAST, SLOW)]
    before, after = (oracle_ratio([answered(at, DEVICE_SECONDS)], legs, manifest, profiles) for at in (4.9, 5.0))
    assert before == pytest.approx(1.0)
    assert after is not None
    assert after > 10


def test_without_answers_or_profiles_there_is_no_ratio(manifest: Manifest, profiles: dict[Tier, TierProfile]) -> None:
    legs = [Leg(0.0, SLOW, SLOW)]
    assert oracle_ratio([Outcome(0, 0, 1.0, error="gone")], legs, manifest, profiles) is None
    assert oracle_ratio([answered(0.0, 0.1)], legs, manifest, {}) is None

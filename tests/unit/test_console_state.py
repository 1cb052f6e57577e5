"""What the page is told, and why a plan was chosen."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from device_agent.console import state
from device_agent.console.candidates import candidates, fixed, name
from device_agent.console.feed import Feed, window
from device_agent.console.state import Moment
from device_agent.planner import Beliefs, Options, rank
from services.domain import CodecCost, LinkEstimate, Objective, Policy, Tier, TierProfile
from services.model import Model
from tests.consoles import finished
from tests.fakes import FakeClock
from tests.journeys import plan
from tests.problems import chain, machine

SHAPES = [(3, 64, 64), (16, 32, 32), (24, 16, 16), (40, 4, 4), (10,)]
FAST = {Tier.DEVICE: LinkEstimate(Tier.DEVICE, 0.01, 2.5e6), Tier.EDGE: LinkEstimate(Tier.EDGE, 0.04, 6e6)}
SECONDS = {Tier.DEVICE: 0.04, Tier.EDGE: 0.005, Tier.CLOUD: 0.002}


def beliefs(links: dict[Tier, LinkEstimate] = FAST) -> Beliefs:
    manifest = chain(SHAPES, {2: 0.5}, 0.9)
    costs = tuple(CodecCost(each, 1e-9, 1e-9, 0.2) for each in ("fp32", "int8", "jpeg90"))
    profiles = {tier: replace(machine(tier, [seconds] * 4), codecs=costs) for tier, seconds in SECONDS.items()}
    return Beliefs(manifest, profiles, links)


def moment(model: Model, clock: FakeClock, **changes: object) -> Moment:
    feed = Feed(model.manifest, clock)
    feed.answered(finished(model.manifest, plan()))
    made = Moment(clock.now, model.manifest, plan(), {}, {}, {}, window(feed.history(), 3, clock.now), 0, {})
    return replace(made, **changes)


def test_a_link_that_nobody_knows_is_null_and_not_zero(model: Model, clock: FakeClock) -> None:
    near, far = state.links(moment(model, clock), [])
    assert (near["rtt_seconds"], near["bytes_per_second"], far["rtt_seconds"]) == (None, None, None)
    assert (near["source"], near["target"], near["bytes_up"]) == ("device", "edge", 100)


@pytest.mark.parametrize(
    ("known", "link", "said"),
    [(False, None, "unknown"), (True, None, "quiet"), (True, 0.01, "reachable"), (False, 0.01, "unknown")],
)
def test_a_tier_is_reachable_only_over_a_link_that_is_there(
    model: Model, clock: FakeClock, known: bool, link: float | None, said: str
) -> None:
    profiles = {Tier.EDGE: TierProfile(Tier.EDGE)} if known else {}
    found = moment(model, clock, profiles=profiles, links={Tier.DEVICE: LinkEstimate(Tier.DEVICE, link)})
    device, edge, _ = state.tiers(found)
    assert (device["state"], edge["state"], edge["blocks"]) == ("here", said, [2, 4])


@pytest.mark.parametrize("lost", [Tier.DEVICE, Tier.EDGE])
def test_what_lies_behind_a_lost_link_is_silent_for_as_long_as_it_is_lost(
    model: Model, clock: FakeClock, lost: Tier
) -> None:
    just_heard = dict.fromkeys(Tier, clock.now)
    _, edge, cloud = state.tiers(moment(model, clock, heard_at=just_heard, lost_at={lost: clock.now - 7}))
    assert (cloud["state"], cloud["silent_seconds"]) == ("silent", 7)
    behind = lost is Tier.DEVICE
    assert (edge["state"], edge["silent_seconds"]) == (("silent", 7) if behind else ("reachable", None))


def test_an_exit_that_nobody_calibrated_is_told_as_that(model: Model) -> None:
    assert not any(each["calibrated"] for each in state.model(model.manifest)["exits"])
    assert all(each["calibrated"] for each in state.model(chain(SHAPES, {2: 0.5}, 0.9))["exits"])


def test_everything_the_page_gets_is_plain_json(model: Model, clock: FakeClock) -> None:
    feed, known = Feed(model.manifest, clock), beliefs()
    feed.answered(finished(model.manifest, plan()))
    compared = state.considered(candidates(known, rank(known, Policy(), count=1)[0].plan, Policy(), Options()))
    request = state.request(feed.requests[0], model.manifest)
    whole = [state.model(model.manifest), state.plan(moment(model, clock)), compared, request]
    assert json.loads(json.dumps(whole, allow_nan=False))[3]["hops"][0]["tier"] == "device"


def test_the_plan_in_force_is_marked_and_the_cheapest_comes_first() -> None:
    known = beliefs()
    best = rank(known, Policy(), count=1)[0].plan
    found = candidates(known, best, Policy(), Options())
    assert [each.chosen for each in found.candidates].count(True) == 1
    assert found.candidates[0].chosen
    assert [each.cost.seconds for each in found.candidates] == sorted(each.cost.seconds for each in found.candidates)
    assert {"all on the device", "plain offloading"} <= {each.name for each in found.candidates}


def test_why_compares_with_the_device_alone_and_names_what_would_cost_most() -> None:
    known = beliefs()
    found = candidates(known, rank(known, Policy(), count=1)[0].plan, Policy(), Options())
    assert found.why.startswith("Least time: ")
    assert "All on the device would take 120 ms, mostly for computing on the device." in found.why


def test_why_says_so_when_another_plan_would_be_better_now() -> None:
    known = beliefs()
    worse = rank(known, Policy(), options=Options(tiers=frozenset({Tier.DEVICE})))[0].plan
    assert "another plan now promises" in candidates(known, worse, Policy(), Options()).why


@pytest.mark.parametrize(("objective", "word"), [(Objective.BYTES, "bytes"), (Objective.ENERGY, "energy")])
def test_why_speaks_of_what_the_policy_wants_least_of(objective: Objective, word: str) -> None:
    policy, known = Policy(objective), beliefs()
    found = candidates(known, rank(known, policy, count=1)[0].plan, policy, Options())
    assert found.why.startswith(f"Least {word}: ")


def test_what_is_not_known_is_named_instead_of_compared() -> None:
    known = beliefs()
    lonely = replace(known, profiles={Tier.DEVICE: known.profiles[Tier.DEVICE]})
    found = candidates(lonely, plan(), Policy(), Options())
    assert not found.candidates
    assert "what the edge and the cloud can do" in found.why


def test_a_plan_over_a_dead_link_says_that_the_link_is_unknown() -> None:
    known = beliefs()
    best = rank(known, Policy(), count=1)[0].plan
    found = candidates(replace(known, links={}), best, Policy(), Options())
    assert "link above is unknown" in found.why


def test_a_fixed_plan_is_compared_with_nothing() -> None:
    assert "fixes the plan" in fixed(plan()).why


def test_a_plan_is_named_after_the_machines_that_compute() -> None:
    assert name(plan(2, 4, 8)) == "device, edge and cloud"
    assert name(plan(0, 8, 8)) == "all at the edge"
    assert name(plan(2, 2, 8)) == "device and cloud"

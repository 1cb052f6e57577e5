"""How long a plan is certainly the best: against what the planner says of beliefs that have moved."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent import planner
from device_agent.lead import Lead
from device_agent.planner import Beliefs
from services.domain import LinkEstimate, Objective, Policy, Tier
from tests.problems import Problem, chain, problems, three
from tests.problems import link as known_link

POLICY = Policy()
SHAPES = [(1, 4, 4), (1, 4, 2), (2,)]


def _moved(beliefs: Beliefs, rng: Random, most: float) -> Beliefs:
    """Everything that a lead knows of has changed by a factor of up to `most`, and waits by a little."""

    def by(value: float | None) -> float | None:
        return value and value * most ** rng.uniform(-1, 1)

    profiles = {
        tier: replace(
            each, slowdown=by(each.slowdown), queue_seconds=max(each.queue_seconds + rng.gauss(0, most - 1) / 50, 0)
        )
        for tier, each in beliefs.profiles.items()
    }
    links = {
        tier: LinkEstimate(tier, by(each.rtt_seconds), by(each.up_bytes_per_second))
        for tier, each in beliefs.links.items()
    }
    return replace(beliefs, profiles=profiles, links=links)


@settings(max_examples=300)
@given(problem=problems(), seed=st.integers(0, 2**32 - 1), most=st.floats(1, 1.2))
def test_the_plan_that_a_lead_holds_for_is_the_best_and_takes_much_the_same(
    problem: Problem, seed: int, most: float
) -> None:
    policy = replace(problem.policy, objective=Objective.LATENCY, deadline_seconds=None)
    ranked = planner.rank(problem.beliefs, policy, problem.batch_size, 2, problem.options)
    now = _moved(problem.beliefs, Random(seed), most)
    lead = Lead.of(problem.beliefs, policy, ranked) if ranked else None
    if lead is not None and lead.holds(now):
        best = planner.rank(now, policy, problem.batch_size, 1, problem.options)[0]
        kept = planner.cost(now, ranked[0].plan, policy, problem.batch_size, problem.options)
        assert kept is not None
        assert kept.seconds == pytest.approx(best.seconds)
        assert kept.seconds <= 1.1 * ranked[0].seconds + 1e-12


def _beliefs() -> Beliefs:
    layers = {tier: (seconds, seconds) for tier, seconds in zip(Tier, (0.01, 0.005, 0.001), strict=True)}
    return three(chain(SHAPES), layers, known_link(Tier.DEVICE, 1e5, 0.1))


def test_a_lead_holds_while_nothing_changes() -> None:
    lead = _lead()
    assert lead.holds(lead.beliefs)
    assert lead.holds(replace(lead.beliefs, links=dict(lead.beliefs.links)))


def _lead() -> Lead:
    beliefs = _beliefs()
    found = Lead.of(beliefs, POLICY, planner.rank(beliefs, POLICY, count=2))
    assert found is not None
    return found


def test_a_wide_lead_outlasts_small_changes_and_no_large_one() -> None:
    lead = _lead()
    assert lead.following > 2 * lead.best
    for factor, holds in ((1.05, True), (0.95, True), (1.5, False), (0.5, False)):
        near = known_link(Tier.DEVICE, factor * 1e5, 0.1)
        assert lead.holds(replace(lead.beliefs, links={**lead.beliefs.links, Tier.DEVICE: near})) is holds


def test_a_narrow_lead_ends_with_the_first_change_that_might_matter() -> None:
    lead = _lead()
    narrow = replace(lead, following=1.02 * lead.best)
    slower = replace(lead.beliefs.profiles[Tier.DEVICE], slowdown=1.03)
    assert not narrow.holds(replace(lead.beliefs, profiles={**lead.beliefs.profiles, Tier.DEVICE: slower}))


@pytest.mark.parametrize("tier", list(Tier))
def test_a_lead_ends_where_a_machine_tells_something_else_or_nothing_or_for_the_first_time(tier: Tier) -> None:
    lead = _lead()
    profiles = dict(lead.beliefs.profiles)
    other = replace(profiles[tier], segments=profiles[tier].segments[::-1])
    without = {t: p for t, p in profiles.items() if t is not tier}
    for changed in ({**profiles, tier: other}, without):
        assert not lead.holds(replace(lead.beliefs, profiles=changed))
    assert not replace(lead, beliefs=replace(lead.beliefs, profiles=without)).holds(lead.beliefs)


def test_a_lead_ends_where_a_link_is_lost_or_found() -> None:
    lead = _lead()
    lost = replace(lead.beliefs, links={**lead.beliefs.links, Tier.DEVICE: LinkEstimate(Tier.DEVICE)})
    assert not lead.holds(lost)
    assert not replace(lead, beliefs=lost).holds(lead.beliefs)


@pytest.mark.parametrize("policy", [Policy(Objective.ENERGY), Policy(Objective.BYTES), Policy(deadline_seconds=1.0)])
def test_only_who_looks_at_time_alone_has_a_lead(policy: Policy) -> None:
    beliefs = _beliefs()
    assert Lead.of(beliefs, policy, planner.rank(beliefs, policy, count=2)) is None

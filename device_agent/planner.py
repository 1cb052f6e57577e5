"""Which tier runs which segment: the search over every split and codec. Pure: beliefs in, plans out, best first.

Exhaustive: every (split 1, split 2, codec 1, codec 2) is looked at, except where the best codecs of a pair of split
points already cost more than the plans found, which proves the rest of its codecs no better.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from device_agent.costs import OPTIONS, Beliefs, Costs, Indices, Options, Quantity, costs, ready, stay
from device_agent.hops import Names
from services.bundle import Manifest
from services.domain import Objective, Plan, Policy, Segment, Stage, Tier

__all__ = ["TERMS", "Beliefs", "Options", "PlanCost", "cost", "rank", "ready", "stay"]

TERMS = {
    "device": ("device compute",),
    "hop 1": ("encode 1", "network 1", "queue 1", "decode 1"),
    "edge": ("edge compute",),
    "hop 2": ("encode 2", "network 2", "queue 2", "decode 2"),
    "cloud": ("cloud compute",),
}
"""The terms of a plan's seconds, in the order of travel, by where they arise."""

_FIRST_PAIRS = 8

Choice = tuple[int, int, int, int]
"""Split 1, split 2, and the indices of codec 1 and codec 2."""


@dataclass(frozen=True, slots=True)
class PlanCost:
    """A plan and what it is expected to cost. `terms` are seconds by name and add up to `seconds`.

    joules: of the device, an estimate from configured powers. accuracy: what the calibration promises, with the
    deltas of the plan's codecs; None without calibration.
    """

    plan: Plan
    seconds: float
    bytes: float
    joules: float
    accuracy: float | None
    terms: dict[str, float]


def rank(
    beliefs: Beliefs, policy: Policy, batch_size: int = 1, count: int = 6, options: Options = OPTIONS
) -> list[PlanCost]:
    """The `count` best plans for a batch, best first; ties go to the faster, then to the one that cuts earlier.

    Where no plan is expected to meet the policy's deadline, those that miss it least. Empty where none is feasible.
    Raises InvalidInput for an unknown codec.
    """
    codecs = options.of_hops(beliefs.manifest)
    every = costs(beliefs, policy, batch_size, codecs, options)
    deadline = policy.deadline_seconds
    found = _best(every, policy.objective, count, math.inf if deadline is None else deadline)
    if not found and deadline is not None:
        found = _best(every, Objective.LATENCY, count)
    return [_plan_cost(beliefs.manifest, every, codecs, choice) for choice in found]


def cost(
    beliefs: Beliefs, plan: Plan, policy: Policy, batch_size: int = 1, options: Options = OPTIONS
) -> PlanCost | None:
    """What `plan` is expected to cost, whichever codecs it uses and deadline it misses.

    None where it is not feasible, or not known to be.
    """
    last = beliefs.manifest.last
    parts = _parts(plan, last)
    if parts is None:
        return None
    s1, s2, codecs = parts
    every = costs(beliefs, policy, batch_size, codecs, options)
    where = np.array([s1]), np.array([s2])
    if not np.isfinite(every.seconds.of(*where)) or every.loss.of(*where) > every.most_loss:
        return None
    found = _plan_cost(beliefs.manifest, every, codecs, (s1, s2, 0, 0))
    return replace(found, plan=replace(plan, expected_seconds=found.seconds))


def _best(every: Costs, objective: Objective, count: int, deadline: float = math.inf) -> list[Choice]:
    """The `count` best feasible choices, pair of split points by pair, cheapest pairs first."""
    wanted, found = every.of(objective), np.empty((0, 6))
    for s1, s2, least in _pairs(every, wanted, deadline):
        if len(found) == count and least > found[-1, 0]:
            break
        seconds, value = every.seconds.of(s1, s2), wanted.of(s1, s2)
        feasible = np.isfinite(seconds) & (seconds <= deadline) & (every.loss.of(s1, s2) <= every.most_loss)
        pair, c1, c2 = np.nonzero(feasible)
        rows = np.column_stack([value[feasible], seconds[feasible], s1[pair], s2[pair], c1, c2])
        found = np.concatenate([found, rows])
        found = found[np.lexsort(found.T[::-1])[:count]]
    return [(int(s1), int(s2), int(c1), int(c2)) for s1, s2, c1, c2 in found[:, 2:]]


def _pairs(every: Costs, wanted: Quantity, deadline: float) -> Iterator[tuple[Indices, Indices, float]]:
    """Pairs of split points with a plan that might do, some at a time, and the least that they and the rest cost."""
    seconds, least = every.seconds.least(), wanted.least()
    s1, s2 = np.nonzero(np.isfinite(seconds) & (seconds <= deadline) & (every.loss.least() <= every.most_loss))
    order = np.argsort(least[s1, s2], kind="stable")
    start, count = 0, _FIRST_PAIRS
    while start < len(order):
        some = order[start : start + count]
        yield s1[some], s2[some], float(least[s1[some[0]], s2[some[0]]])
        start, count = start + count, 2 * count  # where few are feasible, many are needed


def _plan_cost(manifest: Manifest, every: Costs, codecs: tuple[Names, Names], choice: Choice) -> PlanCost:
    s1, s2, c1, c2 = choice
    terms = _terms(every, choice)
    seconds = sum(terms.values())
    plan = _plan(manifest.last, s1, s2, codecs[0][c1], codecs[1][c2], seconds)
    where = np.array([s1]), np.array([s2])
    total = {name: float(quantity.of(*where)[0, c1, c2]) for name, quantity in _others(every).items()}
    promised = manifest.calibration.accuracy - total["loss"] if manifest.calibration else None
    return PlanCost(plan, seconds, total["bytes"], total["joules"], promised, terms)


def _others(every: Costs) -> dict[str, Quantity]:
    return {"bytes": every.bytes, "joules": every.joules, "loss": every.loss}


def _terms(every: Costs, choice: Choice) -> dict[str, float]:
    s1, s2, c1, c2 = choice
    (near, far), coded = every.hops, not every.passes(*choice)
    return {
        "device compute": float(every.device[s1]),
        "encode 1": float(near.encode[s1, c1]),
        "network 1": float(near.network[s1, c1]),
        "queue 1": float(every.edge_queue[s1, s2]),
        "decode 1": coded * float(near.decode[s1, c1]),
        "edge compute": float(every.edge[s1, s2]),
        "encode 2": coded * float(far.encode[s2, c2]),
        "network 2": float(far.network[s2, c2]),
        "queue 2": float(far.queue[s2]),
        "decode 2": float(far.decode[s2, c2]),
        "cloud compute": float(every.cloud[s2]),
    }


def _plan(last: int, s1: int, s2: int, codec1: str, codec2: str, seconds: float) -> Plan:
    """Tiers after the one that ends the network have no stage; a tier on the way has one, maybe empty."""
    stages = [Stage(Tier.DEVICE, Segment(0, s1))]
    if s1 < last:
        stages.append(Stage(Tier.EDGE, Segment(s1, s2), codec1))
    if s2 < last:
        stages.append(Stage(Tier.CLOUD, Segment(s2, last), codec2))
    return Plan(tuple(stages), seconds)


def _parts(plan: Plan, last: int) -> tuple[int, int, tuple[Names, Names]] | None:
    """Split points and codecs of a plan over the three tiers in turn; None for any other."""
    device, edge, cloud = (plan.stage(tier) for tier in Tier)
    joined = [at for stage in plan.stages for at in (stage.segment.start, stage.segment.end)]
    turns = [0, *(at for at in joined[1:-1:2] for _ in range(2)), last]
    if device is None or [s.tier for s in plan.stages] != list(Tier)[: len(plan.stages)] or joined != turns:
        return None
    if joined != sorted(joined):
        return None
    s2 = edge.segment.end if edge else last
    return device.segment.end, s2, ((edge.codec if edge else "fp32",), (cloud.codec if cloud else "fp32",))

"""Every plan there is, with what it truly costs: what the oracle and hindsight choose from.

Written apart from the planner, and from measured costs at each split point and codec rather than from beliefs. A plan
is (s1, c1, s2, c2). Whatever follows the first hop does not depend on the trace, so that for each (s1, c1) one best
rest is kept: 'options'. Accuracy: the plans that the planner may use, by its own deltas and floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from device_agent import costs as planned
from device_agent.costs import Beliefs, Options
from services.bundle import Manifest
from services.domain import LinkEstimate, Plan, Policy, Segment, Stage, Tier, TierProfile
from testbed.bench.costs import Costs
from testbed.bench.world import FastRate, Floats, World
from testbed.traces import Rate

Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Network:
    """The network's expected way: P(still travelling) behind each split point, [S]."""

    manifest: Manifest
    stay: tuple[float, ...]

    def compute(self, costs: Costs, factor: float) -> Floats:
        """Expected seconds [S, S] of [a, b) for one who was there at a, times P(being there)."""
        last = self.manifest.last
        exits = [spec.split_point for spec in self.manifest.exits]
        table = np.zeros((last + 1, last + 1))
        for a in range(last + 1):
            for b in range(a + 1, last + 1):
                edges = [a, *(at for at in exits if a < at < b), b]
                pieces = pairwise(edges)
                table[a, b] = factor * sum(self.stay[x] * costs.seconds(x, y) for x, y in pieces)
        return table


@dataclass(frozen=True, slots=True)
class Choices:
    """Options that might be best at some moment, [N] each, and their plans.

    computes: whether the device runs anything, and so waits for its turn. before: expected seconds until the hop, of
    those who left before too. head: seconds until the hop for one who crosses it. stay: P(crossing). bytes: on the
    link. after: expected seconds behind the hop, given that it is crossed.
    """

    plans: tuple[Plan, ...]
    computes: npt.NDArray[np.bool_]
    before: Floats
    head: Floats
    stay: Floats
    bytes: Floats
    after: Floats

    def seconds(self, rate: FastRate, now: Floats, free: Floats, device_wait: float = 0.0) -> Floats:
        """Expected seconds [N] from `now` to the answer, on a link that is `free` then; both [N] or one number."""
        wait = np.where(self.computes, device_wait, 0.0)
        ready = now + wait + self.head
        finish = rate.finish(np.maximum(ready, free), self.bytes)
        return np.asarray(wait + self.before + self.stay * (finish - ready + self.after))


def choices(network: Network, costs: Costs, world: World, options: Options, policy: Policy) -> Choices:
    """The options of a network in a world, those left out that another is never behind."""
    found = _options(network, costs, world, options, policy)
    table = np.array([row for row, _ in found])
    computes = np.array([not plan.stages[0].segment.empty for _, plan in found])
    kept = [i for i in range(len(table)) if not _dominated(table, computes, i)]
    columns = table[kept].T
    plans = tuple(found[i][1] for i in kept)
    return Choices(plans, computes[kept], *(np.ascontiguousarray(column) for column in columns))


def _dominated(table: Floats, waits: npt.NDArray[np.bool_], index: int) -> bool:
    """Whether another option is never behind, on whatever link, and however long the device and the link are busy.

    It crosses no later, with no more bytes and no more often, and waits for the device no more often; so its bytes have
    arrived no later. What it may gain by crossing sooner is lost where the link is busy: its end is then held against
    the other's as if both had crossed when the later one does.
    """
    before, head, stay, size, after = table.T
    ends = before + stay * (head[index] - head + after)
    mine = before[index] + stay[index] * after[index]
    of_all = np.column_stack([head, stay, size, waits, ends])
    behind = of_all - np.array([head[index], stay[index], size[index], waits[index], mine])
    behind[stay == 0, 0] = behind[stay == 0, 2] = 0.0  # who never crosses has no head
    no_worse = (behind <= 1e-12).all(axis=1)
    better = (behind < -1e-12).any(axis=1)
    same_earlier = (np.abs(behind) <= 1e-12).all(axis=1) & (np.arange(len(table)) < index)
    return bool((no_worse & better).any() or same_earlier.any())


_Row = tuple[float, float, float, float, float]


def _options(network: Network, costs: Costs, world: World, options: Options, policy: Policy) -> list[tuple[_Row, Plan]]:
    manifest, stay, last = network.manifest, network.stay, network.manifest.last
    near, far = options.of_hops(manifest)
    device, edge, cloud = (network.compute(costs, world.slowdowns[tier]) for tier in Tier)
    loss, most = _losses(manifest, options, policy)
    rest = _far(costs, world, far, last) * np.array(stay[:last])[:, None] + cloud[:last, last][:, None]
    found: list[tuple[_Row, Plan]] = []
    if Tier.DEVICE in options.tiers:
        found.append(((device[0, last], device[0, last], 0.0, 0.0, 0.0), plan_of(last, last)))
    for s1 in range(last):
        if stay[s1] <= 0:
            continue
        for column, c1 in enumerate(near):
            if not np.isfinite(loss[0][s1, column]):
                continue
            at = costs.at(s1, c1)
            lost, beyond = loss[0][s1, column] + loss[1][s1:last], rest[s1:] + edge[s1, s1:last][:, None]
            if c1 in far:  # the edge may hand on what it gets, as it came
                lost[0, far.index(c1)] = loss[0][s1, column]
                beyond[0, far.index(c1)] -= stay[s1] * (at.encode_seconds + at.decode_seconds)
            beyond[lost > most] = np.inf
            best = int(beyond.argmin())
            s2, c2 = s1 + best // len(far), far[best % len(far)]
            after, plan = float(beyond.flat[best]), plan_of(last, s1, s2, c1, c2)
            if loss[0][s1, column] <= most and edge[s1, last] <= after:
                after, plan = float(edge[s1, last]), plan_of(last, s1, last, c1)
            if not np.isfinite(after):
                continue
            head = sum(_head(costs, manifest, s1)) * world.device_slowdown + at.encode_seconds
            row = (
                float(device[0, s1] + stay[s1] * at.encode_seconds),
                head,
                stay[s1],
                at.bytes + world.header_bytes,
                world.near_fixed_seconds + at.decode_seconds + after / stay[s1],
            )
            found.append((row, plan))
    return found


def _head(costs: Costs, manifest: Manifest, end: int) -> list[float]:
    """Seconds of the pieces of [0, end) for one who stays."""
    edges = [0, *(spec.split_point for spec in manifest.exits if spec.split_point < end), end]
    return [costs.seconds(a, b) for a, b in pairwise(edges)]


def _far(costs: Costs, world: World, codecs: Names, last: int) -> Floats:
    """Seconds [S - 1, C] of the second hop for one who crosses it; infinite where the codec does not fit."""
    table = np.full((last, len(codecs)), np.inf)
    for s2 in range(last):
        for column, name in enumerate(codecs):
            if (at := costs.find(s2, name)) is not None:
                moving = at.bytes / world.far_rate + world.far_fixed_seconds
                table[s2, column] = at.encode_seconds + moving + at.decode_seconds
    return table


def _losses(manifest: Manifest, options: Options, policy: Policy) -> tuple[tuple[Floats, Floats], float]:
    """Accuracy that each codec loses on each hop, [S, C]; infinite where it may not be used. And the most allowed."""
    known = {tier: TierProfile(tier) for tier in Tier}
    fast = {tier: LinkEstimate(tier, 0.0, 1e9) for tier in (Tier.DEVICE, Tier.EDGE)}
    every = planned.costs(Beliefs(manifest, known, fast), policy, 1, options.of_hops(manifest), options)
    near, far = (np.where(np.isfinite(hop.network), hop.loss, np.inf) for hop in every.hops)
    return (near, far), every.most_loss


def plan_of(last: int, s1: int, s2: int | None = None, c1: str = "fp32", c2: str = "fp32") -> Plan:
    """The plan that cuts at s1 and s2; tiers behind the one that ends the network have no stage."""
    end = last if s2 is None else s2
    stages = [Stage(Tier.DEVICE, Segment(0, s1))]
    if s1 < last:
        stages.append(Stage(Tier.EDGE, Segment(s1, end), c1))
        if end < last:
            stages.append(Stage(Tier.CLOUD, Segment(end, last), c2))
    return Plan(tuple(stages))


def over_trace(found: Choices, rate: Rate, start: float, end: float, every: float = 0.25) -> npt.NDArray[np.float64]:
    """Expected seconds [moments, N] of each option when it begins on an idle link every so many seconds of a trace."""
    fast = FastRate(rate)
    moments = np.arange(start, end, every)
    return np.stack([found.seconds(fast, np.full(len(found.plans), at), np.zeros(1)) for at in moments])


def crosses(seconds: Floats, margin: float = 0.10, share: float = 0.05) -> bool:
    """Whether a trace crosses a break-even, by what every option [moments, N] would take.

    The best option changes, and each option is more than `margin` behind the best in more than `share` of the moments.
    """
    best = seconds.min(axis=1, keepdims=True)
    behind = (seconds > (1 + margin) * best).mean(axis=0)
    return len(np.unique(seconds.argmin(axis=1))) > 1 and bool((behind > share).all())

"""What each way of cutting a network costs, in parts that add up. Pure.

S is the number of split points, C of codecs that a hop may use. A plan is (s1, s2, c1, c2): the device computes
[0, s1), the edge [s1, s2), the cloud the rest. Whatever it costs is `first[s1, c1] + between[s1, s2] +
second[s2, c2]`, so that S x C + S x S + S x C numbers say all about S x C x S x C plans. Only where the edge hands on
what it gets, as it came, something is `saved[s, c1, c2]`: nothing is decoded there, encoded again, or lost twice.

After the three-tier model of PORTEND (section II-C): compute and hops weighted by who still travels; with codecs,
queues and accuracy deltas added. Unknown is infinity.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from device_agent.hops import Hop, Mask, Names, hop, offered
from device_agent.times import Array, Same, Travellers, expected_compute
from services import codec
from services.bundle import Manifest
from services.domain import LinkEstimate, Objective, Policy, Tier, TierProfile
from services.exits import expected_rate

Indices = npt.NDArray[np.intp]

_ROUNDING = 1e-9
_MOST_LEAVING = 15 / 16


@dataclass(frozen=True, slots=True)
class Beliefs:
    """What is known of the network, the machines and the links.

    profiles: by tier; a tier that is absent is unknown and in no plan. links: by source; one that is absent, or whose
    RTT or rate is None, is crossed by no plan. stay: for each split point, the probability that a sample still
    travels after it; None: as the manifest's exits say.
    """

    manifest: Manifest
    profiles: Mapping[Tier, TierProfile]
    links: Mapping[Tier, LinkEstimate]
    stay: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator allows, and figures that nobody measures.

    codecs: of each hop, nearest first. image_codecs: besides them at split point 0, where the input is an image.
    tiers: those that may compute. max_accuracy_loss: what codecs may cost where the policy names no accuracy.
    Watts are the device's while it computes or encodes, and while it waits; joules_per_byte is what sending takes.
    """

    codecs: tuple[Names, Names] = (codec.INTERIOR, codec.INTERIOR)
    image_codecs: Names = codec.IMAGE
    tiers: frozenset[Tier] = frozenset(Tier)
    max_accuracy_loss: float = 0.005
    active_watts: float = 5.0
    idle_watts: float = 1.0
    joules_per_byte: float = 1e-6

    def of_hops(self, manifest: Manifest) -> tuple[Names, Names]:
        """Every codec that may be used somewhere on each hop. Raises InvalidInput for an unknown name."""
        first, second = (offered(manifest, (*names, *self.image_codecs)) for names in self.codecs)
        return first, second


OPTIONS = Options()


@dataclass(frozen=True, slots=True)
class Quantity:
    """Something that adds up over a plan, less what is saved where the edge hands on what it gets.

    first [S, C], between [S, S], second [S, C]; saved [S, C, C].
    """

    first: Array
    between: Array
    second: Array
    saved: Array

    def of(self, s1: Indices, s2: Indices) -> Array:
        """For each of N pairs of split points [N], with all codecs: [N, C, C]."""
        near = self.first[s1] + self.between[s1, s2][:, None]
        found = np.asarray(near[:, :, None] + self.second[s2][:, None, :])
        same = s1 == s2
        found[same] -= self.saved[s1[same]]
        return found

    def least(self) -> Array:
        """For every pair of split points, the least that any codecs give: [S, S]. No codecs give less."""
        near = self.first.min(axis=1)[:, None] + self.between
        found = np.asarray(near + self.second.min(axis=1))
        every = np.arange(len(found))
        found[every, every] = self.of(every, every).min(axis=(1, 2))
        return found


@dataclass(frozen=True)
class Costs:
    """The parts of every plan: device [S] computes [0, s1), edge [S, S] computes [s1, s2), cloud [S] [s2, last).

    `most_loss` is the most accuracy that the codecs of a plan may lose together. same [C, C]: whether a codec of the
    first hop is that of the second.
    """

    device: Array
    edge: Array
    cloud: Array
    hops: tuple[Hop, Hop]
    same: Mask
    most_loss: float
    options: Options

    @cached_property
    def seconds(self) -> Quantity:
        """End to end. Infinite where a plan cannot be run, or not judged."""
        near, far = self.hops
        beyond, between = (far.queue + self.cloud)[:, None], self.edge_queue + self.edge
        saved = self._passing(near.decode[:, :, None] + far.encode[:, None, :])
        return Quantity(self.device[:, None] + near.seconds, between, far.seconds + beyond, saved)

    @cached_property
    def edge_queue(self) -> Array:
        """Seconds [S, S] of waiting for a worker of the edge: none where it runs nothing and only passes on."""
        computes = ~np.eye(len(self.edge), dtype=bool)
        return np.where(computes, self.hops[0].queue[:, None], 0.0)

    @cached_property
    def joules(self) -> Quantity:
        """Of the device: active while it computes and encodes, idle while it waits, and what sending takes."""
        busy = _finite(self.device[:, None] + self.hops[0].encode)
        more = (self.options.active_watts - self.options.idle_watts) * busy
        sending = self.options.joules_per_byte * self.hops[0].bytes
        every = self.seconds
        parts = (every.first, every.between, every.second, every.saved)
        first, between, second, saved = (self.options.idle_watts * _finite(part) for part in parts)
        return self._where_possible(first + more + sending, second, saved, between)

    @cached_property
    def bytes(self) -> Quantity:
        return self._where_possible(self.hops[0].bytes, self.hops[1].bytes, np.zeros_like(self.seconds.saved))

    @cached_property
    def loss(self) -> Quantity:
        """Of accuracy, by the codecs of both hops."""
        near, far = (hop.loss for hop in self.hops)
        return self._where_possible(near, far, self._passing(np.minimum(near[:, :, None], far[:, None, :])))

    def passes(self, s1: int, s2: int, c1: int, c2: int) -> bool:
        """Whether the edge hands on what it gets, as it came."""
        return s1 == s2 < len(self.device) - 1 and bool(self.same[c1, c2])

    def _passing(self, saved: Array) -> Array:
        """`saved` [S, C, C] where one codec is used twice, and somebody travels."""
        found = np.where(self.same, saved, 0.0)
        found[-1] = 0
        return found

    def _where_possible(self, first: Array, second: Array, saved: Array, between: Array | None = None) -> Quantity:
        """Infinite, as `seconds`, where a codec may not cross, so that it does not pass for the best one."""
        return Quantity(
            np.where(np.isfinite(self.seconds.first), first, np.inf),
            np.zeros_like(self.edge) if between is None else between,
            np.where(np.isfinite(self.seconds.second), second, np.inf),
            saved,
        )

    def of(self, objective: Objective) -> Quantity:
        return {Objective.ENERGY: self.joules, Objective.BYTES: self.bytes}.get(objective, self.seconds)


def costs(beliefs: Beliefs, policy: Policy, batch_size: int, codecs: tuple[Names, Names], options: Options) -> Costs:
    """The costs of every plan for a batch. Raises InvalidInput for an unknown codec, ValueError for a bad `stay`."""
    manifest, profiles, links = beliefs.manifest, beliefs.profiles, beliefs.links
    travellers = Travellers.of(stay(manifest, policy.leaving) if beliefs.stay is None else beliefs.stay, batch_size)
    if len(travellers.share) != len(manifest.split_points):
        raise ValueError(f"{len(travellers.share)} stay rates for {len(manifest.split_points)} split points")
    device, edge, cloud = (_compute(beliefs, tier, travellers, options) for tier in Tier)
    near, far = (
        hop(manifest, names, travellers, links.get(t), profiles.get(t), profiles.get(Tier(t + 1)), policy)
        for t, names in zip((Tier.DEVICE, Tier.EDGE), codecs, strict=True)
    )
    same = np.array(codecs[0])[:, None] == np.array(codecs[1])
    return Costs(device[0], edge, cloud[:, -1], (near, far), same, _most_loss(manifest, policy, options), options)


def stay(manifest: Manifest, leaving: tuple[float, ...] | None = None) -> tuple[float, ...]:
    """The probability that a sample still travels after each split point.

    leaving: the share that leaves at each exit; None: by the exits' curves at their thresholds.
    """
    return _stay(Same(manifest), leaving)


@lru_cache(maxsize=64)
def _stay(manifest: Same[Manifest], leaving: tuple[float, ...] | None) -> tuple[float, ...]:
    spec, share = manifest.value, np.ones(len(manifest.value.split_points))
    rates = _leaving(spec, [each.threshold for each in spec.exits]) if leaving is None else leaving
    for each, rate in zip(spec.exits, rates, strict=True):
        share[each.split_point :] *= 0.0 if each.split_point == spec.last else 1 - rate
    return tuple(share.tolist())


def expected_leaving(manifest: Manifest, thresholds: Iterable[float]) -> tuple[float, ...]:
    """The share expected to leave at each exit with these thresholds, one per exit, in eighths.

    Callers may ask for any threshold, and each share has plans of its own: a few steps keep them few. All leave only
    where nobody can stay.
    """
    return _in_eighths(Same(manifest), tuple(thresholds))


@lru_cache(maxsize=64)
def _in_eighths(manifest: Same[Manifest], thresholds: tuple[float, ...]) -> tuple[float, ...]:
    rates = zip(_leaving(manifest.value, thresholds), thresholds, strict=True)
    return tuple(1.0 if threshold == 0 else min(round(8 * rate) / 8, _MOST_LEAVING) for rate, threshold in rates)


def _leaving(manifest: Manifest, thresholds: Iterable[float]) -> list[float]:
    curves = ([(point.threshold, point.exit_rate) for point in each.curve] for each in manifest.exits)
    return [expected_rate(threshold, curve) for threshold, curve in zip(thresholds, curves, strict=True)]


def ready(manifest: Manifest, profile: TierProfile, batch_sizes: Iterable[int], options: Options) -> None:
    """Works out ahead what plans for these batch sizes will need of the network and of a machine: most of a first one.

    Raises InvalidInput for an unknown codec.
    """
    for names in options.of_hops(manifest):
        offered(manifest, names)  # tables are kept by the names that were asked for
    for size in batch_sizes:
        expected_compute(profile, Travellers.of(stay(manifest), size), ())


def _compute(beliefs: Beliefs, tier: Tier, travellers: Travellers, options: Options) -> Array:
    """Expected seconds [S, S] of [a, b) on `tier`. Where the plan has ended before, it need not be known."""
    exits = [spec.split_point for spec in beliefs.manifest.exits]
    expected = expected_compute(beliefs.profiles.get(tier), travellers, exits)
    if tier not in options.tiers:
        expected[~np.eye(len(expected), dtype=bool)] = np.inf
    expected[-1, -1] = 0
    return expected


def _most_loss(manifest: Manifest, policy: Policy, options: Options) -> float:
    """Without calibration there is no accuracy to keep, and only faithful codecs are offered."""
    if manifest.calibration is None:
        return math.inf
    if policy.min_accuracy is None:
        return options.max_accuracy_loss + _ROUNDING
    return manifest.calibration.accuracy - policy.min_accuracy + _ROUNDING


def _finite(values: Array) -> Array:
    return np.where(np.isfinite(values), values, 0.0)

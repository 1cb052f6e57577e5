"""All policies side by side on one trace, in the simulation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from device_agent.costs import Options
from device_agent.switching import SwitchRule
from services import codec
from services.bundle import Manifest
from services.domain import Plan, Policy, Segment, Stage, Tier
from services.errors import InvalidInput
from services.model import Model
from testbed.bench import costs as measured
from testbed.bench import policies
from testbed.bench.costs import Costs
from testbed.bench.journeys import Journeys
from testbed.bench.policies import (
    BEST_STATIC,
    ORACLES,
    OURS,
    DynamicSplit,
    Ours,
    Static,
)
from testbed.bench.routes import Choices, Network, choices, crosses, over_trace
from testbed.bench.speeds import Paces
from testbed.bench.statistics import Runs
from testbed.bench.virtual import Simulation, VirtualPolicy, drawn, poisson
from testbed.bench.workloads import Workload
from testbed.bench.world import Floats, Loop, World
from testbed.traces import Rate, rate_lately

_HINDSIGHT = 4
_POLICY = Policy()


@dataclass(frozen=True, slots=True)
class Bench:
    """One workload in one world, with all that is known of it. paces: how evenly tiers run; evenly, unless given."""

    workload: Workload
    world: World
    options: Options
    journeys: Journeys
    costs: Costs
    choices: Choices
    rule: SwitchRule
    asked_per_second: float | None = None
    paces: Paces = field(default_factory=dict)

    @property
    def device_seconds(self) -> float:
        """What the device takes alone, with exits, on the average."""
        manifest = self.workload.bundle.manifest
        journey = self.journeys.of(policies.static_plans(manifest)["device"])
        return float(np.mean(journey.compute[Tier.DEVICE])) + self.world.agent_seconds

    @property
    def capacity(self) -> float:
        """Requests per second that the device could answer alone: what does not depend on any link."""
        return 1 / self.device_seconds

    @property
    def per_second(self) -> float:
        """Requests per second of an open loop: half of capacity, unless asked for otherwise."""
        return self.capacity / 2 if self.asked_per_second is None else self.asked_per_second


def bench(
    workload: Workload, world: World, options: Options, kept: Path, rule: SwitchRule, speed: float = 1.0
) -> Bench:
    """Measures what has not been measured yet, and runs the samples once to see where they leave."""
    model = Model(workload.bundle)
    names = codec_names(workload.bundle.manifest, options)
    inputs = workload.inputs()
    known = kept / measured.file_name(workload.bundle, inputs)
    costs = measured.of(workload.bundle, model, inputs, names, known)
    journeys = Journeys(workload, model, costs, world.slowdowns)
    network = Network(workload.bundle.manifest, staying(journeys))
    return Bench(workload, world, options, journeys, costs, choices(network, costs, world, options, _POLICY), rule)


def codec_names(manifest: Manifest, options: Options) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those that a policy may use, at the input and inside: faithful ones where nobody calibrated."""
    wanted = dict.fromkeys((*options.codecs[0], *options.codecs[1], *options.image_codecs, policies.RAW, policies.JPEG))
    kept = [name for name in wanted if manifest.calibration is not None or codec.faithful(name)]
    kept += [name for name in (policies.QUANTISED, "int8") if name not in kept]
    inside = set(codec.usable(manifest, 1))
    return (
        tuple(name for name in kept if name in codec.usable(manifest, 0)),
        tuple(name for name in kept if name in inside),
    )


def staying(journeys: Journeys) -> tuple[float, ...]:
    """The share of the samples that still travels behind each split point, without codecs."""
    manifest = journeys.workload.bundle.manifest
    journey = journeys.of(Plan((Stage(Tier.DEVICE, Segment(0, manifest.last)),)))
    left = np.array([manifest.exits[each].split_point for each in journey.exit])
    return tuple(float((left > k).mean()) for k in range(manifest.last + 1))


@dataclass(frozen=True, slots=True)
class Trial:
    """A piece of one trace, and how requests arrive on it, for `seconds` from the moment `start` of the trace on."""

    name: str
    rate: Rate
    seconds: float
    loop: Loop
    seed: int
    start: float = 0.0

    @property
    def end(self) -> float:
        return self.start + self.seconds

    def turns(self, count: int) -> list[Trial]:
        """The same so many times, each with requests of its own."""
        return [replace(self, seed=self.seed + turn) for turn in range(count)]

    def arrivals(self, per_second: float) -> list[float]:
        """When requests come in an open loop, in seconds of the trace. Raises InvalidInput where none does."""
        found = poisson(per_second, self.seconds, self.seed)
        if not found:
            raise InvalidInput(
                f"no request comes in {self.seconds:g} s at {per_second:.2g} a second; give more --seconds"
            )
        return [self.start + at for at in found]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One trial: each policy's runs; whether the trace crosses a break-even; the best static plan."""

    runs: Mapping[str, Runs]
    crosses: bool
    static: Plan | None


def run(
    each: Bench, trial: Trial, names: Sequence[str], on_policy: Callable[[str], None] = lambda name: None
) -> Outcome:
    """The runs of each policy called one of `names`, under exactly the same arrivals and samples."""
    found: dict[str, Runs] = {}
    seconds = np.minimum(over_trace(each.choices, trial.rate, trial.start, trial.end), each.world.limit_seconds)
    static = None
    for name in names:
        if name == BEST_STATIC:
            static, found[name] = best_static(each, trial, seconds)
        else:
            found[name] = simulate(each, trial, maker(each, name))
        on_policy(name)
    return Outcome(found, crosses(seconds), static)


Maker = Callable[[Simulation], VirtualPolicy]


def maker(each: Bench, name: str) -> Maker:
    manifest = each.workload.bundle.manifest
    static = policies.static_plans(manifest)
    if name in static:
        return lambda simulation: Static(static[name])
    if name in ORACLES:
        return lambda simulation: policies.oracle(name, each.choices, simulation.trusted())
    makers: dict[str, Maker] = {
        OURS: lambda s: policies.ours(
            manifest, each.costs, each.world, s.clock, s.queues, s.late, each.options, each.rule
        ),
        "dsc": lambda s: DynamicSplit(manifest, each.costs, each.world, lambda: rate_lately(s.rate, s.clock())),
    }
    return makers[name]


def best_static(each: Bench, trial: Trial, seconds: Floats) -> tuple[Plan, Runs]:
    """The best plan for the whole trace: the most promising by expectation, of them all and at each cut of the device,
    and those that are known beforehand, tried out: what makes queues promises more than it keeps.

    seconds: [moments, N].
    """
    by_request = 1 / np.mean(1 / seconds, axis=0)  # a closed loop asks more often while answers are quick
    order = np.argsort(by_request if trial.loop is Loop.CLOSED else seconds.mean(axis=0))
    promising = [each.choices.plans[i] for i in order]
    by_cut = {plan.stages[0].segment.end: plan for plan in reversed(promising)}.values()
    beforehand = policies.static_plans(each.workload.bundle.manifest).values()
    candidates = {plan.stages: plan for plan in (*promising[:_HINDSIGHT], *by_cut, *beforehand)}
    tried = [(plan, simulate(each, trial, _static(plan))) for plan in candidates.values()]
    return min(tried, key=lambda found: float(np.mean(found[1].seconds)))


def deadline_seconds(each: Bench) -> float:
    """What an answer is worth waiting for: twice what the device takes alone."""
    return 2 * each.device_seconds


def _static(plan: Plan) -> Maker:
    return lambda simulation: Static(plan)


def simulate(each: Bench, trial: Trial, make: Maker) -> Runs:
    """One policy on one trial."""
    simulation = Simulation(each.world, each.journeys, trial.rate, each.paces, trial.seed)
    policy = make(simulation)
    samples = drawn(len(each.workload.images), trial.seed)
    try:
        if trial.loop is Loop.CLOSED:
            return simulation.closed(policy, samples, trial.start, trial.end)
        return simulation.open(policy, samples, trial.arrivals(each.per_second))
    finally:
        if isinstance(policy, Ours):
            policy.close()

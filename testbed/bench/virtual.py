"""A discrete-event simulation of the three tiers: hours of trace in seconds, with the policies' own code.

What is simulated: machines (one run at a time, first come first served), links (bytes share a serialisation clock and
integrate over the trace), calls, callers that give up, and breakers. What is not: what policies think. They are the
planner, the live loop, link estimators, probes and profiles that run live, on the clock of the simulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from typing import Protocol, runtime_checkable

import numpy as np
import simpy

from device_agent.plans import Plans
from device_agent.queues import Queues
from services import codec, probing
from services.domain import NO_EXIT, Clock, LinkEstimate, Plan, Policy, Segment, Tier
from services.patience import Patience
from services.profile import Measured, Profiler
from services.response import Predictions, Response, Trace
from testbed.bench.hops import Outcome, Steps, VirtualHop
from testbed.bench.journeys import Journey, Journeys
from testbed.bench.speeds import Paces
from testbed.bench.statistics import Runs
from testbed.bench.trusting import TrustingBreaker
from testbed.bench.world import Line, World
from testbed.traces import Rate

_NOTHING = Predictions.empty(0, 1)
_POLICY = Policy()
_AT_ONCE = 1024
_ALL = Segment(0, 1)  # which segment ran does not matter to a queue

Ending = Generator[simpy.Event, None, Journey | None]


class VirtualPolicy(Plans, Protocol):
    """A policy, and whether its plans use the exits."""

    @property
    def with_exits(self) -> bool: ...


@runtime_checkable
class Probing(Protocol):
    """A policy that wants quiet links probed, and to be told what came of it."""

    def told(self, links: tuple[LinkEstimate, ...]) -> None: ...

    def needs_link(self) -> bool: ...


@dataclass(slots=True)
class Machine:
    """One tier's compute: one run at a time, in the order of arrival. paces: what each run takes over the usual."""

    profiler: Profiler
    paces: Iterator[float] = field(default_factory=lambda: repeat(1.0))
    free: float = 0.0

    def book(self, now: float, seconds: float) -> float:
        """Seconds until a run that is asked for now ends; who has nothing to run does not wait."""
        if not seconds:
            return 0.0
        start, seconds = max(now, self.free), seconds * next(self.paces)
        self.free = start + seconds
        self.profiler.record(_ALL, 1, seconds, start - now)
        return self.free - now


@dataclass(frozen=True, slots=True)
class Situation:
    """What there is to know at one moment, in full: only the oracles look at it.

    ahead: until the link has carried what is in flight on it, at a rate.
    """

    clock: Clock
    device_free: Clock
    line: Line
    ahead: Callable[[float], float]


@dataclass(slots=True)
class Simulation:
    """One policy on one trace. `journeys` say what becomes of each sample; runs vary as `paces` do, by `seed`."""

    world: World
    journeys: Journeys
    rate: Rate
    paces: Paces = field(default_factory=dict)
    seed: int = 0
    env: simpy.Environment = field(default_factory=simpy.Environment)
    machines: dict[Tier, Machine] = field(init=False)
    hops: dict[Tier, VirtualHop] = field(init=False)
    runs: Runs = field(default_factory=Runs)
    patience: Patience = field(init=False)
    _in_flight: int = 0

    def __post_init__(self) -> None:
        world = self.world
        self.patience = Patience(world.patience)
        self.machines = {tier: self._machine(tier) for tier in Tier}
        near, far = Line(self.rate, world.near_rtt_seconds / 2), world.far_line()
        self.hops = {
            Tier.DEVICE: self._hop(Tier.DEVICE, near, world.near_down),
            Tier.EDGE: self._hop(Tier.EDGE, far, world.far_rate),
        }

    def _machine(self, tier: Tier) -> Machine:
        profiler = Profiler(tier, clock=self.clock)
        profiler.learn(Measured(codecs=self.journeys.costs.profiled))
        return Machine(profiler, varied(self.paces.get(tier, ()), self.seed))

    def _hop(self, source: Tier, line: Line, down: float) -> VirtualHop:
        reply, header = self.world.reply_bytes, self.world.header_bytes
        return VirtualHop(source, self.env, line, reply / down, header, header + reply, self.world.call_seconds)

    def clock(self) -> float:
        return float(self.env.now)

    def queues(self) -> Queues:
        """What a request that came now would find before it."""
        wait = max(0.0, self.machines[Tier.DEVICE].free - self.clock())
        return Queues(wait, self.hops[Tier.DEVICE].ahead_seconds())

    def late(self) -> LinkEstimate | None:
        """What is believed of the device's link, while it keeps a call waiting."""
        return probing.late(self.hops[Tier.DEVICE])

    def trusted(self) -> Situation:
        """What is known by a policy of which from now on no breaker keeps calls back, as it knows the link itself."""
        hop = self.hops[Tier.DEVICE]
        hop.breaker = TrustingBreaker()
        return Situation(self.clock, lambda: self.machines[Tier.DEVICE].free, hop.line, hop.traffic.ahead_seconds)

    def closed(self, policy: VirtualPolicy, samples: Iterator[int], start: float, end: float) -> Runs:
        """One request after the other, from `start` until `end`."""

        def caller() -> Steps:
            yield self.env.timeout(start)
            while self.env.now < end:
                yield from self._request(policy, next(samples))

        self._probe(policy)
        self.env.run(self.env.process(caller()))
        return self._finished()

    def open(self, policy: VirtualPolicy, samples: Iterator[int], arrivals: list[float]) -> Runs:
        """Requests at `arrivals`, rising, whatever became of those before."""

        def caller() -> Steps:
            for at in arrivals:
                yield self.env.timeout(max(0.0, at - self.env.now))
                self.env.process(self._counted(policy, next(samples)))

        self._probe(policy)
        self.env.run(self.env.process(caller()))
        while self._in_flight:
            self.env.step()
        return self._finished()

    def _finished(self) -> Runs:
        self.runs.extra_bytes = self.hops[Tier.DEVICE].probed_bytes
        return self.runs

    def _counted(self, policy: VirtualPolicy, sample: int) -> Steps:
        self._in_flight += 1
        yield from self._request(policy, sample)
        self._in_flight -= 1

    def _request(self, policy: VirtualPolicy, sample: int) -> Steps:
        """One request, from the caller's question to the answer, and what the policy learns from it."""
        began = self.env.now
        plan = policy.plan(_POLICY, 1)
        journey, deadline = self.journeys.of(plan, policy.with_exits), began + self.world.limit_seconds
        if not (yield from self._runs_here(journey, sample, deadline)):
            self.runs.add(began, self.env.now - began, plan, failed=True)
            return
        yield self.env.timeout(self.world.agent_seconds)
        hop = journey.hops.get(Tier.DEVICE)
        crossing = hop.bytes[sample] if hop is not None else 0
        sent = crossing if crossing and self.hops[Tier.DEVICE].breaker.allows() else 0
        answering: Journey | None = journey
        if sent:
            answering = yield from self._answered(policy, plan, sample, deadline)
        elif crossing:
            answering = yield from self._finished_here(policy, journey, sample, deadline)
        right = answering.right[sample] if answering else journey.early_right[sample]
        exit_index = answering.exit[sample] if answering else journey.early[sample]
        self.runs.add(began, self.env.now - began, plan, sent, right, exit_index, failed=exit_index == NO_EXIT)
        policy.learn(self._response(sent > 0 and answering is journey), _POLICY, 1)

    def _answered(self, policy: VirtualPolicy, plan: Plan, sample: int, deadline: float) -> Ending:
        """The journey that brings the answer: the plan's or, where that takes longer than the device has patience for,
        the one that ends here, as in `services.tier`; None where there is no time left for it, or an answer from
        an exit that the sample passed here."""
        journey, asked, hop = self.journeys.of(plan, policy.with_exits), self.clock(), self.hops[Tier.DEVICE]
        rest = self.journeys.seconds_of_rest(journey) + self.queues().device
        patient = self._patient_until(plan, rest, deadline, journey.early[sample] != NO_EXIT)
        given = min(deadline, patient)
        arrived = yield from self._cross(Tier.DEVICE, journey, sample, plan, given)
        hop.ended(arrived, given - asked, plan.expected_seconds)
        (self.patience.took if arrived else self.patience.in_vain)(plan, 1, self.clock() - asked)
        if arrived or patient >= deadline:
            return journey if arrived else None
        return (yield from self._finished_here(policy, journey, sample, deadline))

    def _finished_here(self, policy: VirtualPolicy, journey: Journey, sample: int, deadline: float) -> Ending:
        """The journey whose rest the device runs after all; None where it does not come to its end in time."""
        finished = self.journeys.finished_here(journey, policy.with_exits)
        return finished if (yield from self._runs_here(finished, sample, deadline)) else None

    def _runs_here(self, journey: Journey, sample: int, deadline: float) -> Outcome:
        """What the device runs of it; False where time runs out, be it before its turn, when it does not begin."""
        seconds = journey.compute[Tier.DEVICE][sample]
        if seconds and self.clock() + self.queues().device >= deadline:
            ends = math.inf
        else:
            ends = self.clock() + self._compute(Tier.DEVICE, journey, sample)
        yield self.env.timeout(max(0.0, min(ends, deadline) - self.clock()))
        return ends <= deadline

    def _cross(self, source: Tier, journey: Journey, sample: int, plan: Plan, deadline: float) -> Outcome:
        """Encodes, sends, and waits for the answer; False where time runs out before."""
        hop, stage = journey.hops[source], plan.after(source)
        yield self.env.timeout(hop.encode_seconds)
        far = partial(self._far, source, journey, sample, plan, deadline)
        arrived = yield from self.hops[source].call(plan, hop.bytes[sample], deadline, far)
        if arrived and stage is not None and stage.codec in codec.IMAGE:
            self.machines[source].profiler.sent(stage.codec, hop.bytes[sample] / self.journeys.workload.input_bytes)
        return arrived

    def _far(self, source: Tier, journey: Journey, sample: int, plan: Plan, deadline: float) -> Outcome:
        """What the tier above does: decode, compute, go on if it must."""
        above = Tier(source + 1)
        yield self.env.timeout(journey.hops[source].decode_seconds)
        yield self.env.timeout(self._compute(above, journey, sample))
        following = journey.hops.get(above)
        if following is None or not following.bytes[sample]:
            return True
        return (yield from self._cross(above, journey, sample, plan, deadline))

    def _patient_until(self, plan: Plan, rest: float, deadline: float, answered: bool) -> float:
        """When the device takes back what it sends now, whose `rest` takes it so many seconds, if it is to at all.

        Who does not know how long to wait leaves time for the rest, unless an exit has answered already.
        """
        seconds = self.patience.seconds(plan, 1, rest) if self.world.patience else None
        if rest >= (deadline - self.clock()) / 2 or (seconds is None and answered):
            return math.inf
        return deadline - rest if seconds is None else min(self.clock() + seconds, deadline - rest)

    def _compute(self, tier: Tier, journey: Journey, sample: int) -> float:
        return self.machines[tier].book(self.env.now, journey.compute[tier][sample])

    def _response(self, crossed: bool) -> Response:
        """What an answer brings besides the answer."""
        tiers = tuple(Tier) if crossed else (Tier.DEVICE,)
        profiles = tuple(self.machines[tier].profiler.profile(()) for tier in tiers)
        return Response(_NOTHING, Trace(), profiles, self.links())

    def links(self) -> tuple[LinkEstimate, ...]:
        return tuple(hop.link() for hop in self.hops.values())

    def _probe(self, policy: VirtualPolicy) -> None:
        if isinstance(policy, Probing):
            for source, hop in self.hops.items():
                needed = policy.needs_link if source is Tier.DEVICE else probing.never
                self.env.process(hop.probing(needed, lambda: policy.told(self.links())))
                self.env.process(hop.watching(lambda: policy.told(self.links())))


def poisson(per_second: float, seconds: float, seed: int) -> list[float]:
    """Arrival times in [0, seconds)."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1 / per_second, int(seconds * per_second * 1.5) + 100)
    times = np.cumsum(gaps)
    return [float(at) for at in times[times < seconds]]


def varied(paces: Sequence[float], seed: int) -> Iterator[float]:
    """One of `paces` after the other, drawn from `seed`; always 1 where there are none."""
    rng = np.random.default_rng(seed)
    while len(paces):
        yield from rng.choice(paces, _AT_ONCE).tolist()
    yield from repeat(1.0)


def drawn(count: int, seed: int) -> Iterator[int]:
    """Samples of `count` in an order drawn from `seed`, all before any again."""
    rng = np.random.default_rng(seed)
    while True:
        yield from rng.permutation(count).tolist()

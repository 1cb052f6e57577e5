"""The policies that are held against each other. Each gives a request its plan and may learn from the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from device_agent.costs import Options
from device_agent.queues import Queues
from device_agent.replan import Replanner
from device_agent.switching import SwitchRule
from services.bundle import Manifest
from services.domain import Clock, Deadline, LinkEstimate, Plan, Policy, Segment, SegmentTime, Stage, Tier, TierProfile
from services.fixed import fixed_plan
from services.response import Response
from testbed.bench.costs import Costs
from testbed.bench.routes import Choices, plan_of
from testbed.bench.virtual import Situation
from testbed.bench.world import FastRate, Floats, World
from testbed.traces import ConstantRate, rate_lately

OURS, ORACLE, BEST_STATIC = "offramp", "oracle", "best-static"
NOW_ORACLE, LATE_ORACLE, LATE_SECONDS = "oracle-now", "oracle-late", 0.5
ORACLES = (ORACLE, NOW_ORACLE, LATE_ORACLE)
NAMES = (OURS, "device", "cloud-raw", "cloud-jpeg", BEST_STATIC, "dsc", "exits-fixed", *ORACLES)
_POLICY = Policy()
_LEAST_RATE = 1.0  # bytes per second: an outage is no rate
RAW, JPEG, QUANTISED = "pixels", "jpeg90", "int8+zstd"


@dataclass(slots=True)
class Static:
    """The same plan for every request."""

    fixed: Plan
    with_exits: bool = True

    def plan(self, policy: Policy, batch_size: int) -> Plan:
        return self.fixed

    def learn(self, response: Response, policy: Policy, batch_size: int) -> None:
        """It knows all it wants to know."""


@dataclass(slots=True)
class Oracle:
    """For each request the plan that will be answered first, in expectation over the exits.

    It knows the link's rate now and later, the queues for the device and for the link, and every cost as measured; not
    where a sample will leave.
    """

    choices: Choices
    situation: Situation
    with_exits: bool = True
    _rate: FastRate = field(init=False)

    def __post_init__(self) -> None:
        self._rate = FastRate(self.situation.line.rate)

    def plan(self, policy: Policy, batch_size: int) -> Plan:
        at, seen = self.situation.clock(), self.situation
        wait = max(0.0, seen.device_free() - at)
        return _first(self.choices, self.choices.seconds(self._rate, np.array([at]), np.array([seen.line.free]), wait))

    def learn(self, response: Response, policy: Policy, batch_size: int) -> None:
        """It knows everything already."""


@dataclass(slots=True)
class LateOracle:
    """The oracle without foresight, or half a second late: yardsticks for planners that have to find out.

    Every cost and the device's queue it knows as the oracle does. Of the link it knows the rate that was so many
    seconds ago, 0 for the one that is, believes that it lasts, and how long what is in flight would then take. A rate
    shows in what calls take, so that whoever asks a few times a second seldom knows it much earlier. No bound: it does
    not notice calls that are overdue.
    """

    choices: Choices
    situation: Situation
    late_seconds: float = LATE_SECONDS
    with_exits: bool = True

    def plan(self, policy: Policy, batch_size: int) -> Plan:
        at, seen = self.situation.clock(), self.situation
        rate = max(rate_lately(seen.line.rate, max(0.0, at - self.late_seconds)), _LEAST_RATE)
        free = np.array([at + seen.ahead(rate)])
        wait = max(0.0, seen.device_free() - at)
        return _first(self.choices, self.choices.seconds(FastRate(ConstantRate(rate)), np.array([at]), free, wait))

    def learn(self, response: Response, policy: Policy, batch_size: int) -> None:
        """It knows what it may know."""


def oracle(name: str, choices: Choices, situation: Situation) -> Oracle | LateOracle:
    """The one of `ORACLES` that is called `name`."""
    if name == ORACLE:
        return Oracle(choices, situation)
    return LateOracle(choices, situation, LATE_SECONDS if name == LATE_ORACLE else 0.0)


def _first(choices: Choices, seconds: Floats) -> Plan:
    """The plan that is answered first, and when: by that a device knows how long to wait for it."""
    best = int(seconds.argmin())
    return replace(choices.plans[best], expected_seconds=float(seconds[best]))


@dataclass(slots=True)
class DynamicSplit:
    """Dynamic Split Computing (Bakhtiarnia et al., ICASSP 2023) as published: two machines, no exits, one rate.

    T_device; T_offload(R) = t_server + L_in / R; T_k(R) = t_head,k + t_tail,k + L_k / R over the compressive natural
    bottlenecks, one byte per element; R is what the link carries now, told to it. Round trips are not in its
    equations. The edge passes on what it gets.
    """

    manifest: Manifest
    costs: Costs
    world: World
    rate_now: Callable[[], float]
    with_exits: bool = False
    _plans: list[Plan] = field(init=False)
    _fixed: list[float] = field(init=False)
    _bytes: list[int] = field(init=False)

    def __post_init__(self) -> None:
        last, points = self.manifest.last, self.manifest.split_points
        splits = [p.index for p in points[1:-1] if p.natural and p.compressive]
        head = {k: self.costs.seconds(0, k) * self.world.device_slowdown for k in (*splits, last)}
        self._plans = [plan_of(last, last), relay(last, 0, RAW), *(relay(last, k, "int8") for k in splits)]
        self._fixed = [
            head[last],
            self.costs.seconds(0, last),
            *(head[k] + self.costs.seconds(k, last) for k in splits),
        ]
        self._bytes = [0, points[0].elements, *(points[k].elements for k in splits)]

    def plan(self, policy: Policy, batch_size: int) -> Plan:
        rate = max(min(self.rate_now(), self.world.far_rate), 1.0)
        seconds = [fixed + size / rate for fixed, size in zip(self._fixed, self._bytes, strict=True)]
        return self._plans[seconds.index(min(seconds))]

    def learn(self, response: Response, policy: Policy, batch_size: int) -> None:
        """It is told the rate."""


def relay(last: int, split: int, codec: str) -> Plan:
    """Device and cloud only: the edge passes on what it gets, by the same codec."""
    stages = (Stage(Tier.EDGE, Segment(split, split), codec), Stage(Tier.CLOUD, Segment(split, last), codec))
    return Plan((Stage(Tier.DEVICE, Segment(0, split)), *stages))


@dataclass(slots=True)
class _Ready:
    """Prepares nothing, at once: what preparing takes is simulated by `Ours`."""

    def ready(self, plan: Plan) -> bool:
        return False

    async def prepare(self, plan: Plan, deadline: Deadline) -> None:
        return


@dataclass(slots=True)
class Ours:
    """The live loop itself on the clock of a simulation. A switch comes into effect `prepare_seconds` later,
    at once where the device alone is to run."""

    replanner: Replanner
    clock: Clock
    prepare_seconds: float = 0.05
    with_exits: bool = True
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _current: Plan | None = None
    _next: tuple[float, Plan] | None = None

    def plan(self, policy: Policy, batch_size: int) -> Plan:
        if self._current is None:
            self._current = self._loop.run_until_complete(self._planned(policy, batch_size))
        if self._next is not None and self.clock() >= self._next[0]:
            self._current, self._next = self._next[1], None
        self._come(self._loop.run_until_complete(self._planned(policy, batch_size)))  # heeding the link needs the loop
        given = self.replanner.plan(policy, batch_size)
        spared = given.stages != self.replanner.chosen(policy, batch_size).stages
        return given if spared else self._current

    def learn(self, response: Response, policy: Policy, batch_size: int) -> None:
        self._come(self._loop.run_until_complete(self._considered(response, policy, batch_size)))

    def told(self, links: tuple[LinkEstimate, ...]) -> None:
        """What probes found, without an answer."""
        self.replanner.believe([], links)
        if self._current is None:
            return
        self._come(self._loop.run_until_complete(self._reconsidered()))

    def needs_link(self) -> bool:
        """Whether plans may depend on how the device's link is."""
        return self.replanner.needs_link()

    def close(self) -> None:
        """Lets go of the event loop."""
        self._loop.close()

    def _come(self, plan: Plan) -> None:
        """Takes a plan as it was decided on: at once where it is the one in use, else when it is prepared."""
        alone = plan.after(Tier.DEVICE) is None  # nobody else has to prepare anything
        if self._current is None or alone or plan.stages == self._current.stages:
            self._current, self._next = plan, None
        elif self._next is None or plan.stages != self._next[1].stages:
            self._next = (self.clock() + self.prepare_seconds, plan)

    async def _reconsidered(self) -> Plan:
        self.replanner.reconsider()
        await self.replanner.settle()
        return self.replanner.chosen(_POLICY, 1)

    async def _planned(self, policy: Policy, batch_size: int) -> Plan:
        self.replanner.plan(policy, batch_size)
        await self.replanner.settle()
        return self.replanner.chosen(policy, batch_size)

    async def _considered(self, response: Response, policy: Policy, batch_size: int) -> Plan:
        self.replanner.learn(response, policy, batch_size)
        await self.replanner.settle()
        return self.replanner.chosen(policy, batch_size)


def ours(
    manifest: Manifest,
    costs: Costs,
    world: World,
    clock: Clock,
    queues: Callable[[], Queues],
    late: Callable[[], LinkEstimate | None],
    options: Options,
    rule: SwitchRule,
) -> Ours:
    """Our policy, knowing of the machines what they would tell it at start, and nothing of the links."""
    replanner = Replanner(manifest, fallback(manifest), _Ready(), options, rule, clock, queues, late)
    replanner.believe([profile(costs, tier, world) for tier in Tier], [])
    return Ours(replanner, clock)


def fallback(manifest: Manifest) -> Plan:
    """What an agent does before it can compare plans."""
    return fixed_plan(manifest, None, (QUANTISED, QUANTISED))


def profile(costs: Costs, tier: Tier, world: World) -> TierProfile:
    """What the machine of a tier says of itself: its own, slower seconds, and its codecs."""
    factor = world.slowdowns[tier]
    times = tuple(SegmentTime(each.segment, each.batch_size, each.seconds * factor) for each in costs.segments)
    return TierProfile(tier, 0.0, times, costs.profiled)


def static_plans(manifest: Manifest) -> dict[str, Plan]:
    """The policies that are one plan, known beforehand."""
    last = manifest.last
    return {
        "device": plan_of(last, last),
        "cloud-raw": relay(last, 0, RAW),
        "cloud-jpeg": relay(last, 0, JPEG),
        "exits-fixed": fallback(manifest),
    }

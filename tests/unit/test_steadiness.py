"""That a plan stays where the link does: tiny requests, jitter, and answers that now and then wait to be read."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from device_agent.planner import Options
from device_agent.replan import Replanner
from services import bundle
from services.domain import Deadline, Plan, Policy, Segment, SegmentTime, Tier, TierProfile
from services.fixed import fixed_plan
from services.link import LinkEstimator
from services.probing import LOOK_SECONDS, ProbeSchedule
from services.response import Predictions, Response, Trace
from services.traffic import Traffic
from tests.fakes import FakeClock

MBIT = 125_000.0
POLICY = Policy()
SECONDS = 60.0
MOST_SWITCHES = SECONDS / 5
LOCAL_SECONDS = 0.022
IDLE = 1e9


class _Ready:
    def ready(self, plan: Plan) -> bool:
        return False

    async def prepare(self, plan: Plan, deadline: Deadline) -> None:
        return


@dataclass(slots=True)
class Device:
    """A device whose every call over a link of `rtt` and `rate` may stall, seen with the eyes of its own planner.

    every: of so many calls one stalls, for 10 to 60 ms.
    """

    rtt: float
    rate: float
    every: float
    seed: int
    replanner: Replanner
    clock: FakeClock
    estimator: LinkEstimator = field(init=False)
    traffic: Traffic = field(init=False)
    schedule: ProbeSchedule = field(init=False)
    rng: random.Random = field(init=False)
    paid: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.estimator, self.traffic = LinkEstimator(Tier.DEVICE, self.clock), Traffic(self.clock)
        self.schedule, self.rng = ProbeSchedule(self.clock), random.Random(self.seed)

    async def run(self, think_seconds: float) -> None:
        ends = self.clock.now + SECONDS
        request_at = self.clock.now + 1
        while self.clock.now < ends:
            if self.clock.now >= request_at:
                await self._request()
                request_at = self.clock.now + self.rng.expovariate(1 / think_seconds)
            elif not await self._probe():
                self.clock.now += LOOK_SECONDS
                await self.replanner.settle()

    async def _request(self) -> None:
        began, away = self.clock.now, self.replanner.plan(POLICY, 1).after(Tier.DEVICE) is not None
        if not away:
            self.clock.now += LOCAL_SECONDS
        else:
            size = self.rng.randint(100, 400)
            with self.traffic.crossing(size, beyond_seconds=0.0):
                took = await self._cross(size + 380, 0.0008)
            self.estimator.record(size, took, 380)
        self.paid.append(self.clock.now - began)
        links = (self.estimator.estimate(self.traffic.waiting()),)
        self.replanner.learn(Response(Predictions.empty(1, 3), Trace(), (), links), POLICY, 1)
        await self.replanner.settle()

    async def _probe(self) -> bool:
        link, traffic = self.estimator.estimate(), self.traffic
        needed = self.replanner.needs_link()
        quiet, untaught = traffic.quiet_seconds(), self.estimator.untaught_seconds()
        due = self.schedule.due(link, quiet, self.estimator.doubtful, needed, untaught)
        if due is None:
            return False
        with traffic.crossing(due, probes=True):
            took = await self._cross(due + 190, 0.0)
        self.estimator.record(due, took)
        self.schedule.answered(due)
        await self._heard()
        return True

    async def _cross(self, size: int, handling: float) -> float:
        """Seconds of one call, while somebody looks at what is overdue, as `Prober` does."""
        stall = self.rng.uniform(0.010, 0.060) if self.rng.random() < 1 / self.every else 0.0
        took = self.rtt + size / self.rate + self.rng.uniform(0.0001, 0.001) + handling + stall
        began, look = self.clock.now, LOOK_SECONDS * self.rng.random()
        while look < took:
            self.clock.now = began + look
            if self.estimator.overdue(self.traffic.waiting()):
                await self._heard()
            look += LOOK_SECONDS
        self.clock.now = began + took
        return took

    async def _heard(self) -> None:
        self.replanner.believe([], [self.estimator.estimate(self.traffic.waiting())])
        self.replanner.reconsider()
        await self.replanner.settle()


def _profile(tier: Tier, seconds: float, last: int) -> TierProfile:
    spans = [Segment(a, b) for a in range(last) for b in range(a + 1, last + 1) if a == 0 or b == last]
    return TierProfile(tier, 0.0, tuple(SegmentTime(s, 1, seconds * (s.end - s.start) / last) for s in spans))


def device(tiny: Path, rtt: float, mbit: float, every: float, seed: int) -> Device:
    manifest, clock = bundle.load(tiny).manifest, FakeClock(100)
    options = Options(codecs=(("fp32",), ("fp32",)), image_codecs=())
    fallback = fixed_plan(manifest, None, ("fp32", "fp32"))
    replanner = Replanner(manifest, fallback, _Ready(), options, clock=clock)
    tiers = {Tier.DEVICE: LOCAL_SECONDS, Tier.EDGE: 0.0001}
    replanner.believe([_profile(tier, seconds, manifest.last) for tier, seconds in tiers.items()], [])
    return Device(rtt, mbit * MBIT, every, seed, replanner, clock)


@pytest.mark.parametrize("think_seconds", [0.03, 0.5, IDLE])
@pytest.mark.parametrize(("every", "mbit"), [(50, 20), (10, 5)])
async def test_answers_that_wait_to_be_read_do_not_change_the_plan(
    tiny: Path, every: float, mbit: float, think_seconds: float
) -> None:
    found = device(tiny, 0.012, mbit, every, seed=1)
    await found.run(think_seconds)
    assert found.replanner.changes <= MOST_SWITCHES
    if think_seconds != IDLE:
        best = 0.012 + 500 / found.rate + 0.0014 + 0.035 / every
        assert sum(found.paid) / len(found.paid) < 1.10 * best


@pytest.mark.parametrize("rtt", [0.0195, 0.021])
@pytest.mark.parametrize("think_seconds", [0.03, IDLE])
async def test_around_a_break_even_jitter_does_not_change_the_plan(
    tiny: Path, rtt: float, think_seconds: float
) -> None:
    found = device(tiny, rtt, 20, every=1e9, seed=2)
    await found.run(think_seconds)
    assert found.replanner.changes <= MOST_SWITCHES
    if think_seconds != IDLE:
        assert sum(found.paid) / len(found.paid) < 1.10 * min(LOCAL_SECONDS, rtt + 0.0017)


async def test_a_link_that_collapses_changes_the_plan_within_a_second_though_calls_stall(tiny: Path) -> None:
    found = device(tiny, 0.012, 20, every=20, seed=3)
    await found.run(0.5)
    before = found.replanner.chosen(POLICY, 1)
    found.rtt, began = 0.250, found.clock.now
    while found.replanner.chosen(POLICY, 1).stages == before.stages and found.clock.now < began + 5:
        if not await found._probe():
            found.clock.now += LOOK_SECONDS
        await asyncio.sleep(0)
    assert before.after(Tier.DEVICE) is not None
    assert found.replanner.chosen(POLICY, 1).after(Tier.DEVICE) is None
    assert found.clock.now - began <= 1.0

"""What tests of replanning share: links and machines to believe in, and one who prepares plans."""

from __future__ import annotations

import asyncio

from device_agent.replan import REPLAN_SECONDS, Replanner
from services.domain import Deadline, LinkEstimate, Plan, Policy, Segment, SegmentTime, Stage, Tier, TierProfile
from services.errors import NotHeld, UpstreamUnavailable
from services.response import Predictions, Response, Trace
from tests.fakes import FakeClock

POLICY = Policy()
FAST, SLOW = LinkEstimate(Tier.DEVICE, 0.001, 1e8), LinkEstimate(Tier.DEVICE, 0.001, 50.0)
MIDDLING = LinkEstimate(Tier.DEVICE, 0.001, 400.0)
UNKNOWN = LinkEstimate(Tier.DEVICE)


class Prepares:
    """Notes what it was asked to prepare; waits for `gate`, and fails while `error` is set."""

    def __init__(self) -> None:
        self.asked: list[Plan] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: UpstreamUnavailable | None = None
        self.resident: tuple[Tier, ...] = ()

    def ready(self, plan: Plan) -> bool:
        return tuple(stage.tier for stage in plan.stages) == self.resident

    async def prepare(self, plan: Plan, deadline: Deadline) -> None:
        self.asked.append(plan)
        await self.gate.wait()
        if self.error:
            raise self.error


class Refuses:
    """Prepares all plans but those of `stages`."""

    def __init__(self, *stages: tuple[Stage, ...]) -> None:
        self.stages = stages
        self.asked: list[Plan] = []

    def ready(self, plan: Plan) -> bool:
        return False

    async def prepare(self, plan: Plan, deadline: Deadline) -> None:
        self.asked.append(plan)
        if plan.stages in self.stages:
            raise NotHeld("not this one")


def profile_of(tier: Tier, seconds: float, last: int) -> TierProfile:
    """Every step takes `seconds`."""
    spans = [Segment(a, b) for a in range(last) for b in range(a + 1, last + 1) if a == 0 or b == last]
    return TierProfile(tier, 0.0, tuple(SegmentTime(s, 1, seconds * (s.end - s.start)) for s in spans))


def told(*links: LinkEstimate, profiles: tuple[TierProfile, ...] = ()) -> Response:
    return Response(Predictions.empty(1, 3), Trace(), profiles, links)


async def learnt(replanner: Replanner, clock: FakeClock, *links: LinkEstimate) -> Plan:
    clock.now += 2 * REPLAN_SECONDS
    replanner.learn(told(*links), POLICY, 1)
    await replanner.settle()
    return replanner.plan(POLICY, 1)


def hear(replanner: Replanner, clock: FakeClock, link: LinkEstimate) -> None:
    """An answer that tells of `link`, when it is time to think again."""
    clock.now += 2 * REPLAN_SECONDS
    replanner.learn(told(link), POLICY, 1)


def begin_switch(replanner: Replanner, clock: FakeClock, prepares: Prepares, link: LinkEstimate) -> None:
    """To what suits `link`; it does not end before the gate of `prepares` is set."""
    prepares.gate.clear()
    hear(replanner, clock, link)

"""A tier above that answers what travels as one, and those who ask it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from services.domain import Clock, Deadline, Plan, Request, Segment, SegmentTime, Stage, Tier, TierProfile
from services.gathering import Gathering
from services.journey import Forwarded
from services.response import HopTrace, Predictions, Response, Trace

HERE = Plan((Stage(Tier.DEVICE, Segment(0, 0)), Stage(Tier.EDGE, Segment(0, 4))))
ELSEWHERE = Plan((Stage(Tier.DEVICE, Segment(0, 0)), Stage(Tier.EDGE, Segment(0, 4), "int8")))
BEYOND = Plan((*HERE.stages[:1], Stage(Tier.EDGE, Segment(0, 2)), Stage(Tier.CLOUD, Segment(2, 4))))


@dataclass
class Far:
    """A tier above that answers each sample with its own number, once it may."""

    seconds: float = 1e-5
    sizes: list[int] = field(default_factory=list)
    members: list[tuple[str, ...]] = field(default_factory=list)
    deadlines: list[Deadline] = field(default_factory=list)
    fails: list[Exception] = field(default_factory=list)
    degraded: int = 0
    may: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: int = 0

    def __post_init__(self) -> None:
        self.may.set()

    async def send(self, request: Request, codec_name: str, members: Sequence[str] = ()) -> Forwarded:
        count = len(request.activation)
        self.sizes.append(count)
        self.members.append(tuple(members))
        self.deadlines.append(request.deadline)
        try:
            await self.may.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if members and self.fails:
            raise self.fails.pop()
        answers = Predictions.empty(count, 2)
        answers.scores[:, 0] = request.activation[:, 0]
        answers.exits[:] = 0
        answers.reasons[:] = self.degraded if members else 0
        profile = TierProfile(Tier.EDGE, segments=(SegmentTime(Segment(0, 4), count, self.seconds * count),))
        response = Response(answers, Trace((HopTrace(Tier.EDGE),)), (profile,))
        return Forwarded(response, 0.001, 64 * count, 32 * count, codec_name)


def asking(number: int, plan: Plan = HERE, seconds: float = 10.0, count: int = 1) -> Request:
    tensor = np.full((count, 3), number, np.float32)
    return Request(f"r{number}", "hash", plan, 0, tensor, Deadline.after(seconds))


async def asked(gathering: Gathering, requests: Sequence[Request]) -> list[Forwarded]:
    return list(await asyncio.gather(*(gathering.infer(request, "fp32") for request in requests)))


async def crowded(far: Far, clock: Clock = time.monotonic) -> Gathering:
    """Where requests have come several at a time, and their runs are known to be as long as `far` says."""
    gathering = Gathering(far.send, clock)
    for _ in range(2):
        await asked(gathering, [asking(0), asking(0)])
    far.sizes.clear()
    far.members.clear()
    far.deadlines.clear()
    return gathering
